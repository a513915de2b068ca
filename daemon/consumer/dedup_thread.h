// Runs a store on a thread of its own: a store may wait for a disk, for a network, or for another
// process that holds its lock; the consumer's loop never does.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/result.h"
#include "consumer/dedup_store.h"

namespace lope::consumer {

class DedupThread {
 public:
  // `make` runs on the thread, and so does all of the store.
  static Result<std::unique_ptr<DedupThread>> start(
      std::function<std::unique_ptr<DedupStore>()> make);
  DedupThread(const DedupThread&) = delete;
  DedupThread& operator=(const DedupThread&) = delete;
  // Waits for the thread a moment, so that it can close its store; one that hangs is left behind.
  ~DedupThread();

  // Empties `ops`. What is submitted while the store is at work is applied together.
  void submit(std::vector<DedupOp>& ops, const DedupTimes& times);
  // Readable when there may be answers.
  int event_fd() const;
  // Appends what has been answered. Where the store failed, each claim and each done of that time
  // is answered with failed, and `trouble` says why; otherwise it stays as it is.
  void take(std::vector<DedupAnswer>& answers, std::string& trouble);

 private:
  struct Shared;
  explicit DedupThread(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  static void run(Shared& shared);

  // Shared with the thread, which may outlive us.
  std::shared_ptr<Shared> shared_;
};

}  // namespace lope::consumer
