#include "consumer/retry_policy.h"

#include <algorithm>
#include <cmath>

#include "common/backoff.h"
#include "consumer/travel.h"

namespace lope::consumer {

RetryDecision decide_retry(const RetrySettings& retry, int crashes_allowed,
                           const FailedAttempt& failed, double fraction) {
  if (failed.crashed && failed.crashes >= static_cast<std::uint32_t>(crashes_allowed)) {
    return {dead_code::kCrashes, {}};
  }
  if (failed.attempt >= static_cast<std::uint32_t>(retry.attempts)) {
    return {dead_code::kAttempts, {}};
  }
  return {{}, failed.asked ? *failed.asked : retry_delay(retry, failed.attempt, fraction)};
}

std::chrono::milliseconds retry_delay(const RetrySettings& retry, std::uint32_t attempt,
                                      double fraction) {
  if (retry.delay.count() == 0) return retry.delay;
  const auto longest = static_cast<double>(retry.max_delay.count());
  const double grown =
      static_cast<double>(retry.delay.count()) * std::pow(retry.backoff, attempt - 1.0);
  const double delay = std::min(grown, longest);
  return std::chrono::milliseconds(
      static_cast<std::int64_t>(delay + delay * retry.jitter * fraction));
}

std::chrono::milliseconds requeue_delay(int failures) {
  constexpr Backoff kRequeue{std::chrono::milliseconds(1000), std::chrono::milliseconds(30'000)};
  return kRequeue.exponential(failures);
}

}  // namespace lope::consumer
