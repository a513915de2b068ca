// Every process of a daemon is killed, and stopped, again and again under load: it is as it should
// be again soon, nothing is lost, and nothing of it is left behind.
#include <catch2/catch.hpp>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <random>
#include <string>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;

namespace {

bool process_gone(pid_t pid) { return ::kill(pid, 0) < 0 && errno == ESRCH; }

bool in_campaign() { return std::getenv("LOPE_CAMPAIGN") != nullptr; }

// The status of a daemon that may just be starting; null when it does not answer.
Json status_if_any(const std::string& socket) {
  const RunResult result = run_lope({"status", "--json", "--socket", socket});
  return result.status == exited(kExitOk) ? Json::parse(result.output) : Json();
}

bool is_well(const Json& status, std::size_t workers) {
  if (!status.is_object()) return false;
  for (const Json& group : status["groups"]) {
    if (group["state"] != "consuming" || group["workers_ready"] != workers) return false;
  }
  for (const Json& relay : status["relay"]) {
    if (relay["state"] != "consuming") return false;
  }
  for (const Json& monitor : status["monitor"]) {
    if (monitor["state"] != "serving") return false;
  }
  return true;
}

}  // namespace

TEST_CASE("whoever is killed, the daemon is well again within five seconds", "[broker][recovery]") {
  const std::string who = GENERATE("supervisor", "consumer", "worker", "monitor", "relay");
  // A relay that has nothing to do settles nothing: the pauses between its starts grow.
  const int rounds = in_campaign() && who != "relay" ? 100 : 4;
  Broker broker;
  const std::string queue = broker.make_queue("recovery");
  const TempDir files;
  const std::string config = files.write(
      "lope.yaml",
      config_text({.broker = broker.url(),
                   .groups = "  g: { queue: " + queue +
                             ", handler: append_id, workers: 2, retry: { delay: 0s }, crashes: "
                             "100, options: { file: " +
                             files.file("ids") + " } }\n",
                   .top = std::string(kWithRelay) + "monitor: { listen: 0 }\n"}));
  const std::string socket = files.file("control.sock");
  // As a service manager does it; a kill of the supervisor is what it is told of.
  ProcessOptions options;
  options.env = {{"CACHE_DIRECTORY", files.file("cache")}};
  Process parent(
      {"bash", "-c", "trap '' TERM; until setsid --wait \"$0\" run --config \"$1\"; do :; done",
       LOPE_BIN_DIR "/lope", config},
      options);
  REQUIRE(eventually(20s, [&] { return is_well(status_if_any(socket), 2); }));
  RatePublisher load(broker.url(), 500, 3600s, [&](int i) {
    return Publication{.routing_key = queue, .body = "x", .message_id = std::to_string(i)};
  });
  for (int round = 0; round < rounds; ++round) {
    INFO(who << ", round " << round);
    const Json before = status_if_any(socket);
    REQUIRE(before.is_object());
    const Json& group = before["groups"][0];
    pid_t victim = before["pid"];
    if (who == "consumer") victim = group["consumer_pid"];
    if (who == "worker") victim = group["workers"][0]["pid"];
    if (who == "monitor") victim = before["monitor"][0]["pid"];
    if (who == "relay") victim = before["relay"][0]["consumer_pid"];
    REQUIRE(::kill(victim, SIGKILL) == 0);
    CHECK(
        eventually(5s, [&] { return process_gone(victim) && is_well(status_if_any(socket), 2); }));
    if (who == "supervisor") {
      CHECK(eventually(5s, [&] { return processes_of_group(victim).empty(); }));
    }
    CHECK(eventually(5s, [&] {
      const Json after = status_if_any(socket);
      return after.is_object() && after["groups"][0]["acked"] > 0;
    }));
  }
  load.stop();
  load.join();
  CHECK(eventually(60s, [&] { return broker.is_empty(queue); }));
  const Json last = status_if_any(socket);
  REQUIRE(last.is_object());
  const pid_t group_id = last["pid"];
  CHECK(run_lope({"stop", "--socket", socket}).status == exited(kExitOk));
  CHECK(parent.wait_exit(10s) == exited(0));
  CHECK(eventually(5s, [&] { return processes_of_group(group_id).empty(); }));
  const LedgerReport report = compare_ledger(load.confirmed(), lines_of_file(files.file("ids")));
  CHECK(report.missing.empty());
  WARN(who << ": " << rounds << " kills, " << load.confirmed().size() << " messages, "
           << report.duplicates.size() << " run more often");
}

TEST_CASE("a worker that is stopped is found by the time limit, whether it has begun or not",
          "[broker][recovery]") {
  Broker broker;
  const std::string queue = broker.make_queue("recovery");
  const TempDir files;
  Lope daemon({.broker = broker.url(),
               .groups = "  g: { queue: " + queue +
                         ", handler: scripted, timeout: 1s, retry: { delay: 0s }, options: { "
                         "started: " +
                         files.file("started") + ", file: " + files.file("done") + " } }\n"});
  REQUIRE(daemon.wait_ready());
  const pid_t worker = daemon.workers().front();
  const bool begun = GENERATE(true, false);
  INFO((begun ? "begun" : "not begun"));
  if (begun) {
    broker.publish(queue, "until:" + files.file("go"), "1");
    REQUIRE(eventually(10s, [&] { return lines_of_file(files.file("started")).size() == 1; }));
    files.write("go", "");
  }
  REQUIRE(::kill(worker, SIGSTOP) == 0);
  if (!begun) broker.publish(queue, "ack", "1");
  CHECK(eventually(10s, [&] { return lines_of_file(files.file("done")).size() == 1; }));
  CHECK(process_gone(worker));
  CHECK(daemon.wait_for_line(begun ? "timeout: its handler took longer than 1000 ms"
                                   : "timeout: it has not begun what it was given within 1000 ms"));
  const Json group = group_of(daemon);
  CHECK(group["timeouts"] == (begun ? 1 : 0));
  CHECK(group["retried"] == (begun ? 1 : 0));
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(broker.message_count(queue) == 0);
}
