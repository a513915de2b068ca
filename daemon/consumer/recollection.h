// What a consumer knows of messages that it has tried and given back: their attempts count when
// they come again. It does not outlive the process. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "common/clock.h"
#include "consumer/delivery_table.h"
#include "consumer/travel.h"

namespace lope::consumer {

struct Tried {
  std::uint32_t attempt = 1;     // the next one
  std::uint32_t crashes = 0;     // so far
  std::vector<Attempt> earlier;  // oldest first
  TimePoint due{};               // of the next one
};

class Recollection {
 public:
  // Of a message that goes back to its queue.
  void keep(const Delivery& delivery);
  // Of one that has come again: what was kept of it, once. Nothing is compared while there is
  // nothing.
  std::optional<Tried> take(const Delivery& delivery);

 private:
  // Tells messages apart by what the broker does not change: two that are alike in all of it may
  // stand for each other.
  static std::uint64_t fingerprint(const Delivery& delivery);

  std::unordered_map<std::uint64_t, Tried> tried_;
};

}  // namespace lope::consumer
