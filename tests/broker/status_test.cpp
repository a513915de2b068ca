// `lope status` of a daemon that works: what it counts.
#include <catch2/catch.hpp>
#include <string>

#include "common/exit_code.h"
#include "support/broker.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope;
using namespace lope::test;

TEST_CASE("status counts what was handled, how long it took, and what waits", "[broker][status]") {
  Broker broker;
  const std::string queue = broker.unique_queue("status");
  LopeOptions options;
  options.broker = broker.url();
  options.groups = "  g: { handler: scripted, queue: " + queue +
                   ", declare: {}, workers: 2, prefetch: 20, retry: { attempts: 2, delay: 0s } }\n";
  Lope daemon(options);
  REQUIRE(daemon.wait_ready());
  const auto group = [&] { return status_of(daemon)["groups"][0]; };
  CHECK(group()["state"] == "consuming");
  CHECK(group()["reason"] == "");

  for (int i = 0; i < 100; ++i) broker.publish(queue, "sleep:5", "ok" + std::to_string(i));
  for (int i = 0; i < 3; ++i) broker.publish(queue, "retry:no luck", "again" + std::to_string(i));
  broker.publish(queue, "reject:never", "never");
  CHECK(eventually(20s, [&] { return group()["acked"] == 100 + 3 + 4; }));
  const Json done = group();
  CHECK(done["delivered"] == 107);
  CHECK(done["retried"] == 3);
  CHECK(done["dead_lettered"] == 4);  // parked
  CHECK(done["running"] == 0);
  CHECK(done["waiting"] == 0);
  CHECK(done["last_failure"].get<std::string>() != "");
  std::uint64_t given = 0;
  for (const Json& worker : done["workers"]) given += worker["given"].get<std::uint64_t>();
  CHECK(given == 107);
  // As of its next look at the counters.
  CHECK(eventually(5s, [&] {
    const Json now = group();
    return now["rate_in"] > 1 && now["rate_out"] > 1 && now["handling_p50_ms"] > 3.5 &&
           now["handling_p50_ms"] < 15;
  }));

  for (int i = 0; i < 30; ++i) broker.publish(queue, "sleep:60000", "long" + std::to_string(i));
  CHECK(eventually(10s, [&] {
    const Json now = group();
    return now["running"] == 2 && now["waiting"] == 18;  // the window is 20
  }));
  daemon.process().signal_group(SIGQUIT);
  CHECK(daemon.process().wait_exit(10s).has_value());
}

TEST_CASE("status names the delayed messages that could not be delivered", "[broker][status]") {
  Broker broker;
  const std::string queue = broker.unique_queue("status");
  const std::string prefix = broker.unique_queue("ladder");
  LopeOptions options;
  options.broker = broker.url();
  options.top = "delays: { prefix: " + prefix + ", retry: 1s, give_up: 0s }\n";
  options.groups = "  g: { handler: scripted, queue: " + queue + ", declare: {} }\n";
  Lope daemon(options);
  REQUIRE(daemon.wait_ready());
  const std::string gone = broker.unique_queue("gone");
  broker.declare_queue(gone);
  REQUIRE(run_lope({"publish", "--broker", broker.url(), "--config", daemon.config_path(),
                    "--queue", gone, "--delay", "1s", "x"})
              .status == exited(kExitOk));
  broker.delete_queue(gone);
  CHECK(eventually(20s, [&] { return status_of(daemon)["relay"][0]["undeliverable"] == 1; }));
  CHECK_THAT(
      told(daemon, {"status"}),
      Catch::Contains("(relay): 1 delayed messages could not be delivered: see lope dlq list " +
                      prefix + ".undeliverable"));
  CHECK(daemon.stop() == exited(kExitOk));
}
