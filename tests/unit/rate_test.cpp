#include "consumer/rate.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

using namespace lope;
using namespace lope::consumer;
using namespace std::chrono_literals;

namespace {

const TimePoint kStart = TimePoint() + 1h;

// Takes as many at once as it may.
std::size_t take_all(Rate& rate, TimePoint now, std::size_t most = SIZE_MAX) {
  std::size_t taken = 0;
  while (taken < most && rate.allows(1, now)) {
    rate.take(1);
    ++taken;
  }
  return taken;
}

// How many begin in `span` while there is always one to begin, each wake-up up to `late` too late.
std::size_t begun_in(Rate& rate, std::chrono::nanoseconds span, std::chrono::microseconds late,
                     std::size_t batch = 1, std::size_t* questions = nullptr) {
  std::minstd_rand random(1);
  std::size_t begun = 0;
  for (TimePoint now = kStart; now < kStart + span;) {
    while (rate.allows(batch, now)) {
      rate.take(batch);
      begun += batch;
      now += 1us;
    }
    if (questions != nullptr) ++*questions;
    const TimePoint due = rate.due(batch);
    REQUIRE(due > now);
    now = due + late * (random() % 1000) / 1000;
  }
  return begun;
}

}  // namespace

TEST_CASE("without a rate everything may begin", "[unit][rate]") {
  Rate rate(RateSettings{});
  CHECK_FALSE(rate.limited());
  for (int i = 0; i < 1000; ++i) {
    REQUIRE(rate.allows(100, kStart));
    rate.take(100);
  }
}

TEST_CASE("over ten seconds the rate is what was set, however late it is asked", "[unit][rate]") {
  struct Row {
    double per_second, burst;
    std::chrono::microseconds late;
  };
  const auto row = GENERATE(values<Row>({
      {1, 1, 0us},
      {1, 1, 50'000us},
      {3, 1, 20'000us},
      {10, 1, 20'000us},
      {100, 10, 0us},
      {100, 1, 20'000us},
      {999, 99.9, 5'000us},
      {1000, 1, 10'000us},
      {7777, 777.7, 3'000us},
      {50'000, 5000, 0us},
      {50'000, 5000, 20'000us},
      {50'000, 1, 2'000us},
  }));
  CAPTURE(row.per_second, row.burst, row.late.count());
  Rate rate({row.per_second, row.burst});
  std::size_t questions = 0;
  const auto begun = static_cast<double>(begun_in(rate, 10s, row.late, 1, &questions));
  const double wanted = 10 * row.per_second;
  // The full bucket that it began with comes on top.
  CHECK(begun <= wanted + row.burst + 1);
  CHECK(begun >= wanted * 0.98);
  // It does not spin: a wake-up for each message, or each millisecond.
  CHECK(questions <= std::min(wanted, 10'000.0) + 2);
}

TEST_CASE("a pause leaves a burst, and no more", "[unit][rate]") {
  Rate rate({100, 20});
  CHECK(take_all(rate, kStart) == 20);
  CHECK(take_all(rate, kStart + 100ms) == 10);
  CHECK(take_all(rate, kStart + 10min, 3) == 3);
  CHECK(take_all(rate, kStart + 10min) == 17);
  CHECK(take_all(rate, kStart + 10min + 9ms) == 0);
  CHECK(take_all(rate, kStart + 10min + 10ms) == 1);
}

TEST_CASE("what comes while a question is late is not lost, but for one that is much too late",
          "[unit][rate]") {
  Rate rate({1000, 5});
  CHECK(take_all(rate, kStart) == 5);
  CHECK(take_all(rate, kStart + 50ms, 1) == 1);
  CHECK(take_all(rate, kStart + 50ms + 1us) == 49);
  CHECK(take_all(rate, kStart + 1min) == 5);
}

TEST_CASE("a batch larger than the burst begins with a full bucket, and is paid for after",
          "[unit][rate]") {
  Rate rate({100, 10});
  REQUIRE(rate.allows(50, kStart));
  rate.take(50);
  CHECK_FALSE(rate.allows(1, kStart + 400ms));
  CHECK(rate.due(1) == kStart + 410ms);
  CHECK(rate.allows(1, kStart + 410ms));
  CHECK_FALSE(rate.allows(50, kStart + 410ms));
  CHECK(rate.due(50) == kStart + 500ms);
  CHECK(rate.allows(50, kStart + 500ms));

  Rate batches({1000, 100});
  const auto begun = static_cast<double>(begun_in(batches, 10s, 1ms, 300));
  CHECK(begun >= 9'800);
  CHECK(begun <= 10'400);
}

TEST_CASE("what has not begun after all is not counted", "[unit][rate]") {
  Rate rate({100, 10});
  CHECK(take_all(rate, kStart) == 10);
  rate.give_back(4);
  CHECK(take_all(rate, kStart) == 4);
}

TEST_CASE("another rate goes on with the tokens that there are", "[unit][rate]") {
  Rate rate({100, 20});
  CHECK(take_all(rate, kStart, 15) == 15);
  rate.change({1000, 50});
  CHECK(take_all(rate, kStart) == 5);
  CHECK(take_all(rate, kStart + 10ms) == 10);
  rate.change({1000, 2});
  CHECK(take_all(rate, kStart + 1min, 2) == 2);
  rate.change({});
  CHECK_FALSE(rate.limited());
  rate.change({10, 3});
  CHECK(take_all(rate, kStart + 2min) == 3);
}
