#include "consumer/respawn_policy.h"

#include <catch2/catch.hpp>
#include <random>
#include <set>

#include "consumer/retry_policy.h"

namespace lope::consumer {

using namespace std::chrono_literals;

TEST_CASE("a death that is charged to a message is followed by a new worker at once",
          "[unit][respawn]") {
  RespawnHistory history;
  const WorkerDeath death{.was_ready = true, .had_message = true, .worked = true, .age = 10ms};
  for (int i = 0; i < 100; ++i) CHECK(respawn_delay(history, death, 1, 1.0) == 0ms);
}

TEST_CASE("when worker after worker dies in its first message the pauses grow", "[unit][respawn]") {
  RespawnHistory history;
  WorkerDeath death{.was_ready = true, .had_message = true, .age = 10ms};
  for (int i = 0; i < kMaxCrashesAtOnce; ++i) CHECK(respawn_delay(history, death, 1, 1.0) == 0ms);
  for (const auto pause : {100ms, 200ms, 400ms})
    CHECK(respawn_delay(history, death, 1, 1.0) == pause);
  for (int i = 0; i < 20; ++i) (void)respawn_delay(history, death, 1, 1.0);
  CHECK(respawn_delay(history, death, 1, 1.0) == 30'000ms);
  death.worked = true;
  CHECK(respawn_delay(history, death, 1, 1.0) == 0ms);
  death.worked = false;
  CHECK(respawn_delay(history, death, 1, 1.0) == 0ms);
}

TEST_CASE("a message that is known to take down its worker is no reason for a pause",
          "[unit][respawn]") {
  RespawnHistory history;
  const WorkerDeath known{.was_ready = true, .had_message = true, .known = true, .age = 10ms};
  const WorkerDeath fresh{.was_ready = true, .had_message = true, .age = 10ms};
  for (int i = 0; i < 100; ++i) CHECK(respawn_delay(history, known, 1, 1.0) == 0ms);
  for (int i = 0; i < kMaxCrashesAtOnce; ++i) CHECK(respawn_delay(history, fresh, 1, 1.0) == 0ms);
  CHECK(respawn_delay(history, fresh, 1, 1.0) == 100ms);
  CHECK(respawn_delay(history, known, 1, 1.0) == 0ms);
  CHECK(respawn_delay(history, fresh, 1, 1.0) == 200ms);
}

TEST_CASE("deaths with nothing inside are followed by growing pauses, up to 30 s",
          "[unit][respawn]") {
  RespawnHistory history;
  history.ever_ready = true;
  const std::chrono::milliseconds expected[] = {100ms, 200ms, 400ms, 800ms, 1600ms};
  for (const auto pause : expected)
    CHECK(respawn_delay(history, {.was_ready = true, .age = 10ms}, 1, 1.0) == pause);
  for (int i = 0; i < 10; ++i)
    (void)respawn_delay(history, {.was_ready = true, .age = 10ms}, 1, 1.0);
  CHECK(respawn_delay(history, {.was_ready = true, .age = 10ms}, 1, 1.0) == 30'000ms);
  CHECK(respawn_delay(history, {.was_ready = true, .age = 10ms}, 1, 0.0) == 15'000ms);
}

TEST_CASE("in a group of many workers there may be as many deaths for each of them",
          "[unit][respawn]") {
  RespawnHistory history;
  const WorkerDeath crash{.was_ready = true, .had_message = true, .age = 10ms};
  for (int i = 0; i < 4 * kMaxCrashesAtOnce; ++i) {
    CHECK(respawn_delay(history, crash, 4, 1.0) == 0ms);
  }
  for (const auto pause : {100ms, 200ms}) CHECK(respawn_delay(history, crash, 4, 1.0) == pause);
  for (const bool hung : {true, false}) {
    const int most = 4 * (hung ? kMaxHangsNeverReady : kMaxDeathsNeverReady);
    history = {};
    for (int i = 1; i < most; ++i) {
      CHECK(respawn_delay(history, {.age = 60s, .hung = hung}, 4, 0.5).has_value());
    }
    CHECK_FALSE(respawn_delay(history, {.age = 60s, .hung = hung}, 4, 0.5).has_value());
  }
}

TEST_CASE("workers that die together make one pause, not a row of them", "[unit][respawn]") {
  RespawnHistory history;
  WorkerDeath idle{.was_ready = true, .age = 10ms};
  for (const auto pause : {100ms, 200ms, 400ms}) {
    idle.beside = false;
    CHECK(respawn_delay(history, idle, 4, 1.0) == pause);
    idle.beside = true;
    for (int i = 0; i < 3; ++i) CHECK(respawn_delay(history, idle, 4, 1.0) == pause);
  }
}

TEST_CASE("the pauses grow too where many workers die soon and out of step", "[unit][respawn]") {
  for (const int workers : {1, 4, 8, 64}) {
    CAPTURE(workers);
    RespawnHistory history;
    history.ever_ready = true;
    std::mt19937 random(static_cast<unsigned>(workers));
    std::multiset<TimePoint> starts;
    for (int i = 0; i < workers; ++i) starts.insert(TimePoint{1h});
    TimePoint now{};
    int deaths = 0;
    while (now < TimePoint{1h + 5min}) {
      const TimePoint started = *starts.begin();
      starts.erase(starts.begin());
      now = started + 20ms;
      const bool beside = history.is_beside(started, now);
      const auto pause = respawn_delay(history, {.was_ready = true, .beside = beside, .age = 20ms},
                                       workers, static_cast<double>(random() % 1000) / 1000);
      REQUIRE(pause.has_value());
      starts.insert(now + *pause);
      ++deaths;
    }
    CHECK(deaths < 30 * workers);
  }
}

TEST_CASE("a healthy minute ends the row of deaths", "[unit][respawn]") {
  RespawnHistory history;
  for (int i = 0; i < 8; ++i)
    (void)respawn_delay(history, {.was_ready = true, .age = 10ms}, 1, 1.0);
  CHECK(respawn_delay(history, {.was_ready = true, .age = 2min}, 1, 1.0) == 100ms);
}

TEST_CASE("a handler that never gets ready and never says why is given up", "[unit][respawn]") {
  RespawnHistory history;
  for (int i = 1; i < kMaxDeathsNeverReady; ++i)
    CHECK(respawn_delay(history, {.age = 1ms}, 1, 0.5).has_value());
  CHECK_FALSE(respawn_delay(history, {.age = 1ms}, 1, 0.5).has_value());
}

TEST_CASE("a handler that says why it cannot start yet is tried for ever", "[unit][respawn]") {
  RespawnHistory history;
  for (int i = 0; i < 10 * kMaxDeathsNeverReady; ++i)
    CHECK(respawn_delay(history, {.explained = true, .age = 1ms}, 1, 0.5).has_value());
}

TEST_CASE("a handler that was ready once is not given up", "[unit][respawn]") {
  RespawnHistory history;
  (void)respawn_delay(history, {.was_ready = true, .age = 1ms}, 1, 0.5);
  for (int i = 0; i < 10 * kMaxDeathsNeverReady; ++i)
    CHECK(respawn_delay(history, {.age = 1ms}, 1, 0.5).has_value());
}

TEST_CASE("a handler that hangs twice in a row before it was ever ready is given up",
          "[unit][respawn]") {
  const WorkerDeath hang{.age = 60s, .hung = true};
  RespawnHistory history;
  for (int i = 0; i < 2; ++i) {
    CHECK(respawn_delay(history, hang, 1, 0.5).has_value());
    CHECK(respawn_delay(history, {.explained = true, .age = 1ms}, 1, 0.5)
              .has_value());  // the row ends
  }
  CHECK(respawn_delay(history, hang, 1, 0.5).has_value());
  CHECK_FALSE(respawn_delay(history, hang, 1, 0.5).has_value());
}

TEST_CASE("a handler that was ready once may hang as often as it likes", "[unit][respawn]") {
  RespawnHistory history;
  history.ever_ready = true;
  for (int i = 0; i < 20; ++i)
    CHECK(respawn_delay(history, {.age = 60s, .hung = true}, 1, 0.5).has_value());
}

TEST_CASE("a retried message is kept longer the more fail in a row", "[unit][respawn]") {
  CHECK(requeue_delay(0) == 1s);
  CHECK(requeue_delay(1) == 2s);
  CHECK(requeue_delay(4) == 16s);
  CHECK(requeue_delay(5) == 30s);
  CHECK(requeue_delay(1000) == 30s);
}

}  // namespace lope::consumer
