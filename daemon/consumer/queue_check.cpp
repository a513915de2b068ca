#include "consumer/queue_check.h"

#include <algorithm>

namespace lope::consumer {

namespace {

constexpr int kAskAfter = 2;
constexpr int kLostAfter = 3;
constexpr std::size_t kMostQuarters = 8;

}  // namespace

QueueCheck::Next QueueCheck::tick(std::uint64_t deliveries) {
  if (deliveries != seen_) {
    seen_ = deliveries;
    silent_ = 0;
    return Next::nothing;
  }
  ++silent_;
  if (asked_) return silent_ >= kLostAfter ? Next::lost : Next::nothing;
  if (silent_ < kAskAfter) return Next::nothing;
  asked_ = true;
  silent_ = 0;
  return Next::ask;
}

void QueueCheck::answered() {
  asked_ = false;
  silent_ = 0;
}

std::chrono::milliseconds set_up_patience(std::chrono::milliseconds quarter, std::size_t given_up,
                                          std::size_t addresses) {
  const std::size_t quarters = std::min(1 + given_up / addresses, kMostQuarters);
  return quarter * static_cast<int>(quarters);
}

bool Suspicion::silent(std::size_t addresses, bool others) {
  if (!others) return true;
  if (given_up_ >= addresses) return false;
  ++given_up_;
  return true;
}

}  // namespace lope::consumer
