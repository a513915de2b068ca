// The one place of the tests that polls: asks again every few milliseconds until the answer is yes
// or the deadline has passed.
#pragma once

#include <poll.h>

#include <chrono>
#include <concepts>
#include <utility>

namespace lope::test {

using namespace std::chrono_literals;

// True as soon as `predicate()` is; false when it was not within `deadline`. Asks at least once.
template <std::predicate Predicate>
bool eventually(std::chrono::milliseconds deadline, Predicate&& predicate) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  while (true) {
    if (std::forward<Predicate>(predicate)()) return true;
    if (std::chrono::steady_clock::now() >= end) return false;
    ::poll(nullptr, 0, 5);
  }
}

}  // namespace lope::test
