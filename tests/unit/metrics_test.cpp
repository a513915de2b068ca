#include "monitor/metrics.h"

#include <catch2/catch.hpp>
#include <numeric>
#include <string>

#include "common/histogram.h"

using namespace lope;
using namespace lope::monitor;
using Catch::Contains;

namespace {

HistogramCounts counts_of(std::initializer_list<std::uint64_t> durations_ns) {
  HistogramCounts counts;
  counts.counts.resize(kHistogramClasses);
  for (const std::uint64_t ns : durations_ns) {
    ++counts.counts[histogram_class(ns)];
    counts.sum_s += static_cast<double>(ns) / 1e9;
  }
  return counts;
}

DaemonMetrics full_metrics() {
  DaemonMetrics metrics;
  metrics.status.version = "1.2.3";
  metrics.status.state = "running";
  metrics.status.uptime_s = 12.5;
  GroupStatus group;
  group.name = "orders";
  group.state = "consuming";
  group.queues = {"q \"one\"\n\\", "two"};
  group.handler = group.handler_name = "shop";
  group.handler_version = "2.0";
  group.broker = "mq1:5672";
  group.cluster = "shop \"1\"";
  group.consumer_pid = 1;
  group.workers_wanted = 2;
  group.workers_ready = 1;
  group.workers = {{0, 4713, "ready", 89.5, 12, 1 << 20}};
  group.delivered = 18446744073709551615u;
  group.dead_lettered = 3;
  group.journal_dropped = 7;
  group.spans_sent = 8;
  group.refused = 2;
  group.streams = {{"log", 41}};
  metrics.status.groups = {group};
  metrics.groups = {{.handling = counts_of({1, 20'000, 1'000'000'000, 400'000'000'000}),
                     .queued = counts_of({})}};
  GroupStatus relay;
  relay.name = "(relay)";
  relay.state = "melting";  // a word that is not known here
  relay.undeliverable = 2;
  metrics.status.relay = {relay};
  metrics.groups.push_back({.handling = counts_of({}), .queued = counts_of({})});
  return metrics;
}

int lines_with(const std::string& text, const std::string& part) {
  int count = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++count;
  return count;
}

}  // namespace

TEST_CASE("metrics: names, help, kinds, and a sample for each group and worker",
          "[unit][metrics]") {
  const std::string text = metrics_text(full_metrics(), MetricsFormat::prometheus);
  for (const char* line : {
           "lope_build_info{version=\"1.2.3\"} 1\n",
           "# TYPE lope_uptime_seconds gauge\nlope_uptime_seconds 12.5\n",
           "lope_ready 1\n",
           "lope_group_ready{group=\"orders\"} 1\n",
           "lope_group_state{group=\"orders\",state=\"consuming\"} 1\n",
           "lope_group_state{group=\"orders\",state=\"paused\"} 0\n",
           "lope_group_state{group=\"(relay)\",state=\"consuming\"} 0\n",
           "lope_group_state{group=\"(relay)\",state=\"melting\"} 1\n",
           "lope_queue_info{group=\"orders\",queue=\"q \\\"one\\\"\\n\\\\\"} 1\n",
           "lope_queue_info{group=\"orders\",queue=\"two\"} 1\n",
           "lope_group_handler_info{group=\"orders\",handler=\"shop\",name=\"shop\",version=\"2."
           "0\"} 1\n",
           "lope_group_broker_info{group=\"orders\",connection=\"consuming\",address=\"mq1:5672\","
           "cluster=\"shop \\\"1\\\"\"} 1\n",
           "lope_stream_next_offset{group=\"orders\",queue=\"log\"} 41\n",
           "lope_workers_wanted{group=\"orders\"} 2\n",
           "# TYPE lope_messages_delivered_total counter\n",
           "lope_messages_dead_lettered_total{group=\"orders\"} 3\n",
           "lope_messages_refused_total{group=\"orders\"} 2\n",
           "lope_messages_undeliverable_total{group=\"(relay)\"} 2\n",
           "lope_journal_events_dropped_total{group=\"orders\"} 7\n",
           "lope_spans_sent_total{group=\"orders\"} 8\n",
           "lope_worker_messages_total{group=\"orders\",worker=\"0\"} 12\n",
           "lope_worker_resident_memory_bytes{group=\"orders\",worker=\"0\"} 1048576\n",
       }) {
    CHECK_THAT(text, Contains(line));
  }
  CHECK(text.find("# EOF") == std::string::npos);
}

TEST_CASE("metrics: a histogram's buckets are cumulative, and 10 us to 300 s have their own",
          "[unit][metrics]") {
  const std::string text = metrics_text(full_metrics(), MetricsFormat::prometheus);
  const std::string name = "lope_handling_seconds_bucket{group=\"orders\",le=\"";
  for (const char* line :
       {"8.192000000000001e-06\"} 1\n", "3.2768e-05\"} 2\n", "0.536870912\"} 2\n",
        "1.073741824\"} 3\n", "274.877906944\"} 3\n", "+Inf\"} 4\n"}) {
    CHECK_THAT(text, Contains(name + line));
  }
  CHECK(lines_with(text, name) == 27);
  CHECK_THAT(text, Contains("lope_handling_seconds_sum{group=\"orders\"} 401.0000200"));
  CHECK_THAT(text, Contains("lope_handling_seconds_count{group=\"orders\"} 4\n"));
  CHECK_THAT(text, Contains("lope_time_in_queue_seconds_count{group=\"orders\"} 0\n"));
}

TEST_CASE("metrics: OpenMetrics has the same samples under its own comments", "[unit][metrics]") {
  const DaemonMetrics metrics = full_metrics();
  const std::string text = metrics_text(metrics, MetricsFormat::openmetrics);
  CHECK_THAT(text, Catch::EndsWith("\n# EOF\n"));
  for (const char* part : {
           "# TYPE lope_messages_acked counter\n# HELP lope_messages_acked Messages acked",
           "\nlope_messages_acked_total{group=\"orders\"} 0\n",
           "# TYPE lope_build info\n",
           "# TYPE lope_handling_seconds histogram\n# UNIT lope_handling_seconds seconds\n",
           "# UNIT lope_worker_resident_memory_bytes bytes\n",
       }) {
    CHECK_THAT(text, Contains(part));
  }
  std::string samples[2];
  const std::string both[2] = {text, metrics_text(metrics, MetricsFormat::prometheus)};
  for (int i = 0; i < 2; ++i) {
    std::size_t begin = 0;
    while (begin < both[i].size()) {
      const std::size_t end = both[i].find('\n', begin) + 1;
      if (both[i][begin] != '#') samples[i] += both[i].substr(begin, end - begin);
      begin = end;
    }
  }
  CHECK(samples[0] == samples[1]);
}

TEST_CASE("metrics: who asks for OpenMetrics gets it", "[unit][metrics]") {
  CHECK(metrics_format("") == MetricsFormat::prometheus);
  CHECK(metrics_format("*/*") == MetricsFormat::prometheus);
  CHECK(metrics_format("text/plain;version=0.0.4") == MetricsFormat::prometheus);
  CHECK(metrics_format("application/openmetrics-text;version=1.0.0,text/plain;q=0.5") ==
        MetricsFormat::openmetrics);
}

TEST_CASE("metrics: a daemon of no groups, or with half of what there should be, is shown",
          "[unit][metrics]") {
  DaemonMetrics metrics;
  CHECK_THAT(metrics_text(metrics, MetricsFormat::openmetrics), Contains("lope_ready 1\n"));
  metrics = full_metrics();
  metrics.groups.clear();
  CHECK_THAT(metrics_text(metrics, MetricsFormat::prometheus), Contains("lope_ready 1\n"));
}

TEST_CASE("metrics: handlers' own, which share names as far as they agree", "[unit][metrics]") {
  DaemonMetrics metrics;
  for (const char* name : {"a", "b", "c"}) {
    metrics.status.groups.emplace_back().name = name;
    metrics.groups.emplace_back();
  }
  metrics.groups[0].handler = {{"sent", 1, "Mails \"sent\".\n# injected 1", 5, {}},
                               {"size", 2, "A size.", -3, {}},
                               {"sending", 3, "A time.", 0, counts_of({20'000})}};
  metrics.groups[1].handler = {{"sent_total", 1, "Letters.", 7, {}}, {"sending", 2, "x", 1, {}}};
  metrics.groups[2].handler = {{"sending_seconds", 2, "of another kind", 1, {}}};
  const std::string text = metrics_text(metrics, MetricsFormat::prometheus);
  for (const char* part : {
           "# HELP lope_handler_sent_total Mails  sent . # injected 1\n"
           "# TYPE lope_handler_sent_total counter\n"
           "lope_handler_sent_total{group=\"a\"} 5\nlope_handler_sent_total{group=\"b\"} 7\n",
           "lope_handler_size{group=\"a\"} -3\n",
           "lope_handler_sending_seconds_count{group=\"a\"} 1\n",
           "lope_handler_sending{group=\"b\"} 1\n",
       }) {
    CHECK_THAT(text, Contains(part));
  }
  CHECK(lines_with(text, "# TYPE lope_handler_sent_total ") == 1);
  CHECK(text.find("lope_handler_sending_seconds{") == std::string::npos);
  CHECK_THAT(metrics_text(metrics, MetricsFormat::openmetrics),
             Contains("# TYPE lope_handler_sent counter\n") &&
                 Contains("# UNIT lope_handler_sending_seconds seconds\n"));
}
