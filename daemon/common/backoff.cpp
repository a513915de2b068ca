#include "common/backoff.h"

#include <algorithm>
#include <random>

namespace lope {

std::chrono::milliseconds Backoff::exponential(int failures) const {
  std::chrono::milliseconds delay = base;
  for (int i = 0; i < failures && delay < cap; ++i) delay *= 2;
  return std::min(delay, cap);
}

std::chrono::milliseconds Backoff::full_jitter(int failures, double random) const {
  const auto whole = exponential(failures);
  return std::chrono::milliseconds(
      static_cast<std::chrono::milliseconds::rep>(static_cast<double>(whole.count()) * random));
}

double random_fraction() {
  thread_local std::minstd_rand generator{std::random_device{}()};
  return std::uniform_real_distribution<double>(0.0, 1.0)(generator);
}

}  // namespace lope
