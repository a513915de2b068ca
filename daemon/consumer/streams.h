// The streams among a group's queues: how far it has come in each, and keeping that. What is
// decided for one message is StreamProgress's, what is on disk StreamKeeper's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/result.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "consumer/stream_keeper.h"
#include "consumer/stream_progress.h"

namespace lope::consumer {

// For how long something has seemed to be so each time one looked. Pure.
class Shortness {
 public:
  // It seems so now. True: it has for 20 s, and was looked at every 10 s at least.
  bool stays(TimePoint now);

 private:
  TimePoint since_{}, latest_{};
};

class Streams {
 public:
  // How far a group has come is kept so often.
  static constexpr std::chrono::milliseconds kInterval{200};

  // From where it had come to. An error: that is kept, and cannot be read, or could not be kept.
  // Nothing but an empty set when no queue is a stream.
  static Result<std::unique_ptr<Streams>> open(const ConsumerSettings& settings);

  bool any() const { return keeper_ != nullptr; }
  // nullptr: that queue is no stream.
  StreamProgress* of(std::uint16_t queue) { return streams_[queue].progress.get(); }

  // Is there anything to keep, or may what was begun have failed?
  bool due() const;
  // Begins to keep what has changed. Why something before could not be kept; empty: it could.
  std::string keep();
  // The same, and waits until it is kept, or for StreamKeeper::kPatience.
  std::string keep_now();

  // How far each has come.
  void show(GroupBoard& board) const;

  // That a stream ends too early, as it seems now, is believed when it stays so: a replica may only
  // be behind.
  bool stays_short(std::uint16_t queue, TimePoint now);
  // It does not; or what comes is of another node, which may have more.
  void not_short(std::uint16_t queue) { streams_[queue].shortness = {}; }

 private:
  struct Stream {
    std::string name;
    std::unique_ptr<StreamProgress> progress;
    std::uint64_t kept = 0;  // StreamProgress::changes() then
    Shortness shortness;
  };
  std::vector<Stream> streams_;  // by queue
  bool begun_ = false;           // the latest keep() has
  std::unique_ptr<StreamKeeper> keeper_;
};

}  // namespace lope::consumer
