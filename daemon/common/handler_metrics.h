// What handlers measure, in shared memory: each worker's on its board, and their sum on the board
// of the group. Nothing here waits or allocates, but for the making of a name.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "common/board_parts.h"

namespace lope {

inline constexpr std::size_t kMaxHandlerMetrics = 64;  // of one group

// The numbers of the ABI (asserted in worker/host.cpp).
enum class MetricKind : std::uint32_t { counter = 1, gauge = 2, duration = 3 };

// All zeros: none is registered.
struct HandlerMetrics {
  struct Metric {
    std::atomic<std::uint32_t> kind;
    BoardText<64> name;
    BoardText<160> help;
    alignas(64) std::atomic<std::int64_t> value;  // of a counter or a gauge
    BoardHistogram durations;
  };
  std::atomic<std::uint32_t> count;
  std::array<Metric, kMaxHandlerMetrics> all;

  std::size_t size() const {
    return std::min<std::size_t>(count.load(std::memory_order_acquire), kMaxHandlerMetrics);
  }
};

enum class MetricAnswer { ok, invalid, too_many, unknown };

// Small letters, digits and '_', beginning with a letter, 1 to 63. A counter may end with _total
// and a duration with _seconds; what Prometheus makes of a name may be the end of no other: _total,
// _count, _sum, _bucket, _info, _created.
bool is_metric_name(MetricKind kind, std::string_view name);

// `id` is that of the metric of this name, which is made if there is none; 1 is the first. Invalid:
// no such kind, no name, or there is one of this name and another kind. By one thread at a time.
MetricAnswer register_metric(HandlerMetrics& metrics, std::uint32_t kind, std::string_view name,
                             std::string_view help, std::uint32_t& id);

// Adds to a counter, sets a gauge, counts a duration in ns. Invalid: a negative number of a counter
// or a duration. [any thread]
MetricAnswer record_metric(HandlerMetrics& metrics, std::uint32_t id, std::int64_t value);

// What of one worker's metrics is in its group's. The worker's board is believed as little as its
// handler: whatever is on it, the group's metrics are well-formed.
class MetricsShare {
 public:
  // Adds what has come since the last time. What the group has no place for is left out, as is what
  // another worker has registered by the same name and another kind.
  void update(const HandlerMetrics& worker, HandlerMetrics& group);
  // It is dead: its counters and durations stay, and what its gauges said is taken away.
  void retire(HandlerMetrics& group);

 private:
  struct Seen {
    std::uint32_t id = 0;  // in the group; 0: left out
    std::int64_t value = 0;
    std::array<std::uint64_t, kHistogramClasses> counts{};
    std::uint64_t sum_ns = 0;
  };
  std::vector<Seen> seen_;
};

// Of a group without workers.
void clear_gauges(HandlerMetrics& group);

}  // namespace lope
