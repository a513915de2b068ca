#include "journal/tree.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "common/text.h"
#include "common/units.h"
#include "common/wall_time.h"

namespace lope::journal {

namespace {

using Json = nlohmann::json;

// Deeper ones are written below one another.
constexpr int kDeepest = 30;

void take_first(std::string& field, const std::string& value) {
  if (field.empty()) field = value;
}

void add_received(Message& message, const Event& event) {
  message.attempts.push_back({.group = event.group,
                              .queue = event.queue,
                              .host = event.host,
                              .number = event.attempt,
                              .received_us = event.time_us,
                              .redelivered = event.redelivered});
}

// Of a message, attempts that are not over: their places, the latest last.
using Open = std::map<std::tuple<std::string, std::string, std::int64_t>, std::vector<std::size_t>>;

std::tuple<std::string, std::string, std::int64_t> attempt_of(const Event& event) {
  return {event.queue, event.group, event.attempt};
}

void add_handled(Message& message, Open& open, const Event& event) {
  std::vector<std::size_t>& same = open[attempt_of(event)];
  if (same.empty()) {
    add_received(message, event);
    message.attempts.back().received_us = 0;
    same.push_back(message.attempts.size() - 1);
  }
  Attempt& attempt = message.attempts[same.back()];
  same.pop_back();
  attempt.worker = event.worker;
  attempt.handler = event.handler;
  attempt.handler_version = event.handler_version;
  attempt.outcome = event.outcome;
  attempt.reason = event.reason;
  attempt.code = event.code;
  attempt.handled_us = event.time_us;
  attempt.waited_us = event.waited_us;
  attempt.ran_us = event.ran_us;
  attempt.delay_ms = event.delay_ms;
  attempt.crashes = event.crashes;
}

// Of messages that are linked in a circle the first becomes the root.
void arrange(Tree& tree, std::vector<Message> found,
             const std::unordered_map<std::string, std::size_t>& places) {
  std::vector<std::vector<std::size_t>> children(found.size());
  std::vector<std::size_t> roots, others;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto parent = places.find(found[i].parent_id);
    const bool has_one = parent != places.end() && parent->second != i;
    if (has_one) children[parent->second].push_back(i);
    (has_one ? others : roots).push_back(i);
  }
  std::vector<bool> taken(found.size());
  const auto take_from = [&](std::size_t root) {
    struct Step {
      std::size_t from, above;  // `above` in the tree
      int level;
    };
    std::vector<Step> steps = {{root, 0, 0}};
    while (!steps.empty()) {
      const Step step = steps.back();
      steps.pop_back();
      if (taken[step.from]) continue;
      taken[step.from] = true;
      const std::size_t at = tree.messages.size();
      if (step.level > 0) tree.messages[step.above].children.push_back(at);
      found[step.from].level = step.level;
      tree.messages.push_back(std::move(found[step.from]));
      for (auto child = children[step.from].rbegin(); child != children[step.from].rend();
           ++child) {
        steps.push_back({*child, at, step.level + 1});
      }
    }
  };
  for (const std::size_t root : roots) take_from(root);
  for (const std::size_t other : others) {
    if (!taken[other]) take_from(other);
  }
}

std::string took(std::int64_t us) {
  char text[32];
  const double value = static_cast<double>(us);
  if (us < 1000) {
    std::snprintf(text, sizeof text, "%lld us", static_cast<long long>(us));
  } else if (us < 10'000'000) {
    std::snprintf(text, sizeof text, "%.1f ms", value / 1e3);
  } else {
    std::snprintf(text, sizeof text, "%.1f s", value / 1e6);
  }
  return text;
}

std::string count_of(std::size_t number, const char* what) {
  return std::to_string(number) + " " + what + (number == 1 ? "" : "s");
}

std::string shown(const std::string& text) { return "'" + escape(text, 256) + "'"; }

std::string where(const Publishing& publishing) {
  if (publishing.exchange.empty()) return "to queue " + shown(publishing.routing_key);
  return "to exchange " + shown(publishing.exchange) + " with key " + shown(publishing.routing_key);
}

std::string line_of(const Attempt& attempt) {
  std::string line = "attempt " + std::to_string(std::max<std::int64_t>(1, attempt.number)) +
                     " in " + shown(attempt.queue);
  if (attempt.redelivered) line += ", redelivered";
  line += ": " + (attempt.handled_us == 0 ? "not over" : escape(attempt.outcome, 64));
  if (attempt.delay_ms > 0) {
    line += " in " + duration_text(std::chrono::milliseconds(attempt.delay_ms));
  }
  if (!attempt.code.empty() && attempt.code != attempt.outcome) {
    line += ", " + escape(attempt.code, 64);
  }
  if (!attempt.reason.empty()) line += ": " + escape(attempt.reason, 512);
  if (attempt.handled_us != 0) {
    line += ", waited " + took(attempt.waited_us) + ", ran " + took(attempt.ran_us);
  }
  if (attempt.crashes > 0) {
    line += ", " + count_of(static_cast<std::size_t>(attempt.crashes), "worker") + " lost";
  }
  if (!attempt.worker.empty()) line += ", by " + escape(attempt.worker, 80);
  if (!attempt.handler.empty()) {
    line += " (" + escape(attempt.handler, 80) +
            (attempt.handler_version.empty() ? "" : " " + escape(attempt.handler_version, 40)) +
            ")";
  }
  return line;
}

std::string line_of(const Publishing& publishing) {
  std::string line = publishing.kind == "dead_letter" ? "a dead letter, "
                     : publishing.kind == "retry"     ? "a copy for another attempt, "
                     : publishing.kind == "waiting"   ? "sent away to wait, "
                                                      : "published ";
  line += where(publishing);
  if (publishing.delay_ms > 0) {
    line += ", in " + duration_text(std::chrono::milliseconds(publishing.delay_ms));
  }
  if (!publishing.fate.empty()) line += ", " + escape(publishing.fate, 256);
  return line;
}

void put(Json& json, const char* key, const std::string& value) {
  if (!value.empty()) json[key] = value;
}
void put(Json& json, const char* key, std::int64_t value) {
  if (value != 0) json[key] = value;
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json json_of(const Attempt& attempt) {
  Json json = Json::object();
  put(json, "attempt", attempt.number);
  put(json, "group", attempt.group);
  put(json, "queue", attempt.queue);
  put(json, "host", attempt.host);
  put(json, "received_us", attempt.received_us);
  put(json, "handled_us", attempt.handled_us);
  if (attempt.handled_us != 0) {
    json["waited_us"] = attempt.waited_us;
    json["ran_us"] = attempt.ran_us;
  }
  put(json, "outcome", attempt.outcome);
  put(json, "reason", attempt.reason);
  put(json, "code", attempt.code);
  put(json, "worker", attempt.worker);
  put(json, "handler", attempt.handler);
  put(json, "handler_version", attempt.handler_version);
  put(json, "delay_ms", attempt.delay_ms);
  put(json, "crashes", attempt.crashes);
  if (attempt.redelivered) json["redelivered"] = true;
  return json;
}

Json json_of(const Publishing& publishing) {
  Json json = {{"kind", publishing.kind}, {"time_us", publishing.time_us}};
  put(json, "exchange", publishing.exchange);
  put(json, "routing_key", publishing.routing_key);
  put(json, "fate", publishing.fate);
  put(json, "delay_ms", publishing.delay_ms);
  return json;
}

}  // namespace

Tree make_tree(const Story& story) {
  Tree tree;
  tree.left_out = story.left_out;
  tree.more_left_out = story.more_left_out;
  std::unordered_map<std::string, std::size_t> places;
  std::vector<Message> found;
  std::vector<Open> open;  // of each of them
  for (const Event& event : story.events) {
    const auto [place, is_new] = places.try_emplace(event.message_id, found.size());
    if (is_new) {
      found.emplace_back().id = event.message_id;
      open.emplace_back();
    }
    Message& message = found[place->second];
    take_first(tree.trace_id, event.trace_id);
    take_first(message.parent_id, event.parent_id);
    take_first(message.type, event.type);
    take_first(message.content_type, event.content_type);
    take_first(message.app_id, event.app_id);
    if (message.size == 0) message.size = event.size;
    if (event.event == "received") {
      add_received(message, event);
      open[place->second][attempt_of(event)].push_back(message.attempts.size() - 1);
    } else if (event.event == "handled") {
      add_handled(message, open[place->second], event);
    } else {
      message.published.push_back({.kind = event.kind,
                                   .exchange = event.exchange,
                                   .routing_key = event.routing_key,
                                   .fate = event.fate,
                                   .time_us = event.time_us,
                                   .delay_ms = event.delay_ms});
    }
    if (tree.begin_us == 0) tree.begin_us = event.time_us;
    tree.end_us = std::max(tree.end_us, event.time_us);
  }
  arrange(tree, std::move(found), places);
  return tree;
}

std::string state_of(const Message& message) {
  if (message.attempts.empty()) return "waiting";
  const Attempt& latest = message.attempts.back();
  return latest.handled_us == 0 ? "running" : latest.outcome;
}

std::string to_text(const Tree& tree) {
  std::vector<std::string> queues;
  for (const Message& message : tree.messages) {
    for (const Attempt& attempt : message.attempts) queues.push_back(attempt.queue);
  }
  std::ranges::sort(queues);
  queues.erase(std::unique(queues.begin(), queues.end()), queues.end());
  std::string text = count_of(tree.messages.size(), "message") + " in " +
                     count_of(queues.size(), "queue") + ", " + took(tree.end_us - tree.begin_us) +
                     " from " + utc_text(tree.begin_us / 1000) + "\n";
  // Which levels go on below: a line is drawn there.
  std::vector<bool> goes_on;
  for (std::size_t i = 0; i < tree.messages.size(); ++i) {
    const Message& message = tree.messages[i];
    const auto level = static_cast<std::size_t>(std::min(message.level, kDeepest));
    goes_on.resize(level + 1);
    bool last = true;  // of its siblings
    for (std::size_t next = i + 1; next < tree.messages.size(); ++next) {
      if (tree.messages[next].level <= message.level) {
        last = tree.messages[next].level < message.level;
        break;
      }
    }
    std::string indent;
    for (std::size_t above = 1; above < level; ++above) indent += goes_on[above] ? "│  " : "   ";
    goes_on[level] = !last;
    text += indent + (level == 0 ? "" : last ? "└─ " : "├─ ");
    text += (message.id.empty() ? "without an id" : escape(message.id, 256));
    if (message.level > kDeepest) text += " (level " + std::to_string(message.level) + ")";
    if (level == 0 && !message.parent_id.empty()) {
      text += ", published for " + escape(message.parent_id, 256) + ", which is not here";
    }
    text += "\n";
    if (level > 0) indent += last ? "   " : "│  ";
    indent +=
        message.children.empty() || level == static_cast<std::size_t>(kDeepest) ? "   " : "│  ";

    struct Line {
      std::int64_t time_us;
      std::string text;
    };
    std::vector<Line> lines;
    for (const Publishing& publishing : message.published) {
      // That there is another attempt its own line says.
      if (publishing.kind == "retry" && (publishing.fate.empty() || publishing.fate == "confirmed"))
        continue;
      const bool heard = !message.attempts.empty();
      if (publishing.kind == "publication" && heard && publishing.fate == "confirmed") continue;
      lines.push_back({publishing.time_us, line_of(publishing)});
    }
    for (const Attempt& attempt : message.attempts) {
      const std::int64_t time = attempt.received_us != 0
                                    ? attempt.received_us
                                    : attempt.handled_us - attempt.ran_us - attempt.waited_us;
      lines.push_back({time, line_of(attempt)});
    }
    std::ranges::stable_sort(lines, {}, &Line::time_us);
    for (const Line& line : lines) {
      text += indent + "+" + took(line.time_us - tree.begin_us) + "  " + line.text + "\n";
    }
  }
  if (tree.left_out > 0) {
    text += (tree.more_left_out ? "more than " : "") + count_of(tree.left_out, "message") +
            " left out\n";
  } else if (tree.more_left_out) {
    text += "more events of these are left out\n";
  }
  return text;
}

std::string to_json(const Tree& tree) {
  Json messages = Json::array();
  for (const Message& message : tree.messages) {
    Json json = {{"state", state_of(message)}, {"level", message.level}};
    put(json, "message_id", message.id);
    put(json, "parent_id", message.parent_id);
    put(json, "type", message.type);
    put(json, "content_type", message.content_type);
    put(json, "app_id", message.app_id);
    put(json, "size", message.size);
    json["published"] = Json::array();
    for (const Publishing& publishing : message.published) {
      json["published"].push_back(json_of(publishing));
    }
    json["attempts"] = Json::array();
    for (const Attempt& attempt : message.attempts) json["attempts"].push_back(json_of(attempt));
    messages.push_back(std::move(json));
  }
  Json json = {{"messages", std::move(messages)},
               {"begin_us", tree.begin_us},
               {"end_us", tree.end_us},
               {"left_out", tree.left_out},
               {"more_left_out", tree.more_left_out}};
  put(json, "trace_id", tree.trace_id);
  return dump(json);
}

std::string to_json(const std::vector<Event>& events) {
  Json list = Json::array();
  for (const Event& event : events) {
    Json json = {{"event", event.event}, {"time_us", event.time_us}};
    put(json, "kind", event.kind);
    put(json, "host", event.host);
    put(json, "group", event.group);
    put(json, "queue", event.queue);
    put(json, "message_id", event.message_id);
    put(json, "parent_id", event.parent_id);
    put(json, "trace_id", event.trace_id);
    put(json, "exchange", event.exchange);
    put(json, "routing_key", event.routing_key);
    put(json, "outcome", event.outcome);
    put(json, "reason", event.reason);
    put(json, "code", event.code);
    put(json, "worker", event.worker);
    put(json, "attempt", event.attempt);
    put(json, "size", event.size);
    if (event.event == "handled") {
      json["waited_us"] = event.waited_us;
      json["ran_us"] = event.ran_us;
    }
    list.push_back(std::move(json));
  }
  return dump({{"events", std::move(list)}});
}

}  // namespace lope::journal
