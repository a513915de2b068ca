// Messages handed over together, and who is to blame when a worker dies with several inside.
#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "support/gather.h"
#include "support/log_lines.h"
#include "support/scripted.h"

using namespace lope::test;
using Clock = std::chrono::steady_clock;

namespace {

std::size_t words_in(const std::string& line) {
  return static_cast<std::size_t>(std::count(line.begin(), line.end(), ' ')) + 1;
}

}  // namespace

TEST_CASE("batches are full, and the rest goes when its oldest has waited", "[broker][batch]") {
  Gathered it;
  Lope lope(it.options("    batch: { size: 10, wait: 700ms }\n    prefetch: 100\n"));
  REQUIRE(lope.wait_ready());
  const auto start = Clock::now();
  it.publish(std::vector<std::string>(25, "ack"));
  REQUIRE(it.wait_for("batch", 3));
  CHECK(Clock::now() - start >= 700ms);
  const auto batches = it.lines("batch");
  REQUIRE(batches.size() == 3);
  CHECK(batches[0] == "m0 m1 m2 m3 m4 m5 m6 m7 m8 m9");
  CHECK(words_in(batches[1]) == 10);
  CHECK(words_in(batches[2]) == 5);
  // One alone waits its time too.
  it.publish({"ack"}, "later");
  REQUIRE(it.wait_for("batch", 4));
  CHECK(it.lines("batch").back() == "later0");
  CHECK(lope.stop() == exited(0));
  CHECK(it.lines("done").size() == 26);
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("each message of a batch has its own outcome", "[broker][batch]") {
  Gathered it;
  const std::string dead = it.broker.make_queue("dead");
  it.broker.delete_queue(it.queue);
  it.broker.declare_queue(it.queue, {.text_arguments = {{"x-dead-letter-exchange", ""},
                                                        {"x-dead-letter-routing-key", dead}}});
  it.publish({"ack", "reject", "retry", "ack", "reject", "ack"});
  Lope lope(it.options("    batch: { size: 6, wait: 10s }\n    retry: { delay: 30s }\n"));
  REQUIRE(it.wait_for("batch", 1));
  CHECK(eventually(5s, [&] { return it.broker.message_count(dead) == 2; }));
  const auto retried = lope.wait_for_line("message retried");
  REQUIRE(retried);
  CHECK(field(*retried, "message_id") == "m2");
  CHECK(lope.stop() == exited(0));
  CHECK(it.sorted_lines("done") == std::vector<std::string>{"m0", "m3", "m5"});
  CHECK(ids_of(it.broker.drain(dead)) == std::vector<std::string>{"m1", "m4"});
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("a handler without handle_batch gets its messages one by one", "[broker][batch]") {
  Scripted it;
  Lope lope(it.options("    batch: { size: 10, wait: 20m }\n"));
  REQUIRE(lope.wait_ready());
  it.broker.publish(it.queue, "ack", "one");
  CHECK(it.wait_done("one"));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a batch goes when the prefetch lets no more come", "[broker][batch]") {
  Gathered it;
  it.publish(std::vector<std::string>(6, "ack"));
  Lope lope(it.options("    batch: { size: 10, wait: 20m }\n    prefetch: 3\n"));
  REQUIRE(it.wait_for("batch", 2));
  for (const std::string& batch : it.lines("batch")) CHECK(words_in(batch) == 3);
  CHECK(lope.stop() == exited(0));
  CHECK(it.lines("done").size() == 6);
}

TEST_CASE("a batch that waits to be full is handed back at a drain", "[broker][batch]") {
  Gathered it;
  Lope lope(it.options("    batch: { size: 10, wait: 20m }\n"));
  REQUIRE(lope.wait_ready());
  it.publish({"ack", "ack"});
  REQUIRE(eventually(5s, [&] { return it.broker.message_count(it.queue) == 0; }));
  CHECK(lope.stop(5s) == exited(0));
  CHECK(it.broker.message_count(it.queue) == 2);
  CHECK(it.lines("batch").empty());
}

TEST_CASE("of a batch that a worker died in, only the guilty one is charged", "[broker][batch]") {
  Gathered it;
  it.publish({"ack", "ack", "segv", "ack", "reject"});
  Lope lope(it.options("    batch: { size: 5, wait: 10s }\n    workers: 2\n    crashes: 1\n"));
  const auto charged = lope.wait_for_line("message given up");
  REQUIRE(charged);
  CHECK(field(*charged, "message_id") == "m2");
  CHECK(field(*charged, "reason") == "its worker died: SIGSEGV");
  CHECK(eventually(10s, [&] { return it.sorted_lines("done").size() >= 5; }));
  CHECK(lope.wait_for_line("message rejected"));
  CHECK(lope.stop() == exited(0));
  // The first two had been done in the batch; then each ran once more, alone. None went back to the
  // broker for that, but the guilty one.
  CHECK(it.sorted_lines("done") == std::vector<std::string>{"m0", "m0", "m1", "m1", "m3"});
  CHECK(lines_with(lope.log(), "message to be run again, alone").size() == 5);
  CHECK(lines_with(lope.log(), "message given up").size() == 1);
  const auto batches = it.lines("batch");
  REQUIRE(batches.size() >= 6);
  for (std::size_t i = 1; i < batches.size(); ++i) CHECK(words_in(batches[i]) == 1);
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(ids_of(it.broker.drain(it.queue + ".dead")) == std::vector<std::string>{"m2", "m4"});
  // Each in a worker of its own: the dead one, those of the five, and at least one more.
  CHECK(lines_with(lope.log(), "worker ready").size() >= 6);
}

TEST_CASE("a worker that does not end after its suspect is killed, and the next suspect runs",
          "[broker][batch]") {
  Gathered it;
  it.publish({"ack", "segv"});
  LopeOptions options = it.options("    batch: { size: 2, wait: 10s }\n    crashes: 1\n");
  const std::string place = "file: ";
  options.groups.insert(options.groups.find(place), "hangs: true, ");
  options.top = "shutdown_timeout: 1s\n";
  Lope lope(options);
  const auto killed = lope.wait_for_line("killing a worker", 20s);
  REQUIRE(killed);
  CHECK(killed->find("it does not end after the message that it ran alone") != std::string::npos);
  const auto charged = lope.wait_for_line("message given up", 20s);
  REQUIRE(charged);
  CHECK(field(*charged, "message_id") == "m1");
  REQUIRE(lope.wait_for_line("worker ready"));
  CHECK(lope.stop() == exited(1));
}

TEST_CASE("of the threads of a dead worker, only the guilty one's message is charged",
          "[broker][batch]") {
  Scripted it;
  Lope lope(it.options("    threads: 4\n    crashes: 1\n"));
  REQUIRE(lope.wait_ready());
  const std::string gate = it.files.file("gate");
  for (const char* id : {"a", "b", "c"}) it.broker.publish(it.queue, "until:" + gate, id);
  for (const char* id : {"a", "b", "c"}) REQUIRE(it.wait_started(id));
  it.broker.publish(it.queue, "segv", "guilty");
  REQUIRE(eventually(
      10s, [&] { return lines_with(lope.log(), "message to be run again, alone").size() == 4; }));
  it.broker.publish(it.queue, "ack", "other");  // behind them, with one worker
  std::ofstream(gate) << "open";
  const auto charged = lope.wait_for_line("message given up");
  REQUIRE(charged);
  CHECK(field(*charged, "message_id") == "guilty");
  for (const char* id : {"a", "b", "c", "other"}) CHECK(it.wait_done(id));
  CHECK(lope.stop() == exited(0));
  CHECK(lines_of_file(it.done).size() == 4);
  CHECK(lines_with(lope.log(), "message given up").size() == 1);
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(ids_of(it.broker.drain(it.queue + ".dead")) == std::vector<std::string>{"guilty"});
}

TEST_CASE("messages to be run alone are handed back at a drain", "[broker][batch]") {
  Scripted it;
  Lope lope(it.options("    threads: 3\n", "shutdown_timeout: 1s\n"));
  REQUIRE(lope.wait_ready());
  it.broker.publish(it.queue, "hang", "a");
  it.broker.publish(it.queue, "hang", "b");
  for (const char* id : {"a", "b"}) REQUIRE(it.wait_started(id));
  it.broker.publish(it.queue, "segv", "c");
  REQUIRE(lope.wait_for_line("message to be run again, alone"));
  // The first of them hangs again, alone.
  REQUIRE(eventually(10s, [&] { return lines_of_file(it.started).size() == 4; }));
  CHECK(lope.stop(10s) == exited(1));
  CHECK(ids_of(it.broker.drain(it.queue)) == std::vector<std::string>{"a", "b", "c"});
}

TEST_CASE("suspects whose connection is lost come again, and nothing of them stays behind",
          "[broker][batch]") {
  Gathered it;
  const std::string gate = it.files.file("gate");
  Lope lope(it.options("    batch: { size: 4, wait: 20m }\n    workers: 2\n    crashes: 1\n"));
  REQUIRE(lope.wait_ready());
  REQUIRE(eventually(10s, [&] { return lope.process().count_lines("worker ready") == 2; }));
  // The second worker begins nothing that it is given.
  const auto ready = lines_with(lope.log(), " worker=1 worker_pid=");
  REQUIRE(ready.size() == 1);
  const pid_t stopped = std::stoi(field(ready[0], "worker_pid"));
  REQUIRE(::kill(stopped, SIGSTOP) == 0);

  it.publish({"segv", "until:" + gate, "ack", "ack"});
  // The first worker dies of them. Then m0 is with the second, m1 runs alone in the first's
  // successor, and m2 and m3 wait.
  REQUIRE(it.wait_for("done", 1));
  it.broker.close_all_connections();
  const auto back = lope.wait_for_line("deliveries go back to the broker");
  REQUIRE(back);
  CHECK(field(*back, "not_begun") == "3");
  CHECK(field(*back, "running") == "1");
  REQUIRE(::kill(stopped, SIGCONT) == 0);
  // It was for one message, and that is gone: a worker that can be used takes its place.
  CHECK(eventually(10s, [&] { return !is_alive(stopped); }));

  REQUIRE(lope.wait_for_line("] consuming ", 5s));
  it.publish({"ack", "ack", "ack", "ack"}, "other");
  std::ofstream(gate) << "open";
  REQUIRE(it.wait_for("done", 8));
  CHECK(lope.wait_for_line("message given up"));
  CHECK(lope.stop() == exited(0));
  CHECK(it.sorted_lines("done") ==
        std::vector<std::string>{"m1", "m1 redelivered", "m2 redelivered", "m3 redelivered",
                                 "other0", "other1", "other2", "other3"});
  // Twice together, and alone: m1 on the lost connection, each of them on the next. m0 was not
  // begun on the lost one.
  CHECK(it.sorted_lines("batch") == std::vector<std::string>{"m0", "m0 m1 m2 m3", "m0 m1 m2 m3",
                                                             "m1", "m1", "m2", "m3",
                                                             "other0 other1 other2 other3"});
  const std::string log = lope.log();
  CHECK(lines_with(log, "message to be run again, alone").size() == 8);
  CHECK(fields_of(log, "outcome dropped", "message_id") == std::multiset<std::string>{"m1"});
  CHECK(fields_of(log, "message given up", "message_id") == std::multiset<std::string>{"m0"});
  CHECK(fields_of(log, "worker ended", "how").count("SIGSEGV") == 3);
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(ids_of(it.broker.drain(it.queue + ".dead")) == std::vector<std::string>{"m0"});
}
