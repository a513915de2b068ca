// Workers killed with SIGKILL under load: nothing is lost, and nothing is handled twice but what
// was inside a handler at a kill. The connection does not notice.
#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"

using namespace lope::test;

namespace {

constexpr std::string_view kFlag = " again";
constexpr std::string_view kKilled = "its worker died: SIGKILL";

// What append_id wrote: every message id, and which of them were not in their first attempt.
struct Handled {
  std::vector<std::string> ids;
  std::set<std::string> again;
};

Handled read_handled(const std::string& path) {
  Handled handled;
  for (std::string& line : lines_of_file(path)) {
    if (line.ends_with(kFlag)) {
      line.resize(line.size() - kFlag.size());
      handled.again.insert(line);
    }
    handled.ids.push_back(std::move(line));
  }
  return handled;
}

// The ids that were inside a handler when their worker was killed, by the daemon's log.
std::set<std::string> running_at_a_kill(const Lope& lope) {
  const auto ids = fields_of(lope.log(), kKilled, "message_id");
  return {ids.begin(), ids.end()};
}

LopeOptions append_group(const Broker& broker, const std::string& name, const std::string& queue,
                         const std::string& path, const std::string& options,
                         const std::string& more) {
  return {.broker = broker.url(),
          .groups = "  " + name + ":\n    queue: " + queue +
                    "\n    handler: append_id\n    options: { file: " + path + ", flag: true, " +
                    options + " }\n    retry: { delay: 0s }\n" + more};
}

// And those that were inside with others, and were run again by the consumer itself.
std::set<std::string> inside_at_a_kill(const Lope& lope) {
  std::set<std::string> inside = running_at_a_kill(lope);
  const auto alone = fields_of(lope.log(), "message to be run again, alone", "message_id");
  inside.insert(alone.begin(), alone.end());
  return inside;
}

bool kill_one_worker(const Lope& lope, std::minstd_rand& random) {
  const std::vector<pid_t> workers = lope.workers();
  return !workers.empty() && ::kill(workers[random() % workers.size()], SIGKILL) == 0;
}

std::vector<std::string> not_in(const std::set<std::string>& all,
                                const std::vector<std::string>& these) {
  std::vector<std::string> result;
  std::copy_if(these.begin(), these.end(), std::back_inserter(result),
               [&](const std::string& id) { return !all.contains(id); });
  return result;
}

// Waits until every confirmed message was handled and every message that ran at a kill again, stops
// Lope, and holds what was handled against the promise.
void check_promise(Broker& broker, Lope& lope, const std::string& queue, const std::string& path,
                   const std::vector<std::string>& confirmed) {
  const auto all_handled = [&] {
    const Handled handled = read_handled(path);
    const std::set<std::string> running = running_at_a_kill(lope);
    return handled.ids.size() >= confirmed.size() &&
           std::includes(handled.again.begin(), handled.again.end(), running.begin(),
                         running.end()) &&
           compare_ledger(confirmed, handled.ids).missing.empty();
  };
  CHECK(eventually(60s, all_handled));
  CHECK(lope.stop() == exited(0));
  CHECK(lope.all_gone());

  const Handled handled = read_handled(path);
  const std::set<std::string> inside = inside_at_a_kill(lope);
  CHECK_FALSE(inside.empty());
  const LedgerReport report = compare_ledger(confirmed, handled.ids);
  CHECK(report.missing.empty());
  CHECK(report.unexpected.empty());
  // Twice only what was inside at a kill; the flag only on what was charged, and on all of that.
  CHECK(not_in(inside, report.duplicates).empty());
  CHECK(handled.again == running_at_a_kill(lope));
  CHECK(broker.message_count(queue) == 0);
  CHECK(lope.process().count_lines("] connected group") == 1);
  CHECK(lope.process().count_lines("connection lost") == 0);
  CHECK(lope.process().count_lines("outcome dropped") == 0);
}

}  // namespace

