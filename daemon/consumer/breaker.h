// A group whose messages fail slows down: when most of the latest outcomes are failures, the cause
// is probably none of the messages. It then gets no new ones for a while, so that they do not use
// up their attempts in vain. Pure: what counts as a failure, and what a pause stops, is the
// caller's.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <vector>

#include "common/clock.h"
#include "common/settings.h"

namespace lope::consumer {

class Breaker {
 public:
  // As it begins, for the log.
  struct Pause {
    std::chrono::milliseconds length;
    double failures;  // the ratio that was too high
    int outcomes;     // of so many
  };

  explicit Breaker(const BreakerSettings& settings);

  // One message's. Those that come during a pause count for nothing: they are of what was running.
  // Returns the pause that begins with it, if one does.
  //
  // A pause begins when at least `failures` of the latest `outcomes` failed, and so many have come
  // since the last. Right after a pause a quarter of that is a probe: when it fails too, the next
  // pause begins, twice as long; when it does not, the lengths start over.
  std::optional<Pause> outcome(bool failed, TimePoint now);

  bool paused(TimePoint now) const { return now < resumes_at_; }
  // When the latest pause is over; long past when there was none.
  TimePoint resumes_at() const { return resumes_at_; }

  // As new: a pause is over, and what has been is forgotten.
  void reset();

 private:
  void remember(bool failed);
  double ratio() const { return static_cast<double>(failed_) / static_cast<double>(seen_); }

  const BreakerSettings settings_;
  const std::size_t window_;
  const std::size_t probe_;
  std::vector<bool> latest_;  // a ring: did it fail?
  std::size_t next_ = 0;      // its oldest, once seen_ is window_
  std::size_t seen_ = 0;      // since the last pause, at most window_
  std::size_t failed_ = 0;    // of these
  bool probing_ = false;
  std::chrono::milliseconds length_;  // of the next pause
  TimePoint resumes_at_ = TimePoint::min();
};

}  // namespace lope::consumer
