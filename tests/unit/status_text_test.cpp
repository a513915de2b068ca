#include "cli/status_text.h"

#include <catch2/catch.hpp>

#include "common/status.h"

using namespace lope;
using Catch::Contains;

namespace {

DaemonStatus full_status() {
  DaemonStatus status;
  status.version = "1.2.3";
  status.pid = 4711;
  status.state = "running";
  status.uptime_s = 7200;
  status.config = "/etc/lope/lope.yaml";
  GroupStatus good;
  good.name = "orders";
  good.state = "consuming";
  good.queues = {"orders"};
  good.handler = "shop";
  good.handler_name = "shop";
  good.handler_version = "2.0";
  good.broker = "mq1:5672";
  good.cluster = "rabbit@mq1";
  good.publish_broker = "mq2:5672";
  good.consumer_pid = 4712;
  good.uptime_s = 90;
  good.workers_wanted = good.workers_ready = 2;
  good.workers = {{0, 4713, "ready", 89.5, 12, 1 << 20}, {1, 4714, "leaving", 1.5, 3, 1 << 21}};
  good.running = 2;
  good.waiting = 30;
  good.rate_in = 1234.4;
  good.rate_out = 0.25;
  good.handling_p50_ms = 0.0123;
  good.handling_p99_ms = 12'345;
  good.retried = 5;
  good.dead_lettered = 3;
  good.rejected = 4;
  good.last_failure = "the handler asked for it: \033[31mred";
  good.last_failure_s = 12;
  GroupStatus bad;
  bad.name = "mail";
  bad.state = "refused";
  bad.reason = "no such file";
  bad.handler = "mail";
  bad.workers_wanted = 1;
  status.groups = {good, bad};
  GroupStatus relay;
  relay.name = "(relay)";
  relay.state = "consuming";
  relay.queues = {"lope.delay.due"};
  relay.consumer_pid = 4720;
  relay.broker = relay.publish_broker = "mq3:5672";
  relay.undeliverable = 2;
  status.relay = {relay};
  return status;
}

}  // namespace

TEST_CASE("status: a table, and what is wrong below it", "[unit][status_text]") {
  CHECK(cli::status_text(full_status(), false) ==
        "lope 1.2.3 running, pid 4711, up 2h, /etc/lope/lope.yaml\n"
        "GROUP    STATE      HANDLER   WORKERS  IN/s  OUT/s  RUNNING  WAITING  RETRIED  DEAD  "
        "CRASHES  P50   P99  UP   BROKER\n"
        "orders   consuming  shop 2.0  2/2      1234  0.2    2        30       5        7     "
        "0        13us  12s  90s  mq1:5672 (rabbit@mq1), to mq2:5672\n"
        "mail     refused    mail      0/1      0     0      0        0        0        0     "
        "0        -     -    -    -\n"
        "(relay)  consuming  -         -        0     0      0        0        0        0     "
        "0        -     -    0s   mq3:5672\n"
        "orders: last failure, 12s ago: the handler asked for it: \\x1B[31mred\n"
        "mail: refused: no such file\n"
        "(relay): 2 delayed messages could not be delivered: see lope dlq list "
        "lope.delay.undeliverable\n");
}

TEST_CASE("status: on a terminal, what does not work stands out", "[unit][status_text]") {
  const std::string text = cli::status_text(full_status(), true);
  CHECK_THAT(text, Contains("\norders   consuming"));
  CHECK_THAT(text, Contains("\n\033[31mmail     refused"));
  CHECK_THAT(text, Contains("-\033[0m\n"));
}

TEST_CASE("status: arrives as it was sent", "[unit][status_text]") {
  const std::string json = to_json(full_status());
  const auto arrived = daemon_status_from_json(json);
  REQUIRE(arrived.ok());
  CHECK(to_json(*arrived) == json);
  CHECK(cli::status_text(*arrived, false) == cli::status_text(full_status(), false));
  CHECK_FALSE(daemon_status_from_json("{}").ok());
  CHECK_FALSE(daemon_status_from_json("[").ok());
}

TEST_CASE("control: requests and answers arrive as they were sent", "[unit][status_text]") {
  const auto request =
      control_request_from_json(to_json(ControlRequest{"stop", "a \"group\"\n", true}));
  REQUIRE(request.ok());
  CHECK(request->command == "stop");
  CHECK(request->group == "a \"group\"\n");
  CHECK(request->now);
  CHECK(to_json(ControlRequest{"stop", "x\ny", true}).find('\n') == std::string::npos);

  CHECK(control_answer_from_json(to_json(ControlAnswer{.error = "no"}))->error == "no");
  CHECK(control_answer_from_json(to_json(ControlAnswer{.text = "done"}))->text == "done");
  const auto answer = control_answer_from_json(to_json(ControlAnswer{.status = "{\"pid\":1}"}));
  CHECK(answer->status == "{\"pid\":1}");
  CHECK_FALSE(control_answer_from_json("{}").ok());
  CHECK_FALSE(control_answer_from_json("").ok());
}

TEST_CASE("status: where the monitor serves, or why it does not", "[unit][status_text]") {
  DaemonStatus status = full_status();
  status.monitor = {{"127.0.0.1:9419", "serving", "", 4714}};
  CHECK_THAT(cli::status_text(status, false),
             Contains("/etc/lope/lope.yaml, http://127.0.0.1:9419/\n"));
  status.monitor = {{"127.0.0.1:9419", "down", "bind 127.0.0.1:9419: Address already in use", 0}};
  const std::string text = cli::status_text(status, false);
  CHECK(text.find("http://") == std::string::npos);
  CHECK_THAT(text, Contains("(monitor): does not serve 127.0.0.1:9419: bind 127.0.0.1:9419: "
                            "Address already in use\n"));
}
