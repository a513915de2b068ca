// Ending: what becomes of the messages in hand, the exit code, and that nothing is left behind.
#include <signal.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <future>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/scripted.h"
#include "support/talk.h"

using namespace lope::test;
using Clock = std::chrono::steady_clock;

namespace {

// The counts of the supervisor's last line.
struct Ledger {
  std::string finished, handed_back, killed, exit;
  friend bool operator==(const Ledger&, const Ledger&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Ledger& ledger) {
    return out << "finished=" << ledger.finished << " handed_back=" << ledger.handed_back
               << " killed=" << ledger.killed << " exit=" << ledger.exit;
  }
};

Ledger ledger_of(const Lope& lope) {
  const auto lines = lines_with(lope.log(), "] ledger ");
  if (lines.size() != 1) return {std::to_string(lines.size()) + " ledgers", "", "", ""};
  return {field(lines[0], "finished"), field(lines[0], "handed_back"), field(lines[0], "killed"),
          field(lines[0], "exit")};
}

}  // namespace

TEST_CASE("a hundred times TERM to the process group under load: nothing lost, nothing twice",
          "[broker][shutdown]") {
  // Several daemons at a time, each with a queue and a load of its own: most of a start is waiting.
  constexpr int kAtATime = 4;
  constexpr int kStops = 25;
  Broker broker;
  struct Lane {
    std::string queue;
    std::string path;
    std::vector<std::string> problems;
    std::vector<std::string> confirmed;
    int finished = 0;     // in the drains: these ran when TERM came
    int handed_back = 0;  // and these did not yet
  };
  const TempDir files;
  std::vector<Lane> lanes(kAtATime);
  for (int i = 0; i < kAtATime; ++i) {
    lanes[i].queue = broker.make_queue("stop");
    lanes[i].path = files.file("ids" + std::to_string(i));
  }
  const auto options_of = [&](const Lane& lane) {
    return LopeOptions{.broker = broker.url(),
                       .groups =
                           "  stop-load:\n"
                           "    queue: " +
                           lane.queue +
                           "\n"
                           "    handler: append_id\n"
                           "    options: { file: " +
                           lane.path +
                           ", work_us: 1000 }\n"
                           "    workers: 2\n"
                           "    prefetch: 50\n"};
  };
  const auto run_lane = [&](Lane& lane) {
    const LopeOptions options = options_of(lane);
    // Every line is an id of seven digits and its newline.
    const auto size = [&] { return read_file(lane.path).size(); };
    RatePublisher load(broker.url(), 1000, 600s, [&](int i) {
      return Publication{
          .routing_key = lane.queue, .body = "x", .message_id = std::to_string(1'000'000 + i)};
    });
    for (int stop = 0; stop < kStops; ++stop) {
      const auto problem = [&](const std::string& what, const Lope& lope) {
        lane.problems.push_back("stop " + std::to_string(stop) + ": " + what + "\n" + lope.log());
      };
      Lope lope(options);
      const std::size_t before = size();
      // A different moment each time: after the first message, the seventh, …
      const std::size_t wanted = before + 8 * (1 + static_cast<std::size_t>(stop) * 7);
      if (!eventually(30s, [&] { return size() >= wanted; })) problem("does not consume", lope);
      const auto ended = lope.stop(20s);
      if (ended != exited(0)) problem("did not exit 0", lope);
      if (!lope.all_gone()) problem("left processes behind", lope);
      const Ledger ledger = ledger_of(lope);
      if (ledger.killed != "0" || ledger.exit != "0") {
        problem("the ledger is wrong", lope);
        continue;
      }
      lane.finished += std::stoi(ledger.finished);
      lane.handed_back += std::stoi(ledger.handed_back);
    }
    load.stop();
    load.join();
    lane.confirmed = load.confirmed();
  };
  std::vector<std::future<void>> running;
  for (Lane& lane : lanes) {
    running.push_back(std::async(std::launch::async, [&] { run_lane(lane); }));
  }
  for (auto& each : running) each.get();
  for (const Lane& lane : lanes) {
    CHECK(lane.problems == std::vector<std::string>{});
    CHECK(lane.finished >= kStops);
    CHECK(lane.handed_back >= kStops);
    Lope last(options_of(lane));
    CHECK(eventually(60s, [&] {
      return broker.message_count(lane.queue) == 0 &&
             compare_ledger(lane.confirmed, lines_of_file(lane.path)).missing.empty();
    }));
    CHECK(last.stop() == exited(0));
    const LedgerReport report = compare_ledger(lane.confirmed, lines_of_file(lane.path));
    CHECK(report.missing.empty());
    CHECK(report.duplicates.empty());
    CHECK(broker.message_count(lane.queue) == 0);
  }
}

