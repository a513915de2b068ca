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
  // consumer to supervisor
  changed = 16,  // look at the group's board
};

struct ControlMessage {
  ControlType type;
  std::uint32_t reserved = 0;
  std::int64_t value = 0;
};

}  // namespace lope
