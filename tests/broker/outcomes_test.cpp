// What becomes of a message by its handler's word, or by the lack of one.
#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/scripted.h"

using namespace lope::test;
using Clock = std::chrono::steady_clock;

namespace {

int times(const std::string& path, const std::string& id) {
  const auto lines = lines_of_file(path);
  return static_cast<int>(std::count(lines.begin(), lines.end(), id));
}

// The log line of this event about this message.
std::optional<std::string> line_about(Lope& lope, std::string_view event, const std::string& id,
                                      std::chrono::milliseconds deadline = 10s) {
  std::optional<std::string> found;
  eventually(deadline, [&] {
    for (const std::string& line : lines_with(lope.log(), event)) {
      if (field(line, "message_id") == id) {
        found = line;
        return true;
      }
    }
    return false;
  });
  return found;
}

}  // namespace

TEST_CASE("an acked message is gone", "[broker][outcomes]") {
  Scripted it;
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  it.broker.publish(it.queue, "ack", "a");
  REQUIRE(it.wait_done("a"));
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(times(it.started, "a") == 1);
}

TEST_CASE("a retried message comes again with growing pauses, and others do not wait for it",
          "[broker][outcomes]") {
  Scripted it;
  Lope lope(
      it.options("    prefetch: 2\n"
                 "    retry: { attempts: 3, delay: 1s, backoff: 2, jitter: 0 }\n",
                 kWithRelay));
  REQUIRE(lope.wait_ready());
  it.broker.publish(it.queue, "retry:not yet", "again");
  REQUIRE(it.wait_started("again"));
  const auto first = Clock::now();
  const auto line = line_about(lope, "message retried", "again");
  REQUIRE(line);
  CHECK(field(*line, "handler") == "scripted");
  CHECK(field(*line, "queue") == it.queue);
  CHECK(field(*line, "attempt") == "1");
  CHECK(field(*line, "reason").find("not yet") != std::string::npos);
  REQUIRE(eventually(10s, [&] { return times(it.started, "again") == 3; }));
  CHECK(Clock::now() - first >= 2900ms);  // one second, then two
  it.broker.publish(it.queue, "ack", "other");
  CHECK(it.wait_done("other", 900ms));
  CHECK(times(it.started, "again") == 3);
  REQUIRE(line_about(lope, "message given up", "again"));
  const auto lines = lines_with(lope.log(), "message retried");
  REQUIRE(lines.size() == 2);
  CHECK(field(lines[1], "attempt") == "2");
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(ids_of(it.broker.drain(it.queue + ".dead")) == std::vector<std::string>{"again"});
}

TEST_CASE("a rejected message goes to the queue's dead-letter exchange", "[broker][outcomes]") {
  Scripted it;
  const std::string dead = it.broker.make_queue("dead");
  it.broker.delete_queue(it.queue);
  it.broker.declare_queue(it.queue, {.text_arguments = {{"x-dead-letter-exchange", ""},
                                                        {"x-dead-letter-routing-key", dead}}});
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  publisher.publish(it.queue, "reject", "plain");
  publisher.publish(it.queue, "reject:no such customer", "why");
  publisher.publish(it.queue, "ack", "after");
  REQUIRE(it.wait_done("after"));
  const auto line = line_about(lope, "message rejected", "why");
  REQUIRE(line);
  CHECK(field(*line, "handler") == "scripted");
  CHECK(field(*line, "reason").find("no such customer") != std::string::npos);
  CHECK(line_about(lope, "message rejected", "plain"));
  CHECK(eventually(5s, [&] { return it.broker.message_count(dead) == 2; }));
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(ids_of(it.broker.drain(dead)) == std::vector<std::string>{"plain", "why"});
  CHECK(times(it.started, "plain") == 1);
  CHECK(times(it.started, "why") == 1);
}

