#include "common/handler_metrics.h"

#include <algorithm>
#include <string>

namespace lope {

namespace {

constexpr std::size_t kMaxName = 63;

void grow(std::atomic<std::uint64_t>& into, std::uint64_t by) {
  into.fetch_add(by, std::memory_order_relaxed);
}

// The difference to what was seen, which follows; 0 when it went back.
std::uint64_t grown(const std::atomic<std::uint64_t>& now, std::uint64_t& seen) {
  const std::uint64_t value = now.load(std::memory_order_relaxed);
  const std::uint64_t by = value > seen ? value - seen : 0;
  seen += by;
  return by;
}

}  // namespace

bool is_metric_name(MetricKind kind, std::string_view name) {
  constexpr std::string_view kReserved[] = {"_total",  "_count", "_sum",
                                            "_bucket", "_info",  "_created"};
  const bool plain = std::ranges::all_of(
      name, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; });
  if (!plain || name.empty() || name.size() > kMaxName || name[0] < 'a') return false;
  if (kind == MetricKind::counter && name.ends_with("_total")) name.remove_suffix(6);
  return !name.empty() && std::ranges::none_of(kReserved, [name](std::string_view suffix) {
    return name.ends_with(suffix);
  });
}

namespace {

// What is left of a name without the suffix that its kind gets in the texts.
std::string_view stem(std::string_view name) {
  for (const std::string_view suffix : {"_total", "_seconds"}) {
    if (name.ends_with(suffix)) return name.substr(0, name.size() - suffix.size());
  }
  return name;
}

}  // namespace

MetricAnswer register_metric(HandlerMetrics& metrics, std::uint32_t kind, std::string_view name,
                             std::string_view help, std::uint32_t& id) {
  if (kind < static_cast<std::uint32_t>(MetricKind::counter) ||
      kind > static_cast<std::uint32_t>(MetricKind::duration) ||
      !is_metric_name(static_cast<MetricKind>(kind), name)) {
    return MetricAnswer::invalid;
  }
  const std::size_t count = metrics.size();
  for (std::size_t i = 0; i < count; ++i) {
    const HandlerMetrics::Metric& metric = metrics.all[i];
    const std::string other = metric.name.get();
    if (other != name && stem(other) == stem(name)) return MetricAnswer::invalid;
    if (other != name) continue;
    id = static_cast<std::uint32_t>(i + 1);
    return metric.kind.load(std::memory_order_relaxed) == kind ? MetricAnswer::ok
                                                               : MetricAnswer::invalid;
  }
  if (count == kMaxHandlerMetrics) return MetricAnswer::too_many;
  HandlerMetrics::Metric& metric = metrics.all[count];
  metric.kind.store(kind, std::memory_order_relaxed);
  metric.name.set(name);
  metric.help.set(help);
  metrics.count.store(static_cast<std::uint32_t>(count + 1), std::memory_order_release);
  id = static_cast<std::uint32_t>(count + 1);
  return MetricAnswer::ok;
}

MetricAnswer record_metric(HandlerMetrics& metrics, std::uint32_t id, std::int64_t value) {
  if (id == 0 || id > metrics.size()) return MetricAnswer::unknown;
  HandlerMetrics::Metric& metric = metrics.all[id - 1];
  switch (static_cast<MetricKind>(metric.kind.load(std::memory_order_relaxed))) {
    case MetricKind::counter:
      if (value < 0) return MetricAnswer::invalid;
      metric.value.fetch_add(value, std::memory_order_relaxed);
      break;
    case MetricKind::gauge: metric.value.store(value, std::memory_order_relaxed); break;
    case MetricKind::duration:
      if (value < 0) return MetricAnswer::invalid;
      grow(metric.durations.counts[histogram_class(static_cast<std::uint64_t>(value))], 1);
      grow(metric.durations.sum_ns, static_cast<std::uint64_t>(value));
      break;
  }
  return MetricAnswer::ok;
}

void MetricsShare::update(const HandlerMetrics& worker, HandlerMetrics& group) {
  for (std::size_t i = 0; i < worker.size(); ++i) {
    const HandlerMetrics::Metric& from = worker.all[i];
    if (i == seen_.size()) {
      Seen& seen = seen_.emplace_back();
      if (register_metric(group, from.kind.load(std::memory_order_relaxed), from.name.get(),
                          from.help.get(), seen.id) != MetricAnswer::ok) {
        seen.id = 0;
      }
    }
    Seen& seen = seen_[i];
    if (seen.id == 0) continue;
    HandlerMetrics::Metric& into = group.all[seen.id - 1];
    const std::int64_t value = from.value.load(std::memory_order_relaxed);
    switch (static_cast<MetricKind>(into.kind.load(std::memory_order_relaxed))) {
      case MetricKind::counter:
        if (value < seen.value) break;
        [[fallthrough]];
      case MetricKind::gauge:
        // Unsigned, since a worker may have scribbled anything there.
        into.value.fetch_add(static_cast<std::int64_t>(static_cast<std::uint64_t>(value) -
                                                       static_cast<std::uint64_t>(seen.value)),
                             std::memory_order_relaxed);
        seen.value = value;
        break;
      case MetricKind::duration:
        for (std::size_t c = 0; c < kHistogramClasses; ++c) {
          grow(into.durations.counts[c], grown(from.durations.counts[c], seen.counts[c]));
        }
        grow(into.durations.sum_ns, grown(from.durations.sum_ns, seen.sum_ns));
        break;
    }
  }
}

void MetricsShare::retire(HandlerMetrics& group) {
  for (const Seen& seen : seen_) {
    if (seen.id == 0) continue;
    HandlerMetrics::Metric& into = group.all[seen.id - 1];
    if (into.kind.load(std::memory_order_relaxed) ==
        static_cast<std::uint32_t>(MetricKind::gauge)) {
      into.value.fetch_sub(seen.value, std::memory_order_relaxed);
    }
  }
  seen_.clear();
}

void clear_gauges(HandlerMetrics& group) {
  for (HandlerMetrics::Metric& metric : group.all) {
    if (metric.kind.load(std::memory_order_relaxed) ==
        static_cast<std::uint32_t>(MetricKind::gauge)) {
      metric.value.store(0, std::memory_order_relaxed);
    }
  }
}

}  // namespace lope
