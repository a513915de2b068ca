#include "consumer/retry_policy.h"

#include "common/backoff.h"

namespace lope::consumer {

std::chrono::milliseconds requeue_delay(int failures) {
  constexpr Backoff kRequeue{std::chrono::milliseconds(1000), std::chrono::milliseconds(30'000)};
  return kRequeue.exponential(failures);
}

}  // namespace lope::consumer
