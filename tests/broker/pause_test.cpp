// `lope pause` and `lope resume`.
#include <catch2/catch.hpp>
#include <csignal>
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

struct Fixture {
  explicit Fixture(const std::string& more = "")
      : queue(broker.make_queue("pause")),
        daemon({.broker = broker.url(),
                .groups = "  g: { queue: " + queue +
                          ", handler: scripted, options: { started: " + files.file("started") +
                          ", file: " + files.file("done") + " }" + more + " }\n"}) {
    REQUIRE(daemon.wait_ready());
  }
  std::size_t count(const std::string& file) const {
    return lines_of_file(files.file(file)).size();
  }

  Broker broker;
  TempDir files;
  std::string queue;
  Lope daemon;
};

}  // namespace

TEST_CASE("a paused group finishes what runs, and its queue keeps the rest", "[broker][pause]") {
  Fixture it(", prefetch: 10");
  const auto connections = it.broker.connections_named("lope g ");
  const auto workers = pids_in(group_of(it.daemon));
  it.broker.publish(it.queue, "until:" + it.files.file("go"), "long");
  for (int i = 0; i < 5; ++i) it.broker.publish(it.queue, "ack", std::to_string(i));
  REQUIRE(eventually(10s, [&] { return it.count("started") == 1; }));
  CHECK_THAT(told(it.daemon, {"pause", "g"}), Contains("group 'g': paused: what runs is finished"));
  CHECK(told(it.daemon, {"pause", "g"}) == "group 'g': paused already\n");
  CHECK(eventually(10s, [&] {
    return it.broker.message_count(it.queue) == 5 && it.broker.consumer_count(it.queue) == 0;
  }));
  const Json paused = group_of(it.daemon);
  CHECK(paused["state"] == "paused");
  CHECK(paused["running"] == 1);
  CHECK(paused["waiting"] == 0);
  it.files.write("go", "");
  CHECK(eventually(10s, [&] { return group_of(it.daemon)["acked"] == 1; }));
  // Nothing comes, whatever is published.
  it.broker.publish(it.queue, "ack", "5");
  CHECK(it.broker.message_count(it.queue) == 6);
  CHECK(told(it.daemon, {"resume", "g"}) == "group 'g': resumed\n");
  CHECK(eventually(10s, [&] { return it.count("done") == 7; }));
  CHECK(group_of(it.daemon)["state"] == "consuming");
  CHECK(pids_in(group_of(it.daemon)) == workers);
  CHECK(it.broker.connections_named("lope g ") == connections);
  CHECK(told(it.daemon, {"resume", "g"}) == "group 'g': not paused\n");
  CHECK(it.daemon.stop() == exited(kExitOk));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("paused and resumed in quick turn under load: nothing lost, nothing twice",
          "[broker][pause]") {
  Broker broker;
  const std::string queue = broker.make_queue("pause");
  const TempDir files;
  Lope daemon({.broker = broker.url(),
               .groups = "  g: { queue: " + queue + ", handler: append_id, options: { file: " +
                         files.file("ids") + " }, workers: 2, threads: 2, prefetch: 100 }\n"});
  REQUIRE(daemon.wait_ready());
  RatePublisher load(broker.url(), 2000, 60s, [&](int i) {
    return Publication{.routing_key = queue, .body = "x", .message_id = std::to_string(i)};
  });
  for (int round = 0; round < 100; ++round) {
    told(daemon, {"pause", "g"});
    if (round % 3 == 0) {
      CHECK(eventually(10s, [&] { return broker.consumer_count(queue) == 0; }));
    }
    told(daemon, {"resume", "g"});
  }
  load.stop();
  load.join();
  CHECK(eventually(30s, [&] { return broker.is_empty(queue); }));
  CHECK(daemon.stop() == exited(kExitOk));
  const LedgerReport report = compare_ledger(load.confirmed(), lines_of_file(files.file("ids")));
  CHECK(report.seen == load.confirmed().size());
  CHECK(report.missing.empty());
  CHECK(report.duplicates.empty());
  CHECK(lines_with(daemon.log(), "cannot consume").empty());
}

TEST_CASE("a group stays paused when its consumer or its connection is lost", "[broker][pause]") {
  Fixture it;
  told(it.daemon, {"pause", "g"});
  REQUIRE(eventually(10s, [&] { return it.broker.consumer_count(it.queue) == 0; }));
  SECTION("the consumer") {
    const pid_t before = it.daemon.consumers().front();
    ::kill(before, SIGKILL);
    CHECK(eventually(10s, [&] {
      const Json group = group_of(it.daemon);
      return group["state"] == "paused" && group["consumer_pid"] != before &&
             group["workers_ready"] == 1 && group["connections"] == 2;
    }));
  }
  SECTION("the connection") {
    it.broker.close_all_connections();
    CHECK(eventually(10s, [&] { return group_of(it.daemon)["connections"] == 2; }));
    CHECK(group_of(it.daemon)["state"] == "paused");
  }
  SECTION("nothing, and it is stopped") {
    CHECK(it.daemon.stop() == exited(kExitOk));
    return;
  }
  it.broker.publish(it.queue, "ack", "1");
  CHECK(it.broker.consumer_count(it.queue) == 0);
  told(it.daemon, {"resume", "g"});
  CHECK(eventually(10s, [&] { return it.count("done") == 1; }));
  CHECK(it.daemon.stop() == exited(kExitOk));
}

TEST_CASE("a group whose queue would go with its consumer is not paused", "[broker][pause]") {
  Broker broker;
  const std::string queue = broker.unique_queue("pause");
  Lope daemon({.broker = broker.url(),
               .groups = "  g: { queue: " + queue +
                         ", handler: scripted, declare: { auto_delete: true } }\n"});
  REQUIRE(daemon.wait_ready());
  CHECK_THAT(refused(daemon, {"pause", "g"}),
             Contains("group 'g': queue '" + queue + "' is auto_delete"));
  CHECK(group_of(daemon)["state"] == "consuming");
  CHECK(daemon.stop() == exited(kExitOk));
}
