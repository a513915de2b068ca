#include "consumer/breaker.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <deque>
#include <optional>
#include <random>
#include <string>
#include <string_view>

namespace lope::consumer {

using namespace std::chrono_literals;

namespace {

BreakerSettings settings(double failures, int outcomes) {
  BreakerSettings settings;
  settings.failures = failures;
  settings.outcomes = outcomes;
  settings.period = 0ms;  // just the latest
  settings.pause = 1s;
  settings.max_pause = 6s;
  return settings;
}

// 'x' is a failure, '.' none. How many outcomes there were before a pause began; 0: none did.
std::size_t outcomes_to_pause(Breaker& breaker, std::string_view outcomes, TimePoint now) {
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    if (breaker.outcome(outcomes[i] == 'x', now)) return i + 1;
  }
  return 0;
}

const TimePoint kStart = TimePoint() + 1h;

}  // namespace

TEST_CASE("a group pauses when enough of its latest outcomes are failures", "[unit][breaker]") {
  struct Row {
    const char* what;
    double failures;
    int outcomes;
    std::string_view outcome;
    std::size_t pauses_at;
  };
  const Row rows[] = {
      {"nothing fails", 0.9, 4, "................", 0},
      {"everything fails", 0.9, 4, "xxxx", 4},
      {"too few outcomes to say", 0.1, 4, "xxx", 0},
      {"exactly the ratio", 0.75, 4, "x.xx", 4},
      {"just below it", 0.75, 4, "x..x", 0},
      {"all must fail", 1.0, 3, "xx.xx.xx.xxx", 12},
      {"old successes go", 1.0, 3, "....xxx", 7},
      {"old failures go", 0.75, 4, "xx..x.x.x..x.xxx", 15},
      {"one decides", 0.5, 1, "..x", 3},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    Breaker breaker(settings(row.failures, row.outcomes));
    CHECK(outcomes_to_pause(breaker, row.outcome, kStart) == row.pauses_at);
    CHECK(breaker.paused(kStart) == (row.pauses_at != 0));
  }
}

TEST_CASE("every share that can be written is reached by just that many failures",
          "[unit][breaker]") {
  for (int failed = 1; failed <= 100; ++failed) {
    CAPTURE(failed);
    const double share = std::stod(std::to_string(failed) + "e-2");
    Breaker breaker(settings(share, 100));
    for (int i = 1; i < failed; ++i) CHECK_FALSE(breaker.outcome(true, kStart));
    for (int i = failed; i < 100; ++i) CHECK_FALSE(breaker.outcome(false, kStart));
    CHECK(breaker.outcome(true, kStart));
  }
}

TEST_CASE("a pause that begins tells how long it is and why", "[unit][breaker]") {
  Breaker breaker(settings(0.75, 4));
  CHECK_FALSE(breaker.outcome(true, kStart));
  CHECK_FALSE(breaker.outcome(true, kStart));
  CHECK_FALSE(breaker.outcome(false, kStart));
  CHECK_FALSE(breaker.paused(kStart));
  const auto pause = breaker.outcome(true, kStart);
  REQUIRE(pause);
  CHECK(pause->length == 1s);
  CHECK(pause->failed == 3);
  CHECK(pause->outcomes == 4);
  CHECK(breaker.resumes_at() == kStart + 1s);
  CHECK(breaker.paused(kStart));
  CHECK(breaker.paused(kStart + 1s - 1ns));
  CHECK_FALSE(breaker.paused(kStart + 1s));
}

TEST_CASE("pauses double up to the longest while every probe fails", "[unit][breaker]") {
  Breaker breaker(settings(0.9, 20));
  TimePoint now = kStart;
  REQUIRE(outcomes_to_pause(breaker, std::string(20, 'x'), now) == 20);
  CHECK(breaker.resumes_at() - now == 1s);
  for (const auto length : {2s, 4s, 6s, 6s}) {
    now = breaker.resumes_at();
    CHECK_FALSE(breaker.paused(now));
    REQUIRE(outcomes_to_pause(breaker, std::string(5, 'x'), now) == 5);
    CHECK(breaker.resumes_at() - now == length);
  }
}

TEST_CASE("a probe that does not fail ends the row of pauses", "[unit][breaker]") {
  Breaker breaker(settings(0.9, 20));
  TimePoint now = kStart;
  REQUIRE(outcomes_to_pause(breaker, std::string(20, 'x'), now) == 20);
  now = breaker.resumes_at();
  REQUIRE(outcomes_to_pause(breaker, std::string(5, 'x'), now) == 5);
  now = breaker.resumes_at();
  // Below the ratio: from here on it takes all the outcomes again, those of the probe among them.
  REQUIRE(outcomes_to_pause(breaker, "xxxx." + std::string(14, 'x'), now) == 0);
  const auto pause = breaker.outcome(true, now);
  REQUIRE(pause);
  CHECK(pause->length == 1s);
  CHECK(pause->outcomes == 20);
  CHECK(pause->failed == 19);
}

TEST_CASE("outcomes during a pause count for nothing", "[unit][breaker]") {
  const bool failed = GENERATE(false, true);
  Breaker breaker(settings(0.9, 8));
  REQUIRE(outcomes_to_pause(breaker, "xxxxxxxx", kStart) == 8);
  for (int i = 0; i < 100; ++i) CHECK_FALSE(breaker.outcome(failed, kStart + 999ms));
  CHECK(breaker.resumes_at() == kStart + 1s);
  CHECK_FALSE(breaker.outcome(true, kStart + 1s));
  const auto pause = breaker.outcome(true, kStart + 1s);
  REQUIRE(pause);
  CHECK(pause->length == 2s);
}

