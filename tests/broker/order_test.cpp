// Messages of one key, or of a whole queue, one after another: by the ledger of what the handlers
// have begun and ended. With LOPE_CAMPAIGN set at full size.
#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "common/clock.h"
#include "support/broker.h"
#include "support/courier.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;

namespace {

bool campaign() { return std::getenv("LOPE_CAMPAIGN") != nullptr; }
int scaled(int short_form, int full) { return campaign() ? full : short_form; }
std::vector<std::string> queue_types() {
  const std::string only = campaign() ? std::getenv("LOPE_CAMPAIGN") : "";
  if (only == "classic" || only == "quorum") return {only};
  return {"classic", "quorum"};
}

// What the ledger tells of messages whose ids are KEY.NUMBER, numbered from 0 for each key.
struct Sequence {
  std::size_t done = 0;             // each counted once
  std::size_t again = 0;            // begun again though it was done, or while it ran
  std::string out_of_order;         // the first that was begun before the one before it was done
  std::map<std::string, int> next;  // by key: how many are done
};

// `dead`: ids that may be done with by becoming dead letters.
Sequence sequence_of(const std::vector<std::string>& ledger,
                     const std::set<std::string>& dead = {}) {
  Sequence seen;
  std::map<std::string, int> running;  // by key
  for (const std::string& line : ledger) {
    std::istringstream words(line);
    std::string word, id, attempt, outcome;
    if (!(words >> word >> id >> attempt >> outcome)) continue;
    const std::size_t dot = id.find('.');
    const std::string key = id.substr(0, dot);
    const int number = std::stoi(id.substr(dot + 1));
    int& next = seen.next[key];
    if (word == "start") {
      while (next < number && dead.contains(key + "." + std::to_string(next))) ++next;
      if (number > next && seen.out_of_order.empty()) {
        seen.out_of_order = line + ", expected " + key + "." + std::to_string(next);
      }
      if (number < next || running.contains(key)) ++seen.again;
      running[key] = number;
    } else {
      running.erase(key);
      if (outcome != "ack" || number != next) continue;
      ++next;
      ++seen.done;
    }
  }
  return seen;
}

Publication keyed(const std::string& queue, int key, int number, const std::string& body) {
  const std::string name = "k" + std::to_string(key);
  return {.routing_key = queue,
          .body = body,
          .message_id = name + "." + std::to_string(number),
          .headers = {{"key", name}}};
}

constexpr const char* kByHeader = "    order_by: header:key\n";

bool all_acked(const Couriered& it, std::size_t count, std::chrono::milliseconds deadline = 60s) {
  return eventually(deadline, [&] {
    std::set<std::string> acked;
    for (const CourierEnd& end : it.ends()) {
      if (end.outcome == "ack") acked.insert(end.id);
    }
    return acked.size() >= count;
  });
}

}  // namespace

TEST_CASE("each key in its order, through retries, crashes and a restart", "[broker][order]") {
  const std::string type = GENERATE(from_range(queue_types()));
  INFO(type);
  const int keys = scaled(100, 1000);
  const int each = scaled(30, 100);
  Couriered it(type);
  const LopeOptions options =
      it.options(std::string(kByHeader) +
                     "    workers: 2\n    threads: 4\n    prefetch: 400\n    crashes: 10\n"
                     "    retry: { attempts: 20, delay: 20ms, backoff: 1 }\n    breaker: false\n",
                 "log: { level: info }\n");
  auto lope = std::make_unique<Lope>(options);
  REQUIRE(lope->wait_ready());
  std::minstd_rand random(3);
  it.broker.publisher().publish_many(keys * each, [&](int i) {
    const auto dice = random() % 1000;
    const std::string body = dice < 20   ? "retry 1 -"
                             : dice < 25 ? "retry 3 100"
                             : dice < 27 ? "dies 1"
                                         : "ack";
    return keyed(it.queue, i % keys, i / keys, body);
  });
  const auto total = static_cast<std::size_t>(keys * each);
  REQUIRE(all_acked(it, total / 3, 300s));
  CHECK(lope->stop() == exited(0));
  lope = std::make_unique<Lope>(options);
  REQUIRE(all_acked(it, total, 600s));
  CHECK(lope->stop() == exited(0));
  CHECK(eventually(30s, [&] { return it.broker.is_empty(it.queue); }));
  const Sequence seen = sequence_of(lines_of_file(it.file));
  const auto starts = it.starts();
  const auto later = std::count_if(starts.begin(), starts.end(),
                                   [](const auto& start) { return start.attempt > 1; });
  WARN(type << ": " << seen.done << " messages of " << seen.next.size() << " keys, "
            << starts.size() << " calls, " << later << " of them of a later attempt");
  CHECK(seen.out_of_order.empty());
  INFO(seen.out_of_order);
  CHECK(seen.done == total);
}

