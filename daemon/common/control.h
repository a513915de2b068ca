// What supervisor and consumer say to each other over their packet socket.
#pragma once

#include <cstdint>

namespace lope {

enum class ControlType : std::uint32_t {
  // supervisor to consumer
  drain = 1,    // drain; `value`: milliseconds from now until what still runs is killed
  stop = 2,     // stop now
  scale = 3,    // so many workers: `value`
  restart = 4,  // replace all workers, one after another
  pause = 5,    // begin no message, and take none from the broker
  resume = 6,
  settings = 7,   // other ones, from the memfd that comes with it; `value`: a ReplaceWorkers
  log_level = 8,  // `value`: LogLevel
  trace = 9,      // write about the next messages, so many, to the pipe that comes with it
  // consumer to supervisor
  changed = 16,  // look at the group's board
};

enum class ReplaceWorkers : std::int64_t {
  no,
  new_first,
  old_at_once,  // the old are no good: they get nothing more
};

struct ControlMessage {
  ControlType type;
  std::uint32_t reserved = 0;
  std::int64_t value = 0;
};

}  // namespace lope
