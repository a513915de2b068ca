#include "common/patience.h"

#include <algorithm>

namespace lope {

namespace {

// What the broker would take back from us soon is handed back so long before.
constexpr std::chrono::milliseconds kBefore{30'000};

}  // namespace

Patience patience(std::chrono::milliseconds consumer_timeout, std::chrono::milliseconds timeout) {
  const auto all = consumer_timeout;
  const auto margin = std::min(kBefore, all / 4);
  const auto worked = all - margin;
  // There must be time left for a whole call.
  const auto waited = timeout.count() > 0 ? std::max(worked - timeout, all / 8) : worked / 2;
  return {waited, worked, all - margin / 2, all / 32};
}

}  // namespace lope
