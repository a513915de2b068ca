// How long to wait before trying again. Pure: the caller brings the randomness.
#pragma once

#include <chrono>

namespace lope {

struct Backoff {
  std::chrono::milliseconds base;
  std::chrono::milliseconds cap;

  // base x 2^failures, at most cap. `failures` counts from 0.
  std::chrono::milliseconds exponential(int failures) const;
  // Full jitter: `random` (0 to 1) of exponential(), so that many clients do not come back
  // together.
  std::chrono::milliseconds full_jitter(int failures, double random) const;
};

// A number from 0 to 1 for full_jitter(). Per thread, seeded from the system.
double random_fraction();

}  // namespace lope
