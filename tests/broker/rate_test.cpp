// How many messages a group begins.
#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <string>

#include "support/broker.h"
#include "support/courier.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;

namespace {

// Begun within so long of the first.
std::size_t begun_within(const Couriered& it, long ms) {
  const auto starts = it.starts();
  return static_cast<std::size_t>(
      std::count_if(starts.begin(), starts.end(),
                    [&](const auto& start) { return start.now_ms - starts.front().now_ms < ms; }));
}

}  // namespace

TEST_CASE("over ten seconds a group begins as many messages as its rate says", "[broker][rate]") {
  Couriered it;
  const int per_second = GENERATE(50, 2000);
  CAPTURE(per_second);
  Lope lope(
      it.options("    workers: 2\n    threads: 2\n    prefetch: 500\n    rate: { per_second: " +
                 std::to_string(per_second) + ", burst: 1 }\n"));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish_many(12 * per_second, [&](int i) {
    return Publication{
        .routing_key = it.queue, .body = "ack", .message_id = "m" + std::to_string(i)};
  });
  REQUIRE(eventually(60s, [&] {
    const auto starts = it.starts();
    return !starts.empty() && starts.back().now_ms - starts.front().now_ms >= 10'000;
  }));
  const auto begun = static_cast<double>(begun_within(it, 10'000));
  WARN(per_second << " a second: " << begun << " in ten seconds");
  CHECK(begun >= 10 * per_second * 0.98);
  CHECK(begun <= 10 * per_second * 1.02 + 1);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("after a pause a burst, then the rate; status says what is waited for",
          "[broker][rate]") {
  Couriered it;
  Lope lope(
      it.options("    workers: 2\n    prefetch: 100\n    rate: { per_second: 5, burst: 20 }\n"));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish_many(60, [&](int i) {
    return Publication{
        .routing_key = it.queue, .body = "ack", .message_id = "m" + std::to_string(i)};
  });
  REQUIRE(eventually(20s, [&] { return it.starts().size() >= 25; }));
  CHECK_THAT(told(lope, {"status"}), Contains("courier: messages wait for its rate, 5.0 a second"));
  const auto starts = it.starts();
  CHECK(starts[19].now_ms - starts[0].now_ms < 800);
  CHECK(starts[24].now_ms - starts[19].now_ms >= 600);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a reload changes the rate, and the consumer stays", "[broker][rate]") {
  Couriered it;
  const LopeOptions slow =
      it.options("    prefetch: 100\n    rate: { per_second: 0.01, burst: 2 }\n");
  Lope lope(slow);
  REQUIRE(lope.wait_ready());
  const auto consumers = lope.consumers();
  it.broker.publisher().publish_many(50, [&](int i) {
    return Publication{
        .routing_key = it.queue, .body = "ack", .message_id = "m" + std::to_string(i)};
  });
  REQUIRE(eventually(20s, [&] { return it.ends().size() == 2; }));
  lope.dir().write("lope.yaml", [&] {
    std::string text = read_file(lope.config_path());
    const std::string old = "rate: { per_second: 0.01, burst: 2 }";
    return text.replace(text.find(old), old.size(), "rate: 1000");
  }());
  lope.process().signal(SIGHUP);
  CHECK(eventually(20s, [&] { return it.ends().size() == 50; }));
  CHECK(lope.consumers() == consumers);
  CHECK(lope.stop() == exited(0));
}
