// `workers: {min, max}`: more workers come while messages wait.
#include <catch2/catch.hpp>
#include <string>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;

TEST_CASE("a group gets as many workers as there is work for", "[broker][autoscale]") {
  Broker broker;
  const std::string queue = broker.make_queue("autoscale");
  const TempDir files;
  Lope daemon({.broker = broker.url(),
               .groups = "  g: { queue: " + queue +
                         ", handler: append_id, options: { file: " + files.file("ids") +
                         ", work_us: 250000 }, workers: {min: 1, max: 3}, prefetch: 20 }\n"});
  REQUIRE(daemon.wait_ready());
  Json group = group_of(daemon);
  CHECK(group["workers_ready"] == 1);
  CHECK(group["workers_min"] == 1);
  CHECK(group["workers_max"] == 3);
  CHECK_THAT(refused(daemon, {"scale", "g", "5"}),
             Contains("it has its number of workers by itself"));
  auto publisher = broker.publisher();
  publisher.publish_many(60, [&](int i) {
    return Publication{.routing_key = queue, .body = "x", .message_id = std::to_string(i)};
  });
  CHECK(eventually(20s, [&] { return has_settled(group_of(daemon), 3); }));
  CHECK(group_of(daemon)["workers_wanted"] == 3);
  CHECK(eventually(20s, [&] { return lines_of_file(files.file("ids")).size() == 60; }));
  CHECK(lines_with(daemon.log(), "scaling").size() == 2);
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(compare_ledger(publisher.confirmed(), lines_of_file(files.file("ids"))).duplicates.empty());
}
