#include "common/histogram.h"

#include <catch2/catch.hpp>
#include <cstdint>
#include <vector>

using namespace lope;

TEST_CASE("histogram: every duration is in the class that it lies in", "[unit][histogram]") {
  for (std::uint64_t power = 1; power < (std::uint64_t{1} << 41); power *= 2) {
    for (const std::uint64_t ns : {power - 1, power, power + power / 2 - 1, power + power / 2}) {
      CAPTURE(ns);
      const std::size_t index = histogram_class(ns);
      CHECK(histogram_begin(index) <= ns);
      if (index + 1 < kHistogramClasses) CHECK(ns < histogram_begin(index + 1));
    }
  }
  CHECK(histogram_class(0) == 0);
  CHECK(histogram_class(1023) == 0);
  CHECK(histogram_class(1024) == 1);
  CHECK(histogram_class(UINT64_MAX) == kHistogramClasses - 1);
}

TEST_CASE("histogram: a quantile is off by less than a quarter", "[unit][histogram]") {
  std::vector<std::uint64_t> counts(kHistogramClasses);
  CHECK(histogram_quantile(counts, 0.5) == 0);
  for (std::uint64_t ns = 1'000; ns <= 1'000'000; ns += 1'000) ++counts[histogram_class(ns)];
  for (const double share : {0.01, 0.1, 0.5, 0.9, 0.99, 1.0}) {
    CAPTURE(share);
    CHECK(histogram_quantile(counts, share) == Approx(1e6 * share).epsilon(0.25));
  }
  std::vector<std::uint64_t> one(kHistogramClasses);
  one[histogram_class(5'000'000)] = 1;
  CHECK(histogram_quantile(one, 0.5) == Approx(5e6).epsilon(0.25));
  CHECK(histogram_quantile(one, 0.0) >= histogram_begin(histogram_class(5'000'000)));
}
