// Consumers that hang, and groups that do nothing but die.
#include <catch2/catch.hpp>
#include <csignal>
#include <string>

#include "support/log_lines.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;

TEST_CASE("a consumer that hangs is killed and replaced, and its workers with it",
          "[process][health]") {
  Lope daemon({.groups = "  stuck: { handler: scripted, workers: 2 }\n"
                         "  other: { handler: scripted }\n"});
  REQUIRE(eventually(10s, [&] { return daemon.process().count_lines("worker ready") == 3; }));
  const Json before = group_of(daemon, "stuck");
  const Json other = group_of(daemon, "other");
  const auto pid = before["consumer_pid"].get<pid_t>();
  REQUIRE(::kill(pid, SIGSTOP) == 0);
  CHECK(daemon.wait_for_line("killing a consumer that hangs group=stuck", 20s));
  CHECK(eventually(10s, [&] {
    const Json after = group_of(daemon, "stuck");
    return after["consumer_pid"] != pid && has_settled(after, 2, pids_in(before));
  }));
  CHECK(group_of(daemon, "other")["consumer_pid"] == other["consumer_pid"]);
  CHECK(pids_in(group_of(daemon, "other")) == pids_in(other));
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(daemon.all_gone());
}

TEST_CASE("a monitor that hangs is killed and replaced", "[process][health]") {
  Lope daemon({.groups = "  g: { handler: scripted }\n", .top = "monitor: { listen: 0 }\n"});
  REQUIRE(daemon.wait_for_line("monitor started"));
  REQUIRE(daemon.wait_for_line("worker ready"));
  const pid_t pid = status_of(daemon)["monitor"][0]["pid"];
  const Json before = group_of(daemon);
  REQUIRE(::kill(pid, SIGSTOP) == 0);
  CHECK(daemon.wait_for_line("killing a monitor that hangs", 20s));
  CHECK(eventually(10s, [&] {
    const Json monitor = status_of(daemon)["monitor"][0];
    return monitor["state"] == "serving" && monitor["pid"] != pid;
  }));
  CHECK(pids_in(group_of(daemon)) == pids_in(before));
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(daemon.all_gone());
}

// Takes about a minute: so long the pauses are until then.
TEST_CASE("a group that only dies has failed: it is left alone, and the others go on",
          "[process][health]") {
  Lope daemon({.groups = "  workers: { handler: create_failed, workers: 2 }\n"
                         "  consumer: { handler: scripted }\n"
                         "  other: { handler: scripted }\n"});
  REQUIRE(daemon.wait_for_line("worker ready group=other"));
  const Json other = group_of(daemon, "other");
  pid_t killed = 0;
  CHECK(eventually(120s, [&] {
    const Json group = group_of(daemon, "consumer");
    const auto pid = group["consumer_pid"].get<pid_t>();
    if (pid != 0 && pid != killed) {
      killed = pid;
      ::kill(pid, SIGKILL);
    }
    return group["state"] == "failed" && group_of(daemon, "workers")["state"] == "failed";
  }));
  const auto failed = lines_with(daemon.log(), "group failed");
  INFO(daemon.log());
  REQUIRE(failed.size() == 2);
  CHECK_THAT(group_of(daemon, "workers")["reason"].get<std::string>(),
             Contains("its workers died 11 times in a row before they were ready"));
  CHECK_THAT(group_of(daemon, "consumer")["reason"].get<std::string>(),
             Contains("the consumer ended: SIGKILL"));
  CHECK(lines_with(daemon.log(), "consumer to be started again group=consumer").size() == 10);
  CHECK(group_of(daemon, "workers")["workers"].empty());
  CHECK(pids_in(group_of(daemon, "other")) == pids_in(other));
  // An operator need not wait.
  told(daemon, {"restart", "consumer"});
  CHECK(eventually(10s, [&] { return group_of(daemon, "consumer")["workers_ready"] == 1; }));
  told(daemon, {"restart", "workers"});
  CHECK(eventually(10s, [&] { return lines_with(daemon.log(), "group failed").size() == 3; }));
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(daemon.all_gone());
}
