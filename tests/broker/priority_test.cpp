// Priorities of messages and of consumers.
#include <algorithm>
#include <catch2/catch.hpp>
#include <string>

#include "support/broker.h"
#include "support/courier.h"
#include "support/lope.h"

using namespace lope;
using namespace lope::test;

TEST_CASE("messages with a higher priority come first", "[broker][priority]") {
  Couriered it;
  const std::string queue = it.broker.unique_queue("priority");
  it.broker.declare_queue(queue, {.number_arguments = {{"x-max-priority", 10}}});
  Publisher publisher = it.broker.publisher();
  for (int i = 0; i < 30; ++i) {
    publisher.publish({.routing_key = queue,
                       .body = "ack",
                       .message_id = std::to_string(i * 7 % 10),
                       .priority = i * 7 % 10});
  }
  LopeOptions options = it.options("    prefetch: 1\n    declare: { max_priority: 10 }\n");
  options.groups.replace(options.groups.find(it.queue), it.queue.size(), queue);
  Lope lope(options);
  REQUIRE(eventually(20s, [&] { return it.ends().size() == 30; }));
  const auto starts = it.starts();
  CHECK(std::is_sorted(starts.begin(), starts.end(),
                       [](const auto& a, const auto& b) { return a.id > b.id; }));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a consumer with a higher priority is served first", "[broker][priority]") {
  const std::string type = GENERATE(as<std::string>{}, "classic", "quorum");
  Couriered it(type);
  const std::string low = it.files.file("low");
  LopeOptions options = it.options("    priority: 10\n");
  Lope preferred(options);
  options = it.options("    priority: -10\n");
  options.groups.replace(options.groups.find(it.file), it.file.size(), low);
  Lope other(options);
  REQUIRE(preferred.wait_ready());
  REQUIRE(other.wait_ready());
  for (int i = 0; i < 20; ++i) it.publish("ack", "m" + std::to_string(i));
  REQUIRE(eventually(20s, [&] { return it.ends().size() == 20; }));
  CHECK(lines_of_file(low).empty());
  // It takes its place when that has gone.
  CHECK(preferred.stop() == exited(0));
  it.publish("ack", "last");
  CHECK(eventually(20s, [&] { return lines_of_file(low).size() == 2; }));
  CHECK(other.stop() == exited(0));
}