TEST_CASE("2,000 messages a second lose nothing while a hundred workers are killed",
          "[broker][worker_kill]") {
  Broker broker;
  const std::string queue = broker.make_queue("kill");
  const TempDir files;
  const std::string path = files.file("ids");
  Lope lope(append_group(broker, "kill-load", queue, path, "work_us: 1000",
                         "    workers: 4\n    prefetch: 100\n"));
  REQUIRE(lope.wait_ready());
  const auto connections = broker.connections_named("lope kill-load");
  REQUIRE(connections.size() == 1);  // that which publishes is opened at its first use

  RatePublisher load(broker.url(), 2000, 60s, [&](int i) {
    return Publication{.routing_key = queue, .body = "x", .message_id = std::to_string(i)};
  });
  std::minstd_rand random(1);
  for (int next = 500; load.running(); next += 900) {
    REQUIRE(eventually(20s, [&] { return load.sent() >= next || !load.running(); }));
    kill_one_worker(lope, random);
  }
  load.join();
  CHECK(load.sent() == 120'000);
  CHECK(load.reconnects() == 0);
  const auto now = broker.connections_named("lope kill-load");
  CHECK(std::includes(now.begin(), now.end(), connections.begin(), connections.end()));
  check_promise(broker, lope, queue, path, load.confirmed());
  CHECK(lines_with(lope.log(), "worker ended").size() >= 104);  // the last four at the stop
  CHECK(fields_of(lope.log(), "worker ended", "how").count("SIGKILL") >= 100);
}

TEST_CASE("messages that wait at a killed worker go to another, unharmed",
          "[broker][worker_kill]") {
  Broker broker;
  const std::string queue = broker.make_queue("kill");
  const TempDir files;
  const std::string path = files.file("ids");
  // Mostly tiny messages, so that they are sent ahead, and now and then a long one before them;
  // more than the workers can do, so that they are never idle.
  Lope lope(append_group(broker, "kill-ahead", queue, path, "work_us: 30000, work_every: 50",
                         "    workers: 2\n    threads: 2\n    prefetch: 1000\n"));
  REQUIRE(lope.wait_ready());
  std::minstd_rand random(2);
  Publisher publisher = broker.publisher();
  for (int round = 0; round < 30; ++round) {
    publisher.publish_many(2000, [&](int i) {
      if (i == 1000) kill_one_worker(lope, random);
      return Publication{.routing_key = queue,
                         .body = "x",
                         .message_id = std::to_string(round) + "." + std::to_string(i)};
    });
  }
  check_promise(broker, lope, queue, path, publisher.confirmed());
  int waited = 0;
  for (const std::string& count : fields_of(lope.log(), "how=SIGKILL", "waiting")) {
    waited += std::stoi(count);
  }
  CHECK(waited > 0);
}

TEST_CASE("batches and kept messages lose nothing while workers are killed",
          "[broker][worker_kill]") {
  const bool batches = GENERATE(true, false);
  Broker broker;
  const std::string queue = broker.make_queue("kill");
  const TempDir files;
  const std::string path = files.file("lines");
  Lope lope(
      {.broker = broker.url(),
       .groups =
           "  kill-many:\n    queue: " + queue +
           "\n    handler: gather\n    workers: 3\n    prefetch: 60\n    options: { file: " + path +
           ", word: " + (batches ? "ack, pause_ms: 5" : "hold") + " }\n    retry: { delay: 0s }\n" +
           (batches ? "    batch: { size: 10, wait: 20ms }\n" : "    flush_interval: 20ms\n")});
  REQUIRE(lope.wait_ready());
  RatePublisher load(broker.url(), 1000, 15s, [&](int i) {
    return Publication{.routing_key = queue, .body = "x", .message_id = std::to_string(i)};
  });
  std::minstd_rand random(3);
  for (int next = 500; load.running(); next += 700) {
    REQUIRE(eventually(20s, [&] { return load.sent() >= next || !load.running(); }));
    kill_one_worker(lope, random);
  }
  load.join();
  const auto done = [&path] {
    std::vector<std::string> ids;
    for (const std::string& line : lines_of_file(path)) {
      if (line.starts_with("done ")) ids.push_back(line.substr(5, line.find(' ', 5) - 5));
    }
    return ids;
  };
  CHECK(eventually(60s, [&] {
    return broker.message_count(queue) == 0 &&
           compare_ledger(load.confirmed(), done()).missing.empty();
  }));
  CHECK(lope.stop() == exited(0));
  CHECK(broker.message_count(queue) == 0);
  const LedgerReport report = compare_ledger(load.confirmed(), done());
  CHECK(report.missing.empty());
  CHECK(report.unexpected.empty());
  // Twice only what was inside a worker, or kept by it, when it was killed.
  const std::set<std::string> inside = inside_at_a_kill(lope);
  CHECK_FALSE(inside.empty());
  CHECK(not_in(inside, report.duplicates).empty());
  CHECK(lope.process().count_lines("] connected group") == 1);
  CHECK(lope.process().count_lines("outcome dropped") == 0);
}
