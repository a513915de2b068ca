// Keeps the positions in streams of one group on disk: <state_dir>/streams/<group>/<queue>.offset,
// each replaced as a whole. A thread of its own writes, so that the loop never waits for a disk.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "common/result.h"
#include "consumer/stream_progress.h"

namespace lope::consumer {

class StreamKeeper {
 public:
  // Makes the group's folder where it is missing, and takes it for itself as long as it lives.
  static Result<std::unique_ptr<StreamKeeper>> open(const std::string& state_dir,
                                                    const std::string& group);
  StreamKeeper(const StreamKeeper&) = delete;
  StreamKeeper& operator=(const StreamKeeper&) = delete;
  // Writes what there is to write, unless that takes too long: then the thread is left behind with
  // it, and with the folder, until it ends.
  ~StreamKeeper();

  // What the end waits for a disk.
  static constexpr std::chrono::milliseconds kPatience{5000};

  // Of that stream; nothing: none was kept. An error: there is one, and it cannot be read.
  Result<std::optional<StreamPosition>> load(const std::string& queue) const;
  // Keeps it, soon. Of several for one stream the latest counts.
  void save(const std::string& queue, const StreamPosition& position);
  // Waits until all that was handed over is written, or could not be. False: it takes too long.
  bool finish(std::chrono::milliseconds patience = kPatience);
  // Why writing failed, since this was asked last; empty: it has not.
  std::string take_trouble();

  std::string path_of(const std::string& queue) const;

 private:
  struct Shared;
  explicit StreamKeeper(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  static void run(Shared& shared);

  // Shared with the thread, which may outlive us.
  const std::shared_ptr<Shared> shared_;
  bool patient_ = true;  // it has not taken too long yet
};

}  // namespace lope::consumer
