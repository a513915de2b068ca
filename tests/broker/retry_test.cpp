// Messages that are handled again: when, how often, and what they carry.
#include <signal.h>

#include <catch2/catch.hpp>

#include <fstream>
#include <string_view>

#include "support/courier.h"
#include "support/ladder.h"
#include "support/log_lines.h"
#include "support/undo.h"

using namespace lope::test;

TEST_CASE("a retry comes as the next attempt, not before its delay, and ends as a dead letter",
          "[broker][retry]") {
  const std::string type = GENERATE(as<std::string>{}, "classic", "quorum");
  INFO(type);
  Couriered it(type);
  Lope lope(it.options("    retry: { attempts: 3, delay: 1s, backoff: 2, jitter: 0 }\n"));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish({.routing_key = it.queue,
                                 .body = "retry 9 -",
                                 .message_id = "m",
                                 .content_type = "text/x-words",
                                 .headers = {{"mine", "kept"}}});
  const auto dead = it.take(it.dead(), 1);
  REQUIRE(dead.size() == 1);
  CHECK(it.attempts_of("m") == std::vector<int>{1, 2, 3});
  for (const CourierStart& start : it.starts()) {
    if (start.attempt == 1) continue;
    REQUIRE(start.late_ms);
    CHECK(*start.late_ms >= 0);
    CHECK(*start.late_ms <= 2000);
  }
  CHECK(dead[0].body == "retry 9 -");
  CHECK(dead[0].content_type == "text/x-words");
  CHECK(dead[0].persistent);
  CHECK(dead[0].header("mine") == "kept");
  CHECK(dead[0].header("x-lope-dead-code") == "attempts");
  CHECK(dead[0].header("x-lope-dead-reason") == "the handler asked for it");
  CHECK(dead[0].header("x-lope-dead-queue") == it.queue);
  CHECK(dead[0].header("x-lope-dead-group") == "courier");
  CHECK(dead[0].header("x-lope-dead-handler") == "courier");
  CHECK(dead[0].header("x-lope-dead-version") == "1.0.0");
  CHECK(dead[0].header("x-lope-dead-file").ends_with("/courier.so"));
  CHECK_FALSE(dead[0].header("x-lope-dead-host").empty());
  CHECK(dead[0].number("x-lope-dead-attempts") == 3);
  CHECK(dead[0].number("x-lope-dead-crashes") == 0);
  CHECK(dead[0].header("x-lope-routing-key") == it.queue);
  CHECK(dead[0].number("x-lope-attempt") == -1);  // who handles it again begins anew
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("copies are persistent, whoever published the message, and go to its queue alone",
          "[broker][retry]") {
  Couriered it;
  const std::string beside = it.broker.make_queue("beside");
  Lope lope(it.options("    retry: { attempts: 2, delay: 200ms }\n"));
  REQUIRE(lope.wait_ready());
  // Each carries what the broker would refuse, or act on once more, in a copy by somebody else.
  const std::string user = "other-" + std::to_string(::getpid());
  it.broker.ctl({"add_user", user, "secret"});
  const Undo remove([&] { it.broker.ctl({"delete_user", user}); });
  it.broker.ctl({"set_permissions", user, ".*", ".*", ".*"});
  Publisher other("amqp://" + user + ":secret@127.0.0.1:" + std::to_string(it.broker.port()));
  other.publish({.routing_key = it.queue,
                 .body = "retry 9 -",
                 .message_id = "m",
                 .persistent = false,
                 .user_id = user});
  const auto dead = it.take(it.dead(), 1);
  REQUIRE(dead.size() == 1);
  CHECK(dead[0].message_id == "m");
  CHECK(dead[0].persistent);
  CHECK(it.attempts_of("m") == std::vector<int>{1, 2});
  it.broker.publisher().publish({.routing_key = it.queue,
                                 .body = "retry 9 -",
                                 .message_id = "cc",
                                 .typed_headers = {{.name = "CC", .kind = 'A', .text = beside}}});
  const auto second = it.take(it.dead(), 1);
  REQUIRE(second.size() == 1);
  CHECK(it.attempts_of("cc") == std::vector<int>{1, 2});
  CHECK(ids_of(it.broker.drain(beside)) == std::vector<std::string>{"cc"});
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("retry_after() overrides one delay", "[broker][retry]") {
  Couriered it;
  Lope lope(it.options("    retry: { attempts: 3, delay: 1h }\n"));
  REQUIRE(lope.wait_ready());
  it.publish("retry 1 500", "m");
  REQUIRE(it.wait_acked("m"));
  CHECK(it.attempts_of("m") == std::vector<int>{1, 2});
  it.publish("retry 1 0", "at-once");
  REQUIRE(it.wait_acked("at-once"));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("with a delay of 0 the copy goes straight back to its queue, and attempts are counted",
          "[broker][retry]") {
  Couriered it;
  // Nobody takes anything off the ladder.
  Lope lope(it.options("    retry: { attempts: 4, delay: 0s }\n", "delays: { relay: false }\n"));
  REQUIRE(lope.wait_ready());
  it.publish("retry 9 -", "m");
  const auto dead = it.take(it.dead(), 1);
  REQUIRE(dead.size() == 1);
  CHECK(it.attempts_of("m") == std::vector<int>{1, 2, 3, 4});
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("the handler sees where a message was published to first, in every attempt",
          "[broker][retry]") {
  Couriered it;
  const std::string exchange = it.broker.unique_exchange();
  it.broker.declare_exchange(exchange, "topic");
  it.broker.bind_queue(it.queue, exchange, "#");
  Lope lope(it.options("    retry: { attempts: 2, delay: 200ms }\n"));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish(
      {.exchange = exchange, .routing_key = "orders.new", .body = "retry 9 -", .message_id = "m"});
  const auto dead = it.take(it.dead(), 1);
  REQUIRE(dead.size() == 1);
  CHECK(dead[0].header("x-lope-exchange") == exchange);
  CHECK(dead[0].header("x-lope-routing-key") == "orders.new");
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a crash is counted in the message, over restarts of the daemon", "[broker][retry]") {
  Couriered it;
  const LopeOptions options =
      it.options("    crashes: 3\n    retry: { attempts: 10, delay: 1s }\n");
  {
    Lope lope(options);
    REQUIRE(lope.wait_ready());
    it.publish("segv", "m");
    REQUIRE(lope.wait_for_line("message retried"));
    CHECK(lope.stop() == exited(0));
  }
  Lope lope(options);
  const auto dead = it.take(it.dead(), 1, 20s);
  REQUIRE(dead.size() == 1);
  CHECK(it.attempts_of("m") == std::vector<int>{1, 2, 3});
  CHECK(dead[0].header("x-lope-dead-code") == "crashes");
  CHECK(dead[0].header("x-lope-dead-reason") == "its worker died: SIGSEGV");
  CHECK(dead[0].number("x-lope-dead-crashes") == 3);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a crash is counted in the message, over deaths of the consumer too", "[broker][retry]") {
  Couriered it;
  Lope lope(
      it.options("    crashes: 3\n"
                 "    retry: { attempts: 10, delay: 2500ms, backoff: 1, jitter: 0 }\n"));
  REQUIRE(lope.wait_ready());
  it.publish("segv", "m");
  for (const std::size_t attempt : {1, 2}) {
    REQUIRE(it.wait_attempts("m", attempt));
    REQUIRE(lope.wait_for_line("message retried"));
    // Its copy is confirmed, and waits.
    REQUIRE(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
    REQUIRE(it.attempts_of("m").size() == attempt);
    const auto consumers = lope.consumers();
    REQUIRE(consumers.size() == 1);
    REQUIRE(::kill(consumers[0], SIGKILL) == 0);
  }
  const auto dead = it.take(it.dead(), 1, 20s);
  REQUIRE(dead.size() == 1);
  std::vector<int> crashes;
  for (const CourierStart& start : it.starts()) crashes.push_back(start.crashes);
  CHECK(it.attempts_of("m") == std::vector<int>{1, 2, 3});
  CHECK(crashes == std::vector<int>{0, 1, 2});
  CHECK(dead[0].header("x-lope-dead-code") == "crashes");
  CHECK(dead[0].number("x-lope-dead-crashes") == 3);
  CHECK(dead[0].number("x-lope-dead-attempts") == 3);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("attempts are counted by Lope, not by x-death, and no copy carries what a broker wrote",
          "[broker][retry]") {
  Couriered it;
  const Ladder ladder(it.broker);
  // What comes from here has expired once, and so it would at each step of the ladder.
  const std::string source = it.broker.make_queue(
      "source",
      {.text_arguments = {{"x-dead-letter-exchange", ""}, {"x-dead-letter-routing-key", it.queue}},
       .number_arguments = {{"x-message-ttl", 1}}});
  const auto publish = [&](const std::string& body, const std::string& id) {
    it.broker.publisher().publish({.routing_key = source, .body = body, .message_id = id});
  };
  publish("", "as it comes");
  const auto sample = it.take(it.queue, 1);
  REQUIRE(sample.size() == 1);
  REQUIRE(sample[0].has_header("x-death"));
  REQUIRE(sample[0].header("x-first-death-queue") == source);

  Couriered other;  // of a daemon that goes on relaying when the first ends
  Lope relays(other.options({}, ladder.top()));
  REQUIRE(relays.wait_ready());
  Lope lope(it.options("    retry: { attempts: 4 }\n", ladder.top({}, /*relay=*/false)));
  REQUIRE(lope.wait_ready());
  publish("retry 9 500", "m");
  const auto dead = it.take(it.dead(), 1);
  REQUIRE(dead.size() == 1);
  CHECK(it.attempts_of("m") == std::vector<int>{1, 2, 3, 4});
  CHECK(dead[0].number("x-lope-dead-attempts") == 4);
  CHECK_FALSE(dead[0].has_header("x-death"));
  CHECK_FALSE(dead[0].has_header("x-first-death"));

  publish("retry 9 8000", "copy");
  REQUIRE(it.wait_attempts("copy", 1));
  REQUIRE(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.stop() == exited(0));
  const auto copy = it.take(it.queue, 1);
  REQUIRE(copy.size() == 1);
  CHECK(copy[0].message_id == "copy");
  CHECK(copy[0].number("x-lope-attempt") == 2);
  CHECK(copy[0].header("x-lope-routing-key") == it.queue);
  CHECK_FALSE(copy[0].has_header("x-death"));
  CHECK_FALSE(copy[0].has_header("x-first-death"));
  CHECK_FALSE(copy[0].has_header("x-last-death"));
  CHECK(relays.stop() == exited(0));
}

TEST_CASE("a handler that runs out of memory and lets go of it has its message retried",
          "[broker][retry]") {
  if (!std::string_view(LOPE_SANITIZE).empty()) return;  // they need more memory than any limit
  Couriered it;
  Lope lope(it.options("    retry: { attempts: 2, delay: 0s }\n", kWithRelay, "memory: 1024"));
  REQUIRE(lope.wait_ready());
  it.publish("greedy", "m");
  const auto dead = it.take(it.dead(), 1);
  REQUIRE(dead.size() == 1);
  CHECK(dead[0].header("x-lope-dead-code") == "attempts");
  CHECK_THAT(dead[0].header("x-lope-dead-reason"), Catch::Contains("std::bad_alloc"));
  CHECK(dead[0].number("x-lope-dead-crashes") == 0);
  it.publish("ack", "after");
  REQUIRE(it.wait_acked("after"));
  CHECK(lope.process().count_lines("worker ended") == 0);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("what comes after its expiration is a dead letter", "[broker][retry]") {
  Couriered it;
  Lope lope(it.options("    retry: { attempts: 5, delay: 2s }\n"));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish(
      {.routing_key = it.queue, .body = "retry 9 -", .message_id = "m", .expiration = "1000"});
  const auto dead = it.take(it.dead(), 1);
  REQUIRE(dead.size() == 1);
  CHECK(it.attempts_of("m") == std::vector<int>{1});
  CHECK(dead[0].header("x-lope-dead-code") == "expired");
  CHECK(dead[0].expiration.empty());
  CHECK(lope.stop() == exited(0));
}
