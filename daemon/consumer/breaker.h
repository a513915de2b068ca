// A group whose messages fail slows down: when most of the latest outcomes are failures, the cause
// is probably none of the messages. It then gets no new ones for a while, so that they do not use
// up their attempts in vain. Pure: what counts as a failure, and what a pause stops, is the
// caller's.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <optional>

#include "common/clock.h"
#include "common/settings.h"

namespace lope::consumer {

class Breaker {
 public:
  // As it begins, for the log.
  struct Pause {
    std::chrono::milliseconds length;
    std::size_t failed;
    std::size_t outcomes;  // of so many
  };

  explicit Breaker(const BreakerSettings& settings);

  // One message's. Those that come during a pause count for nothing: they are of what was running.
  // Returns the pause that begins with it, if one does.
  //
  // What is looked at are the latest `outcomes`, or those of the latest `period` where these are
  // more. A pause begins when at least `failures` of them failed, so many have come since the last
  // pause, and they are spread over half a period at least: messages that are due together fail
  // together, within milliseconds, and that is no evidence of anything. Right after a pause a
  // quarter of `outcomes` is a probe: when it fails too, the next pause begins, twice as long; when
  // it does not, the lengths start over.
  std::optional<Pause> outcome(bool failed, TimePoint now);

  bool paused(TimePoint now) const { return now < resumes_at_; }
  // When the latest pause is over; long past when there was none.
  TimePoint resumes_at() const { return resumes_at_; }

  // As new: a pause is over, and what has been is forgotten.
  void reset();

 private:
  // Outcomes that came close to each other: a step of the period.
  struct Step {
    TimePoint began, ended;
    std::size_t seen = 0, failed = 0;
  };

  void remember(bool failed, TimePoint now);
  void forget_old(TimePoint now);
  void forget_all();

  BreakerSettings settings_;
  std::size_t outcomes_;
  std::size_t probe_;
  std::deque<Step> steps_;             // since the last pause
  std::size_t seen_ = 0, failed_ = 0;  // in all steps
  bool probing_ = false;
  std::chrono::milliseconds length_;  // of the next pause
  TimePoint resumes_at_ = TimePoint::min();
};

}  // namespace lope::consumer
