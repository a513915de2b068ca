#include "supervisor/samples.h"

#include <catch2/catch.hpp>

using namespace lope;
using namespace lope::supervisor;
using namespace std::chrono_literals;

TEST_CASE("samples: rates are those of the last ten seconds", "[unit][samples]") {
  Samples samples;
  CHECK(samples.rate_in() == 0);
  TimePoint now{};
  samples.take(now, 1000, 500, {});
  CHECK(samples.rate_in() == 0);
  for (int second = 1; second <= 30; ++second) {
    now += 1s;
    samples.take(now, 1000 + 100 * static_cast<std::uint64_t>(second),
                 500 + 50 * static_cast<std::uint64_t>(second), {});
    CHECK(samples.rate_in() == Approx(100));
    CHECK(samples.rate_out() == Approx(50));
  }
  for (int second = 0; second < 10; ++second) samples.take(now += 1s, 4000, 2000, {});
  CHECK(samples.rate_in() == 0);
  CHECK(samples.rate_out() == 0);
}

TEST_CASE("samples: handling times are those of the last minute", "[unit][samples]") {
  Samples samples;
  Samples::Counts counts{};
  TimePoint now{};
  CHECK(samples.handling_ms(0.5) == 0);
  counts[histogram_class(50'000'000)] = 1'000;  // before the first sample
  samples.take(now, 0, 0, counts);
  CHECK(samples.handling_ms(0.5) == 0);
  for (int second = 0; second < 10; ++second) {
    counts[histogram_class(1'000'000)] += 99;
    counts[histogram_class(20'000'000)] += 1;
    samples.take(now += 1s, 0, 0, counts);
  }
  CHECK(samples.handling_ms(0.5) == Approx(1).epsilon(0.25));
  CHECK(samples.handling_ms(0.995) == Approx(20).epsilon(0.25));
  for (int second = 0; second < 70; ++second) {
    counts[histogram_class(3'000)] += 1;
    samples.take(now += 1s, 0, 0, counts);
  }
  CHECK(samples.handling_ms(0.99) == Approx(0.003).epsilon(0.25));
}
