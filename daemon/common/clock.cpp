#include "common/clock.h"

#include <ctime>

namespace lope {

namespace {

std::uint64_t now_ns(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);  // cannot fail for these clocks
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

std::uint64_t monotonic_ns() { return now_ns(CLOCK_MONOTONIC); }
std::uint64_t unix_ns() { return now_ns(CLOCK_REALTIME); }
std::uint64_t unix_ms() { return unix_ns() / 1'000'000; }

}  // namespace lope
