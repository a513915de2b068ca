// Where messages go that are given up.
#include <catch2/catch.hpp>

#include "support/courier.h"
#include "support/log_lines.h"

using namespace lope::test;

TEST_CASE("dead letters go to the exchange or queue that the group names",
          "[broker][dead_letter]") {
  Couriered it;
  const std::string dead = it.broker.unique_queue("dead");
  const std::string exchange = it.broker.unique_exchange();
  std::string where;
  SECTION("a queue that is there") {
    it.broker.declare_queue(dead);
    where = "{ queue: " + dead + " }";
  }
  SECTION("a queue that is declared") { where = "{ queue: " + dead + ", declare: true }"; }
  SECTION("an exchange, with the message's own key") {
    it.broker.declare_queue(dead);
    it.broker.declare_exchange(exchange, "topic");
    it.broker.bind_queue(dead, exchange, it.queue);
    where = "{ exchange: " + exchange + " }";
  }
  SECTION("an exchange, with a key") {
    it.broker.declare_queue(dead);
    it.broker.declare_exchange(exchange, "direct");
    it.broker.bind_queue(dead, exchange, "given-up");
    where = "{ exchange: " + exchange + ", key: given-up }";
  }
  INFO(where);
  Lope lope(it.options("    dead_letter: " + where + "\n"));
  REQUIRE(lope.wait_ready());
  it.publish("reject", "m");
  const auto letters = it.take(dead, 1);
  REQUIRE(letters.size() == 1);
  CHECK(letters[0].message_id == "m");
  CHECK(letters[0].header("x-lope-dead-code") == "rejected");
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(lope.process().count_lines("no dead-letter exchange") == 0);
}

TEST_CASE("a dead letter that its exchange loses is parked", "[broker][dead_letter]") {
  Couriered it;
  const std::string exchange = it.broker.unique_exchange();
  const bool is_there = GENERATE(true, false);
  if (is_there) it.broker.declare_exchange(exchange, "topic");
  Lope lope(it.options("    dead_letter: { exchange: " + exchange + " }\n"));
  REQUIRE(lope.wait_ready());
  it.publish("reject", "m");
  const auto letters = it.take(it.dead(), 1);
  REQUIRE(letters.size() == 1);
  CHECK(letters[0].message_id == "m");
  CHECK(lope.process().count_lines("its copy could not be published") == 1);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("without a dead-letter exchange what is given up is parked, and the log says so at start",
          "[broker][dead_letter]") {
  const std::string type = GENERATE(as<std::string>{}, "classic", "quorum");
  Couriered it(type);
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  const auto warned = lines_with(lope.log(), "no dead-letter exchange");
  REQUIRE(warned.size() == 1);
  CHECK(field(warned[0], "queue") == it.queue);
  it.publish("reject", "m");
  CHECK(it.take(it.dead(), 1).size() == 1);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a dead-letter exchange that does not exist is seen, and nothing is dropped by it",
          "[broker][dead_letter]") {
  Couriered it;
  it.broker.delete_queue(it.queue);
  it.broker.declare_queue(it.queue, {.text_arguments = {{"x-dead-letter-exchange", "no-such"}}});
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  const auto warned = lines_with(lope.log(), "no dead-letter exchange");
  REQUIRE(warned.size() == 1);
  CHECK(warned[0].find("'no-such' does not exist") != std::string::npos);
  it.publish("reject", "m");
  CHECK(it.take(it.dead(), 1).size() == 1);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a dead letter that cannot be parked goes back to its queue", "[broker][dead_letter]") {
  Couriered it;
  // Declared otherwise than Lope would, full, and refusing.
  it.broker.declare_queue(it.dead(), {.text_arguments = {{"x-overflow", "reject-publish"}},
                                      .number_arguments = {{"x-max-length", 1}}});
  it.broker.publish(it.dead(), "full");
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  it.publish("reject", "m");
  const auto failed = lope.wait_for_line("cannot publish a dead letter");
  REQUIRE(failed);
  REQUIRE(it.wait_attempts("m", 2));
  it.broker.drain(it.dead());
  const auto letters = it.take(it.dead(), 1);
  REQUIRE(letters.size() == 1);
  CHECK(letters[0].message_id == "m");
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a body over max_body is a dead letter, whole", "[broker][dead_letter]") {
  Couriered it;
  Lope lope(it.options("    max_body: 1KiB\n"));
  REQUIRE(lope.wait_ready());
  const std::string body(100'000, 'x');
  it.publish(body, "large");
  const auto letters = it.take(it.dead(), 1);
  REQUIRE(letters.size() == 1);
  CHECK(letters[0].body == body);
  CHECK(letters[0].header("x-lope-dead-code") == "too-large");
  CHECK(it.attempts_of("large").empty());
  CHECK(lope.stop() == exited(0));
}
