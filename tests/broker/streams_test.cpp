// Streams: where reading begins, how far it has come and what keeps that, and what becomes of a
// message that cannot be put back.
#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/courier.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope::test;

namespace {

bool campaign() { return std::getenv("LOPE_CAMPAIGN") != nullptr; }

// A stream, and a group `courier` that reads it; its position outlives each daemon.
struct Streamed : Couriered {
  Streamed() : Couriered("stream") {}
  ~Streamed() {
    broker.delete_queue(retry);
    broker.delete_queue(retry + ".dead");
  }

  const std::string retry = queue + ".courier.retry";
  const std::string state = files.file("state");
  const std::string kept = state + "/streams/courier/" + queue + ".offset";
  const std::string top = kWithRelay + ("state_dir: " + state + "\n");

  LopeOptions reading(const std::string& offset, const std::string& more = {},
                      const std::string& more_top = {}) const {
    return options("    type: stream\n    offset: " + offset + "\n" + more, top + more_top);
  }
  // m0, m1, … with that body.
  void fill(int from, int to, const std::string& body = "ack") {
    broker.publisher().publish_many(to - from, [&](int i) {
      return Publication{.routing_key = queue, .body = body, .message_id = id(from + i)};
    });
  }
  static std::string id(int number) { return "m" + std::to_string(number); }

  std::vector<std::string> handled() const {
    std::vector<std::string> ids;
    for (const CourierEnd& end : ends()) {
      if (end.outcome == "ack") ids.push_back(end.id);
    }
    return ids;
  }
  bool wait_handled(std::size_t count, std::chrono::milliseconds deadline = 30s) const {
    return eventually(deadline, [&] { return handled().size() >= count; });
  }
  // A line of the file that keeps the position; empty when there is none.
  std::string kept_line(const std::string& word) const {
    for (const std::string& line : lines_of_file(kept)) {
      if (line.starts_with(word + " ")) return line.substr(word.size() + 1);
    }
    return {};
  }
  // So many messages are kept as read, and none of them as open.
  bool wait_kept(int count) const {
    return eventually(30s, [&] {
      return kept_line("seen") == std::to_string(count - 1) && kept_line("open").empty();
    });
  }
};

std::vector<std::string> ids(int from, int to) {
  std::vector<std::string> all;
  for (int i = from; i < to; ++i) all.push_back(Streamed::id(i));
  return all;
}

std::vector<std::string> sorted(std::vector<std::string> ids) {
  std::ranges::sort(ids);
  return ids;
}

}  // namespace

