#include "supervisor/samples.h"

namespace lope::supervisor {

namespace {

constexpr std::chrono::seconds kRatesOver{10};
constexpr std::chrono::seconds kHandlingOver{60};
constexpr std::chrono::seconds kHandlingEvery{5};

// The first that stays is the youngest that is as old as `over`.
template <typename T>
void forget(std::deque<T>& samples, TimePoint now, std::chrono::seconds over) {
  while (samples.size() > 1 && samples[1].at <= now - over) samples.pop_front();
}

}  // namespace

void Samples::take(TimePoint now, std::uint64_t in, std::uint64_t out, const Counts& handling) {
  samples_.push_back({now, in, out});
  forget(samples_, now, kRatesOver);
  latest_ = handling;
  if (handling_.empty() || now >= handling_.back().at + kHandlingEvery) {
    // What was counted before the first sample is of no known time.
    handling_.push_back({now, handling});
  }
  forget(handling_, now, kHandlingOver);
}

double Samples::rate(std::uint64_t Sample::*member) const {
  if (samples_.size() < 2) return 0;
  const Sample& first = samples_.front();
  const Sample& last = samples_.back();
  const std::chrono::duration<double> time = last.at - first.at;
  return time.count() > 0 ? static_cast<double>(last.*member - first.*member) / time.count() : 0;
}

double Samples::handling_ms(double share) const {
  if (handling_.empty()) return 0;
  Counts counts = latest_;
  for (std::size_t i = 0; i < counts.size(); ++i) counts[i] -= handling_.front().counts[i];
  return histogram_quantile(counts, share) / 1e6;
}

}  // namespace lope::supervisor
