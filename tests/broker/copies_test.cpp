// Copies of messages that go another way than usual.
#include <catch2/catch.hpp>
#include <fstream>

#include "support/courier.h"
#include "support/ladder.h"
#include "support/memory_alarm.h"

using namespace lope::test;

TEST_CASE("a copy that comes back is not taken for another that went the same way",
          "[broker][copies]") {
  Couriered it;
  // Which of the two is routed is a matter of their headers, and they have no message ids.
  const std::string exchange = it.broker.unique_exchange("copies");
  const std::string taken = it.broker.make_queue("taken");
  it.broker.declare_exchange(exchange, "headers");
  it.broker.ctl({"eval", "rabbit_binding:add({binding, rabbit_misc:r(<<\"/\">>, exchange, <<\"" +
                             exchange + "\">>), <<>>, rabbit_misc:r(<<\"/\">>, queue, <<\"" +
                             taken +
                             "\">>), [{<<\"kind\">>, longstr, <<\"taken\">>}]}, <<\"test\">>)."});
  Lope lope(it.options("    dead_letter: { exchange: " + exchange + ", key: k }\n"));
  REQUIRE(lope.wait_ready());
  constexpr int kEach = 500;
  Publisher publisher = it.broker.publisher();
  publisher.publish_many(2 * kEach, [&](int i) {
    return Publication{
        .routing_key = it.queue,
        .body = "reject",
        .headers = {{"kind", i % 2 == 0 ? "taken" : "not"}, {"number", std::to_string(i)}}};
  });
  CHECK(eventually(30s, [&] {
    return it.broker.message_count(taken).value_or(0) >= kEach &&
           it.broker.message_count(it.dead()).value_or(0) >= kEach && it.broker.is_empty(it.queue);
  }));
  CHECK(lope.stop() == exited(0));
  std::set<std::string> numbers;
  for (const Received& each : it.broker.drain(taken)) {
    CHECK(each.header("kind") == "taken");
    numbers.insert(each.header("number"));
  }
  CHECK(numbers.size() == kEach);
  // Those that could not be told from one that came back are parked as well.
  for (const Received& each : it.broker.drain(it.dead())) numbers.insert(each.header("number"));
  CHECK(numbers.size() == 2 * kEach);
}

