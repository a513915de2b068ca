// Workers that come and go while messages do: `lope scale` and `lope restart` under load.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "common/exit_code.h"
#include "support/broker.h"
#include "support/gather.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;
using Json = nlohmann::json;

namespace {

ProcessOptions with_socket(const Lope& daemon) {
  ProcessOptions options;
  options.env = {{"LOPE_SOCKET", daemon.control_socket()}};
  return options;
}

std::string told(const Lope& daemon, std::vector<std::string> arguments) {
  const RunResult result = run_lope(std::move(arguments), with_socket(daemon));
  INFO(result.output);
  CHECK(result.status == exited(kExitOk));
  return result.output;
}

Json group_of(const Lope& daemon) {
  return Json::parse(told(daemon, {"status", "--json"}))["groups"][0];
}

// As many as wanted, all ready, nobody leaving, and none of these.
bool settled(const Lope& daemon, std::size_t wanted, const std::set<pid_t>& without = {}) {
  const Json group = group_of(daemon);
  if (group["workers"].size() != wanted) return false;
  for (const Json& worker : group["workers"]) {
    if (worker["state"] != "ready" || without.contains(worker["pid"].get<pid_t>())) return false;
  }
  return true;
}

std::set<pid_t> pids(const Lope& daemon) {
  std::set<pid_t> pids;
  const Json group = group_of(daemon);
  for (const Json& worker : group["workers"]) pids.insert(worker["pid"].get<pid_t>());
  return pids;
}

}  // namespace

TEST_CASE("workers are replaced and their number changed under load: nothing lost, nothing twice",
          "[broker][roster]") {
  Broker broker;
  const std::string queue = broker.make_queue("roster");
  const TempDir files;
  const std::string path = files.file("ids");
  Lope daemon({.broker = broker.url(),
               .groups = "  g: { queue: " + queue + ", handler: append_id, options: { file: " +
                         path + ", flag: true }, workers: 3, threads: 2, prefetch: 200 }\n"});
  REQUIRE(daemon.wait_ready());
  const pid_t consumer = daemon.consumers().front();
  RatePublisher load(broker.url(), 4000, 60s, [&](int i) {
    return Publication{.routing_key = queue, .body = "x", .message_id = std::to_string(i)};
  });
  std::mt19937 random(5);
  std::size_t wanted = 3;
  for (int round = 0; round < 30; ++round) {
    const auto before = pids(daemon);
    if (random() % 2 == 0) {
      CHECK_THAT(told(daemon, {"restart", "g"}), Contains("group 'g': replacing its workers"));
      REQUIRE(eventually(20s, [&] { return settled(daemon, wanted, before); }));
    } else {
      const std::size_t now = 1 + random() % 6;
      CHECK_THAT(told(daemon, {"scale", "g", std::to_string(now)}),
                 Contains("group 'g': " + std::to_string(now) + " workers, before " +
                          std::to_string(wanted)));
      wanted = now;
      REQUIRE(eventually(20s, [&] { return settled(daemon, wanted); }));
    }
  }
  load.stop();
  load.join();
  CHECK(eventually(60s, [&] { return broker.is_empty(queue); }));
  CHECK(daemon.consumers() == std::vector<pid_t>{consumer});
  CHECK(lines_with(daemon.log(), "] connected ").size() == 1);
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(daemon.all_gone());
  const LedgerReport report = compare_ledger(load.confirmed(), lines_of_file(path));
  CHECK(report.seen == load.confirmed().size());
  CHECK(report.missing.empty());
  CHECK(report.duplicates.empty());
  CHECK(report.seen > 1000);
  CHECK(lines_with(daemon.log(), "killing a worker").empty());
  CHECK(lines_with(daemon.log(), "message retried").empty());
}

TEST_CASE("a worker that is replaced finishes its message, and none runs beside it meanwhile",
          "[broker][roster]") {
  Broker broker;
  const std::string queue = broker.make_queue("roster");
  const TempDir files;
  Lope daemon({.broker = broker.url(),
               .groups = "  g: { queue: " + queue +
                         ", handler: scripted, options: { started: " + files.file("started") +
                         ", file: " + files.file("done") + " }, prefetch: 10 }\n"});
  REQUIRE(daemon.wait_ready());
  const auto first = pids(daemon);
  broker.publish(queue, "until:" + files.file("go"), "long");
  for (int i = 0; i < 5; ++i) broker.publish(queue, "ack", "short" + std::to_string(i));
  REQUIRE(eventually(10s, [&] { return lines_of_file(files.file("started")).size() == 1; }));
  told(daemon, {"restart", "g"});
  REQUIRE(eventually(10s, [&] {
    const Json group = group_of(daemon);
    return group["workers"].size() == 2 && group["workers_ready"] == 1 && group["waiting"] == 5;
  }));
  CHECK(pids(daemon).contains(*first.begin()));
  CHECK(lines_of_file(files.file("started")) == std::vector<std::string>{"long"});
  files.write("go", "");
  CHECK(eventually(10s, [&] { return lines_of_file(files.file("done")).size() == 6; }));
  CHECK(eventually(10s, [&] { return settled(daemon, 1, first); }));
  CHECK(lines_of_file(files.file("done")) == lines_of_file(files.file("started")));
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("a worker that is replaced settles what its handler keeps", "[broker][roster]") {
  Gathered it;
  Lope daemon(it.options("    prefetch: 50\n    flush_interval: 1h\n"));
  REQUIRE(daemon.wait_ready());
  const auto first = pids(daemon);
  it.publish(std::vector<std::string>(20, "hold"));
  REQUIRE(eventually(10s, [&] { return group_of(daemon)["held"] == 20; }));
  told(daemon, {"restart", "gather"});
  // Not only when something else wakes it.
  CHECK(eventually(3s, [&] { return settled(daemon, 1, first); }));
  CHECK(group_of(daemon)["held"] == 0);
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("scale and restart refuse what they cannot do, and say why", "[broker][roster]") {
  Broker broker;
  const std::string queue = broker.make_queue("roster");
  Lope daemon({.broker = broker.url(),
               .groups = "  orders: { queue: " + queue + ", handler: scripted }\n"});
  REQUIRE(daemon.wait_ready());
  const auto refused = [&](std::vector<std::string> arguments) {
    const RunResult result = run_lope(std::move(arguments), with_socket(daemon));
    CHECK(result.status != exited(kExitOk));
    return result.output;
  };
  CHECK_THAT(refused({"restart", "order"}),
             Contains("lope restart: restart: no group 'order': did you mean 'orders'?"));
  CHECK_THAT(refused({"scale", "orders", "0"}), Contains("workers"));
  CHECK_THAT(refused({"scale", "orders", "257"}), Contains("workers"));
  CHECK_THAT(refused({"scale", "orders"}), Contains("workers is required"));
  CHECK(settled(daemon, 1));
  CHECK(daemon.stop() == exited(kExitOk));
}
