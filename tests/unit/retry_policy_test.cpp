#include "consumer/retry_policy.h"

#include <catch2/catch.hpp>

#include "consumer/travel.h"

namespace lope::consumer {

using namespace std::chrono_literals;
using Milliseconds = std::chrono::milliseconds;

namespace {

RetrySettings settings(int attempts, Milliseconds delay, double backoff, Milliseconds max_delay,
                       double jitter) {
  RetrySettings retry;
  retry.attempts = attempts;
  retry.delay = delay;
  retry.backoff = backoff;
  retry.max_delay = max_delay;
  retry.jitter = jitter;
  return retry;
}

}  // namespace

TEST_CASE("the delay grows from attempt to attempt, up to the longest", "[unit][retry_policy]") {
  struct Row {
    Milliseconds delay;
    double backoff;
    Milliseconds max_delay;
    std::uint32_t attempt;
    Milliseconds expected;
  };
  const Row rows[] = {
      {10s, 2.0, 1h, 1, 10s},
      {10s, 2.0, 1h, 2, 20s},
      {10s, 2.0, 1h, 3, 40s},
      {10s, 2.0, 1h, 9, 2560s},
      {10s, 2.0, 1h, 10, 1h},
      {10s, 2.0, 1h, 1000, 1h},
      {10s, 1.0, 1h, 1000, 10s},
      {1s, 1.5, 1h, 3, 2250ms},
      {1ms, 100.0, 365 * 24h, 1, 1ms},
      {1ms, 100.0, 365 * 24h, 3, 10s},
      {1ms, 100.0, 365 * 24h, 1000, 365 * 24h},  // 100^999 is no number any more
      {30 * 24h, 100.0, 365 * 24h, 1000, 365 * 24h},
      {5s, 2.0, 5s, 4, 5s},
      {0s, 100.0, 1h, 1, 0s},
      {0s, 100.0, 1h, 1000, 0s},
  };
  for (const Row& row : rows) {
    CAPTURE(row.delay.count(), row.backoff, row.attempt);
    const RetrySettings retry = settings(1000, row.delay, row.backoff, row.max_delay, 0.0);
    for (const double fraction : {0.0, 0.5, 1.0}) {
      CHECK(retry_delay(retry, row.attempt, fraction) == row.expected);
    }
  }
}

TEST_CASE("jitter adds at most its share of a delay, and takes nothing", "[unit][retry_policy]") {
  for (const double jitter : {0.0, 0.1, 0.5, 1.0}) {
    const RetrySettings retry = settings(1000, 10s, 2.0, 1h, jitter);
    const RetrySettings without = settings(1000, 10s, 2.0, 1h, 0.0);
    for (const std::uint32_t attempt : {1u, 2u, 5u, 9u, 10u, 1000u}) {
      CAPTURE(jitter, attempt);
      const auto least = retry_delay(without, attempt, 0.0);
      const auto most = Milliseconds(
          static_cast<std::int64_t>(static_cast<double>(least.count()) * (1 + jitter)));
      CHECK(retry_delay(retry, attempt, 0.0) == least);
      CHECK(retry_delay(retry, attempt, 1.0) == most);
      auto last = least;
      for (int i = 0; i <= 100; ++i) {
        const auto delay = retry_delay(retry, attempt, i / 100.0);
        CHECK(delay >= last);
        CHECK(delay <= most);
        last = delay;
      }
    }
  }
  CHECK(retry_delay(settings(5, 0s, 2.0, 1h, 1.0), 3, 1.0) == 0s);
}

TEST_CASE("a message is handled again until its attempts or its crashes are used up",
          "[unit][retry_policy]") {
  struct Row {
    const char* what;
    int attempts;
    int crashes_allowed;
    FailedAttempt failed;
    std::string_view dead_code;
    Milliseconds delay;
  };
  const Row rows[] = {
      {"the first of five", 5, 3, {1, 0, false, {}}, {}, 10s},
      {"the fourth of five", 5, 3, {4, 0, false, {}}, {}, 80s},
      {"the fifth of five", 5, 3, {5, 0, false, {}}, dead_code::kAttempts, 0s},
      {"one more than there should be", 5, 3, {6, 0, false, {}}, dead_code::kAttempts, 0s},
      {"far more", 5, 3, {INT32_MAX, 0, false, {}}, dead_code::kAttempts, 0s},
      {"no retries at all", 1, 3, {1, 0, false, {}}, dead_code::kAttempts, 0s},
      {"the first crash of three", 5, 3, {1, 1, true, {}}, {}, 10s},
      {"the third crash of three", 5, 3, {3, 3, true, {}}, dead_code::kCrashes, 0s},
      {"more crashes than allowed", 5, 3, {3, 9, true, {}}, dead_code::kCrashes, 0s},
      {"the only crash allowed", 5, 1, {1, 1, true, {}}, dead_code::kCrashes, 0s},
      {"the last crash and the last attempt", 3, 3, {3, 3, true, {}}, dead_code::kCrashes, 0s},
      {"a crash as the last attempt", 3, 5, {3, 3, true, {}}, dead_code::kAttempts, 0s},
      {"no crash this time", 5, 3, {4, 3, false, {}}, {}, 80s},
      {"the handler's own delay", 5, 3, {2, 0, false, 7s}, {}, 7s},
      {"longer than any of ours", 5, 3, {2, 0, false, 48h}, {}, 48h},
      {"at once, says the handler", 5, 3, {2, 0, false, 0s}, {}, 0s},
      {"a handler cannot ask for one attempt more",
       5,
       3,
       {5, 0, false, 7s},
       dead_code::kAttempts,
       0s},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    const RetryDecision decision = decide_retry(settings(row.attempts, 10s, 2.0, 1h, 0.5),
                                                row.crashes_allowed, row.failed, 0.0);
    CHECK(decision.dead_code == row.dead_code);
    CHECK(decision.delay == row.delay);
  }
}

TEST_CASE("what a handler asks for gets no jitter", "[unit][retry_policy]") {
  const RetrySettings retry = settings(5, 10s, 2.0, 1h, 1.0);
  CHECK(decide_retry(retry, 3, {1, 0, false, {}}, 1.0).delay == 20s);
  CHECK(decide_retry(retry, 3, {1, 0, false, 7s}, 1.0).delay == 7s);
}

}  // namespace lope::consumer
