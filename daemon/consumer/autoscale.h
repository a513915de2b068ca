// How many workers a group with `workers: {min, max}` should have: more soon after messages have
// begun to wait while all are busy, fewer long after some have had nothing to do. Pure.
#pragma once

#include "common/clock.h"

namespace lope::consumer {

struct AutoscaleSample {
  int wanted = 1;        // workers, now
  int min = 1, max = 1;  // to be kept between
  int threads = 1;       // of each
  bool settled = true;   // as many are at work as are wanted
  bool full = false;     // messages wait, and no worker can take one
  int calls = 0;         // of handlers, running and given ahead
};

class Autoscaler {
 public:
  // So often a sample is taken.
  static constexpr std::chrono::milliseconds kInterval{250};
  // Full for so long: a quarter more, at least one.
  static constexpr std::chrono::seconds kPatience{2};
  // For so long one fewer would have done, and it was not changed: one fewer. A worker that was let
  // go too early is back within kPatience and the time it needs to get ready; so more go slowly.
  static constexpr std::chrono::seconds kIdle{30};

  // The number wanted from now on.
  int decide(const AutoscaleSample& sample, TimePoint now);

 private:
  TimePoint full_since_ = TimePoint::max();
  TimePoint idle_since_ = TimePoint::max();
};

}  // namespace lope::consumer
