// Workers that come and go while messages do: `lope scale` and `lope restart` under load.
#include <catch2/catch.hpp>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "support/broker.h"
#include "support/gather.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;

namespace {

bool settled(const Lope& daemon, std::size_t wanted, const std::set<pid_t>& without = {}) {
  return has_settled(group_of(daemon), wanted, without);
}

std::set<pid_t> pids(const Lope& daemon) { return pids_in(group_of(daemon)); }

// A group that writes down what it has begun and what it has done.
std::string scripted(const std::string& queue, const TempDir& files, const std::string& more) {
  return "  g: { queue: " + queue +
         ", handler: scripted, options: { started: " + files.file("started") +
         ", file: " + files.file("done") + " }" + more + " }\n";
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
  Lope daemon({.broker = broker.url(), .groups = scripted(queue, files, ", prefetch: 10")});
  REQUIRE(daemon.wait_ready());
  const auto first = pids(daemon);
  broker.publish(queue, "until:" + files.file("go"), "long");
  for (int i = 0; i < 5; ++i) broker.publish(queue, "ack", "short" + std::to_string(i));
  REQUIRE(eventually(10s, [&] { return lines_of_file(files.file("started")).size() == 1; }));
  told(daemon, {"restart", "g"});
  REQUIRE(eventually(10s, [&] {
    const Json group = group_of(daemon);
    std::set<std::string> states;
    for (const Json& worker : group["workers"]) states.insert(worker["state"]);
    return states == std::set<std::string>{"leaving", "ready"} && group["waiting"] == 5;
  }));
  CHECK(pids(daemon).contains(*first.begin()));
  files.write("go", "");
  CHECK(eventually(10s, [&] { return lines_of_file(files.file("done")).size() == 6; }));
  CHECK(eventually(10s, [&] { return settled(daemon, 1, first); }));
  CHECK(lines_of_file(files.file("done")).front() == "long");
  CHECK(lines_of_file(files.file("done")) == lines_of_file(files.file("started")));
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("a busy worker holds up the replacement of no other", "[broker][roster]") {
  Broker broker;
  const std::string queue = broker.make_queue("roster");
  const TempDir files;
  Lope daemon({.broker = broker.url(), .groups = scripted(queue, files, ", workers: 4")});
  REQUIRE(daemon.wait_ready());
  REQUIRE(eventually(10s, [&] { return settled(daemon, 4); }));
  const auto first = pids(daemon);
  broker.publish(queue, "until:" + files.file("go"), "long");
  REQUIRE(eventually(10s, [&] { return lines_of_file(files.file("started")).size() == 1; }));
  told(daemon, {"restart", "g"});
  // Four new ones, and the one that is busy.
  REQUIRE(eventually(10s, [&] {
    const Json group = group_of(daemon);
    std::size_t old = 0;
    for (const Json& worker : group["workers"]) old += first.contains(worker["pid"]) ? 1u : 0u;
    return group["workers_ready"] == 4 && group["workers"].size() == 5 && old == 1;
  }));
  // They work.
  broker.publish(queue, "ack", "short");
  CHECK(eventually(10s, [&] { return lines_of_file(files.file("done")).size() == 1; }));
  // A drain ends it all, in good order.
  daemon.process().signal_group(SIGTERM);
  files.write("go", "");
  CHECK(daemon.process().wait_exit(20s) == exited(kExitOk));
  CHECK(lines_of_file(files.file("done")) == std::vector<std::string>{"short", "long"});
  CHECK(broker.message_count(queue) == 0);
  CHECK(daemon.all_gone());
}

TEST_CASE("what a leaving worker dies with is run again, each alone", "[broker][roster]") {
  Broker broker;
  const std::string queue = broker.make_queue("roster");
  const TempDir files;
  Lope daemon({.broker = broker.url(), .groups = scripted(queue, files, ", threads: 3")});
  REQUIRE(daemon.wait_ready());
  const pid_t first = *pids(daemon).begin();
  for (const char* id : {"one", "two"}) broker.publish(queue, "until:" + files.file("go"), id);
  REQUIRE(eventually(10s, [&] { return lines_of_file(files.file("started")).size() == 2; }));
  told(daemon, {"restart", "g"});
  REQUIRE(daemon.wait_for_line("worker leaves"));
  broker.publish(queue, "ack", "three");  // so that nobody is fresh
  REQUIRE(eventually(10s, [&] { return lines_of_file(files.file("done")).size() == 1; }));
  ::kill(first, SIGKILL);
  files.write("go", "");
  CHECK(eventually(10s, [&] { return lines_of_file(files.file("done")).size() == 3; }));
  CHECK(eventually(10s, [&] { return settled(daemon, 1, {first}); }));
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(broker.message_count(queue) == 0);
  CHECK(lines_with(daemon.log(), "message retried").empty());  // nobody is charged
}

TEST_CASE("what the handler of a leaving worker keeps it settles itself, once",
          "[broker][roster]") {
  Gathered it;
  Lope daemon(it.options("    prefetch: 50\n    flush_interval: 1h\n"));
  REQUIRE(daemon.wait_ready());
  const auto first = pids(daemon);
  it.publish(std::vector<std::string>(20, "later:1000"));
  REQUIRE(eventually(10s, [&] { return group_of(daemon)["held"] == 20; }));
  told(daemon, {"restart", "gather"});
  CHECK(eventually(10s, [&] { return settled(daemon, 1, first); }));
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(it.lines("done").size() == 20);
}

TEST_CASE("who says stop a second time waits on, and hurries nobody", "[broker][roster]") {
  Broker broker;
  const std::string queue = broker.make_queue("roster");
  const TempDir files;
  Lope daemon({.broker = broker.url(), .groups = scripted(queue, files, "")});
  REQUIRE(daemon.wait_ready());
  broker.publish(queue, "until:" + files.file("go"), "long");
  REQUIRE(eventually(10s, [&] { return lines_of_file(files.file("started")).size() == 1; }));
  CHECK(told(daemon, {"stop", "--no-wait"}) == "stopping within 30000 ms\n");
  CHECK(told(daemon, {"stop", "--no-wait"}) == "stopping already\n");
  CHECK_THAT(told(daemon, {"status"}), Contains("lope " LOPE_VERSION " stopping, pid "));
  Process third({LOPE_BIN_DIR "/lope", "stop"}, with_socket(daemon));
  CHECK(third.wait_for_line("stopping already").has_value());
  files.write("go", "");
  CHECK(third.wait_for_line("stopped").has_value());
  CHECK(daemon.process().wait_exit(1s) == exited(kExitOk));
  CHECK(lines_of_file(files.file("done")) == std::vector<std::string>{"long"});
  CHECK(broker.message_count(queue) == 0);
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
