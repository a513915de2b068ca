// Handlers that take too long.
#include <catch2/catch.hpp>
#include <fstream>
#include <string_view>

#include "support/courier.h"
#include "support/log_lines.h"

using namespace lope::test;

TEST_CASE("a handler over its timeout is ended, and its message alone is charged",
          "[broker][timeout]") {
  Couriered it;
  const bool threads = GENERATE(false, true);
  const std::string over = it.files.file("over");
  Lope lope(it.options(std::string("    timeout: 1s\n    retry: { attempts: 2, delay: 0s }\n") +
                       (threads ? "    threads: 4\n" : "")));
  REQUIRE(lope.wait_ready());
  if (threads) {
    for (const char* id : {"beside", "too"}) {
      it.publish("until " + over, id);
      REQUIRE(it.wait_attempts(id, 1));
    }
  }
  it.publish("sleep 60000", "late");
  const auto dead = it.take(it.dead(), 1);
  REQUIRE(dead.size() == 1);
  CHECK(dead[0].message_id == "late");
  CHECK(dead[0].header("x-lope-dead-code") == "attempts");
  CHECK(dead[0].header("x-lope-dead-reason").find("timeout") == 0);
  CHECK(dead[0].number("x-lope-dead-crashes") == 0);
  CHECK(it.attempts_of("late") == std::vector<int>{1, 2});
  if (threads) {
    CHECK(it.ends().empty());  // so they were inside both workers that ended
    std::ofstream(over).close();
    for (const char* id : {"beside", "too"}) {
      REQUIRE(it.wait_acked(id));
      CHECK(it.attempts_of(id) == std::vector<int>{1, 1, 1});
    }
    for (const CourierStart& start : it.starts()) CHECK(start.crashes == 0);
  }
  const std::string log = lope.log();
  CHECK(lines_with(log, "ending a worker").size() == 2);
  CHECK(fields_of(log, "worker ended", "how").count("SIGABRT") == 2);
  if (std::string_view(LOPE_SANITIZE).empty()) {
    const auto reports = lines_with(log, "lope-worker: SIGABRT");
    CHECK(reports.size() == 2);
    for (const std::string& report : reports) {
      CHECK_THAT(report, Catch::Contains("message_id 'late'"));
    }
  }
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("keep_alive() restarts the timeout", "[broker][timeout]") {
  Couriered it;
  Lope lope(it.options("    timeout: 1s\n"));
  REQUIRE(lope.wait_ready());
  it.publish("alive 600 5", "m");
  REQUIRE(it.wait_acked("m"));
  CHECK(it.attempts_of("m") == std::vector<int>{1});
  CHECK(lope.process().count_lines("ending a worker") == 0);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a late batch is taken apart, and only the late message is charged",
          "[broker][timeout]") {
  Couriered it;
  Lope lope(
      it.options("    timeout: 1s\n    retry: { attempts: 1 }\n    workers: 2\n"
                 "    batch: { size: 3, wait: 1m }\n"));
  REQUIRE(lope.wait_ready());
  it.publish("ack", "a");
  it.publish("sleep 60000", "late");
  it.publish("ack", "b");
  const auto dead = it.take(it.dead(), 1);
  INFO(lope.log());
  REQUIRE(dead.size() == 1);
  CHECK(dead[0].message_id == "late");
  REQUIRE(it.wait_acked("a"));
  REQUIRE(it.wait_acked("b"));
  // Once in the batch, as far as it came, and once alone.
  CHECK(it.attempts_of("a") == std::vector<int>{1, 1});
  CHECK(it.attempts_of("late") == std::vector<int>{1, 1});
  CHECK(it.attempts_of("b") == std::vector<int>{1});
  for (const CourierStart& start : it.starts()) CHECK(start.crashes == 0);
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
}
