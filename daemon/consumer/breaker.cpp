#include "consumer/breaker.h"

#include <algorithm>

namespace lope::consumer {

namespace {

constexpr int kStepsOfPeriod = 16;

}  // namespace

Breaker::Breaker(const BreakerSettings& settings)
    : settings_(settings),
      outcomes_(static_cast<std::size_t>(std::max(settings.outcomes, 1))),
      probe_(std::max<std::size_t>(outcomes_ / 4, 1)),
      length_(std::min(settings.pause, settings.max_pause)) {}

std::optional<Breaker::Pause> Breaker::outcome(bool failed, TimePoint now) {
  if (!settings_.on || paused(now)) return std::nullopt;
  remember(failed, now);
  if (seen_ < (probing_ ? probe_ : outcomes_)) return std::nullopt;
  // A quotient, not a product: 7 of 100 are to be no less than 0.07.
  if (static_cast<double>(failed_) / static_cast<double>(seen_) < settings_.failures) {
    if (probing_) length_ = std::min(settings_.pause, settings_.max_pause);
    probing_ = false;
    return std::nullopt;
  }
  if (!probing_ && now - steps_.front().began < settings_.period / 2) return std::nullopt;
  const Pause pause{length_, failed_, seen_};
  resumes_at_ = now + length_;
  length_ = std::min(length_ * 2, settings_.max_pause);
  probing_ = true;
  forget_all();
  return pause;
}

void Breaker::remember(bool failed, TimePoint now) {
  // While they are few, each is a step of its own.
  const bool is_step = steps_.empty() || steps_.size() < outcomes_ ||
                       now - steps_.back().began >= settings_.period / kStepsOfPeriod;
  if (is_step) steps_.push_back({now, now});
  Step& step = steps_.back();
  step.ended = now;
  ++step.seen;
  ++seen_;
  if (failed) {
    ++step.failed;
    ++failed_;
  }
  forget_old(now);
}

// Of what is older than a period, no more than makes up `outcomes`.
void Breaker::forget_old(TimePoint now) {
  while (seen_ - steps_.front().seen >= outcomes_ &&
         steps_.front().ended <= now - settings_.period) {
    seen_ -= steps_.front().seen;
    failed_ -= steps_.front().failed;
    steps_.pop_front();
  }
}

void Breaker::forget_all() {
  steps_.clear();
  seen_ = failed_ = 0;
}

void Breaker::reset() {
  forget_all();
  probing_ = false;
  length_ = std::min(settings_.pause, settings_.max_pause);
  resumes_at_ = TimePoint::min();
}

}  // namespace lope::consumer
