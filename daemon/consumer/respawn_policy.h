// When a dead worker of a group is replaced. Pure. A death with a message inside is charged to the
// message, and a new worker comes at once, unless message after message is found to do that and
// none of the workers gets anything done; one before ready, or with nothing inside, is the
// handler's or ours, and the pauses grow until a worker has finished a message or lived for a
// minute. A handler that never once became ready, and never said
// why, is given up; one that says that it cannot start yet is tried for ever.
#pragma once

#include <chrono>
#include <optional>

#include "common/clock.h"

namespace lope::consumer {

struct RespawnHistory {
  int idle_deaths = 0;      // in a row: before ready, or with no message inside
  int silent_deaths = 0;    // of them, those before ready and without a word
  int crashes = 0;          // in a row: with a fresh message inside, and nothing finished before
  int hangs = 0;            // of these, in a row, those that had to be killed at start_timeout
  bool ever_ready = false;  // this group's handler has worked before
  TimePoint counted_at = TimePoint::min();  // when the latest died that was no other's companion

  // Is the death of a worker that began then one with the latest that counted? If not, it counts.
  bool is_beside(TimePoint started, TimePoint now) {
    if (started <= counted_at) return true;
    counted_at = now;
    return false;
  }
};

struct WorkerDeath {
  bool was_ready = false;
  bool had_message = false;
  bool worked = false;     // it has finished messages
  bool known = false;      // the messages inside have taken down workers before
  bool explained = false;  // the handler said why it could not start
  bool beside = false;     // RespawnHistory::is_beside()
  std::chrono::milliseconds age{0};
  bool hung = false;  // not ready within start_timeout: killed
};

// How long to wait before the next worker; nothing: give the group up. Updates the history, which
// is that of a group of so many workers: what is counted below is so often for each of them.
std::optional<std::chrono::milliseconds> respawn_delay(RespawnHistory& history,
                                                       const WorkerDeath& death, int workers,
                                                       double random);

// As many deaths in a row before ready mean that the handler does not load here.
inline constexpr int kMaxDeathsNeverReady = 5;
// So many workers in a row may die in their very first messages before the pauses grow.
inline constexpr int kMaxCrashesAtOnce = 5;
// So many times in a row workers may die before they are ready or with nothing inside, and none
// live for a minute: with the pauses, that takes about a minute. After one more the group is left
// alone for a while.
inline constexpr int kMaxIdleDeaths = 10;
// A hang costs a whole start_timeout each time: fewer do.
inline constexpr int kMaxHangsNeverReady = 2;

}  // namespace lope::consumer
