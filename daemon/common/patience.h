// How long a message may stay with a consumer before the broker closes its channel over it: its
// consumer_timeout, with time left for what is to be done before.
#pragma once

#include <chrono>

namespace lope {

// From when it arrived, by what becomes of it; see the consumer's settle_in_time().
struct Patience {
  std::chrono::milliseconds waited;     // no handler has begun it
  std::chrono::milliseconds worked;     // a handler works on it, or keeps it
  std::chrono::milliseconds published;  // it waits for confirms
  // Those that came so long after one that has waited too long go back with it.
  std::chrono::milliseconds with_it;

  // So long it can wait here whatever others do.
  std::chrono::milliseconds stays() const { return waited - with_it; }
};

// `timeout`: of one call of a handler; 0: none.
Patience patience(std::chrono::milliseconds consumer_timeout, std::chrono::milliseconds timeout);

}  // namespace lope
