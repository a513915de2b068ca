#include "cli/status_text.h"

#include <cmath>
#include <cstdio>
#include <string_view>
#include <vector>

#include "cli/table.h"
#include "common/text.h"

namespace lope::cli {

namespace {

constexpr std::string_view kRed = "\033[31m";
constexpr std::string_view kYellow = "\033[33m";
constexpr std::string_view kPlain = "\033[0m";

std::string age(double seconds) { return age_text(std::llround(seconds * 1000)); }

// "0", "0.4", "12", "1234"
std::string rate(double per_second) {
  char text[32];
  std::snprintf(text, sizeof text, per_second > 0 && per_second < 10 ? "%.1f" : "%.0f", per_second);
  return text;
}

// "-", "12us", "1.5ms", "250ms", "12s"
std::string duration(double ms) {
  char text[32];
  if (ms <= 0) return "-";
  if (ms < 1) {
    std::snprintf(text, sizeof text, "%.0fus", std::ceil(ms * 1000));
  } else if (ms < 10'000) {
    std::snprintf(text, sizeof text, ms < 10 ? "%.1fms" : "%.0fms", ms);
  } else {
    std::snprintf(text, sizeof text, "%.0fs", ms / 1000);
  }
  return text;
}

std::string handler(const GroupStatus& group) {
  if (group.handler.empty()) return "-";
  if (group.handler_name.empty()) return group.handler;
  return escape(group.handler_name, 40) + " " + escape(group.handler_version, 20);
}

// "mq1:5672 (rabbit@mq1)", and where it publishes if that is another node.
std::string broker(const GroupStatus& group) {
  const auto node = [](const std::string& address, const std::string& cluster) {
    return escape(address, 80) + (cluster.empty() ? "" : " (" + escape(cluster, 80) + ")");
  };
  std::string text = group.broker.empty() ? "-" : node(group.broker, group.cluster);
  if (!group.publish_broker.empty() && group.publish_broker != group.broker) {
    text += ", to " + node(group.publish_broker, group.publish_cluster);
  }
  return text;
}

std::vector<std::string> row(const GroupStatus& group) {
  const auto number = [](std::uint64_t value) { return std::to_string(value); };
  return {group.name,
          group.state,
          handler(group),
          group.workers_wanted == 0
              ? "-"
              : number(group.workers_ready) + "/" + number(group.workers_wanted),
          rate(group.rate_in),
          rate(group.rate_out),
          number(group.running),
          number(group.waiting),
          number(group.retried),
          number(group.dead_lettered + group.rejected),
          number(group.crashes),
          duration(group.handling_p50_ms),
          duration(group.handling_p99_ms),
          group.consumer_pid == 0 ? "-" : age(group.uptime_s),
          broker(group)};
}

std::string_view colour_of(const GroupStatus& group) {
  if (group.state == "consuming") {
    return group.workers_ready < group.workers_wanted ? kYellow : std::string_view();
  }
  return group.state == "refused" || group.state == "down" ? kRed : kYellow;
}

std::string undeliverable_queue(const GroupStatus& relay) {
  std::string queue = relay.queues.empty() ? std::string() : relay.queues.front();
  constexpr std::string_view kDue = ".due";
  if (queue.ends_with(kDue)) queue.resize(queue.size() - kDue.size());
  return queue + ".undeliverable";
}

}  // namespace

std::string trace_text(const std::string& line) {
  const auto trace = message_trace_from_json(line);
  if (!trace) return line;
  std::string text =
      "message " +
      (trace->message_id.empty() ? "without an id" : "'" + escape(trace->message_id, 128) + "'") +
      " from queue '" + escape(trace->queue, 256) + "', tag " +
      std::to_string(trace->delivery_tag) + ", " + std::to_string(trace->body_bytes) +
      " bytes, attempt " + std::to_string(trace->attempt) +
      (trace->redelivered ? ", redelivered" : "") + "\n";
  for (const TraceStep& step : trace->steps) {
    char when[32];
    std::snprintf(when, sizeof when, "%11.3f ms  ", static_cast<double>(step.us) / 1000);
    text += when + escape(step.what, 512) + "\n";
  }
  return text;
}

std::string status_text(const DaemonStatus& status, bool colour) {
  std::vector<std::vector<std::string>> rows = {{"GROUP", "STATE", "HANDLER", "WORKERS", "IN/s",
                                                 "OUT/s", "RUNNING", "WAITING", "RETRIED", "DEAD",
                                                 "CRASHES", "P50", "P99", "UP", "BROKER"}};
  std::vector<const GroupStatus*> all;
  for (const GroupStatus& group : status.groups) all.push_back(&group);
  for (const GroupStatus& relay : status.relay) all.push_back(&relay);
  for (const GroupStatus* group : all) rows.push_back(row(*group));

  std::string text = "lope " + status.version + " " + status.state + ", pid " +
                     std::to_string(status.pid) + ", up " + age(status.uptime_s) + ", " +
                     status.config;
  for (const MonitorStatus& monitor : status.monitor) {
    if (monitor.reason.empty()) text += ", http://" + monitor.address + "/";
  }
  text += '\n';
  const std::string table = table_text(rows);
  std::size_t begin = 0;
  for (std::size_t line = 0; begin < table.size(); ++line) {
    const std::size_t end = table.find('\n', begin);
    const std::string_view in = line > 0 && colour ? colour_of(*all[line - 1]) : "";
    text += in;
    text += table.substr(begin, end - begin);
    if (!in.empty()) text += kPlain;
    text += '\n';
    begin = end + 1;
  }
  for (const GroupStatus* group : all) {
    if (!group->reason.empty()) {
      text += group->name + ": " + group->state + ": " + escape(group->reason) + "\n";
    }
    if (group->at_rate > 0) {
      text +=
          group->name + ": messages wait for its rate, " + rate(group->rate_limit) + " a second\n";
    }
    if (!group->note.empty()) text += group->name + ": " + escape(group->note) + "\n";
    if (!group->last_failure.empty()) {
      text += group->name + ": last failure, " + age(group->last_failure_s) +
              " ago: " + escape(group->last_failure) + "\n";
    }
    if (group->undeliverable > 0) {
      text += group->name + ": " + std::to_string(group->undeliverable) +
              " delayed messages could not be delivered: see lope dlq list " +
              undeliverable_queue(*group) + "\n";
    }
  }
  for (const MonitorStatus& monitor : status.monitor) {
    if (!monitor.reason.empty()) {
      text += "(monitor): does not serve " + monitor.address + ": " + escape(monitor.reason) + "\n";
    }
  }
  return text;
}

}  // namespace lope::cli
