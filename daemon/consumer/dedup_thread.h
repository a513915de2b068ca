// Runs a store on a thread of its own: a store may wait for a disk, for a network, or for another
// process that holds its lock; the consumer's loop never does.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/result.h"
#include "consumer/dedup_store.h"

namespace lope::consumer {

class DedupThread {
 public:
  // A store syncs when it is closed: what a disk needs for some hundred megabytes.
  static constexpr std::chrono::milliseconds kClosing{8000};

  // `make` runs on the thread, and so does all of the store. `closing`: what its end waits for it.
  static Result<std::unique_ptr<DedupThread>> start(
      std::function<std::unique_ptr<DedupStore>()> make,
      std::chrono::milliseconds closing = kClosing);
  DedupThread(const DedupThread&) = delete;
  DedupThread& operator=(const DedupThread&) = delete;
  // Waits for the thread, so that it can close its store; one that takes too long is left behind.
  ~DedupThread();

  // Empties `ops`. What is submitted while the store is at work is applied together. What is not
  // answered (a release, a renewal) and fails is tried again, before what comes after it.
  void submit(std::vector<DedupOp>& ops, const DedupTimes& times);
  // Readable when there may be answers.
  int event_fd() const;
  // Appends what has been answered. Where the store failed, each claim and each done of that time
  // is answered with failed, and `trouble` says why, unless the latest of these answers is of a
  // store that works again; otherwise it stays as it is.
  void take(std::vector<DedupAnswer>& answers, std::string& trouble);

 private:
  struct Shared;
  DedupThread(std::shared_ptr<Shared> shared, std::chrono::milliseconds closing)
      : shared_(std::move(shared)), closing_(closing) {}
  static void run(Shared& shared);

  // Shared with the thread, which may outlive us.
  std::shared_ptr<Shared> shared_;
  const std::chrono::milliseconds closing_;
};

}  // namespace lope::consumer