TEST_CASE("without a proper outcome a message is retried, with the reason and the handler's name",
          "[broker][outcomes]") {
  struct Row {
    std::string body;
    std::string reason;
  };
  const std::vector<Row> rows = {
      {"retry", "the handler asked for it"},
      {"none", "the handler gave no outcome"},
      {"unknown", "the handler gave an unknown outcome, 77"},
      {"minus", "the handler gave an unknown outcome, -1"},
      {"throw", "thrown as told"},
      {"throw-int", "no std::exception"},
  };
  Scripted it;
  Lope lope(it.options("    retry: { delay: 1s }\n", kWithRelay));
  REQUIRE(lope.wait_ready());
  for (const Row& row : rows) it.broker.publish(it.queue, row.body, row.body);
  for (const Row& row : rows) {
    INFO(row.body);
    const auto line = line_about(lope, "message retried", row.body);
    REQUIRE(line);
    CHECK(field(*line, "reason").find(row.reason) != std::string::npos);
    CHECK(field(*line, "handler") == "scripted");
    CHECK(std::stoi(field(*line, "delay_ms")) >= 1000);
  }
  CHECK(eventually(5s, [&] { return times(it.started, rows[0].body) >= 2; }));
  CHECK(lope.process().count_lines("worker ended") == 0);  // none of it is a reason to die
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a crash is charged to the message inside, and a new worker comes at once",
          "[broker][outcomes]") {
  struct Row {
    std::string body;
    std::string how;
  };
  const Row row = GENERATE(Row{"segv", "SIGSEGV"}, Row{"abort", "SIGABRT"}, Row{"exit0", "exit 0"});
  INFO(row.body);
  Scripted it;
  Lope lope(
      it.options("    workers: 2\n    prefetch: 50\n    crashes: 2\n"
                 "    retry: { delay: 3s }\n",
                 kWithRelay));
  REQUIRE(lope.wait_ready());
  const auto before = lope.workers();
  REQUIRE(before.size() == 2);
  Publisher publisher = it.broker.publisher();
  publisher.publish(it.queue, "sleep:1500", "unaffected");
  REQUIRE(it.wait_started("unaffected"));
  publisher.publish(it.queue, row.body, "guilty");
  REQUIRE(it.wait_started("guilty"));
  const auto line = line_about(lope, "message retried", "guilty");
  REQUIRE(line);
  CHECK(field(*line, "reason") == "its worker died: " + row.how);
  const auto ended = lope.wait_for_line("worker ended");
  REQUIRE(ended);
  CHECK(field(*ended, "how") == row.how);
  CHECK(field(*ended, "group") == "scripted");
  CHECK(field(*ended, "running") == "1");
  CHECK(field(*ended, "next") == "a new worker at once");
  REQUIRE(lope.wait_for_line("worker ready", 2s));
  const auto after = lope.workers();
  CHECK(after.size() == 2);
  std::vector<pid_t> kept;
  std::set_intersection(before.begin(), before.end(), after.begin(), after.end(),
                        std::back_inserter(kept));
  CHECK(kept.size() == 1);
  CHECK(it.wait_done("unaffected"));
  publisher.publish(it.queue, "ack", "after");
  CHECK(it.wait_done("after"));
  CHECK(lope.process().count_lines("] connected group=scripted") == 1);
  const auto dead = line_about(lope, "message given up", "guilty");
  REQUIRE(dead);
  CHECK(field(*dead, "code") == "crashes");
  CHECK(field(*dead, "crashes") == "2");
  CHECK(eventually(5s, [&] { return it.broker.message_count(it.queue + ".dead") == 1; }));
  CHECK(lope.stop() == exited(0));
  CHECK(times(it.started, "unaffected") == 1);
  CHECK(times(it.started, "after") == 1);
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(ids_of(it.broker.drain(it.queue + ".dead")) == std::vector<std::string>{"guilty"});
  // Only the guilty one was ever retried.
  const auto retried = fields_of(lope.log(), "message retried", "message_id");
  CHECK(std::set<std::string>(retried.begin(), retried.end()) == std::set<std::string>{"guilty"});
}

