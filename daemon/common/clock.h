// The clocks, in one place. Policies take times as arguments and never ask here.
#pragma once

#include <chrono>
#include <cstdint>

namespace lope {

using Clock = std::chrono::steady_clock;  // CLOCK_MONOTONIC
using TimePoint = Clock::time_point;

std::uint64_t monotonic_ns();
std::uint64_t unix_ns();
std::uint64_t unix_ms();

}  // namespace lope