// A channel keeps acks of a quorum queue to itself while many are on their way, and loses them when
// it is closed then: most when the log that all quorum queues share has much to write.
TEST_CASE("TERM while a quorum queue is busy: nothing that was handled comes again",
          "[broker][shutdown]") {
  const bool single = GENERATE(false, true);  // active consumer
  CAPTURE(single);
  constexpr int kStops = 8;
  constexpr int kEach = 1500;
  Broker broker;
  const std::string queue = broker.unique_queue("busy");
  const std::string other = broker.make_queue(
      "other",
      {.text_arguments = {{"x-queue-type", "quorum"}}, .number_arguments = {{"x-max-length", 50}}});
  const TempDir files;
  const std::string path = files.file("ids");
  const LopeOptions options{
      .broker = broker.url(),
      .groups = "  busy:\n    queue: " + queue +
                "\n    declare: { type: quorum, arguments: { x-single-active-consumer: " +
                (single ? "true" : "false") +
                " } }\n    handler: append_id\n    options: { file: " + path +
                ", work_us: 500 }\n    workers: 2\n    threads: 8\n    prefetch: 500\n",
      .top = "log: { level: info }\n"};
  {
    Lope first(options);
    REQUIRE(first.wait_ready());
    CHECK(first.stop() == exited(0));
  }
  Publisher publisher = broker.publisher();
  publisher.publish_many(kStops * kEach, [&](int i) {
    return Publication{
        .routing_key = queue, .body = "x", .message_id = std::to_string(1'000'000 + i)};
  });
  const std::string large(20'000, 'x');
  RatePublisher load(broker.url(), 1000, 600s,
                     [&](int) { return Publication{.routing_key = other, .body = large}; });
  // Every line is an id of seven digits and its newline.
  const auto handled = [&] { return static_cast<int>(read_file(path).size()) / 8; };
  int busy = 0;  // stops
  for (int stop = 0; stop < kStops; ++stop) {
    Lope lope(options);
    REQUIRE(lope.wait_ready());
    const int wanted = std::min(handled() + kEach / 2, kStops * kEach);
    CHECK(eventually(30s, [&] { return handled() >= wanted; }));
    if (broker.message_count(queue).value_or(0) > 0) ++busy;
    CHECK(lope.stop() == exited(0));
  }
  load.stop();
  load.join();
  CHECK(busy >= kStops / 2);
  CHECK(load.confirmed().size() > 100);
  Lope last(options);
  CHECK(eventually(60s, [&] { return handled() >= kStops * kEach && broker.is_empty(queue); }));
  CHECK(last.stop() == exited(0));
  auto lines = lines_of_file(path);
  std::sort(lines.begin(), lines.end());
  const auto twice = lines.end() - std::unique(lines.begin(), lines.end());
  CHECK(twice == 0);
  CHECK(static_cast<int>(lines.size()) - twice == kStops * kEach);
}

TEST_CASE("TERM takes nothing from a handler whose queue goes with its last consumer",
          "[broker][shutdown]") {
  Scripted it;
  it.broker.delete_queue(it.queue);
  it.broker.declare_queue(it.queue, {.auto_delete = true});
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  it.broker.publish(it.queue, "ack", "first");
  REQUIRE(it.wait_done("first"));
  it.broker.publish(it.queue, "sleep:1000", "running");
  REQUIRE(it.wait_started("running"));
  CHECK(lope.stop() == exited(0));
  CHECK(it.wait_done("running"));
  CHECK_FALSE(it.broker.queue_exists(it.queue));
  CHECK(lope.process().count_lines("the last acks may not have arrived") == 0);
}

TEST_CASE("TERM hands back at once what no handler has begun, and lets a running one finish",
          "[broker][shutdown]") {
  Scripted it;
  Lope lope(it.options("    prefetch: 20\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  // Short ones first: then the worker is given messages ahead.
  publisher.publish_many(100, [&](int i) {
    return Publication{
        .routing_key = it.queue, .body = "ack", .message_id = "a" + std::to_string(i)};
  });
  REQUIRE(it.wait_done("a99"));
  publisher.publish(it.queue, "sleep:4000", "long");
  REQUIRE(it.wait_started("long"));
  publisher.publish_many(5, [&](int i) {
    return Publication{
        .routing_key = it.queue, .body = "ack", .message_id = "b" + std::to_string(i)};
  });
  REQUIRE(eventually(5s, [&] { return it.broker.message_count(it.queue) == 0; }));

  SECTION("to the whole process group") { lope.process().signal_group(SIGTERM); }
  SECTION("to the supervisor alone") { lope.process().signal(SIGTERM); }
  SECTION("INT to the whole process group, as Ctrl-C does it") {
    lope.process().signal_group(SIGINT);
  }

  std::vector<Received> taken;
  CHECK(eventually(2s, [&] {
    for (Received& message : it.broker.drain(it.queue)) taken.push_back(std::move(message));
    return taken.size() == 5;
  }));
  CHECK(ids_of(taken) == std::vector<std::string>{"b0", "b1", "b2", "b3", "b4"});
  CHECK_FALSE(it.wait_done("long", 0ms));  // it still runs
  CHECK_FALSE(lope.process().wait_exit(0ms));

  CHECK(lope.process().wait_exit(10s) == exited(0));
  CHECK(ledger_of(lope) == Ledger{"1", "5", "0", "0"});
  CHECK(lines_of_file(it.done).size() == 101);
  CHECK(it.wait_done("long", 0ms));
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(lope.all_gone());
}

// The messages stand in a line that only this daemon knows: at a worker, or here.
TEST_CASE("with auto_ack TERM loses nothing that was acked, begun or not", "[broker][shutdown]") {
  Scripted it;
  const int workers = GENERATE(1, 2);
  CAPTURE(workers);
  Lope lope(it.options(
      "    auto_ack: true\n    prefetch: 100\n    workers: " + std::to_string(workers) + "\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  // Short ones first: then the workers are given messages ahead.
  publisher.publish_many(200, [&](int i) {
    return Publication{
        .routing_key = it.queue, .body = "ack", .message_id = "a" + std::to_string(i)};
  });
  REQUIRE(eventually(10s, [&] { return lines_of_file(it.done).size() == 200; }));
  // One for each worker that takes long; with two, one is done sooner and could have the rest.
  std::vector<std::string> bodies(30, "ack");
  bodies[0] = "sleep:2000";
  if (workers == 2) bodies[1] = "sleep:1000";
  publisher.publish_many(static_cast<int>(bodies.size()), [&](int i) {
    return Publication{.routing_key = it.queue,
                       .body = bodies[static_cast<std::size_t>(i)],
                       .message_id = "b" + std::to_string(i)};
  });
  REQUIRE(it.wait_started("b0"));
  REQUIRE(eventually(5s, [&] { return it.broker.message_count(it.queue) == 0; }));

  SECTION("as it is") {}
  SECTION("when the group is paused") { told(lope, {"pause", "scripted"}); }
  lope.process().signal_group(SIGTERM);
  SECTION("when the connection is lost meanwhile") {
    REQUIRE(lope.wait_for_line("draining"));
    it.broker.close_all_connections();
  }

  CHECK(lope.process().wait_exit(15s) == exited(0));
  CHECK(lope.process().count_lines("message given up (auto_ack)") == 0);
  CHECK(lines_of_file(it.done).size() + it.broker.drain(it.queue).size() == 230);
  CHECK(lines_of_file(it.done).size() > 200 + static_cast<std::size_t>(workers));
}

TEST_CASE("a handler that never returns is gone at shutdown_timeout, its message back in the queue",
          "[broker][shutdown]") {
  Scripted it;
  Lope lope(it.options("", "shutdown_timeout: 2s\n"));
  REQUIRE(lope.wait_ready());
  it.broker.publish(it.queue, "hang", "h");
  REQUIRE(it.wait_started("h"));
  const auto told = Clock::now();
  CHECK(lope.stop(10s) == exited(1));
  const auto took = Clock::now() - told;
  CHECK(took >= 1900ms);
  CHECK(took <= 3000ms);
  CHECK(ledger_of(lope) == Ledger{"0", "0", "1", "1"});
  CHECK(lope.all_gone());
  const auto left = it.broker.drain(it.queue);
  CHECK(ids_of(left) == std::vector<std::string>{"h"});
  CHECK(lines_of_file(it.started).size() == 1);
}

TEST_CASE("a second TERM or INT leaves one second", "[broker][shutdown]") {
  Scripted it;
  Lope lope(it.options("    workers: 2\n    prefetch: 2\n"));
  REQUIRE(lope.wait_ready());
  it.broker.publish(it.queue, "hang", "h");
  it.broker.publish(it.queue, "sleep:300", "short");
  REQUIRE(it.wait_started("h"));
  REQUIRE(it.wait_started("short"));
  lope.process().signal_group(SIGTERM);
  REQUIRE(lope.wait_for_line("stopping"));
  CHECK_FALSE(lope.process().wait_exit(1500ms));  // the first leaves shutdown_timeout, 30 s
  const auto told = Clock::now();
  const int second = GENERATE(SIGTERM, SIGINT);
  lope.process().signal_group(second);
  CHECK(lope.process().wait_exit(10s) == exited(1));
  const auto took = Clock::now() - told;
  CHECK(took >= 900ms);
  CHECK(took <= 2000ms);
  CHECK(ledger_of(lope) == Ledger{"1", "0", "1", "1"});
  CHECK(lope.all_gone());
  CHECK(ids_of(it.broker.drain(it.queue)) == std::vector<std::string>{"h"});
  CHECK(lines_of_file(it.done) == std::vector<std::string>{"short"});
}

TEST_CASE("QUIT stops now, and what is not acknowledged goes back", "[broker][shutdown]") {
  Scripted it;
  Lope lope(it.options("    prefetch: 3\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  publisher.publish(it.queue, "ack", "done");
  REQUIRE(it.wait_done("done"));
  publisher.publish(it.queue, "hang", "h");
  publisher.publish(it.queue, "ack", "w1");
  publisher.publish(it.queue, "ack", "w2");
  REQUIRE(it.wait_started("h"));
  REQUIRE(eventually(5s, [&] { return it.broker.message_count(it.queue) == 0; }));
  const auto told = Clock::now();
  SECTION("to the whole process group") { lope.process().signal_group(SIGQUIT); }
  SECTION("to the supervisor alone") { lope.process().signal(SIGQUIT); }
  CHECK(lope.process().wait_exit(5s) == exited(1));
  CHECK(Clock::now() - told <= 1000ms);
  CHECK(ledger_of(lope) == Ledger{"0", "2", "1", "1"});
  CHECK(lope.all_gone());
  CHECK(eventually(5s, [&] { return it.broker.message_count(it.queue) == 3; }));
  CHECK(ids_of(it.broker.drain(it.queue)) == std::vector<std::string>{"h", "w1", "w2"});
}

TEST_CASE("with nothing in hand every way of stopping exits 0 at once", "[broker][shutdown]") {
  Scripted it;
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  const int signal = GENERATE(SIGTERM, SIGINT, SIGQUIT);
  const auto told = Clock::now();
  lope.process().signal_group(signal);
  CHECK(lope.process().wait_exit(5s) == exited(0));
  CHECK(Clock::now() - told <= 2000ms);
  CHECK(ledger_of(lope) == Ledger{"0", "0", "0", "0"});
  CHECK(lope.all_gone());
}

TEST_CASE("TERM ends a daemon whose broker is not there", "[broker][shutdown]") {
  Lope lope({.groups = "  nobody:\n    handler: append_id\n    options: { file: /dev/null }\n"});
  REQUIRE(lope.wait_for_line("cannot connect"));
  const auto told = Clock::now();
  CHECK(lope.stop(10s) == exited(0));
  CHECK(Clock::now() - told <= 2000ms);
  CHECK(lope.all_gone());
}

TEST_CASE("a handler that asks hears of the drain, and may end early", "[broker][shutdown]") {
  Scripted it;
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  it.broker.publish(it.queue, "stopping", "s");
  REQUIRE(it.wait_started("s"));
  const auto told = Clock::now();
  CHECK(lope.stop(10s) == exited(0));
  CHECK(Clock::now() - told <= 2000ms);
  CHECK(ledger_of(lope) == Ledger{"1", "0", "0", "0"});
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("a message that waits for its next attempt gets it from the next daemon",
          "[broker][shutdown]") {
  Scripted it;
  const LopeOptions options = it.options("    retry: { delay: 2s, jitter: 0 }\n", kWithRelay);
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  it.broker.publish(it.queue, "retry", "again");
  REQUIRE(lope.wait_for_line("message retried"));
  const auto told = Clock::now();
  CHECK(lope.stop(10s) == exited(0));
  CHECK(Clock::now() - told <= 2000ms);
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(lines_of_file(it.started).size() == 1);
  Lope next(options);
  const auto line = next.wait_for_line("message retried", 10s);
  REQUIRE(line);
  CHECK(field(*line, "message_id") == "again");
  CHECK(field(*line, "attempt") == "2");
  CHECK(next.stop(10s) == exited(0));
}

TEST_CASE("a supervisor killed with SIGKILL leaves nothing behind and loses nothing",
          "[broker][shutdown]") {
  Scripted it;
  Lope lope(it.options("    workers: 3\n    prefetch: 5\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  for (const char* id : {"h1", "h2", "h3", "w4", "w5"}) publisher.publish(it.queue, "hang", id);
  REQUIRE(it.wait_started("h1"));
  REQUIRE(it.wait_started("h2"));
  REQUIRE(it.wait_started("h3"));
  const auto consumers = lope.consumers();
  const auto workers = lope.workers();
  REQUIRE(consumers.size() == 1);
  REQUIRE(workers.size() == 3);
  lope.process().signal(SIGKILL);
  CHECK(lope.process().wait_exit() == killed_by(SIGKILL));
  CHECK(lope.all_gone(3s));
  for (const pid_t pid : workers) CHECK_FALSE(is_alive(pid));
  CHECK_FALSE(is_alive(consumers[0]));
  CHECK(eventually(10s, [&] { return it.broker.message_count(it.queue) == 5; }));
  CHECK(ids_of(it.broker.drain(it.queue)) ==
        std::vector<std::string>{"h1", "h2", "h3", "w4", "w5"});
}

TEST_CASE("a consumer killed with SIGKILL is replaced, and loses nothing", "[broker][shutdown]") {
  Broker broker;
  const std::string queue = broker.make_queue("stop");
  const std::string other = broker.make_queue("other");
  const TempDir files;
  const auto group = [&](const std::string& name, const std::string& from) {
    return "  " + name + ":\n    queue: " + from +
           "\n    handler: append_id\n    options: { file: " + files.file(name) +
           ", work_us: 1000 }\n    workers: 2\n";
  };
  Lope lope({.broker = broker.url(), .groups = group("victim", queue) + group("other", other)});
  REQUIRE(lope.wait_ready());
  const auto other_connection = broker.connections_named("lope other");
  RatePublisher load(broker.url(), 500, 6s, [&](int i) {
    return Publication{.routing_key = queue, .body = "x", .message_id = std::to_string(i)};
  });
  for (int kill = 1; kill <= 3; ++kill) {
    REQUIRE(eventually(20s, [&] { return load.sent() >= kill * 700; }));
    pid_t victim = 0;
    for (const ProcessInfo& info : children_of(lope.pid())) {
      if (info.command.ends_with(" victim")) victim = info.pid;
    }
    REQUIRE(victim > 0);
    const auto its_workers = children_of(victim);
    REQUIRE(its_workers.size() == 2);
    REQUIRE(::kill(victim, SIGKILL) == 0);
    const auto line = lope.wait_for_line("consumer to be started again");
    REQUIRE(line);
    CHECK(field(*line, "group") == "victim");
    CHECK(line->find("SIGKILL") != std::string::npos);
    REQUIRE(lope.wait_for_line("] consuming "));
    for (const ProcessInfo& worker : its_workers) CHECK_FALSE(is_alive(worker.pid));
  }
  load.join();
  CHECK(eventually(30s, [&] {
    return compare_ledger(load.confirmed(), lines_of_file(files.file("victim"))).missing.empty();
  }));
  CHECK(broker.connections_named("lope other") == other_connection);
  CHECK(lope.stop() == exited(0));
  CHECK(lope.all_gone());
  CHECK(broker.message_count(queue) == 0);
}