TEST_CASE("messages that wait behind a crash go to other workers and run once",
          "[broker][outcomes]") {
  Scripted it;
  Lope lope(it.options("    prefetch: 100\n    crashes: 1\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  // Short ones first: then the worker is given messages ahead.
  publisher.publish_many(300, [&](int i) {
    return Publication{
        .routing_key = it.queue, .body = "ack", .message_id = "short" + std::to_string(i)};
  });
  REQUIRE(it.wait_done("short299"));
  publisher.publish_many(50, [&](int i) {
    return Publication{.routing_key = it.queue,
                       .body = i == 0   ? "sleep:500"
                               : i == 1 ? "abort"
                                        : "ack",
                       .message_id = "m" + std::to_string(i)};
  });
  REQUIRE(it.wait_done("m49"));
  const auto ended = lope.wait_for_line("worker ended");
  REQUIRE(ended);
  CHECK(field(*ended, "running") == "1");
  CHECK(std::stoi(field(*ended, "waiting")) > 0);
  CHECK(lope.stop() == exited(0));
  for (int i = 2; i < 50; ++i) {
    INFO(i);
    CHECK(times(it.started, "m" + std::to_string(i)) == 1);
  }
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(ids_of(it.broker.drain(it.queue + ".dead")) == std::vector<std::string>{"m1"});
}

TEST_CASE("a worker's death is noticed and its children end, though they hold its descriptors",
          "[broker][outcomes]") {
  const std::string body = GENERATE(as<std::string>{}, "fork", "bare-fork");
  INFO(body);
  Scripted it;
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  it.broker.publish(it.queue, body, "parent");
  REQUIRE(it.wait_done("parent"));
  const auto workers = lope.workers();
  REQUIRE(workers.size() == 2);  // the child looks like its parent
  const auto consumers = lope.consumers();
  REQUIRE(consumers.size() == 1);
  const auto direct = children_of(consumers[0]);
  REQUIRE(direct.size() == 1);
  const pid_t worker = direct[0].pid;
  const pid_t child = workers[0] == worker ? workers[1] : workers[0];
  SECTION("the worker is killed") {
    REQUIRE(::kill(worker, SIGKILL) == 0);
    REQUIRE(lope.wait_for_line("worker ended", 3s));
    CHECK(eventually(3s, [&] { return !is_alive(child); }));
    REQUIRE(lope.wait_for_line("worker ready", 5s));
    it.broker.publish(it.queue, "ack", "after");
    CHECK(it.wait_done("after"));
    CHECK(lope.process().count_lines("killed what a worker left behind") == 1);
    CHECK(lope.stop() == exited(0));
  }
  SECTION("the daemon stops") {
    CHECK(lope.stop(10s) == exited(0));
    CHECK_FALSE(is_alive(child));
  }
  CHECK(lope.all_gone());
}

TEST_CASE("what a handler prints and logs is a log line with its group and worker",
          "[broker][outcomes]") {
  Scripted it;
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  it.broker.publish(it.queue, "stdout:to standard output", "o");
  it.broker.publish(it.queue, "stderr:to standard error", "e");
  it.broker.publish(it.queue, "log:by the host", "l");
  REQUIRE(it.wait_done("l"));
  CHECK(lope.stop() == exited(0));
  const std::string log = lope.log();
  const auto printed = lines_with(log, "handler printed");
  REQUIRE(printed.size() == 2);
  const auto said = lines_with(log, "handler says");
  REQUIRE(said.size() == 1);
  for (const std::string& line : printed) {
    CHECK(field(line, "group") == "scripted");
    CHECK(field(line, "worker") == "0");
  }
  const auto by_stream = fields_of(log, "handler printed", "stream");
  CHECK(by_stream == std::multiset<std::string>{"stdout", "stderr"});
  CHECK(fields_of(log, "stream=stdout", "text") ==
        std::multiset<std::string>{"to standard output"});
  CHECK(fields_of(log, "stream=stderr", "text") == std::multiset<std::string>{"to standard error"});
  CHECK(field(said[0], "text") == "by the host");
  CHECK(field(said[0], "group") == "scripted");
  CHECK(field(said[0], "worker") == "0");
}

TEST_CASE("a handler that logs without end keeps nobody else from anything", "[broker][outcomes]") {
  Scripted it;
  Lope lope(it.options("    prefetch: 10\n    workers: 2\n",
                       "shutdown_timeout: 1s\nlog: { level: info, file: /dev/null }\n"));
  REQUIRE(eventually(30s, [&] { return it.broker.consumer_count(it.queue) == 1; }));
  Publisher publisher = it.broker.publisher();
  publisher.publish(it.queue, "chatter", "talks");
  REQUIRE(it.wait_started("talks"));
  for (int i = 0; i < 100; ++i) publisher.publish(it.queue, "ack", std::to_string(i));
  CHECK(it.wait_done("99"));
  CHECK(lope.stop(10s) == exited(1));  // it had to be killed
  CHECK(lines_of_file(it.done).size() == 100);
  CHECK(ids_of(it.broker.drain(it.queue)) == std::vector<std::string>{"talks"});
}

TEST_CASE("text from messages cannot forge log lines or reach a terminal raw",
          "[broker][outcomes]") {
  const bool json = GENERATE(false, true);
  Scripted it;
  Lope lope(it.options("", json ? "log: { level: debug, format: json }\n" : ""));
  REQUIRE(eventually(30s, [&] { return it.broker.consumer_count(it.queue) == 1; }));
  const std::string evil =
      "\x1b[2J\x1b]0;title\x07\nforged line\r\n\x9b\x01 \xff\xc2\x9b[2J\"quoted\"";
  Publisher publisher = it.broker.publisher();
  publisher.publish({.routing_key = it.queue, .body = "reject:" + evil, .message_id = "r" + evil});
  publisher.publish({.routing_key = it.queue, .body = "stdout:" + evil, .message_id = "s"});
  publisher.publish({.routing_key = it.queue, .body = "log:" + evil, .message_id = "l"});
  publisher.publish(
      {.routing_key = it.queue, .body = "log:" + std::string(100'000, 'A'), .message_id = "long"});
  REQUIRE(it.wait_done("long"));
  CHECK(lope.stop() == exited(0));
  const std::string log = lope.log();
  for (const char forbidden : {'\x1b', '\x07', '\r', '\x01', '\x9b', '\xff'}) {
    INFO(static_cast<int>(forbidden));
    CHECK(log.find(forbidden) == std::string::npos);
  }
  // Every line is one of ours: an object, or it begins with the time.
  for (const std::string& line : lines_with(log, "")) {
    INFO(line);
    CHECK(line.starts_with(json ? "{\"" : "2"));
    CHECK((json ? line.ends_with("}") : line.find("Z ") == 23));
    CHECK(line.size() < 4000);
  }
  CHECK(lines_with(log, "message rejected").size() == 1);
  CHECK(lines_with(log, "handler says").size() == 2);
}

TEST_CASE(
    "with auto_ack a message is acked when a worker gets it, and a crash loses that one alone",
    "[broker][outcomes]") {
  Scripted it;
  Lope lope(it.options("    auto_ack: true\n    prefetch: 3\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  SECTION("a crash") {
    publisher.publish(it.queue, "segv", "lost");
    publisher.publish(it.queue, "ack", "kept");
    const auto line = line_about(lope, "message given up (auto_ack)", "lost");
    REQUIRE(line);
    CHECK(field(*line, "reason") == "its worker died: SIGSEGV");
    CHECK(it.wait_done("kept"));
    CHECK(lope.stop() == exited(0));
    CHECK(times(it.started, "lost") == 1);
    CHECK(it.broker.message_count(it.queue) == 0);
    CHECK(lope.process().count_lines("given up") == 1);
  }
  SECTION("what waits at a worker outlives the connection it came on") {
    publisher.publish_many(200, [&](int i) {
      return Publication{.routing_key = it.queue, .body = "ack", .message_id = std::to_string(i)};
    });
    REQUIRE(it.wait_done("199"));
    // From a worker whose messages take so little time, several at a time are under way.
    const std::string gate = it.files.file("gate");
    publisher.publish(it.queue, "until:" + gate, "runs");
    REQUIRE(it.wait_started("runs"));
    publisher.publish_many(5, [&](int i) {
      return Publication{
          .routing_key = it.queue, .body = "ack", .message_id = "w" + std::to_string(i)};
    });
    REQUIRE(eventually(5s, [&] { return it.broker.message_count(it.queue) == 0; }));
    it.broker.close_all_connections();
    REQUIRE(lope.wait_for_line("] consuming ", 5s));
    std::ofstream(gate) << "open";
    REQUIRE(it.wait_done("w4"));
    CHECK(lope.stop() == exited(0));
    for (const char* id : {"runs", "w0", "w1", "w2", "w3", "w4"}) {
      INFO(id);
      CHECK(times(it.done, id) == 1);
    }
    CHECK(it.broker.message_count(it.queue) == 0);
  }
  SECTION("the prefetch holds, and the running one is acked already") {
    publisher.publish_many(10, [&](int i) {
      return Publication{
          .routing_key = it.queue, .body = "sleep:1000", .message_id = std::to_string(i)};
    });
    REQUIRE(it.wait_started("0"));
    // One is acked, three are with the consumer.
    CHECK(eventually(1s, [&] { return it.broker.message_count(it.queue) == 6; }));
    it.broker.close_all_connections();
    REQUIRE(lope.wait_for_line("] consuming ", 5s));
    REQUIRE(it.wait_done("1"));
    CHECK(lope.stop() == exited(0));
    CHECK(times(it.started, "0") == 1);  // the broker had nothing to send again
    CHECK(times(it.done, "0") == 1);
    CHECK(lope.process().count_lines("given up") == 0);
  }
}
