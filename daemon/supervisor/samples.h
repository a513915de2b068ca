// A group's counters over the last minute: rates, and how long handlers take. Pure.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>

#include "common/clock.h"
#include "common/histogram.h"

namespace lope::supervisor {

class Samples {
 public:
  using Counts = std::array<std::uint64_t, kHistogramClasses>;

  // Counters that only grow. Taken about each second.
  void take(TimePoint now, std::uint64_t in, std::uint64_t out, const Counts& handling);

  // A second, over the last ten; 0 before the second sample.
  double rate_in() const { return rate(&Sample::in); }
  double rate_out() const { return rate(&Sample::out); }
  // In ms, over the last minute, as of the latest sample.
  double handling_ms(double share) const;

 private:
  struct Sample {
    TimePoint at;
    std::uint64_t in = 0;
    std::uint64_t out = 0;
  };
  struct Handling {
    TimePoint at;
    Counts counts{};
  };
  double rate(std::uint64_t Sample::*member) const;

  std::deque<Sample> samples_;     // oldest first
  std::deque<Handling> handling_;  // each a while after the one before
  Counts latest_{};
};

}  // namespace lope::supervisor