TEST_CASE("a message with headers as large as can be is set aside when it is to be handled again",
          "[broker][copies]") {
  Couriered it;
  // A frame is 128 KiB at most. With what Lope adds it fits no more; the second does not even with
  // the word that says why.
  const auto size = GENERATE(as<std::size_t>{}, 130'950, 131'020);
  Lope lope(it.options("    retry: { delay: 1s }\n"));
  REQUIRE(lope.wait_ready());
  const std::string large(size, 'x');
  it.broker.publisher().publish({.routing_key = it.queue,
                                 .body = "retry 9 -",
                                 .message_id = "large",
                                 .headers = {{"large", large}}});
  const auto letters = it.take(it.dead(), 1);
  REQUIRE(letters.size() == 1);
  CHECK(letters[0].message_id == "large");
  CHECK(letters[0].header("large") == large);
  CHECK(letters[0].header("x-lope-dead-code") == (size < 131'000 ? "too-large" : ""));
  CHECK(it.attempts_of("large") == std::vector<int>{1});
  CHECK(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a message with large headers comes out of the delay ladder, where they have grown",
          "[broker][copies]") {
  Couriered large(GENERATE(as<std::string>{}, "classic", "quorum"));
  Lope lope(large.options("    retry: { delay: 8s }\n"));
  REQUIRE(lope.wait_ready());
  // The copy for the ladder fits a frame; with what the broker adds at each level it does not.
  large.broker.publisher().publish({.routing_key = large.queue,
                                    .body = "retry 1 7875",
                                    .message_id = "large",
                                    .headers = {{"large", std::string(130'300, 'x')}}});
  large.publish("retry 1 100", "after");
  CHECK(large.wait_acked("after"));
  CHECK(large.wait_acked("large", 20s));
  CHECK(large.attempts_of("large") == std::vector<int>{1, 2});
  CHECK(lope.process().count_lines("connection lost") == 0);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a message with large headers that cannot be delivered is set aside by the relay",
          "[broker][copies]") {
  Couriered it;
  const Ladder ladder(it.broker);
  Lope lope(it.options("", ladder.top(", retry: 1s, give_up: 2s")));
  REQUIRE(lope.wait_ready());
  // Some do not fit the ladder; of those that do some fit no more with the reason.
  constexpr int kMessages = 16;
  it.broker.publisher().publish_many(kMessages, [&](int i) {
    return Publication{.routing_key = it.queue,
                       .body = "retry 1 3000",
                       .message_id = "m" + std::to_string(i),
                       .headers = {{"large", std::string(130'300 + 40 * std::size_t(i), 'x')}}};
  });
  REQUIRE(eventually(20s, [&] { return it.starts().size() == kMessages; }));
  REQUIRE(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
  it.broker.delete_queue(it.queue);
  const std::string undeliverable = ladder.prefix + ".undeliverable";
  const auto set_aside = [&] { return it.broker.message_count(undeliverable).value_or(0); };
  const int parked = it.broker.message_count(it.dead()).value_or(0);
  CHECK(parked > 0);
  CHECK(eventually(30s, [&] { return set_aside() + parked == kMessages; }));
  CHECK(lope.process().count_lines("goes back to the queue it came from") == 0);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a dead letter of the broker's that is handled begins with its first attempt",
          "[broker][copies]") {
  Broker broker;
  TempDir files;
  const std::string exchange = broker.unique_exchange("copies");
  broker.declare_exchange(exchange, "fanout");
  const std::string first =
      broker.make_queue("first", {.text_arguments = {{"x-dead-letter-exchange", exchange}}});
  const std::string second = broker.make_queue("second");
  broker.bind_queue(second, exchange, "");
  const auto group = [&](const std::string& name, const std::string& queue) {
    return "  " + name + ":\n    queue: " + queue +
           "\n    handler: courier\n    retry: { attempts: 2, delay: 0s }\n    options: { file: " +
           files.file(name) + " }\n";
  };
  Lope lope({.broker = broker.url(), .groups = group("first", first) + group("second", second)});
  REQUIRE(lope.wait_ready());
  broker.publisher().publish({.routing_key = first, .body = "retry 9 -", .message_id = "m"});
  CHECK(eventually(20s, [&] { return broker.message_count(second + ".dead").value_or(0) == 1; }));
  CHECK(lope.stop() == exited(0));
  const auto attempts = [&](const std::string& name) {
    std::vector<std::string> begun;
    for (const std::string& line : lines_of_file(files.file(name))) {
      if (line.starts_with("start ")) begun.push_back(line.substr(0, 9));
    }
    return begun;
  };
  const std::vector<std::string> both = {"start m 1", "start m 2"};
  CHECK(attempts("first") == both);
  CHECK(attempts("second") == both);
  broker.delete_queue(second + ".dead");
}

TEST_CASE("what a handler publishes is sent with auto_ack, too", "[broker][copies]") {
  Couriered it;
  const std::string to = it.broker.make_queue("to");
  Lope lope(it.options("    auto_ack: true\n"));
  REQUIRE(lope.wait_ready());
  it.publish("publish " + to + " 3", "m");
  CHECK(it.take(to, 3).size() == 3);
  it.publish("publish no-such-queue 1", "bad");
  const auto given_up = lope.wait_for_line("message given up (auto_ack)");
  REQUIRE(given_up);
  CHECK_THAT(*given_up, Catch::Matchers::Contains("no-such-queue"));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("dead letters go to a queue that exists, however it is declared", "[broker][copies]") {
  Couriered it;
  const std::string dead =
      it.broker.make_queue("dead", {.text_arguments = {{"x-queue-type", "quorum"}}});
  Lope lope(it.options("    dead_letter: { queue: " + dead + ", declare: true }\n"));
  REQUIRE(lope.wait_ready());
  for (int i = 0; i < 5; ++i) it.publish("reject", "m" + std::to_string(i));
  CHECK(it.take(dead, 5).size() == 5);
  CHECK_FALSE(it.broker.queue_exists(it.dead()));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a drain while the broker takes no publications ends in time and in good order",
          "[broker][copies]") {
  Couriered it;
  const std::string to = it.broker.make_queue("to");
  const std::string gate = it.files.file("gate");
  Lope lope(it.options("", "shutdown_timeout: 2s\n"));
  REQUIRE(lope.wait_ready());
  it.publish("publish " + to + " 1", "before");  // the publishing connection is there
  REQUIRE(it.take(to, 1).size() == 1);
  it.publish("until " + gate + " publish " + to + " 1", "m");
  REQUIRE(it.wait_attempts("m", 1));
  const MemoryAlarm alarm(it.broker);
  std::ofstream(gate) << "open";
  REQUIRE(lope.wait_for_line("the broker blocks publishers", 20s));
  REQUIRE(it.wait_acked("m"));
  CHECK(lope.stop(10s) == exited(0));
  CHECK_THAT(lope.log(), Catch::Matchers::Contains("messages handed back"));
  CHECK(lope.wait_for_line("ledger finished=0 handed_back=1 killed=0"));
  CHECK(it.broker.message_count(it.queue) == 1);
}
