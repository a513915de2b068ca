// What becomes of a message that was not handled. Pure.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>

#include "common/settings.h"

namespace lope::consumer {

// One attempt that failed.
struct FailedAttempt {
  std::uint32_t attempt = 1;  // which one it was
  std::uint32_t crashes = 0;  // workers that the message has taken down, this time included
  bool crashed = false;       // this time
  std::optional<std::chrono::milliseconds> asked;  // the handler's own word on the delay
};

struct RetryDecision {
  std::string_view dead_code;          // one of dead_code::; empty: it is handled again
  std::chrono::milliseconds delay{0};  // when it is
};

// `fraction`: random, from 0 to 1.
RetryDecision decide_retry(const RetrySettings& retry, int crashes_allowed,
                           const FailedAttempt& failed, double fraction);

// Before attempt `attempt` + 1.
std::chrono::milliseconds retry_delay(const RetrySettings& retry, std::uint32_t attempt,
                                      double fraction);

// When a message goes back to its queue because its copy cannot be published. It is kept this long,
// and its place in the window with it, so that this makes no hot loop. `failures`: of this kind, in
// a row in this group.
std::chrono::milliseconds requeue_delay(int failures);

}  // namespace lope::consumer