TEST_CASE("a probe is one outcome at least", "[unit][breaker]") {
  for (const int outcomes : {1, 2, 3, 4, 7}) {
    CAPTURE(outcomes);
    Breaker breaker(settings(0.9, outcomes));
    const auto all = static_cast<std::size_t>(outcomes);
    REQUIRE(outcomes_to_pause(breaker, std::string(all, 'x'), kStart) == all);
    CHECK(outcomes_to_pause(breaker, "x", breaker.resumes_at()) == 1);
  }
}

TEST_CASE("what is not to break never pauses", "[unit][breaker]") {
  BreakerSettings off = settings(0.1, 1);
  off.on = false;
  Breaker breaker(off);
  CHECK(outcomes_to_pause(breaker, std::string(1000, 'x'), kStart) == 0);
  CHECK_FALSE(breaker.paused(kStart));
}

TEST_CASE("no pause is longer than the longest, be it the first", "[unit][breaker]") {
  BreakerSettings short_ones = settings(0.5, 1);
  short_ones.pause = 10s;
  Breaker breaker(short_ones);
  TimePoint now = kStart;
  for (int i = 0; i < 100; ++i) {
    const auto pause = breaker.outcome(true, now);
    REQUIRE(pause);
    CHECK(pause->length == 6s);
    now = breaker.resumes_at();
  }
}

TEST_CASE("after a reset a breaker is as new", "[unit][breaker]") {
  Breaker breaker(settings(0.9, 8));
  REQUIRE(outcomes_to_pause(breaker, "xxxxxxxx", kStart) == 8);
  REQUIRE(outcomes_to_pause(breaker, "xx", breaker.resumes_at()) == 2);
  REQUIRE(breaker.paused(kStart + 2s));
  breaker.reset();
  CHECK_FALSE(breaker.paused(kStart + 2s));
  REQUIRE(outcomes_to_pause(breaker, "xxxxxxx", kStart + 2s) == 0);
  const auto pause = breaker.outcome(true, kStart + 2s);
  REQUIRE(pause);
  CHECK(pause->length == 1s);
}

// Outcomes one after the other, `step` apart. When a pause began; none: it did not.
std::optional<TimePoint> pause_of(Breaker& breaker, std::string_view outcomes, TimePoint from,
                                  Clock::duration step) {
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    const TimePoint now = from + step * static_cast<int>(i);
    if (breaker.outcome(outcomes[i] == 'x', now)) return now;
  }
  return std::nullopt;
}

TEST_CASE("failures that come in a bundle stop nobody, those that go on do", "[unit][breaker]") {
  BreakerSettings settings;
  settings.period = 2s;
  struct Row {
    const char* what;
    std::string before, then;  // the first a minute before
    Clock::duration step;
    bool pauses;
  };
  const Row rows[] = {
      {"a bundle, as the first", "", std::string(5000, 'x'), 10us, false},
      {"a bundle, after successes long ago", std::string(50, '.'), std::string(5000, 'x'), 10us,
       false},
      {"many a second", "", std::string(5000, 'x'), 1ms, true},
      {"many a second, one in eleven fine", "",
       [] {
         std::string all;
         for (int i = 0; i < 300; ++i) all += "xxxxxxxxxxx.";
         return all;
       }(),
       1ms, true},
      {"many a second, one in nine fine", "",
       [] {
         std::string all;
         for (int i = 0; i < 900; ++i) all += "xxxxxxxx.";
         return all;
       }(),
       1ms, false},
      {"three a second", "", std::string(20, 'x'), 333ms, true},
      {"one a minute", "", std::string(20, 'x'), 1min, true},
      {"too few of them", "", std::string(19, 'x'), 1min, false},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    Breaker breaker(settings);
    REQUIRE_FALSE(pause_of(breaker, row.before, kStart, 1ms));
    const TimePoint from = kStart + 1min;
    const auto pause = pause_of(breaker, row.then, from, row.step);
    CHECK(pause.has_value() == row.pauses);
    if (pause) CHECK(*pause - from >= 1s);
    if (pause && row.step == 1ms) CHECK(*pause - from <= 1100ms);
  }
}

TEST_CASE("a breaker does what counting everything anew each time would", "[unit][breaker]") {
  std::mt19937 random(GENERATE(range(1u, 20u)));
  const int outcomes = 1 + static_cast<int>(random() % 30);
  const double failures = 0.3 + static_cast<double>(random() % 70) / 100;
  CAPTURE(outcomes, failures);
  Breaker breaker(settings(failures, outcomes));
  std::deque<bool> since;
  bool probing = false;
  TimePoint now = kStart;
  for (int step = 0; step < 5000; ++step) {
    const unsigned chance = step / 100 % 3 == 0 ? 95 : 40;
    const bool failed = random() % 100 < chance;
    since.push_back(failed);
    const auto window = static_cast<std::size_t>(outcomes);
    const std::size_t wanted = probing ? std::max<std::size_t>(window / 4, 1) : window;
    if (since.size() > window) since.pop_front();
    const auto bad = std::count(since.begin(), since.end(), true);
    const bool enough = since.size() >= wanted;
    const bool expected =
        enough && static_cast<double>(bad) / static_cast<double>(since.size()) >= failures;
    REQUIRE(breaker.outcome(failed, now).has_value() == expected);
    if (enough) probing = expected;
    if (expected) {
      since.clear();
      now = breaker.resumes_at();
    }
  }
}

}  // namespace lope::consumer
