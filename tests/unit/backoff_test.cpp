#include "common/backoff.h"

#include <catch2/catch.hpp>

namespace lope {

using namespace std::chrono_literals;

TEST_CASE("back-off doubles up to its cap", "[unit][backoff]") {
  const Backoff backoff{100ms, 1000ms};
  CHECK(backoff.exponential(0) == 100ms);
  CHECK(backoff.exponential(1) == 200ms);
  CHECK(backoff.exponential(3) == 800ms);
  CHECK(backoff.exponential(4) == 1000ms);
  CHECK(backoff.exponential(1'000'000) == 1000ms);
}

TEST_CASE("full jitter spreads from nothing to the whole pause", "[unit][backoff]") {
  const Backoff backoff{100ms, 1000ms};
  CHECK(backoff.full_jitter(2, 0.0) == 0ms);
  CHECK(backoff.full_jitter(2, 0.5) == 200ms);
  CHECK(backoff.full_jitter(2, 1.0) == 400ms);
  double lowest = 1, highest = 0;
  for (int i = 0; i < 1000; ++i) {
    const double random = random_fraction();
    lowest = std::min(lowest, random);
    highest = std::max(highest, random);
  }
  CHECK(lowest >= 0);
  CHECK(lowest < 0.1);
  CHECK(highest <= 1);
  CHECK(highest > 0.9);
}

}  // namespace lope
