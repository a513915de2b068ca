// How many messages a group may begin: a token bucket. Pure. One token a message; they come at
// `per_second`, and up to `burst` of them are kept while nobody needs any.
#pragma once

#include <cstddef>

#include "common/clock.h"
#include "common/settings.h"

namespace lope::consumer {

class Rate {
 public:
  explicit Rate(const RateSettings& settings);
  // Other settings; what is left of the tokens stays.
  void change(const RateSettings& settings);

  bool limited() const { return settings_.per_second > 0; }
  // May so many begin together? More than `burst` may when the bucket is full; what they take too
  // much comes off the next. After a refusal the next question may be late: what comes until then
  // is not lost to a full bucket.
  bool allows(std::size_t messages, TimePoint now);
  // After a refusal: when to ask again. Not for each token, where they come faster than that makes
  // sense.
  TimePoint due(std::size_t messages) const;
  // So many have begun, and so many of those have not after all.
  void take(std::size_t messages);
  void give_back(std::size_t messages);

 private:
  double needed(std::size_t messages) const;

  RateSettings settings_;
  double tokens_ = 0;
  TimePoint at_{};          // as of then
  TimePoint late_until_{};  // what comes late is not lost until then
};

}  // namespace lope::consumer
