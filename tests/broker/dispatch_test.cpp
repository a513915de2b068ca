// Fair and in bulk: nobody waits behind a slow message while a worker is idle, and tiny messages do
// not cost a wake-up each.
#include <signal.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <string>
#include <vector>

#include "support/scripted.h"

using namespace lope::test;

namespace {

long voluntary_switches(pid_t pid) {
  const std::string status = read_file("/proc/" + std::to_string(pid) + "/status");
  const std::string key = "\nvoluntary_ctxt_switches:";
  const std::size_t at = status.find(key);
  REQUIRE(at != std::string::npos);
  return std::stol(status.substr(at + key.size()));
}

}  // namespace

TEST_CASE("what was sent ahead to a worker that turns slow goes to an idle one",
          "[broker][dispatch]") {
  Scripted it;
  Lope lope(it.options("    workers: 2\n    prefetch: 200\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  const auto publish = [&](int count, const std::string& prefix) {
    publisher.publish_many(count, [&](int i) {
      return Publication{
          .routing_key = it.queue, .body = "ack", .message_id = prefix + std::to_string(i)};
    });
  };
  // Tiny ones, so that workers are sent some ahead; then a slow one in the middle of more of them.
  publish(500, "warm");
  REQUIRE(eventually(10s, [&] { return lines_of_file(it.done).size() == 500; }));
  const std::string gate = it.files.file("gate");
  for (int round = 0; round < 10; ++round) {
    const std::string name = std::to_string(round) + "-";
    publish(20, name + "before");
    publisher.publish(it.queue, "until:" + gate, name + "slow");
    publish(50, name + "behind");
    for (int i = 0; i < 50; ++i) REQUIRE(it.wait_done(name + "behind" + std::to_string(i)));
    std::ofstream(gate) << "open";
    REQUIRE(it.wait_done(name + "slow"));
    REQUIRE(::unlink(gate.c_str()) == 0);
  }
  CHECK(lope.stop() == exited(0));
  CHECK(lines_of_file(it.done).size() == 500 + 10 * 71);
}

TEST_CASE("with slow messages every worker has one, and none waits for another",
          "[broker][dispatch]") {
  Scripted it;
  Lope lope(it.options("    workers: 4\n    prefetch: 40\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  const std::string gate = it.files.file("gate");
  for (int i = 0; i < 4; ++i) publisher.publish(it.queue, "until:" + gate, std::to_string(i));
  // All four run at a time: none was queued behind another.
  for (int i = 0; i < 4; ++i) REQUIRE(it.wait_started(std::to_string(i)));
  std::ofstream(gate) << "open";
  for (int i = 0; i < 4; ++i) REQUIRE(it.wait_done(std::to_string(i)));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("tiny messages go in bulk", "[broker][dispatch]") {
  Broker broker;
  const std::string queue = broker.make_queue("tiny");
  Publisher publisher = broker.publisher();
  constexpr int kMessages = 20'000;
  publisher.publish_many(kMessages, [&](int) {
    return Publication{.routing_key = queue, .body = "x", .persistent = false};
  });
  Lope lope(
      {.broker = broker.url(),
       .groups = "  tiny:\n    queue: " + queue + "\n    handler: 'null'\n    prefetch: 100\n",
       .handlers_dir = LOPE_HANDLERS_BUILD_DIR});
  REQUIRE(lope.wait_ready());
  REQUIRE(eventually(30s, [&] { return broker.message_count(queue) == 0; }));
  const auto workers = lope.workers();
  const auto consumers = lope.consumers();
  REQUIRE(workers.size() == 1);
  REQUIRE(consumers.size() == 1);
  // Each sleep ends with a wake-up; there are several messages for each.
  CHECK(voluntary_switches(workers[0]) < kMessages / 3);
  CHECK(voluntary_switches(consumers[0]) < kMessages / 3);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a tiny message right before a long one does not wait for it to be acked",
          "[broker][dispatch]") {
  Scripted it;
  // One line a message, so that a call of "ack" is as tiny as can be.
  Lope lope({.broker = it.broker.url(),
             .groups = "  mixed:\n    queue: " + it.queue +
                       "\n    handler: scripted\n    options: { file: " + it.done +
                       " }\n    prefetch: 2\n"});
  REQUIRE(lope.wait_ready());
  const auto consumers = lope.consumers();
  REQUIRE(consumers.size() == 1);
  Publisher publisher = it.broker.publisher();
  const auto publish = [&](const std::vector<std::string>& bodies, const std::string& prefix) {
    publisher.publish_many(static_cast<int>(bodies.size()), [&](int i) {
      return Publication{.routing_key = it.queue,
                         .body = bodies[static_cast<std::size_t>(i)],
                         .message_id = prefix + std::to_string(i)};
    });
  };
  for (int round = 0; round < 20; ++round) {
    INFO("round " << round);
    const std::string name = std::to_string(round) + "-";
    const std::string gate = it.files.file(name + "gate");
    // Tiny ones, so that the worker is sent some ahead. In every other round one of 1 ms with them:
    // on average they are not tiny then, and still so short.
    std::vector<std::string> before(100, "ack");
    if (round % 2 == 1) {
      before.push_back("sleep:1");
      before.resize(before.size() + 5, "ack");
    }
    publish(before, name + "before");
    REQUIRE(it.wait_done(name + "before" + std::to_string(before.size() - 1)));
    // Both come to the consumer, and so to the worker, at once: a tiny one, and one that lasts
    // until its gate is open. With this prefetch the third is sent when the tiny one is acked.
    REQUIRE(::kill(consumers[0], SIGSTOP) == 0);
    publish({"ack", "until:" + gate, "ack"}, name + "mixed");
    REQUIRE(::kill(consumers[0], SIGCONT) == 0);
    CHECK(eventually(1s, [&] { return it.broker.message_count(it.queue) == 0; }));
    std::ofstream(gate) << "open";
    REQUIRE(it.wait_done(name + "mixed2"));
  }
  CHECK(lope.stop() == exited(0));
  const LedgerReport report = compare_ledger(publisher.confirmed(), lines_of_file(it.done));
  CHECK(report.missing.empty());
  CHECK(report.duplicates.empty());
  CHECK(it.broker.message_count(it.queue) == 0);
}
