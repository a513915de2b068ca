// What a running daemon says of itself to `lope status`, as plain values, and as the JSON that
// travels over the control socket.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace lope {

struct WorkerStatus {
  int index = 0;  // as in "orders/0"
  std::int64_t pid = 0;
  std::string state;        // "starting", "ready", "leaving"
  double uptime_s = 0;      // since its start
  std::uint64_t given = 0;  // messages
  std::uint64_t rss_bytes = 0;
};

struct StreamStatus {
  std::string queue;
  std::uint64_t next_offset = 0;  // the lowest that is not settled
};

struct GroupStatus {
  std::string name;
  // "starting", "connecting", "consuming", "paused", "failed": paused, to be tried again later,
  // "draining", "ended", "refused", "down": its consumer is about to be started again.
  std::string state;
  std::string reason;  // why it does not consume; empty when it does
  std::vector<std::string> queues;
  std::vector<StreamStatus> streams;  // of them, those of which anything has been read
  std::string handler;                // as configured
  std::string handler_name, handler_version, handler_file;  // as loaded; empty before
  // The node of each of its connections: the address, and what it calls its cluster; empty: none.
  std::string broker, cluster;                  // that consumes
  std::string publish_broker, publish_cluster;  // that publishes
  std::int64_t consumer_pid = 0;                // 0: none
  double uptime_s = 0;                          // of the consumer
  std::string note;  // that it was rolled back, and why; empty: nothing of that kind
  std::uint64_t workers_wanted = 0;
  std::uint64_t workers_min = 0, workers_max = 0;  // 0: they are not scaled by themselves
  std::uint64_t workers_ready = 0;
  std::vector<WorkerStatus> workers;
  // Messages that are here now.
  std::uint64_t running = 0;      // with workers
  std::uint64_t held = 0;         // of them, those that handlers keep
  std::uint64_t waiting = 0;      // for a worker
  std::uint64_t unconfirmed = 0;  // for the broker's confirms
  std::uint64_t behind = 0;       // of those that wait, the ones another of their key holds up
  std::uint64_t at_rate = 0;      // 1: some wait for nothing but the group's rate
  double rate_limit = 0;          // messages a second; 0: any
  // A second, over the last ten.
  double rate_in = 0;
  double rate_out = 0;
  // Of a message in its handler, over the last minute.
  double handling_p50_ms = 0;
  double handling_p99_ms = 0;
  // Since the daemon started.
  std::uint64_t delivered = 0, acked = 0, retried = 0, rejected = 0, dead_lettered = 0;
  std::uint64_t refused = 0;  // for what they are, before a handler saw them
  std::uint64_t published = 0, crashes = 0, timeouts = 0, worker_deaths = 0, pauses = 0;
  std::uint64_t recycled = 0;  // workers
  // With dedup: acked and not run; sent away to wait; run unchecked, for want of a key or a store.
  std::uint64_t doubles = 0, too_soon = 0, delayed = 0, unchecked = 0;
  std::uint64_t handed_back = 0, undeliverable = 0, connections = 0;
  std::uint64_t journal_sent = 0, journal_confirmed = 0, journal_dropped = 0;  // events
  std::uint64_t spans_sent = 0, spans_dropped = 0;
  std::uint64_t positions_not_kept = 0;  // in streams
  std::string last_failure;              // of a message or a worker; empty: none
  double last_failure_s = 0;             // how long ago
};

struct MonitorStatus {
  std::string address;   // where it serves, or is to
  std::string state;     // "serving", "down": it is about to be started again
  std::string reason;    // why it does not serve; empty when it does
  std::int64_t pid = 0;  // 0: none
};

struct DaemonStatus {
  std::string version;
  std::int64_t pid = 0;
  std::string state;  // "running", "stopping"
  double uptime_s = 0;
  std::string config;
  std::string last_reload;             // what came of it; empty: there was none
  double last_reload_s = 0;            // how long ago
  std::vector<GroupStatus> groups;     // in the order of the configuration
  std::vector<GroupStatus> relay;      // one, or none
  std::vector<MonitorStatus> monitor;  // one, or none
};

// How often something took how long, in the classes of histogram.h.
struct HistogramCounts {
  std::vector<std::uint64_t> counts;
  double sum_s = 0;
};

// What a handler measures, summed over the workers of its group.
struct HandlerMetricStatus {
  std::string name;
  std::uint32_t kind = 0;  // a MetricKind
  std::string help;
  std::int64_t value = 0;     // of a counter or a gauge
  HistogramCounts durations;  // of a duration
};

// What a group counts beyond its status.
struct GroupMetrics {
  HistogramCounts handling;
  HistogramCounts queued;
  std::vector<HandlerMetricStatus> handler = {};
};

// What lope-monitor asks for.
struct DaemonMetrics {
  DaemonStatus status;
  std::vector<GroupMetrics> groups;  // one for each of status.groups, then of status.relay
};

std::string to_json(const DaemonStatus& status);
Result<DaemonStatus> daemon_status_from_json(std::string_view text);
std::string to_json(const DaemonMetrics& metrics);

// ---- A message's way, as `lope trace` gets it, a line of JSON each

struct TraceStep {
  std::int64_t us = 0;  // since it came
  std::string what;
};

struct MessageTrace {
  std::string message_id, queue;
  std::uint64_t delivery_tag = 0;
  std::uint32_t attempt = 1;
  bool redelivered = false;
  std::uint64_t body_bytes = 0;
  std::uint64_t came_unix_ms = 0;
  std::vector<TraceStep> steps;
};

std::string to_json(const MessageTrace& trace);
Result<MessageTrace> message_trace_from_json(std::string_view text);

// ---- The control socket: a line of JSON each way.

struct ControlRequest {
  std::string command = {};
  std::string group = {};  // empty: not given
  bool now = false;
  int workers = 0;  // 0: not given
  bool wait = false;
  std::string level = {};
  int count = 0;  // 0: not given
};

struct ControlAnswer {
  std::string error = {};    // empty: done
  std::string text = {};     // what was done, for people
  std::string status = {};   // JSON of a DaemonStatus; empty: none was asked for
  std::string metrics = {};  // JSON of a DaemonMetrics; empty: none were asked for. See below
};

// Without the newline.
std::string to_json(const ControlRequest& request);
std::string to_json(const ControlAnswer& answer);
// Errors say what was expected.
Result<ControlRequest> control_request_from_json(std::string_view line);
Result<ControlAnswer> control_answer_from_json(std::string_view line);  // but for `metrics`
Result<DaemonMetrics> daemon_metrics_from_answer(std::string_view line);

}  // namespace lope
