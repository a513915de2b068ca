#include "common/repeated_log.h"

#include <catch2/catch.hpp>

namespace lope {

using namespace std::chrono_literals;

namespace {
const TimePoint kStart = TimePoint() + 1h;
}  // namespace

TEST_CASE("of lines that are alike the first is written, then one a minute with their number",
          "[unit][repeated_log]") {
  RepeatedLog log;
  CHECK(log.count("a", kStart) == 1);
  for (int i = 0; i < 100; ++i) CHECK(log.count("a", kStart + 1s * i / 2) == 0);
  CHECK(log.count("b", kStart + 50s) == 1);
  CHECK(log.count("a", kStart + 60s - 1ns) == 0);
  CHECK(log.count("a", kStart + 60s) == 102);
  CHECK(log.count("a", kStart + 61s) == 0);
  CHECK(log.count("b", kStart + 110s) == 1);
}

TEST_CASE("what differs each time does not fill the memory, and is all written",
          "[unit][repeated_log]") {
  RepeatedLog log;
  for (int i = 0; i < 100'000; ++i) REQUIRE(log.count("line " + std::to_string(i), kStart) == 1);
}

}  // namespace lope
