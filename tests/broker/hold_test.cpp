// Messages that handlers keep, and settle later.
#include <signal.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <fstream>
#include <string>
#include <vector>

#include "support/gather.h"
#include "support/log_lines.h"
#include "support/scripted.h"
#include "support/talk.h"

using namespace lope::test;
using Clock = std::chrono::steady_clock;

namespace {

// With a flush() that stays inside until the file `gate` is there.
LopeOptions with_gated_flush(const Gathered& it, const std::string& gate, const std::string& more) {
  LopeOptions options = it.options(more);
  const std::string place = "file: ";
  options.groups.insert(options.groups.find(place), "flush_until: " + gate + ", ");
  return options;
}

// Until it is inside flush(), with one message that it keeps.
void keep_one_until_flush(Gathered& it, Lope& lope) {
  REQUIRE(lope.wait_ready());
  it.publish({"hold"});
  REQUIRE(it.wait_for("flush", 1));
}

}  // namespace

TEST_CASE("what a handler keeps it is asked to settle after flush_interval", "[broker][hold]") {
  Gathered it;
  const int threads = GENERATE(1, 3);
  Lope lope(
      it.options("    flush_interval: 300ms\n    threads: " + std::to_string(threads) + "\n"));
  REQUIRE(lope.wait_ready());
  const auto start = Clock::now();
  it.publish({"hold", "hold", "hold"});
  REQUIRE(it.wait_for("done", 3));
  CHECK(Clock::now() - start >= 300ms);
  for (const std::string& line : it.lines("flush")) CHECK(line.starts_with("1"));
  CHECK(lope.stop() == exited(0));
  CHECK(it.sorted_lines("done") == std::vector<std::string>{"m0", "m1", "m2"});
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("a prefetch smaller than what a handler keeps does not lock it up", "[broker][hold]") {
  Gathered it;
  it.publish(std::vector<std::string>(12, "hold"));
  const int workers = GENERATE(1, 2);
  Lope lope(it.options(
      "    flush_interval: 1h\n    prefetch: 5\n    workers: " + std::to_string(workers) + "\n"));
  REQUIRE(it.wait_for("done", 10));
  for (const std::string& line : it.lines("flush")) CHECK(line.starts_with("2 "));
  REQUIRE(eventually(5s, [&] { return it.broker.message_count(it.queue) == 0; }));
  CHECK(lope.stop() == exited(0));
  // The last two at the drain.
  CHECK(it.lines("done").size() == 12);
  const auto flushes = it.lines("flush");
  CHECK(std::count_if(flushes.begin(), flushes.end(),
                      [](const std::string& line) { return line.starts_with("3 "); }) >= 1);
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(lines_with(lope.log(), "ledger").front().find("killed=0") != std::string::npos);
}

TEST_CASE("what is still kept after a drain's flush is handed back", "[broker][hold]") {
  Gathered it;
  Lope lope(it.options("    threads: 2\n"));
  REQUIRE(lope.wait_ready());
  it.publish({"keep", "hold", "keep"});
  REQUIRE(it.wait_for("done", 1));
  CHECK(lope.stop(5s) == exited(0));
  CHECK(ids_of(it.broker.drain(it.queue)) == std::vector<std::string>{"m0", "m2"});
  const auto ledger = lines_with(lope.log(), "drained");
  REQUIRE(ledger.size() == 1);
  CHECK(field(ledger[0], "handed_back") == "2");
}

TEST_CASE("any thread settles, at any time, once", "[broker][hold]") {
  Gathered it;
  Lope lope(it.options("    prefetch: 10\n"));
  REQUIRE(lope.wait_ready());
  SECTION("later") {
    it.publish({"later:200", "later:1", "ack"});
    REQUIRE(it.wait_for("done", 3));
    CHECK(it.lines("done") == std::vector<std::string>{"m2", "m1", "m0"});
  }
  SECTION("before the handler has said that it keeps the message") {
    it.publish({"early", "early"});
    REQUIRE(it.wait_for("done", 2));
  }
  SECTION("once more is harmless, and said") {
    it.publish({"twice", "ack"});
    REQUIRE(it.wait_for("done", 2));
    CHECK(lope.wait_for_line("which is settled already"));
  }
  SECTION("what never was is harmless, and said") {
    it.publish({"stray"});
    REQUIRE(it.wait_for("done", 1));
    CHECK(lope.wait_for_line("was never kept"));
  }
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(lines_with(lope.log(), "outcome dropped").empty());
}

TEST_CASE("what a handler keeps for longer than its timeout is taken from it", "[broker][hold]") {
  Gathered it;
  Lope lope(it.options("    timeout: 1s\n    retry: { attempts: 1 }\n"));
  REQUIRE(lope.wait_ready());
  it.publish({"keep", "ack"});
  const std::string dead = it.queue + ".dead";
  REQUIRE(eventually(10s, [&] { return it.broker.message_count(dead).value_or(0) == 1; }));
  const auto letters = it.broker.drain(dead);
  REQUIRE(letters.size() == 1);
  CHECK(letters[0].message_id == "m0");
  CHECK(letters[0].header("x-lope-dead-reason") ==
        "timeout: its handler has kept it for longer than 1000 ms");
  CHECK(lope.process().count_lines("worker ended") == 0);  // it only loses the message
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("a flush() over the timeout ends its worker, and what that kept is retried",
          "[broker][hold]") {
  Gathered it;
  const std::string gate = it.files.file("gate");
  Lope lope(with_gated_flush(it, gate,
                             "    timeout: 1s\n    flush_interval: 200ms\n"
                             "    retry: { attempts: 2, delay: 0s }\n"));
  keep_one_until_flush(it, lope);
  REQUIRE(lope.wait_for_line("ending a worker"));
  REQUIRE(it.wait_for("flush", 2));  // the second attempt, in its successor
  std::ofstream(gate) << "open";
  REQUIRE(it.wait_for("done", 1));
  CHECK(eventually(5s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.stop() == exited(0));
  CHECK(it.lines("done") == std::vector<std::string>{"m0"});
}

TEST_CASE(
    "what is kept, or worked on, for as long as the broker's consumer_timeout is retried before",
    "[broker][hold]") {
  Gathered it;
  LopeOptions options = it.options("    timeout: 0s\n    workers: 2\n    retry: { attempts: 1 }\n");
  options.broker = "{ url: '" + it.broker.url() + "', consumer_timeout: 10s }";
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  it.publish({"keep", "until:" + it.files.file("never")});
  const auto began = Clock::now();
  const std::string dead = it.queue + ".dead";
  REQUIRE(eventually(20s, [&] { return it.broker.message_count(dead).value_or(0) == 2; }));
  CHECK(Clock::now() - began < 10s);
  for (const Received& letter : it.broker.drain(dead)) {
    CAPTURE(letter.message_id);
    CHECK(letter.header("x-lope-dead-reason").find("the broker's consumer_timeout") !=
          std::string::npos);
  }
  CHECK(lope.process().count_lines("the broker closed the channel") == 0);
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("with auto_ack a handler keeps no more than the prefetch", "[broker][hold]") {
  Gathered it;
  it.publish(std::vector<std::string>(50, "keep"));
  Lope lope(it.options("    flush_interval: 1h\n    prefetch: 5\n    auto_ack: true\n"));
  REQUIRE(lope.wait_ready());
  REQUIRE(it.wait_for("flush", 1));
  // Five are kept, five wait here; the others are the broker's.
  CHECK(eventually(5s, [&] { return it.broker.message_count(it.queue) == 40; }));
  CHECK(lope.stop() == exited(0));
  CHECK(lope.process().count_lines("message given up (auto_ack)") == 5);
  CHECK(it.broker.message_count(it.queue) == 45);
}

TEST_CASE("a full window is announced only when it is full", "[broker][hold]") {
  Gathered it;
  Lope lope(
      it.options("    flush_interval: 1h\n    prefetch: 20\n    batch: { size: 10, wait: 20m }\n"));
  REQUIRE(lope.wait_ready());
  it.publish(std::vector<std::string>(11, "keep"));
  REQUIRE(it.wait_for("batch", 1));
  it.publish(std::vector<std::string>(9, "hold"), "n");  // now it is
  REQUIRE(it.wait_for("flush", 1));
  CHECK(it.lines("flush").size() == 1);
  CHECK(it.wait_for("done", 9));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("other messages go on while some are kept", "[broker][hold]") {
  Gathered it;
  Lope lope(it.options("    flush_interval: 1h\n    prefetch: 3\n"));
  REQUIRE(lope.wait_ready());
  it.publish({"keep", "keep"});
  it.publish(std::vector<std::string>(50, "ack"), "n");
  CHECK(it.wait_for("done", 50));
  CHECK(lope.stop() == exited(0));
  CHECK(ids_of(it.broker.drain(it.queue)) == std::vector<std::string>{"m0", "m1"});
}

TEST_CASE("what comes while a handler flushes is handled behind it, once", "[broker][hold]") {
  Gathered it;
  const std::string gate = it.files.file("gate");
  Lope lope(with_gated_flush(it, gate, "    flush_interval: 100ms\n"));
  keep_one_until_flush(it, lope);
  std::vector<std::string> behind(20, "ack");
  behind.push_back("hold");  // which has a flush() of its own
  it.publish(behind, "n");
  REQUIRE(eventually(5s, [&] { return it.broker.message_count(it.queue) == 0; }));
  CHECK(it.lines("done").empty());
  std::ofstream(gate) << "open";

  std::vector<std::string> in_order = {"m0"};
  for (std::size_t i = 0; i < behind.size(); ++i) in_order.push_back("n" + std::to_string(i));
  REQUIRE(it.wait_for("done", in_order.size()));
  CHECK(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.stop() == exited(0));
  CHECK(it.lines("done") == in_order);
  CHECK(it.lines("flush") == std::vector<std::string>{"1 m0", "1 n20"});
  CHECK(lines_with(lope.log(), "worker ready").size() == 1);
  const auto drained = lines_with(lope.log(), "] drained ");
  REQUIRE(drained.size() == 1);
  CHECK(field(drained[0], "acked_in_all") == std::to_string(in_order.size()));
  CHECK(field(drained[0], "handed_back") == "0");
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("what was sent to a worker whose handler flushes goes to an idle one, not to both",
          "[broker][hold]") {
  Gathered it;
  const std::string gate = it.files.file("gate");
  Lope lope(with_gated_flush(it, gate, "    flush_interval: 100ms\n    workers: 2\n"));
  keep_one_until_flush(it, lope);
  it.publish(std::vector<std::string>(20, "ack"), "n");
  REQUIRE(it.wait_for("done", 20));  // all but the one that is kept
  std::ofstream(gate) << "open";
  REQUIRE(it.wait_for("done", 21));
  CHECK(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
  // A worker ends only when it has read all it was sent.
  CHECK(lope.stop() == exited(0));
  std::vector<std::string> once = {"m0"};
  for (int i = 0; i < 20; ++i) once.push_back("n" + std::to_string(i));
  std::sort(once.begin(), once.end());
  CHECK(it.sorted_lines("done") == once);
  CHECK(it.lines("flush") == std::vector<std::string>{"1 m0"});
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("a worker that dies with messages it keeps: only the guilty one is charged",
          "[broker][hold]") {
  Gathered it;
  Lope lope(it.options("    flush_interval: 1h\n    prefetch: 5\n    crashes: 1\n"));
  REQUIRE(lope.wait_ready());
  it.publish({"hold", "hold", "hold"});
  REQUIRE(eventually(5s, [&] { return it.broker.message_count(it.queue) == 0; }));
  it.publish({"segv"}, "guilty");
  const auto charged = lope.wait_for_line("message given up");
  REQUIRE(charged);
  CHECK(field(*charged, "message_id") == "guilty0");
  // Alone, a message that is kept is flushed at once.
  CHECK(it.wait_for("done", 3));
  CHECK(lope.stop() == exited(0));
  CHECK(it.sorted_lines("done") == std::vector<std::string>{"m0", "m1", "m2"});
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(ids_of(it.broker.drain(it.queue + ".dead")) == std::vector<std::string>{"guilty0"});
}

TEST_CASE("what is kept when its connection is lost is settled for nothing, and comes again",
          "[broker][hold]") {
  Gathered it;
  Lope lope(it.options("    flush_interval: 1h\n"));
  REQUIRE(lope.wait_ready());
  it.publish({"hold", "hold", "ack"});
  REQUIRE(it.wait_for("done", 1));
  it.broker.close_all_connections();
  const auto back = lope.wait_for_line("deliveries go back to the broker");
  REQUIRE(back);
  CHECK(field(*back, "running") == "2");
  REQUIRE(lope.wait_for_line("] consuming ", 5s));
  it.publish({"ack"}, "behind");
  REQUIRE(it.wait_for("done", 2));  // so those two are kept again
  CHECK(lope.stop() == exited(0));
  CHECK(lope.process().count_lines("outcome dropped") == 2);
  CHECK(it.sorted_lines("done") ==
        std::vector<std::string>{"behind0", "m0", "m0 redelivered", "m1", "m1 redelivered", "m2"});
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("in an order a window that is full of what waits for the kept is full, too",
          "[broker][hold]") {
  Gathered it;
  const std::string type = GENERATE(as<std::string>{}, "order: strict", "order_by: routing_key");
  it.publish(std::vector<std::string>(12, "hold"));
  Lope lope(it.options("    flush_interval: 1h\n    prefetch: 5\n    " + type + "\n"));
  // Of the last four the window is not full.
  REQUIRE(it.wait_for("done", 8));
  CHECK(it.lines("done") ==
        std::vector<std::string>{"m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7"});
  for (const std::string& line : it.lines("flush")) CHECK(line.starts_with("2 "));
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 3);
}

TEST_CASE("in an order what is kept after a pause has begun is asked for, too", "[broker][hold]") {
  Gathered it;
  LopeOptions options = it.options(
      "    order_by: header:key\n    flush_interval: 1h\n    batch: { size: 2, wait: 10ms }\n");
  options.groups.insert(options.groups.find("file: "), "pause_ms: 1500, ");
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  it.publish({"hold"});
  REQUIRE(it.wait_for("batch", 1));
  told(lope, {"pause", "gather"});
  REQUIRE(it.wait_for("done", 1));
  CHECK(eventually(10s, [&] { return it.broker.consumer_count(it.queue) == 0; }));
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(lope.stop() == exited(0));
}
