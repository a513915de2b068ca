#include "consumer/dispatcher.h"

#include <algorithm>

#include "common/scoreboard.h"

namespace lope::consumer {

namespace {

constexpr double kLookaheadNs = 500'000;    // what may wait at a worker, in handling time
constexpr double kTinyHandlerNs = 250'000;  // slower ones get nothing ahead
constexpr double kMaxAhead = 512;
constexpr double kMeanWeight = 1.0 / 8;

}  // namespace

std::size_t capacity(const WorkerLoad& load) {
  const auto threads = static_cast<std::size_t>(load.threads);
  if (load.mean_ns < 0 || load.mean_ns > kTinyHandlerNs) return threads;
  const double ahead = std::min(kMaxAhead, kLookaheadNs / std::max(load.mean_ns, 1.0));
  return threads + static_cast<std::size_t>(ahead) * threads;
}

int choose_worker(std::span<const WorkerLoad> workers, std::size_t deliveries) {
  int best = -1;
  double best_load = 0;
  for (std::size_t i = 0; i < workers.size(); ++i) {
    const WorkerLoad& load = workers[i];
    if (!load.ready || load.calls >= capacity(load) || load.owed + deliveries > kMaxOwed) continue;
    const double relative = static_cast<double>(load.calls + load.flushing) / load.threads;
    if (best < 0 || relative < best_load) {
      best = static_cast<int>(i);
      best_load = relative;
    }
  }
  return best;
}

double updated_mean(double mean_ns, std::uint64_t duration_ns) {
  const auto duration = static_cast<double>(duration_ns);
  return mean_ns < 0 ? duration : mean_ns + (duration - mean_ns) * kMeanWeight;
}

}  // namespace lope::consumer
