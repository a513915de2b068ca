#include "consumer/address_rotation.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/backoff.h"

namespace lope::consumer {

namespace {

// A broker that is back is found within this.
constexpr Backoff kReconnect{std::chrono::milliseconds(200), std::chrono::milliseconds(3000)};

}  // namespace

AddressRotation::AddressRotation(std::size_t count, const std::function<double()>& random)
    : order_(count) {
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  for (std::size_t left = count; left > 1; --left) {
    const auto drawn = static_cast<std::size_t>(random() * static_cast<double>(left));
    std::swap(order_[left - 1], order_[std::min(drawn, left - 1)]);
  }
}

std::chrono::milliseconds AddressRotation::failed(double random) {
  next_ = (next_ + 1) % order_.size();
  if (current() == passed_over_) {
    passed_over_.reset();
    next_ = (next_ + 1) % order_.size();
  }
  if (++failures_ % order_.size() != 0) return std::chrono::milliseconds(0);
  const std::size_t rounds = failures_ / order_.size();
  return kReconnect.full_jitter(static_cast<int>(std::min<std::size_t>(rounds, 100)) - 1, random);
}

void AddressRotation::lasted() {
  failures_ = 0;
  if (passed_over_ != current()) passed_over_.reset();  // that was long ago
}

}  // namespace lope::consumer