TEST_CASE("reading begins where offset says", "[broker][streams]") {
  Streamed streamed;
  for (int i = 0; i < 10; ++i) streamed.publish("ack", Streamed::id(i));  // each a part of its own
  struct Row {
    std::string offset;
    int first;  // of the ten; 10: none of them
  };
  const Row row = GENERATE(Row{"first", 0}, Row{"7", 7}, Row{"next", 10}, Row{"last", -1},
                           Row{"2026-01-31T00:00:00Z", 0});
  INFO(row.offset);
  Lope lope(streamed.reading(row.offset));
  REQUIRE(lope.wait_ready());
  streamed.fill(10, 11);
  REQUIRE(streamed.wait_acked("m10", 30s));
  if (row.first >= 0) {
    CHECK(streamed.handled() == ids(row.first, 11));
  } else {  // the last part that was written: how long that is, is the broker's affair
    CHECK(streamed.handled().size() >= 2);
    CHECK(streamed.handled().size() < 11);
  }
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a group goes on where it stopped, in order and without doubles", "[broker][streams]") {
  Streamed streamed;
  {
    Lope lope(streamed.reading("next"));
    REQUIRE(lope.wait_ready());
    CHECK(lope.stop() == exited(0));
  }
  // What comes after `next` was asked for the first time is not passed over, though none had come.
  CHECK(streamed.kept_line("begin").starts_with("time "));
  streamed.fill(0, 100);
  {
    Lope lope(streamed.reading("next"));
    REQUIRE(lope.wait_ready());
    REQUIRE(streamed.wait_handled(100));
    CHECK(lope.stop() == exited(0));
  }
  CHECK(streamed.kept_line("seen") == "99");
  streamed.fill(100, 150);
  Lope lope(streamed.reading("first"));  // counts no more
  REQUIRE(lope.wait_ready());
  REQUIRE(streamed.wait_handled(150));
  CHECK(streamed.handled() == ids(0, 150));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("what is tried again, or given up, is in queues of the group's own",
          "[broker][streams]") {
  Streamed streamed;
  streamed.fill(0, 3);
  streamed.publish("retry 2 0", "again");
  streamed.publish("retry 1 1000", "later");
  streamed.publish("reject", "never");
  streamed.publish("segv", "deadly");
  streamed.fill(3, 5);
  Lope lope(streamed.reading("first", "    retry: { delay: 0s }\n    crashes: 2\n"));
  REQUIRE(lope.wait_ready());
  CHECK(streamed.wait_acked("again", 30s));
  CHECK(streamed.wait_acked("later", 30s));
  const auto dead = streamed.take(streamed.retry + ".dead", 2, 30s);
  CHECK(ids_of(dead) == std::vector<std::string>{"deadly", "never"});
  CHECK(streamed.attempts_of("again") == std::vector<int>{1, 2, 3});
  CHECK(streamed.attempts_of("later") == std::vector<int>{1, 2});
  CHECK(streamed.attempts_of("never") == std::vector<int>{1});
  CHECK(streamed.attempts_of("deadly") == std::vector<int>{1, 2});
  for (const Received& each : dead) {
    CHECK(each.header("x-lope-dead-queue") == streamed.retry);
    CHECK_FALSE(each.has_header("x-stream-offset"));
  }
  CHECK(streamed.wait_kept(9));
  CHECK(lope.stop() == exited(0));
  CHECK(eventually(30s, [&] { return streamed.broker.is_empty(streamed.retry); }));
  // Nothing was added to the stream.
  Lope second(streamed.reading("first"));
  REQUIRE(second.wait_ready());
  streamed.fill(9, 10);
  REQUIRE(streamed.wait_acked("m9", 30s));
  CHECK(streamed.kept_line("seen") == "8");
  CHECK(second.stop() == exited(0));
  CHECK(streamed.kept_line("seen") == "9");
}

TEST_CASE("one that waits for another with its key does so outside the stream",
          "[broker][streams][dedup]") {
  Streamed streamed;
  const std::string gate = streamed.files.file("gate");
  Lope lope(streamed.reading("first", "    dedup: { key: header:k }\n    workers: 2\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = streamed.broker.publisher();
  const auto publish = [&](const std::string& id, const std::string& body) {
    publisher.publish(
        {.routing_key = streamed.queue, .body = body, .message_id = id, .headers = {{"k", "v"}}});
  };
  publish("one", "until " + gate);
  REQUIRE(streamed.wait_attempts("one", 1));
  publish("two", "ack");
  REQUIRE(eventually(20s, [&] { return group_of(lope)["delayed"] == 1; }));
  streamed.files.write("gate", "");
  REQUIRE(lope.wait_for_line("message is a double", 20s));
  CHECK(lope.stop() == exited(0));
  CHECK(streamed.kept_line("seen") == "1");
  CHECK(streamed.kept_line("open").empty());
  CHECK(streamed.attempts_of("two").empty());
  CHECK(eventually(30s, [&] { return streamed.broker.is_empty(streamed.retry); }));
}

TEST_CASE("a drain hands back what was not begun, and nothing comes twice", "[broker][streams]") {
  Streamed streamed;
  const std::string gate = streamed.files.file("gate");
  streamed.fill(0, 1, "until " + gate);
  streamed.fill(1, 40, "sleep 5");
  {
    Lope lope(streamed.reading("first", "    workers: 2\n    prefetch: 20\n"));
    REQUIRE(lope.wait_ready());
    REQUIRE(streamed.wait_handled(5));
    lope.process().signal_group(SIGTERM);
    REQUIRE(lope.wait_for_line("draining"));
    std::ofstream(gate) << "open";
    CHECK(lope.process().wait_exit(40s) == exited(0));
  }
  CHECK(streamed.handled().size() < 40);
  Lope lope(streamed.reading("first", "    workers: 2\n    prefetch: 20\n"));
  REQUIRE(lope.wait_ready());
  REQUIRE(streamed.wait_handled(40));
  CHECK(streamed.wait_kept(40));
  CHECK(sorted(streamed.handled()) == sorted(ids(0, 40)));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a pause and a lost connection lose nothing and double nothing", "[broker][streams]") {
  Streamed streamed;
  streamed.fill(0, 50, "sleep 5");
  Lope lope(streamed.reading("first", "    workers: 2\n"));
  REQUIRE(lope.wait_ready());
  REQUIRE(streamed.wait_handled(5));
  told(lope, {"pause", "courier"});
  REQUIRE(lope.wait_for_line("messages handed back", 30s));
  told(lope, {"resume", "courier"});
  REQUIRE(streamed.wait_handled(15));
  streamed.broker.close_all_connections();
  REQUIRE(lope.wait_for_line("connection lost"));
  REQUIRE(streamed.wait_handled(50));
  streamed.fill(50, 60);
  REQUIRE(streamed.wait_handled(60));
  CHECK(streamed.wait_kept(60));
  CHECK(sorted(streamed.handled()) == sorted(ids(0, 60)));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a killed consumer doubles only what is behind the kept position", "[broker][streams]") {
  Streamed streamed;
  streamed.fill(0, 400, "sleep 2");
  Lope lope(streamed.reading("first"));
  REQUIRE(lope.wait_ready());
  REQUIRE(eventually(30s, [&] { return std::atoi(streamed.kept_line("seen").c_str()) > 50; }));
  const int kept = std::atoi(streamed.kept_line("open").c_str());
  const auto consumers = lope.consumers();
  REQUIRE(!consumers.empty());
  for (const pid_t pid : consumers) ::kill(pid, SIGKILL);
  REQUIRE(
      eventually(30s, [&] { return streamed.handled().size() >= 400 && streamed.wait_kept(400); }));
  std::map<std::string, int> times;
  for (const std::string& each : streamed.handled()) ++times[each];
  CHECK(times.size() == 400);
  for (int i = 0; i < kept; ++i) CHECK(times[Streamed::id(i)] == 1);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("reading a stream goes on when the broker is back", "[broker][streams]") {
  Streamed streamed;
  streamed.fill(0, 100, "sleep 5");
  Lope lope(streamed.reading("first"));
  REQUIRE(lope.wait_ready());
  REQUIRE(streamed.wait_handled(5));
  streamed.broker.stop_node();
  streamed.broker.start_node();
  REQUIRE(streamed.wait_handled(100, 60s));
  streamed.fill(100, 110);
  REQUIRE(streamed.wait_handled(110));
  CHECK(streamed.wait_kept(110));
  CHECK(streamed.handled() == ids(0, 110));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a stream that was deleted and made again is read from its first message",
          "[broker][streams]") {
  Streamed streamed;
  streamed.fill(0, 100);
  {
    Lope lope(streamed.reading("first"));
    REQUIRE(lope.wait_ready());
    REQUIRE(streamed.wait_handled(100));
    CHECK(lope.stop() == exited(0));
  }
  streamed.broker.delete_queue(streamed.queue);
  streamed.broker.declare_queue(streamed.queue, {.text_arguments = {{"x-queue-type", "stream"}}});
  const int count = GENERATE(150, 10);  // longer than the old one, shorter
  streamed.fill(1000, 1000 + count);
  Lope lope(streamed.reading("next"));
  REQUIRE(lope.wait_ready());
  REQUIRE(streamed.wait_handled(static_cast<std::size_t>(100 + count), 90s));
  CHECK(lope.process().count_lines("another stream of the same name") == 1);
  CHECK(streamed.wait_kept(count));
  auto all = ids(0, 100);
  for (const std::string& each : ids(1000, 1000 + count)) all.push_back(each);
  CHECK(streamed.handled() == all);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a queue and a stream in one group, and bodies of every size", "[broker][streams]") {
  Streamed streamed;
  const std::string plain = streamed.broker.make_queue("plain");
  auto options = streamed.options();
  options.top = streamed.top;
  options.groups =
      "  courier:\n    queues:\n      - " + plain + "\n      - { name: " + streamed.queue +
      ", type: stream, offset: first, prefetch: 3 }\n    handler: describe\n    options: { file: " +
      streamed.file + " }\n    workers: 2\n";
  const std::vector<std::size_t> sizes = {0, 1, 4096, 131'064, 262'129, 4 << 20};
  for (const std::size_t size : sizes) {
    streamed.publish(std::string(size, 'b'), "s" + std::to_string(size));
    streamed.broker.publish(plain, std::string(size, 'b'), "p" + std::to_string(size));
  }
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  CHECK(streamed.wait_kept(static_cast<int>(sizes.size())));
  CHECK(eventually(30s, [&] { return streamed.broker.is_empty(plain); }));
  std::map<std::string, std::string> seen;
  for (const std::string& line : lines_of_file(streamed.file)) {
    const std::size_t at = line.find('=');
    seen[line.substr(0, at)] = line.substr(at + 1);
  }
  for (const std::size_t size : sizes) {
    for (const std::string kind : {"s", "p"}) {
      INFO(kind << size);
      CHECK(seen[kind + std::to_string(size) + ".queue"] == (kind == "s" ? streamed.queue : plain));
      CHECK(seen[kind + std::to_string(size) + ".body"] ==
            seen["p" + std::to_string(size) + ".body"]);
    }
  }
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a queue that is said to be a stream is not read, and keeps its messages",
          "[broker][streams]") {
  Streamed streamed;
  const std::string plain = streamed.broker.make_queue("plain");
  streamed.broker.publish(plain, "ack", "p");
  auto options = streamed.reading("first");
  options.groups =
      "  courier:\n    queue: " + plain +
      "\n    type: stream\n    handler: courier\n    options: { file: " + streamed.file + " }\n";
  Lope lope(options);
  const auto line = lope.wait_for_line("cannot consume", 30s);
  REQUIRE(line);
  CHECK(line->find("invalid arg 'x-stream-offset'") != std::string::npos);
  CHECK(lope.stop() == exited(0));
  CHECK(eventually(10s, [&] { return streamed.broker.message_count(plain) == 1; }));
  streamed.broker.delete_queue(plain + ".courier.retry");
}

TEST_CASE("a position that is damaged, or cannot be kept, is told before anything is read",
          "[broker][streams]") {
  Streamed streamed;
  streamed.fill(0, 1);
  SECTION("damaged") {
    std::filesystem::create_directories(streamed.state + "/streams/courier");
    std::ofstream(streamed.kept) << "seen 5\n";
    Lope lope(streamed.reading("first"));
    const auto line = lope.wait_for_line("cannot start the consumer", 30s);
    REQUIRE(line);
    CHECK(line->find(streamed.kept) != std::string::npos);
    CHECK(streamed.starts().empty());
    // Set right, it goes on.
    std::filesystem::remove(streamed.kept);
    CHECK(streamed.wait_handled(1));
    lope.stop();
  }
  SECTION("no folder to be had") {
    std::ofstream(streamed.state) << "a file";
    Lope lope(streamed.reading("first"));
    const auto line = lope.wait_for_line("cannot start the consumer", 30s);
    REQUIRE(line);
    CHECK(line->find(streamed.state) != std::string::npos);
    CHECK(streamed.starts().empty());
    lope.stop();
  }
}

namespace {

// What `numbers` wrote, worker by worker.
std::vector<std::uint64_t> read_numbers(const TempDir& files) {
  std::vector<std::uint64_t> numbers;
  for (const auto& entry : std::filesystem::directory_iterator(files.file(""))) {
    if (!entry.path().filename().string().starts_with("numbers.")) continue;
    const std::string bytes = read_file(entry.path());
    const std::size_t count = bytes.size() / sizeof(std::uint64_t);
    const std::size_t at = numbers.size();
    numbers.resize(at + count);
    std::memcpy(numbers.data() + at, bytes.data(), count * sizeof(std::uint64_t));
  }
  return numbers;
}

std::size_t highest_number(const TempDir& files) {
  const auto numbers = read_numbers(files);
  return numbers.empty() ? 0 : *std::ranges::max_element(numbers);
}

}  // namespace

// Kills of consumer and workers, cut connections and restarts at random: each message is handled,
// and twice only what was handled between the position that was kept last and a kill.
TEST_CASE("a long stream is read whole through kills and restarts", "[broker][streams]") {
  const std::size_t count = campaign() ? 1'000'000 : 50'000;
  const std::size_t retry_every = 1009;
  const std::size_t crash_every = campaign() ? 50'021 : 10'007;
  Streamed streamed;
  {
    Publisher publisher = streamed.broker.publisher();
    publisher.publish_many(static_cast<int>(count), [&](int i) {
      const auto number = static_cast<std::uint64_t>(i);
      std::string body(sizeof number, '\0');
      std::memcpy(body.data(), &number, sizeof number);
      return Publication{.routing_key = streamed.queue, .body = body};
    });
  }
  auto options = streamed.reading("first");
  options.groups = "  courier:\n    queue: " + streamed.queue +
                   "\n    type: stream\n    offset: first\n    handler: numbers\n    workers: 2\n"
                   "    prefetch: 200\n    crashes: 100\n    retry: { attempts: 20, delay: 0s }\n"
                   "    breaker: false\n"
                   "    options: { file: " +
                   streamed.files.file("numbers") +
                   ", retry_every: " + std::to_string(retry_every) +
                   ", crash_every: " + std::to_string(crash_every) + " }\n";
  options.top += "log: { level: warn }\n";
  const auto seen = [&] { return std::atol(streamed.kept_line("seen").c_str()); };
  std::mt19937 random(campaign() ? std::random_device{}() : 7);
  const int rounds = campaign() ? 60 : 6;
  // Handled behind the position that was kept when the consumer was killed; and what is tried
  // again, which comes from a queue and was perhaps not acked yet.
  std::vector<bool> may_double(count);
  for (std::size_t i = 0; i < count; ++i) {
    may_double[i] = i % retry_every == 0 || i % crash_every == 1;
  }
  int kills = 0;
  std::unique_ptr<Lope> lope = std::make_unique<Lope>(options);
  for (int round = 0; round < rounds; ++round) {
    const long goal = static_cast<long>(count) * (round + 1) / (rounds + 2);
    REQUIRE(eventually(120s, [&] { return seen() >= goal; }));
    switch (random() % 4) {
      case 0:
      case 1:
        ++kills;
        for (const pid_t pid : lope->consumers()) ::kill(pid, SIGKILL);
        {
          // Its successor writes nothing so soon.
          const std::string open = streamed.kept_line("open");
          const long kept = open.empty() ? seen() + 1 : std::atol(open.c_str());
          const std::size_t end = highest_number(streamed.files) + 1;
          for (auto i = static_cast<std::size_t>(kept); i < end; ++i) may_double[i] = true;
        }
        break;
      case 2: streamed.broker.close_all_connections(); break;
      case 3:
        CHECK(lope->stop(60s) == exited(0));
        lope = std::make_unique<Lope>(options);
        REQUIRE(eventually(30s, [&] { return !lope->workers().empty(); }));
        break;
    }
  }
  CHECK(eventually(240s, [&] {
    return seen() == static_cast<long>(count) - 1 && streamed.kept_line("open").empty() &&
           streamed.broker.is_empty(streamed.retry);
  }));
  CHECK(lope->stop(60s) == exited(0));
  std::vector<int> times(count);
  for (const std::uint64_t number : read_numbers(streamed.files)) ++times.at(number);
  std::size_t missing = 0, doubles = 0, unexpected = 0;
  for (std::size_t i = 0; i < count; ++i) {
    missing += times[i] == 0 ? 1u : 0u;
    doubles += times[i] > 1 ? 1u : 0u;
    unexpected += times[i] > 1 && !may_double[i] ? 1u : 0u;
  }
  WARN(count << " messages, " << rounds << " disturbances, " << kills << " kills: " << missing
             << " missing, " << doubles << " twice or more, " << unexpected
             << " of them not behind a kept position");
  CHECK(missing == 0);
  CHECK(unexpected == 0);
}
