#include "consumer/autoscale.h"

#include <algorithm>

namespace lope::consumer {

int Autoscaler::decide(const AutoscaleSample& sample, TimePoint now) {
  const auto since = [now](TimePoint& start, bool holds) {
    if (!holds) start = TimePoint::max();
    if (holds && start == TimePoint::max()) start = now;
    return holds ? now - start : Clock::duration::zero();
  };
  const int wanted = std::clamp(sample.wanted, sample.min, sample.max);
  const bool full = sample.settled && sample.full;
  const bool idle = sample.settled && !sample.full && sample.calls <= (wanted - 1) * sample.threads;
  const auto full_for = since(full_since_, full);
  const auto idle_for = since(idle_since_, idle);
  if (full_for >= kPatience) {
    full_since_ = TimePoint::max();
    return std::min(sample.max, wanted + std::max(1, wanted / 4));
  }
  if (idle_for >= kIdle) {
    idle_since_ = TimePoint::max();
    return std::max(sample.min, wanted - 1);
  }
  return wanted;
}

}  // namespace lope::consumer
