// Keeps the positions in streams of one group on disk: <state_dir>/streams/<group>/<queue>.offset,
// each replaced as a whole. A thread of its own writes, so that the loop never waits for a disk.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "common/fd.h"
#include "common/result.h"
#include "consumer/stream_progress.h"

namespace lope::consumer {

class StreamKeeper {
 public:
  // Makes the group's folder where it is missing, and takes it for itself as long as it lives.
  static Result<std::unique_ptr<StreamKeeper>> open(const std::string& state_dir,
                                                    const std::string& group);
  // Writes what there is to write.
  ~StreamKeeper();

  // Of that stream; nothing: none was kept. An error: there is one, and it cannot be read.
  Result<std::optional<StreamPosition>> load(const std::string& queue) const;
  // Keeps it, soon. Of several for one stream the latest counts.
  void save(const std::string& queue, const StreamPosition& position);
  // True: all that was handed over is written, or could not be.
  bool idle();
  // Waits for that.
  void finish();
  // Why writing failed, since this was asked last; empty: it has not.
  std::string take_trouble();

  std::string path_of(const std::string& queue) const;

 private:
  StreamKeeper(std::string folder, UniqueFd lock);
  void run();

  const std::string folder_;
  const UniqueFd lock_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string> waiting_;  // path and content; guarded by mutex_
  bool writing_ = false;                        // by mutex_
  bool ending_ = false;                         // by mutex_
  std::string trouble_;                         // by mutex_
  std::thread thread_;
};

}  // namespace lope::consumer
