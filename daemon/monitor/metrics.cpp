#include "monitor/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <sstream>
#include <utility>
#include <vector>

#include "common/handler_metrics.h"
#include "common/histogram.h"

namespace lope::monitor {

namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

// Buckets end where every second class does: 8.192 us, twice that, and so on to 275 s.
constexpr std::uint64_t kFirstBucketEnd = 1ull << 13;
constexpr std::uint64_t kLastBucketEnd = 1ull << 38;

// States that are shown although no group is in them, so that a series does not come from nowhere.
// Any other word is shown while a group is in it.
constexpr std::string_view kStates[] = {"starting", "connecting", "consuming", "paused", "draining",
                                        "ended",    "down",       "waiting",   "failed", "refused"};

class Families {
 public:
  MetricFamily& add(std::string name, MetricType type, std::string help) {
    return all_.emplace_back(MetricFamily{std::move(name), std::move(help), type, {}});
  }
  void add(MetricFamily family) { all_.push_back(std::move(family)); }
  const std::vector<MetricFamily>& all() const { return all_; }

 private:
  std::vector<MetricFamily> all_;
};

void put(MetricFamily& family, Labels labels, double value) {
  ClientMetric metric;
  metric.label = std::move(labels);
  if (family.type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family.metric.push_back(std::move(metric));
}

void put(MetricFamily& family, Labels labels, const HistogramCounts& histogram) {
  ClientMetric metric;
  metric.label = std::move(labels);
  metric.histogram.sample_sum = histogram.sum_s;
  std::uint64_t below = 0;
  for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
    below += histogram.counts[i];
    const std::uint64_t end = histogram_begin(i + 1);
    if (end < kFirstBucketEnd || end > kLastBucketEnd || !std::has_single_bit(end)) continue;
    metric.histogram.bucket.push_back({below, static_cast<double>(end) / 1e9});
  }
  metric.histogram.sample_count = below;
  metric.histogram.bucket.push_back({below, std::numeric_limits<double>::infinity()});
  family.metric.push_back(std::move(metric));
}

// The relay is told of as the group of this name.
std::vector<const GroupStatus*> processes(const DaemonStatus& status) {
  std::vector<const GroupStatus*> all;
  for (const GroupStatus& group : status.groups) all.push_back(&group);
  for (const GroupStatus& relay : status.relay) all.push_back(&relay);
  return all;
}

struct Column {
  const char* name;
  MetricType type;
  const char* help;
  std::uint64_t GroupStatus::*value;
};
constexpr Column kColumns[] = {
    {"lope_workers_wanted", MetricType::Gauge, "Workers that the group is to have.",
     &GroupStatus::workers_wanted},
    {"lope_workers_ready", MetricType::Gauge, "Workers that are ready.",
     &GroupStatus::workers_ready},
    {"lope_messages_running", MetricType::Gauge, "Messages that are with workers.",
     &GroupStatus::running},
    {"lope_messages_held", MetricType::Gauge, "Of them, messages that handlers keep.",
     &GroupStatus::held},
    {"lope_messages_waiting", MetricType::Gauge,
     "Messages that have come and wait here for a worker.", &GroupStatus::waiting},
    {"lope_messages_unconfirmed", MetricType::Gauge,
     "Messages that wait for the broker's confirms of what is published for them.",
     &GroupStatus::unconfirmed},
    {"lope_messages_behind", MetricType::Gauge,
     "Of those that wait, messages that another of their key holds up (order_by, order).",
     &GroupStatus::behind},
    {"lope_group_at_rate", MetricType::Gauge, "1: messages wait for nothing but the group's rate.",
     &GroupStatus::at_rate},
    {"lope_messages_delivered_total", MetricType::Counter, "Messages that came from the broker.",
     &GroupStatus::delivered},
    {"lope_messages_acked_total", MetricType::Counter, "Messages acked to the broker.",
     &GroupStatus::acked},
    {"lope_messages_rejected_total", MetricType::Counter,
     "Messages rejected to the broker, for the queue's own dead-letter exchange.",
     &GroupStatus::rejected},
    {"lope_messages_retried_total", MetricType::Counter,
     "Messages that are to be handled once more.", &GroupStatus::retried},
    {"lope_messages_dead_lettered_total", MetricType::Counter,
     "Messages published to where the group's dead letters go.", &GroupStatus::dead_lettered},
    {"lope_messages_refused_total", MetricType::Counter,
     "Messages that became dead letters for their content, before a handler saw them.",
     &GroupStatus::refused},
    {"lope_messages_handed_back_total", MetricType::Counter,
     "Messages given back to their queue without an outcome.", &GroupStatus::handed_back},
    {"lope_messages_published_total", MetricType::Counter,
     "Messages published for handlers, and confirmed.", &GroupStatus::published},
    {"lope_messages_undeliverable_total", MetricType::Counter,
     "Delayed messages that the relay could not deliver and has set aside.",
     &GroupStatus::undeliverable},
    {"lope_message_crashes_total", MetricType::Counter,
     "Deaths of workers that were charged to a message.", &GroupStatus::crashes},
    {"lope_message_timeouts_total", MetricType::Counter, "Messages that took longer than allowed.",
     &GroupStatus::timeouts},
    {"lope_worker_deaths_total", MetricType::Counter, "Workers that ended unasked.",
     &GroupStatus::worker_deaths},
    {"lope_workers_recycled_total", MetricType::Counter,
     "Workers replaced because of a limit of recycle.", &GroupStatus::recycled},
    {"lope_pauses_total", MetricType::Counter,
     "Pauses that the breaker made because nearly every message failed.", &GroupStatus::pauses},
    {"lope_doubles_total", MetricType::Counter,
     "Messages that were acked and not run, since another with their key was done.",
     &GroupStatus::doubles},
    {"lope_too_soon_total", MetricType::Counter,
     "Messages that were acked and not run, since min_interval was not over.",
     &GroupStatus::too_soon},
    {"lope_dedup_delayed_total", MetricType::Counter,
     "Messages that were sent away to wait for another with their key.", &GroupStatus::delayed},
    {"lope_dedup_unchecked_total", MetricType::Counter,
     "Messages that were run although nobody could tell whether they are doubles.",
     &GroupStatus::unchecked},
    {"lope_connections_total", MetricType::Counter, "Connections to the broker that were opened.",
     &GroupStatus::connections},
    {"lope_journal_events_sent_total", MetricType::Counter,
     "Events of the journal that were sent to the broker.", &GroupStatus::journal_sent},
    {"lope_journal_events_confirmed_total", MetricType::Counter,
     "Of them, events that the broker has confirmed.", &GroupStatus::journal_confirmed},
    {"lope_journal_events_dropped_total", MetricType::Counter,
     "Events of the journal that were given up.", &GroupStatus::journal_dropped},
    {"lope_spans_sent_total", MetricType::Counter, "Spans that the collector has taken.",
     &GroupStatus::spans_sent},
    {"lope_spans_dropped_total", MetricType::Counter, "Spans that were given up.",
     &GroupStatus::spans_dropped},
    {"lope_stream_positions_not_kept_total", MetricType::Counter,
     "Times that a position in a stream could not be written down.",
     &GroupStatus::positions_not_kept},
};

void add_groups(Families& families, const DaemonStatus& status) {
  const std::vector<const GroupStatus*> groups = processes(status);
  MetricFamily& ready = families.add("lope_group_ready", MetricType::Gauge,
                                     "1: the group consumes from all its queues.");
  for (const GroupStatus* group : groups) {
    put(ready, {{"group", group->name}}, group->state == "consuming" ? 1 : 0);
  }
  MetricFamily& state = families.add("lope_group_state", MetricType::Gauge,
                                     "1 for the state that the group is in, 0 for the others.");
  for (const GroupStatus* group : groups) {
    for (const std::string_view each : kStates) {
      put(state, {{"group", group->name}, {"state", std::string(each)}}, group->state == each);
    }
    if (std::ranges::find(kStates, group->state) == std::end(kStates)) {
      put(state, {{"group", group->name}, {"state", group->state}}, 1);
    }
  }
  MetricFamily& queue =
      families.add("lope_queue_info", MetricType::Gauge, "Which queues a group consumes from.");
  for (const GroupStatus* group : groups) {
    for (const std::string& name : group->queues) {
      put(queue, {{"group", group->name}, {"queue", name}}, 1);
    }
  }
  MetricFamily& stream =
      families.add("lope_stream_next_offset", MetricType::Gauge,
                   "The lowest offset of a stream whose message the group is not done with.");
  for (const GroupStatus* group : groups) {
    for (const auto& [name, offset] : group->streams) {
      put(stream, {{"group", group->name}, {"queue", name}}, static_cast<double>(offset));
    }
  }
  MetricFamily& handler = families.add("lope_group_handler_info", MetricType::Gauge,
                                       "The handler of a group, as configured and as loaded.");
  for (const GroupStatus* group : groups) {
    if (group->handler.empty()) continue;
    put(handler,
        {{"group", group->name},
         {"handler", group->handler},
         {"name", group->handler_name},
         {"version", group->handler_version}},
        1);
  }
  MetricFamily& broker =
      families.add("lope_group_broker_info", MetricType::Gauge,
                   "The node of the broker that each connection of a group is with.");
  const auto put_broker = [&broker](const GroupStatus& group, const char* connection,
                                    const std::string& address, const std::string& cluster) {
    if (address.empty()) return;
    put(broker,
        {{"group", group.name},
         {"connection", connection},
         {"address", address},
         {"cluster", cluster}},
        1);
  };
  for (const GroupStatus* group : groups) {
    put_broker(*group, "consuming", group->broker, group->cluster);
    put_broker(*group, "publishing", group->publish_broker, group->publish_cluster);
  }
  MetricFamily& uptime = families.add("lope_group_uptime_seconds", MetricType::Gauge,
                                      "How long the group's consumer process runs.");
  for (const GroupStatus* group : groups) {
    if (group->consumer_pid != 0) put(uptime, {{"group", group->name}}, group->uptime_s);
  }
  for (const Column& column : kColumns) {
    MetricFamily& family = families.add(column.name, column.type, column.help);
    for (const GroupStatus* group : groups) {
      put(family, {{"group", group->name}}, static_cast<double>(group->*column.value));
    }
  }
}

void add_workers(Families& families, const DaemonStatus& status) {
  const auto add = [&](const char* name, MetricType type, const char* help, auto value) {
    MetricFamily& family = families.add(name, type, help);
    for (const GroupStatus& group : status.groups) {
      for (const WorkerStatus& worker : group.workers) {
        put(family, {{"group", group.name}, {"worker", std::to_string(worker.index)}},
            static_cast<double>(value(worker)));
      }
    }
  };
  add("lope_worker_messages_total", MetricType::Counter,
      "Messages given to the worker since its start.",
      [](const WorkerStatus& worker) { return worker.given; });
  add("lope_worker_resident_memory_bytes", MetricType::Gauge, "Resident memory of the worker.",
      [](const WorkerStatus& worker) { return worker.rss_bytes; });
  add("lope_worker_uptime_seconds", MetricType::Gauge, "How long the worker runs.",
      [](const WorkerStatus& worker) { return worker.uptime_s; });
}

void add_histograms(Families& families, const DaemonMetrics& metrics) {
  const auto add = [&](const char* name, const char* help, HistogramCounts GroupMetrics::*member) {
    MetricFamily& family = families.add(name, MetricType::Histogram, help);
    for (std::size_t i = 0; i < std::min(metrics.status.groups.size(), metrics.groups.size());
         ++i) {
      put(family, {{"group", metrics.status.groups[i].name}}, metrics.groups[i].*member);
    }
  };
  add("lope_handling_seconds", "How long messages were inside their handler.",
      &GroupMetrics::handling);
  add("lope_time_in_queue_seconds",
      "How long messages were in their queue before they came here, where that is known.",
      &GroupMetrics::queued);
}

// A help text that needs no escapes in either format.
std::string one_line(std::string help) {
  std::ranges::replace_if(
      help, [](unsigned char c) { return c < ' ' || c == '\\' || c == '"' || c == 0x7f; }, ' ');
  return help;
}

// Handlers of different groups may share a name. Where they do not agree on what it is, the first
// one's word counts: a name has one kind.
void add_handlers_own(Families& families, const DaemonMetrics& metrics) {
  std::vector<MetricFamily> own;
  for (std::size_t i = 0; i < std::min(metrics.status.groups.size(), metrics.groups.size()); ++i) {
    for (const HandlerMetricStatus& metric : metrics.groups[i].handler) {
      std::string name = "lope_handler_" + metric.name;
      std::string_view suffix;
      MetricType type = MetricType::Gauge;
      switch (static_cast<MetricKind>(metric.kind)) {
        case MetricKind::counter:
          type = MetricType::Counter;
          suffix = "_total";
          break;
        case MetricKind::gauge: break;
        case MetricKind::duration:
          type = MetricType::Histogram;
          suffix = "_seconds";
          break;
      }
      if (!name.ends_with(suffix)) name += suffix;
      auto found = std::ranges::find(own, name, &MetricFamily::name);
      if (found == own.end()) {
        found = own.insert(found, MetricFamily{std::move(name), one_line(metric.help), type, {}});
      }
      if (found->type != type) continue;
      const Labels labels = {{"group", metrics.status.groups[i].name}};
      if (type == MetricType::Histogram) {
        put(*found, labels, metric.durations);
      } else {
        put(*found, labels, static_cast<double>(metric.value));
      }
    }
  }
  for (MetricFamily& family : own) families.add(std::move(family));
}

Families families_of(const DaemonMetrics& metrics) {
  const DaemonStatus& status = metrics.status;
  Families families;
  put(families.add("lope_build_info", MetricType::Gauge, "The version of Lope."),
      {{"version", status.version}}, 1);
  put(families.add("lope_uptime_seconds", MetricType::Gauge, "How long the daemon runs."), {},
      status.uptime_s);
  put(families.add("lope_ready", MetricType::Gauge, "1: every group consumes."), {},
      std::ranges::all_of(status.groups,
                          [](const GroupStatus& group) { return group.state == "consuming"; }));
  add_groups(families, status);
  add_workers(families, status);
  add_histograms(families, metrics);
  add_handlers_own(families, metrics);
  return families;
}

// prometheus-cpp writes the older format. OpenMetrics has the same samples, under other comments.
std::string openmetrics_text(const std::vector<MetricFamily>& families) {
  constexpr std::string_view kUnits[] = {"seconds", "bytes"};
  std::string text;
  for (const MetricFamily& family : families) {
    std::string name = family.name;
    std::string_view type = "gauge";
    const auto drop = [&name](std::string_view suffix) {
      const bool ends_so = name.ends_with(suffix);
      if (ends_so) name.resize(name.size() - suffix.size());
      return ends_so;
    };
    if (family.type == MetricType::Histogram) type = "histogram";
    if (family.type == MetricType::Counter && drop("_total")) type = "counter";
    if (family.type == MetricType::Gauge && drop("_info")) type = "info";
    text += "# TYPE " + name + " " + std::string(type) + "\n";
    for (const std::string_view unit : kUnits) {
      if (name.ends_with("_" + std::string(unit))) {
        text += "# UNIT " + name + " " + std::string(unit) + "\n";
      }
    }
    text += "# HELP " + name + " " + family.help + "\n";
    std::string samples = prometheus::TextSerializer().Serialize({family});
    std::size_t begin = 0;
    while (samples.compare(begin, 2, "# ") == 0) begin = samples.find('\n', begin) + 1;
    text.append(samples, begin);
  }
  return text + "# EOF\n";
}

}  // namespace

MetricsFormat metrics_format(std::string_view accept) {
  return accept.find("application/openmetrics-text") == std::string_view::npos
             ? MetricsFormat::prometheus
             : MetricsFormat::openmetrics;
}

const char* content_type(MetricsFormat format) {
  return format == MetricsFormat::openmetrics
             ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
             : "text/plain; version=0.0.4; charset=utf-8";
}

std::string metrics_text(const DaemonMetrics& metrics, MetricsFormat format) {
  const Families families = families_of(metrics);
  return format == MetricsFormat::openmetrics
             ? openmetrics_text(families.all())
             : prometheus::TextSerializer().Serialize(families.all());
}

}  // namespace lope::monitor