TEST_CASE("a retry holds back its key and no other", "[broker][order]") {
  const std::string type = GENERATE(as<std::string>{}, "classic", "quorum");
  Couriered it(type);
  Lope lope(
      it.options(std::string(kByHeader) + "    retry: { attempts: 3, delay: 300ms, jitter: 0 }\n",
                 "delays: { relay: false }\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  publisher.publish(keyed(it.queue, 1, 0, "retry 2 -"));
  publisher.publish(keyed(it.queue, 1, 1, "ack"));
  publisher.publish(keyed(it.queue, 2, 0, "ack"));
  REQUIRE(it.wait_acked("k1.1"));
  const auto starts = it.starts();
  REQUIRE(starts.size() == 5);
  std::vector<std::string> order;
  for (const CourierStart& start : starts)
    order.push_back(start.id + "/" + std::to_string(start.attempt));
  CHECK(order == std::vector<std::string>{"k1.0/1", "k2.0/1", "k1.0/2", "k1.0/3", "k1.1/1"});
  CHECK(starts[2].now_ms - starts[0].now_ms >= 300);
  CHECK(starts[3].now_ms - starts[2].now_ms >= 600);  // twice as long
  CHECK(lope.stop() == exited(0));
  CHECK(eventually(30s, [&] { return it.broker.is_empty(it.queue); }));
}

TEST_CASE("a message that is given up leaves its key to the next, with its history",
          "[broker][order]") {
  Couriered it;
  Lope lope(it.options(std::string(kByHeader) +
                       "    crashes: 2\n    retry: { attempts: 3, delay: 100ms }\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  publisher.publish(keyed(it.queue, 1, 0, "retry 9 -"));
  publisher.publish(keyed(it.queue, 1, 1, "reject"));
  publisher.publish(keyed(it.queue, 1, 2, "segv"));
  publisher.publish(keyed(it.queue, 1, 3, "ack"));
  REQUIRE(it.wait_acked("k1.3", 30s));
  CHECK(it.attempts_of("k1.0") == std::vector<int>{1, 2, 3});
  CHECK(it.attempts_of("k1.1") == std::vector<int>{1});
  CHECK(it.attempts_of("k1.2") == std::vector<int>{1, 2});
  CHECK(sequence_of(lines_of_file(it.file), {"k1.0", "k1.1", "k1.2"}).out_of_order.empty());
  const auto dead = it.take(it.dead(), 3);
  REQUIRE(dead.size() == 3);
  CHECK(dead[0].message_id == "k1.0");
  CHECK(dead[0].header("x-lope-dead-code") == "attempts");
  CHECK(dead[0].number("x-lope-dead-attempts") == 3);
  CHECK(dead[1].header("x-lope-dead-code") == "rejected");
  CHECK(dead[2].header("x-lope-dead-code") == "crashes");
  CHECK(dead[2].number("x-lope-dead-crashes") == 2);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("what expires while it waits for its turn is a dead letter", "[broker][order]") {
  Couriered it;
  // Behind another of its key, or behind others at the only worker.
  const bool by_key = GENERATE(true, false);
  const std::string go = it.files.file("go");
  Lope lope(it.options(by_key ? std::string(kByHeader) + "    workers: 2\n" : std::string()));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  publisher.publish(keyed(it.queue, 1, 0, "until " + go));
  REQUIRE(it.wait_attempts("k1.0", 1));
  Publication late = keyed(it.queue, 1, 1, "ack");
  late.expiration = "1000";
  publisher.publish(late);
  REQUIRE(eventually(10s, [&] { return group_of(lope)["delivered"] == 2; }));
  const std::uint64_t came = unix_ms();
  publisher.publish(keyed(it.queue, 1, 2, "ack"));
  REQUIRE(eventually(10s, [&] { return unix_ms() > came + 1000; }));
  it.files.write("go", "");
  REQUIRE(it.wait_acked("k1.2"));
  CHECK(it.attempts_of("k1.1").empty());
  const auto dead = it.take(it.dead(), 1);
  REQUIRE(dead.size() == 1);
  CHECK(dead[0].header("x-lope-dead-code") == "expired");
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("by routing key; what has no key waits for nobody", "[broker][order]") {
  Couriered it;
  const std::string exchange = it.broker.unique_exchange();
  it.broker.declare_exchange(exchange, "topic");
  it.broker.bind_queue(it.queue, exchange, "#");
  SECTION("routing_key") {
    Lope lope(it.options("    order_by: routing_key\n    workers: 2\n"));
    REQUIRE(lope.wait_ready());
    Publisher publisher = it.broker.publisher();
    const std::string go = it.files.file("go");
    publisher.publish(
        {.exchange = exchange, .routing_key = "a", .body = "until " + go, .message_id = "a.0"});
    publisher.publish(
        {.exchange = exchange, .routing_key = "a", .body = "ack", .message_id = "a.1"});
    publisher.publish(
        {.exchange = exchange, .routing_key = "b", .body = "ack", .message_id = "b.0"});
    REQUIRE(it.wait_acked("b.0"));
    CHECK(it.attempts_of("a.1").empty());
    CHECK(group_of(lope)["behind"] == 1);
    it.files.write("go", "");
    REQUIRE(it.wait_acked("a.1"));
    CHECK(lope.stop() == exited(0));
  }
  SECTION("a header that is not there") {
    Lope lope(it.options(std::string(kByHeader) + "    workers: 2\n"));
    REQUIRE(lope.wait_ready());
    const std::string go = it.files.file("go");
    it.publish("until " + go, "first");
    it.publish("ack", "second");
    REQUIRE(it.wait_acked("second"));
    it.files.write("go", "");
    REQUIRE(it.wait_acked("first"));
    CHECK(lope.stop() == exited(0));
  }
}

TEST_CASE("a batch holds one message of each key", "[broker][order]") {
  Couriered it;
  Lope lope(it.options(std::string(kByHeader) +
                       "    batch: { size: 10, wait: 50ms }\n    workers: 2\n    prefetch: 100\n"
                       "    retry: { attempts: 5, delay: 50ms }\n"));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish_many(400, [&](int i) {
    return keyed(it.queue, i % 20, i / 20, i % 37 == 0 ? "retry 1 -" : "ack");
  });
  REQUIRE(all_acked(it, 400));
  const Sequence seen = sequence_of(lines_of_file(it.file));
  CHECK(seen.out_of_order.empty());
  CHECK(seen.done == 400);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a pause in the middle keeps the order", "[broker][order]") {
  const std::string type = GENERATE(as<std::string>{}, "classic", "quorum");
  INFO(type);
  Couriered it(type);
  Lope lope(
      it.options(std::string(kByHeader) + "    workers: 2\n    threads: 2\n    prefetch: 100\n"));
  REQUIRE(lope.wait_ready());
  constexpr int kMessages = 1000;
  it.broker.publisher().publish_many(
      kMessages, [&](int i) { return keyed(it.queue, i % 10, i / 10, "sleep 2"); });
  for (std::size_t i = 1; i <= 4; ++i) {
    REQUIRE(all_acked(it, 100 * i));
    told(lope, {"pause", "courier"});
    // All of it is in the queue again.
    REQUIRE(eventually(20s, [&] {
      const std::size_t done = it.ends().size();
      return it.broker.consumer_count(it.queue) == 0 &&
             it.broker.message_count(it.queue) == static_cast<int>(kMessages - done);
    }));
    told(lope, {"resume", "courier"});
  }
  REQUIRE(all_acked(it, kMessages));
  const Sequence seen = sequence_of(lines_of_file(it.file));
  INFO(seen.out_of_order);
  CHECK(seen.out_of_order.empty());
  CHECK(seen.done == kMessages);
  CHECK(seen.again == 0);  // nor was anything handled twice
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("the order outlives lost connections and killed consumers", "[broker][order]") {
  const std::string type = GENERATE(as<std::string>{}, "classic", "quorum");
  INFO(type);
  Couriered it(type);
  Lope lope(it.options(std::string(kByHeader) + "    workers: 2\n    threads: 2\n    prefetch: "
                                                "100\n    retry: { attempts: 9, delay: 50ms }\n"));
  REQUIRE(lope.wait_ready());
  constexpr int kMessages = 2000;
  it.broker.publisher().publish_many(kMessages, [&](int i) {
    return keyed(it.queue, i % 20, i / 20, i % 40 == 7 ? "retry 1 -" : "sleep 1");
  });
  REQUIRE(all_acked(it, 300));
  it.broker.close_all_connections();
  REQUIRE(all_acked(it, 700));
  for (const pid_t consumer : lope.consumers()) ::kill(consumer, SIGKILL);
  REQUIRE(all_acked(it, 1200));
  it.broker.close_all_connections();
  REQUIRE(all_acked(it, kMessages));
  CHECK(lope.stop() == exited(0));
  const Sequence seen = sequence_of(lines_of_file(it.file));
  INFO(seen.out_of_order);
  CHECK(seen.out_of_order.empty());
  CHECK(seen.done == kMessages);
  CHECK(eventually(30s, [&] { return it.broker.is_empty(it.queue); }));
}

TEST_CASE("strict, on two daemons: one after another, whoever stops or is killed",
          "[broker][order]") {
  const std::string type = GENERATE(from_range(queue_types()));
  INFO(type);
  Couriered it;  // whose own queue is not used
  const std::string queue = it.broker.unique_queue("strict");
  LopeOptions options = it.options(
      "    order: strict\n    prefetch: 50\n    retry: { attempts: 5, delay: 20ms }\n"
      "    declare: { type: " +
      type + " }\n");
  options.groups.replace(options.groups.find(it.queue), it.queue.size(), queue);
  auto first = std::make_unique<Lope>(options);
  REQUIRE(first->wait_ready());
  auto second = std::make_unique<Lope>(options);
  REQUIRE(second->wait_ready());
  const int count = scaled(600, 5000);
  it.broker.publisher().publish_many(
      count, [&](int i) { return keyed(queue, 0, i, i % 50 == 3 ? "retry 1 -" : "sleep 1"); });
  REQUIRE(all_acked(it, static_cast<std::size_t>(count) / 6, 60s));
  // In good order: nothing early, and nothing twice.
  CHECK(first->stop() == exited(0));
  REQUIRE(all_acked(it, static_cast<std::size_t>(count) / 3, 60s));
  Sequence seen = sequence_of(lines_of_file(it.file));
  INFO(seen.out_of_order);
  CHECK(seen.out_of_order.empty());
  CHECK(seen.again == 0);
  first = std::make_unique<Lope>(options);
  REQUIRE(first->wait_ready());
  ::kill(-second->pid(), SIGKILL);
  REQUIRE(second->process().wait_exit(10s));
  REQUIRE(all_acked(it, static_cast<std::size_t>(count), 120s));
  CHECK(first->stop() == exited(0));
  seen = sequence_of(lines_of_file(it.file));
  INFO(seen.out_of_order);
  CHECK(seen.out_of_order.empty());
  CHECK(seen.done == static_cast<std::size_t>(count));
  CHECK(eventually(30s, [&] { return it.broker.is_empty(queue); }));
  it.broker.delete_queue(queue);
}

TEST_CASE("a delay that is longer than the broker's patience goes on after the way back",
          "[broker][order]") {
  Couriered it("quorum");
  LopeOptions options = it.options(std::string(kByHeader) +
                                   "    timeout: 1s\n    retry: { attempts: 3, delay: 1s }\n");
  options.broker = "{ url: \"" + options.broker + "\", consumer_timeout: 32s }";
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  publisher.publish(keyed(it.queue, 1, 0, "retry 1 26000"));
  publisher.publish(keyed(it.queue, 1, 1, "ack"));
  REQUIRE(it.wait_acked("k1.1", 60s));
  CHECK_THAT(lope.log(), Contains("giving messages back in their order"));
  const auto starts = it.starts();
  REQUIRE(starts.size() == 3);
  CHECK(starts[1].id == "k1.0");
  CHECK(starts[1].attempt == 2);
  CHECK(starts[1].redelivered);
  CHECK(starts[1].now_ms - starts[0].now_ms >= 26000);
  CHECK(starts[2].id == "k1.1");
  CHECK(lope.stop() == exited(0));
}
