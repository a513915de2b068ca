// Messages that are done once: doubles, those that wait for one another, stores that fail, and
// processes that are killed at any point.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "consumer/dedup_redis.h"
#include "support/courier.h"
#include "support/ladder.h"
#include "support/log_lines.h"
#include "support/redis.h"
#include "support/talk.h"

using namespace lope::test;

namespace {

bool campaign() { return std::getenv("LOPE_CAMPAIGN") != nullptr; }

// A group with dedup, its state beside its files.
struct Once : Couriered {
  Once() : ladder(broker) {}
  LopeOptions once(const std::string& dedup, const std::string& more = {},
                   const std::string& top = {}) const {
    return options("    dedup: " + dedup + "\n" + more, ladder.top() +
                                                            "state_dir: " + files.file("state") +
                                                            "\n" + "log: { level: debug }\n" + top);
  }
  std::size_t runs_of(const std::string& id) const { return attempts_of(id).size(); }
  bool empty() {
    return eventually(30s, [&] { return broker.is_empty(queue); });
  }

  Ladder ladder;
};

void touch(const std::string& path) { std::ofstream{path}; }

}  // namespace

TEST_CASE("a double is acked and not run, whatever tells messages apart", "[broker][dedup]") {
  struct Row {
    std::string key;
    bool same_id, same_body, same_header;
    bool is_double;
  };
  const auto row = GENERATE(values<Row>({
      {"message_id", true, false, false, true},
      {"message_id", false, true, true, false},
      {"header:order", false, false, true, true},
      {"header:order", true, true, false, false},
      {"body", false, true, false, true},
      {"body", true, false, true, false},
  }));
  const bool redis_store = GENERATE(false, true);
  INFO(row.key << (redis_store ? " redis" : " local"));
  Once it;
  Redis redis("s3cret");
  if (redis_store) redis.start();
  Lope lope(it.once("{ key: '" + row.key + "', store: '" + (redis_store ? redis.url() : "local") +
                    "' }"));
  REQUIRE(lope.wait_ready());
  const auto publish = [&](const std::string& id, const std::string& body,
                           const std::string& order) {
    it.broker.publisher().publish(
        {.routing_key = it.queue, .body = body, .message_id = id, .headers = {{"order", order}}});
  };
  publish("one", "ack", "7");
  REQUIRE(it.wait_acked("one"));
  REQUIRE(it.empty());
  const std::string id = row.same_id ? "one" : "two";
  publish(id, row.same_body ? "ack" : "sleep 1", row.same_header ? "7" : "8");
  if (row.is_double) {
    const auto line = lope.wait_for_line("message is a double");
    REQUIRE(line);
    CHECK(field(*line, "message_id") == id);
    CHECK(field(*line, "done_message_id") == "one");
  }
  REQUIRE(it.empty());
  CHECK(it.starts().size() == (row.is_double ? 1 : 2));
  CHECK(group_of(lope)["doubles"] == (row.is_double ? 1 : 0));
  CHECK(lope.log().find("s3cret") == std::string::npos);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("what was done is known to the next daemon, and after a while no more",
          "[broker][dedup]") {
  Once it;
  const std::string dedup = "{ key: message_id, window: 4s }";
  {
    Lope lope(it.once(dedup));
    it.publish("ack", "m");
    REQUIRE(it.wait_acked("m"));
    REQUIRE(it.empty());
    CHECK(lope.stop() == exited(0));
  }
  Lope lope(it.once(dedup));
  it.publish("ack", "m");
  REQUIRE(it.empty());
  const auto doubled = it.runs_of("m");  // unless so much time had passed
  const auto done = it.starts().front().now_ms;
  REQUIRE(eventually(20s, [&] { return static_cast<long>(lope::unix_ms()) > done + 5000; }));
  it.publish("ack", "m");
  REQUIRE(it.wait_attempts("m", doubled + 1));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a message without a key runs, and that is said once", "[broker][dedup]") {
  Once it;
  Lope lope(it.once("message_id"));
  REQUIRE(lope.wait_ready());
  for (int i = 0; i < 3; ++i) it.publish("ack", "");
  REQUIRE(eventually(20s, [&] { return it.ends().size() == 3; }));
  REQUIRE(it.empty());
  CHECK(lines_with(lope.log(), "message run without dedup").size() == 1);
  CHECK(group_of(lope)["unchecked"] == 3);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("two of one key at a time: the second waits, and is a double then", "[broker][dedup]") {
  Once it;
  const std::string gate = it.files.file("gate");
  Lope lope(it.once("{ key: header:k }", "    workers: 2\n"));
  REQUIRE(lope.wait_ready());
  const bool long_enough_to_go = GENERATE(false, true);
  const auto publish = [&](const std::string& id, const std::string& body) {
    it.broker.publisher().publish(
        {.routing_key = it.queue, .body = body, .message_id = id, .headers = {{"k", "v"}}});
  };
  publish("one", "until " + gate);
  REQUIRE(it.wait_attempts("one", 1));
  publish("two", "ack");
  if (long_enough_to_go) {
    REQUIRE(lope.wait_for_line("message waits", 20s));
    REQUIRE(eventually(20s, [&] { return group_of(lope)["delayed"] == 1; }));
  } else {
    REQUIRE(eventually(20s, [&] { return group_of(lope)["waiting"] == 1; }));
  }
  touch(gate);
  REQUIRE(lope.wait_for_line("message is a double", 20s));
  REQUIRE(it.empty());
  CHECK(it.runs_of("one") == 1);
  CHECK(it.runs_of("two") == 0);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("claimed by another daemon: the second waits; when that one dies it runs",
          "[broker][dedup]") {
  const bool redis_store = GENERATE(false, true);
  INFO((redis_store ? "redis" : "local"));
  Once it;
  Redis redis;
  if (redis_store) redis.start();
  const std::string gate = it.files.file("gate");
  const std::string dedup =
      "{ key: header:k, store: '" + (redis_store ? redis.url() : std::string("local")) + "' }";
  Lope first(it.once(dedup, "    prefetch: 1\n"));
  REQUIRE(first.wait_ready());
  const auto publish = [&](const std::string& id, const std::string& body) {
    it.broker.publisher().publish(
        {.routing_key = it.queue, .body = body, .message_id = id, .headers = {{"k", "v"}}});
  };
  publish("one", "until " + gate);
  REQUIRE(it.wait_attempts("one", 1));
  Lope second(it.once(dedup, "    prefetch: 1\n"));
  REQUIRE(second.wait_ready());
  publish("two", "ack");
  REQUIRE(second.wait_for_line("message waits", 20s));
  CHECK(it.runs_of("two") == 0);
  SECTION("it dies, and what it had claimed is free") {
    first.process().signal_group(SIGKILL);
    REQUIRE(eventually(40s, [&] { return it.runs_of("two") + it.runs_of("one") >= 2; }));
    touch(gate);
  }
  SECTION("it is done") {
    touch(gate);
    REQUIRE(eventually(40s, [&] {
      return (second.log() + first.log()).find("message is a double") != std::string::npos;
    }));
    CHECK(it.runs_of("two") == 0);
  }
  REQUIRE(it.empty());
  CHECK(it.starts().front().attempt == 1);
  for (const CourierStart& start : it.starts()) CHECK(start.attempt == 1);  // nobody was charged
  CHECK(second.stop() == exited(0));
}

TEST_CASE("what fails is free again: a crash, a retry, a dead letter", "[broker][dedup]") {
  Once it;
  Lope lope(it.once("message_id", "    retry: { attempts: 3, delay: 0s }\n    crashes: 3\n"));
  REQUIRE(lope.wait_ready());
  SECTION("a retry") {
    it.publish("retry 2 0", "m");
    REQUIRE(it.wait_acked("m"));
    REQUIRE(it.empty());
    CHECK(it.attempts_of("m") == std::vector<int>{1, 2, 3});
    it.publish("ack", "m");
    REQUIRE(lope.wait_for_line("message is a double"));
  }
  SECTION("a crash") {
    it.publish("segv", "m");
    REQUIRE(it.take(it.dead(), 1).size() == 1);
    CHECK(it.attempts_of("m") == std::vector<int>{1, 2, 3});
  }
  SECTION("a dead letter that is replayed") {
    it.publish("reject", "m");
    REQUIRE(eventually(20s, [&] { return it.broker.message_count(it.dead()).value_or(0) == 1; }));
    CHECK(run_lope({"dlq", "replay", it.dead(), "--broker", it.broker.url()}).status == exited(0));
    REQUIRE(it.wait_attempts("m", 2));
  }
  REQUIRE(it.empty());
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a redelivery of what a handler has: it waits for that, and is a double",
          "[broker][dedup]") {
  Once it;
  const std::string gate = it.files.file("gate");
  Lope lope(it.once("message_id", "    workers: 2\n"));
  REQUIRE(lope.wait_ready());
  it.publish("until " + gate, "m");
  REQUIRE(it.wait_attempts("m", 1));
  it.broker.close_all_connections();
  REQUIRE(lope.wait_for_line("deliveries go back to the broker", 20s));
  REQUIRE(eventually(30s, [&] { return it.broker.consumer_count(it.queue) == 1; }));
  touch(gate);
  REQUIRE(lope.wait_for_line("message is a double", 30s));
  REQUIRE(it.empty());
  CHECK(it.runs_of("m") == 1);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a store that is not there: messages wait, or run", "[broker][dedup]") {
  const bool run = GENERATE(false, true);
  INFO((run ? "run" : "wait"));
  Once it;
  Redis redis;
  Lope lope(it.once("{ key: message_id, store: '" + redis.url() +
                    "', on_store_failure: " + (run ? "run" : "wait") + " }"));
  REQUIRE(eventually(30s, [&] { return it.broker.consumer_count(it.queue) == 1; }));
  it.publish("ack", "m1");
  REQUIRE(lope.wait_for_line("dedup store fails", 20s));
  if (run) {
    REQUIRE(it.wait_acked("m1"));
    CHECK(group_of(lope)["unchecked"] >= 1);
  } else {
    CHECK(group_of(lope)["reason"].get<std::string>().find("dedup store " + redis.address()) !=
          std::string::npos);
    CHECK(it.starts().empty());
  }
  redis.start();
  if (!run) REQUIRE(it.wait_acked("m1", 30s));
  // It is tried again though nothing comes.
  REQUIRE(lope.wait_for_line("dedup store works again", 40s));
  CHECK(eventually(10s, [&] {
    return group_of(lope)["reason"].dump().find("dedup store") == std::string::npos;
  }));
  it.publish("ack", "last");
  REQUIRE(it.wait_acked("last"));
  it.publish("ack", "last");
  REQUIRE(lope.wait_for_line("message is a double", 20s));
  REQUIRE(it.empty());
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("what was claimed by who is dead, and is over in the same call, is free",
          "[broker][dedup]") {
  using lope::consumer::DedupOp;
  using Kind = lope::consumer::DedupAnswer::Kind;
  Redis redis;
  redis.start();
  constexpr lope::consumer::DedupTimes kTimes{60s, 0s, 0s};
  const auto apply = [&](const std::vector<DedupOp>& ops) {
    std::vector<lope::consumer::DedupAnswer> answers;
    lope::consumer::DedupRedis store(redis.url(), "group");
    std::vector<Kind> kinds;
    if (!store.apply(ops, kTimes, answers)) return kinds;
    for (const auto& answer : answers) kinds.push_back(answer.kind);
    return kinds;
  };
  const auto op = [](DedupOp::Kind kind, std::uint64_t token) {
    return DedupOp{.kind = kind, .token = token, .key = "k"};
  };
  const DedupOp claim_of_another = op(DedupOp::Kind::claim, 1);
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(apply({claim_of_another}) == std::vector{Kind::claimed} ? 0 : 1);
  int status = -1;
  ::waitpid(pid, &status, 0);
  REQUIRE(status == 0);
  SECTION("released") {
    CHECK(apply({op(DedupOp::Kind::claim, 7), op(DedupOp::Kind::release, 7)}) ==
          std::vector{Kind::claimed});
  }
  SECTION("released, and claimed by the next") {
    CHECK(apply({op(DedupOp::Kind::claim, 7), op(DedupOp::Kind::release, 7),
                 op(DedupOp::Kind::claim, 8), op(DedupOp::Kind::release, 8)}) ==
          std::vector{Kind::claimed, Kind::claimed});
  }
  SECTION("done, and nothing is a double") {
    CHECK(apply({op(DedupOp::Kind::claim, 7), op(DedupOp::Kind::done, 7)}) ==
          std::vector{Kind::claimed, Kind::noted});
  }
  CHECK(apply({op(DedupOp::Kind::claim, 9)}) == std::vector{Kind::claimed});
}

TEST_CASE("a connection that died while nothing was asked is no failure", "[broker][dedup]") {
  Once it;
  Redis redis;
  redis.start();
  Lope lope(it.once("{ key: message_id, store: '" + redis.url() + "', on_store_failure: run }"));
  REQUIRE(lope.wait_ready());
  it.publish("ack", "m1");
  REQUIRE(it.wait_acked("m1"));
  REQUIRE(it.empty());
  redis.kill();
  redis.start();
  it.publish("ack", "m2");
  REQUIRE(it.wait_acked("m2"));
  it.publish("ack", "m2");
  REQUIRE(lope.wait_for_line("message is a double", 20s));
  REQUIRE(it.empty());
  CHECK(lope.log().find("dedup store fails") == std::string::npos);
  CHECK(group_of(lope)["unchecked"] == 0);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a server that hangs is a store that fails, and what was done is acked",
          "[broker][dedup]") {
  Once it;
  const std::string gate = it.files.file("gate");
  Redis redis;
  redis.start();
  Lope lope(it.once("{ key: message_id, store: '" + redis.url() + "' }"));
  REQUIRE(lope.wait_ready());
  it.publish("until " + gate, "m1");
  REQUIRE(it.wait_attempts("m1", 1));
  redis.signal(SIGSTOP);
  touch(gate);
  REQUIRE(lope.wait_for_line("dedup store fails", 20s));
  REQUIRE(lope.wait_for_line("message done and not noted", 30s));
  REQUIRE(it.empty());
  it.publish("ack", "m2");
  redis.signal(SIGCONT);
  REQUIRE(it.wait_acked("m2", 40s));
  REQUIRE(lope.wait_for_line("dedup store works again", 20s));
  REQUIRE(it.empty());
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a drain hands back what waits, and its claims are free", "[broker][dedup]") {
  Once it;
  const std::string gate = it.files.file("gate");
  Redis redis;
  redis.start();
  const std::string dedup = "{ key: message_id, store: '" + redis.url() + "' }";
  {
    Lope lope(it.once(dedup));
    REQUIRE(lope.wait_ready());
    it.publish("until " + gate, "busy");
    REQUIRE(it.wait_attempts("busy", 1));
    for (int i = 0; i < 5; ++i) it.publish("ack", "m" + std::to_string(i));
    REQUIRE(eventually(20s, [&] { return group_of(lope)["delivered"] == 6; }));
    lope.process().signal_group(SIGTERM);
    REQUIRE(lope.wait_for_line("draining", 10s));
    touch(gate);
    CHECK(lope.process().wait_exit(40s) == exited(0));
  }
  CHECK(it.starts().size() == 1);
  Lope lope(it.once(dedup));
  REQUIRE(eventually(30s, [&] { return it.ends().size() == 6; }));
  REQUIRE(it.empty());
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("min_interval: what comes too soon is late, or dropped", "[broker][dedup]") {
  const bool drop = GENERATE(false, true);
  Once it;
  Lope lope(it.once(std::string("{ key: header:k, window: 0, min_interval: { every: 4s, then: ") +
                    (drop ? "drop" : "delay") + " } }"));
  REQUIRE(lope.wait_ready());
  const auto publish = [&](const std::string& id) {
    it.broker.publisher().publish(
        {.routing_key = it.queue, .body = "ack", .message_id = id, .headers = {{"k", "v"}}});
  };
  publish("one");
  REQUIRE(it.wait_acked("one"));
  publish("two");
  if (drop) {
    const auto line = lope.wait_for_line("message dropped within min_interval", 20s);
    REQUIRE(line);
    CHECK(field(*line, "done_message_id") == "one");
  } else {
    REQUIRE(it.wait_acked("two", 30s));
    const auto starts = it.starts();
    REQUIRE(starts.size() == 2);
    CHECK(starts[1].now_ms - starts[0].now_ms >= 4000);
    CHECK(starts[1].attempt == 1);
  }
  REQUIRE(it.empty());
  CHECK(it.runs_of("two") == (drop ? 0 : 1));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("min_interval: what only waited at a worker has not begun", "[broker][dedup]") {
  Once it;
  Lope lope(it.once("{ key: header:k, min_interval: 20s }", "    prefetch: 300\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  const auto publish = [&](const std::string& id, const std::string& body) {
    publisher.publish(
        {.routing_key = it.queue, .body = body, .message_id = id, .headers = {{"k", id}}});
  };
  // Short ones first: then the worker is given messages ahead.
  for (int i = 0; i < 200; ++i) publish("a" + std::to_string(i), "ack");
  REQUIRE(eventually(10s, [&] { return it.ends().size() == 200; }));
  publish("long", "sleep 2000");
  for (int i = 0; i < 8; ++i) publish("b" + std::to_string(i), "ack");
  REQUIRE(it.wait_attempts("long", 1));
  REQUIRE(eventually(5s, [&] { return it.broker.message_count(it.queue) == 0; }));
  it.broker.close_all_connections();
  CHECK(eventually(12s, [&] { return it.ends().size() == 209; }));
  CHECK(lope.process().count_lines("message waits") == 0);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("min_interval counts from the latest run of one whose worker died", "[broker][dedup]") {
  Once it;
  Lope lope(it.once("{ key: header:k, window: 0, min_interval: 3s }", "    threads: 2\n"));
  REQUIRE(lope.wait_ready());
  const auto publish = [&](const std::string& id, const std::string& body, const std::string& key) {
    it.broker.publisher().publish(
        {.routing_key = it.queue, .body = body, .message_id = id, .headers = {{"k", key}}});
  };
  const std::string gate = it.files.file("gate");
  publish("first", "sleep 1500", "v");
  publish("beside", "until " + gate + " dies 1", "w");
  REQUIRE(it.wait_attempts("first", 1));
  const std::uint64_t came = lope::unix_ms();
  REQUIRE(eventually(10s, [&] { return lope::unix_ms() > came + 1000; }));
  touch(gate);
  REQUIRE(it.wait_attempts("first", 2));  // alone
  publish("next", "ack", "v");
  REQUIRE(it.wait_acked("next", 30s));
  std::vector<long> began;
  for (const CourierStart& start : it.starts()) {
    if (start.id == "first" || start.id == "next") began.push_back(start.now_ms);
  }
  REQUIRE(began.size() == 3);
  CHECK(began[2] - began[1] >= 3000);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("in an order a key is claimed when its message's turn has come", "[broker][dedup]") {
  Once it;
  const std::string gate = it.files.file("gate");
  Lope lope(it.once("{ key: header:k }", "    order_by: header:row\n    workers: 2\n"));
  REQUIRE(lope.wait_ready());
  const auto publish = [&](const std::string& id, const std::string& body, const std::string& row,
                           const std::string& key) {
    it.broker.publisher().publish({.routing_key = it.queue,
                                   .body = body,
                                   .message_id = id,
                                   .headers = {{"row", row}, {"k", key}}});
  };
  publish("first", "until " + gate, "a", "1");
  REQUIRE(it.wait_attempts("first", 1));
  publish("behind", "ack", "a", "2");
  publish("other", "ack", "b", "2");
  REQUIRE(it.wait_acked("other"));
  touch(gate);
  REQUIRE(lope.wait_for_line("message is a double", 20s));
  REQUIRE(it.empty());
  CHECK(it.runs_of("behind") == 0);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("in an order min_interval counts for attempts that are made here", "[broker][dedup]") {
  Once it;
  Lope lope(it.once("{ key: message_id, window: 0, min_interval: 3s }",
                    "    order_by: header:row\n    retry: { attempts: 3, delay: 10ms }\n"));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish(
      {.routing_key = it.queue, .body = "retry 1 -", .message_id = "m", .headers = {{"row", "a"}}});
  REQUIRE(it.wait_acked("m", 30s));
  const auto starts = it.starts();
  REQUIRE(starts.size() == 2);
  CHECK(starts[1].attempt == 2);
  // It runs from when the first was given to a worker, which began it a little later.
  CHECK(starts[1].now_ms - starts[0].now_ms >= 2900);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("doubles of what a batch holds, and of what a handler keeps, wait for it",
          "[broker][dedup]") {
  Once it;
  Lope lope(it.once("message_id", "    batch: { size: 10, wait: 300ms }\n"));
  REQUIRE(lope.wait_ready());
  for (int i = 0; i < 30; ++i) it.publish("ack", "m" + std::to_string(i % 10));
  REQUIRE(it.empty());
  CHECK(it.starts().size() == 10);
  CHECK(lope.stop() == exited(0));
}

// Each key done at least once, and twice only where a kill came between.
TEST_CASE("doubles, and workers and consumers that are killed: each is done once, none is lost",
          "[broker][dedup][killing]") {
  const bool redis_store = GENERATE(false, true);
  const int count = campaign() ? 100'000 : 3'000;
  const int kills = campaign() ? 100 : 8;
  Once it;
  Redis redis;
  if (redis_store) redis.start();
  LopeOptions options = it.once(
      "{ key: message_id, store: '" + (redis_store ? redis.url() : std::string("local")) + "' }",
      "    workers: 2\n    prefetch: 50\n    crashes: 20\n"
      "    retry: { attempts: 20, delay: 0s }\n    breaker: false\n",
      "");
  options.top.replace(options.top.find("level: debug"), 12, "level: warn");
  Lope lope(options);
  REQUIRE(eventually(30s, [&] { return it.broker.consumer_count(it.queue) == 1; }));
  std::mt19937 random(7);
  std::set<std::string> keys;
  // Three of ten are doubles of what came shortly before.
  std::vector<std::string> ids;
  for (int i = 0; i < count; ++i) {
    const bool doubled = !ids.empty() && random() % 10 < 3;
    const std::size_t back = 1 + random() % std::min<std::size_t>(200, ids.size() + 1);
    ids.push_back(doubled && back <= ids.size() ? ids[ids.size() - back] : "k" + std::to_string(i));
    keys.insert(ids.back());
  }
  const int per_second = campaign() ? 1000 : 400;
  RatePublisher load(it.broker.url(), per_second,
                     std::chrono::seconds((count + per_second - 1) / per_second), [&](int i) {
                       const auto at = static_cast<std::size_t>(i) % ids.size();
                       return Publication{
                           .routing_key = it.queue, .body = "ack", .message_id = ids[at]};
                     });
  std::vector<std::int64_t> killed_ms;
  for (int i = 0; i < kills; ++i) {
    REQUIRE(eventually(120s, [&] { return load.sent() >= count / (kills + 1) * (i + 1); }));
    const auto victims = i % 2 == 0 ? lope.workers() : lope.consumers();
    if (!victims.empty()) {
      killed_ms.push_back(static_cast<std::int64_t>(lope::unix_ms()));
      ::kill(victims[random() % victims.size()], SIGKILL);
    }
  }
  load.join();
  REQUIRE(eventually(120s, [&] { return it.broker.is_empty(it.queue); }));
  // What waits on the ladder comes back.
  REQUIRE(eventually(120s, [&] {
    int waiting = 0;
    for (const auto& row : it.broker.list({"list_queues", "name", "messages"})) {
      if (row[0].starts_with(it.ladder.prefix) || row[0] == it.queue) waiting += std::stoi(row[1]);
    }
    return waiting == 0;
  }));
  CHECK(lope.stop(60s) == exited(0));
  std::map<std::string, int> done;
  for (const CourierEnd& end : it.ends()) {
    if (end.outcome == "ack") ++done[end.id];
  }
  std::map<std::string, std::vector<std::int64_t>> begun;
  for (const CourierStart& start : it.starts()) begun[start.id].push_back(start.now_ms);
  int lost = 0, twice = 0, unexplained = 0;
  for (const std::string& id : load.confirmed()) {
    if (done[id] == 0) ++lost;
  }
  for (auto& [id, times] : done) {
    if (times < 2) continue;
    twice += times - 1;
    auto& starts = begun[id];
    std::sort(starts.begin(), starts.end());
    const bool explained = std::any_of(killed_ms.begin(), killed_ms.end(), [&](std::int64_t kill) {
      return kill >= starts.front() && kill <= starts.back() && kill - starts.front() < 2000;
    });
    if (explained) continue;
    ++unexplained;
    for (const std::int64_t start : starts) {
      const auto after = std::upper_bound(killed_ms.begin(), killed_ms.end(), start);
      std::cout << id << " began " << (after == killed_ms.begin() ? -1 : start - *std::prev(after))
                << " ms after a kill" << std::endl;
    }
  }
  INFO(lope.log());
  std::cout << (redis_store ? "redis" : "local") << ": " << count << " messages of " << keys.size()
            << " keys, " << killed_ms.size() << " kills: lost " << lost << ", done twice " << twice
            << ", unexplained " << unexplained << ", " << it.starts().size() << " calls"
            << std::endl;
  CHECK(lost == 0);
  CHECK(unexplained == 0);
  // A consumer may take with it what it has not noted: no more than its window.
  CHECK(twice <= kills * 50);
  CHECK(it.broker.message_count(it.dead()).value_or(0) == 0);
}
