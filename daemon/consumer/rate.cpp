#include "consumer/rate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace lope::consumer {

namespace {

using Seconds = std::chrono::duration<double>;

// Being woken more often than this costs more than it gains.
constexpr Seconds kStep{0.001};
// So late a question may come without a loss of tokens.
constexpr Seconds kLate{0.1};
// What sums of many small parts are off by.
constexpr double kRounding = 1e-6;

}  // namespace

Rate::Rate(const RateSettings& settings) : settings_(settings), tokens_(settings.burst) {}

void Rate::change(const RateSettings& settings) {
  tokens_ = limited() ? std::min(tokens_, settings.burst) : settings.burst;
  settings_ = settings;
}

// A bucket of less than that never has more.
double Rate::needed(std::size_t messages) const {
  return std::min(static_cast<double>(messages), settings_.burst);
}

bool Rate::allows(std::size_t messages, TimePoint now) {
  if (!limited()) return true;
  if (now > at_) {
    const double late = std::max(1.0, settings_.per_second * kLate.count());
    const double most = settings_.burst + (now < late_until_ ? late : 0);
    tokens_ = std::min(tokens_ + settings_.per_second * Seconds(now - at_).count(), most);
    at_ = now;
  }
  if (tokens_ + kRounding >= needed(messages)) return true;
  late_until_ = due(messages) + std::chrono::duration_cast<Clock::duration>(kLate);
  return false;
}

TimePoint Rate::due(std::size_t messages) const {
  const double some = std::min(settings_.per_second * kStep.count(), settings_.burst);
  const Seconds wait((std::max(needed(messages), some) - tokens_) / settings_.per_second);
  return at_ + std::chrono::ceil<Clock::duration>(std::max(wait, Seconds(0)));
}

void Rate::take(std::size_t messages) { tokens_ -= static_cast<double>(messages); }

void Rate::give_back(std::size_t messages) { tokens_ += static_cast<double>(messages); }

}  // namespace lope::consumer
