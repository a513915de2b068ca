// For lines that would be written for each of thousands of messages with the same trouble: the
// first is written, then one a minute that says how many there were.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <unordered_map>

#include "common/clock.h"

namespace lope {

class RepeatedLog {
 public:
  static constexpr std::chrono::minutes kPeriod{1};

  // How many lines like this one there were since one was written, this one among them; 0: this one
  // is not to be written. `what`: event and reason, without what differs from message to message.
  std::size_t count(const std::string& what, TimePoint now);

 private:
  struct Entry {
    TimePoint written{};
    std::size_t since = 0;
  };
  std::unordered_map<std::string, Entry> entries_;
};

}  // namespace lope
