// A queue of its own, and a group whose handler is `courier`: what became of each message, by its
// ledger.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/lope.h"

namespace lope::test {

struct CourierStart {
  std::string id;
  int attempt = 0;
  int crashes = 0;
  std::optional<long> late_ms;
  long now_ms = 0;  // since 1970
  bool redelivered = false;
};

struct CourierEnd {
  std::string id;
  int attempt = 0;
  std::string outcome;
};

struct Couriered {
  explicit Couriered(const std::string& type = "classic")
      : queue(broker.make_queue("courier", {.text_arguments = {{"x-queue-type", type}}})) {}

  // One group, with `more` lines; `top` as in LopeOptions. With the relay.
  LopeOptions options(const std::string& more = {}, const std::string& top = kWithRelay,
                      const std::string& handler_options = {}) const {
    return {.broker = broker.url(),
            .groups = "  courier:\n    queue: " + queue +
                      "\n    handler: courier\n    options: { file: " + file +
                      (handler_options.empty() ? "" : ", " + handler_options) + " }\n" + more,
            .top = top};
  }
  void publish(const std::string& body, const std::string& id) {
    broker.publisher().publish({.routing_key = queue, .body = body, .message_id = id});
  }

  std::vector<CourierStart> starts() const {
    std::vector<CourierStart> starts;
    for (const std::string& line : lines_of_file(file)) {
      std::istringstream words(line);
      std::string word, late;
      CourierStart start;
      if (!(words >> word) || word != "start") continue;
      words >> start.id >> start.attempt >> start.crashes >> late >> start.now_ms >>
          start.redelivered;
      if (late != "-") start.late_ms = std::stol(late);
      starts.push_back(std::move(start));
    }
    return starts;
  }
  std::vector<CourierEnd> ends() const {
    std::vector<CourierEnd> ends;
    for (const std::string& line : lines_of_file(file)) {
      std::istringstream words(line);
      std::string word;
      CourierEnd end;
      if (!(words >> word) || word != "end") continue;
      words >> end.id >> end.attempt >> end.outcome;
      ends.push_back(std::move(end));
    }
    return ends;
  }
  // Of one message: the attempts that were begun, in order.
  std::vector<int> attempts_of(const std::string& id) const {
    std::vector<int> attempts;
    for (const CourierStart& start : starts()) {
      if (start.id == id) attempts.push_back(start.attempt);
    }
    return attempts;
  }
  bool wait_attempts(const std::string& id, std::size_t count,
                     std::chrono::milliseconds deadline = 15s) const {
    return eventually(deadline, [&] { return attempts_of(id).size() >= count; });
  }
  bool wait_acked(const std::string& id, std::chrono::milliseconds deadline = 15s) const {
    return eventually(deadline, [&] {
      const auto all = ends();
      return std::any_of(all.begin(), all.end(), [&](const CourierEnd& end) {
        return end.id == id && end.outcome == "ack";
      });
    });
  }
  // Everything in a queue, once there are so many.
  std::vector<Received> take(const std::string& from, int count,
                             std::chrono::milliseconds deadline = 15s) {
    eventually(deadline, [&] { return broker.message_count(from).value_or(0) >= count; });
    return broker.queue_exists(from) ? broker.drain(from) : std::vector<Received>{};
  }
  std::string dead() const { return queue + ".dead"; }

  Broker broker;
  const std::string queue;
  TempDir files;
  const std::string file = files.file("ledger");
};

}  // namespace lope::test
