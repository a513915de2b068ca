#include "consumer/breaker.h"

#include <algorithm>

namespace lope::consumer {

Breaker::Breaker(const BreakerSettings& settings)
    : settings_(settings),
      window_(static_cast<std::size_t>(std::max(settings.outcomes, 1))),
      probe_(std::max<std::size_t>(window_ / 4, 1)),
      latest_(settings.on ? window_ : 0),
      length_(std::min(settings.pause, settings.max_pause)) {}

std::optional<Breaker::Pause> Breaker::outcome(bool failed, TimePoint now) {
  if (!settings_.on || paused(now)) return std::nullopt;
  remember(failed);
  if (seen_ < (probing_ ? probe_ : window_)) return std::nullopt;
  // A quotient, not a product: 7 of 100 are to be no less than 0.07.
  if (ratio() < settings_.failures) {
    if (probing_) length_ = std::min(settings_.pause, settings_.max_pause);
    probing_ = false;
    return std::nullopt;
  }
  const Pause pause{length_, ratio(), static_cast<int>(seen_)};
  resumes_at_ = now + length_;
  length_ = std::min(length_ * 2, settings_.max_pause);
  probing_ = true;
  next_ = seen_ = failed_ = 0;
  return pause;
}

void Breaker::remember(bool failed) {
  if (seen_ < window_) {
    ++seen_;
  } else if (latest_[next_]) {
    --failed_;
  }
  latest_[next_] = failed;
  if (failed) ++failed_;
  if (++next_ == window_) next_ = 0;
}

void Breaker::reset() {
  next_ = seen_ = failed_ = 0;
  probing_ = false;
  length_ = std::min(settings_.pause, settings_.max_pause);
  resumes_at_ = TimePoint::min();
}

}  // namespace lope::consumer
