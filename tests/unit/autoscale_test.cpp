#include "consumer/autoscale.h"

#include <catch2/catch.hpp>

using namespace lope;
using namespace lope::consumer;
using namespace std::chrono_literals;

namespace {

// Samples of one kind, at the interval they are taken at. How many workers are wanted at the end.
int after(Autoscaler& scaler, AutoscaleSample sample, std::chrono::milliseconds length,
          TimePoint& now) {
  for (const TimePoint end = now + length; now < end; now += Autoscaler::kInterval) {
    sample.wanted = scaler.decide(sample, now);
  }
  return sample.wanted;
}

AutoscaleSample sample(int wanted) {
  return {.wanted = wanted, .min = 2, .max = 10, .threads = 3, .calls = wanted * 3};
}

}  // namespace

TEST_CASE("workers are added while messages wait and all are busy", "[unit][autoscale]") {
  Autoscaler scaler;
  TimePoint now{};
  AutoscaleSample full = sample(4);
  full.full = true;
  CHECK(after(scaler, full, 1900ms, now) == 4);
  CHECK(after(scaler, full, 400ms, now) == 5);
  full.wanted = 8;
  CHECK(after(scaler, full, 2500ms, now) == 10);  // a quarter more
  full.wanted = 10;
  CHECK(after(scaler, full, 60s, now) == 10);
}

TEST_CASE("nothing is added while those that were wanted are not there yet", "[unit][autoscale]") {
  Autoscaler scaler;
  TimePoint now{};
  AutoscaleSample full = sample(4);
  full.full = true;
  full.settled = false;
  CHECK(after(scaler, full, 60s, now) == 4);
}

TEST_CASE("a moment without waiting messages starts the count anew", "[unit][autoscale]") {
  Autoscaler scaler;
  TimePoint now{};
  AutoscaleSample busy = sample(4);
  AutoscaleSample full = busy;
  full.full = true;
  for (int i = 0; i < 20; ++i) {
    CHECK(after(scaler, full, 1500ms, now) == 4);
    CHECK(after(scaler, busy, 250ms, now) == 4);
  }
}

TEST_CASE("workers go one by one, long after they have had nothing to do", "[unit][autoscale]") {
  Autoscaler scaler;
  TimePoint now{};
  AutoscaleSample idle = sample(4);
  idle.calls = 0;
  CHECK(after(scaler, idle, 29s, now) == 4);
  CHECK(after(scaler, idle, 2s, now) == 3);
  idle.wanted = 3;
  CHECK(after(scaler, idle, 28s, now) == 3);
  CHECK(after(scaler, idle, 4s, now) == 2);
  idle.wanted = 2;
  CHECK(after(scaler, idle, 300s, now) == 2);  // not below min
  // One thread more than one worker fewer would have.
  AutoscaleSample needed = sample(4);
  needed.calls = 10;
  CHECK(after(scaler, needed, 300s, now) == 4);
}

TEST_CASE("a number outside of the limits is brought inside at once", "[unit][autoscale]") {
  Autoscaler scaler;
  CHECK(scaler.decide(sample(1), {}) == 2);
  CHECK(scaler.decide(sample(40), {}) == 10);
}
