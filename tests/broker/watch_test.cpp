// `lope watch`: a message's way and times.
#include <catch2/catch.hpp>
#include <csignal>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;

namespace {

std::vector<Json> traces_in(const std::string& output) {
  std::vector<Json> traces;
  std::size_t begin = 0;
  while (begin < output.size()) {
    const std::size_t end = output.find('\n', begin);
    if (output[begin] == '{') traces.push_back(Json::parse(output.substr(begin, end - begin)));
    begin = end == std::string::npos ? output.size() : end + 1;
  }
  return traces;
}

std::vector<std::string> steps_of(const Json& trace) {
  std::vector<std::string> steps;
  std::int64_t last = 0;
  for (const Json& step : trace["steps"]) {
    CHECK(step["us"] >= last);
    last = step["us"];
    steps.push_back(step["what"]);
  }
  return steps;
}

}  // namespace

TEST_CASE("watch shows the way of the next messages, each when it is over", "[broker][watch]") {
  Broker broker;
  const std::string queue = broker.make_queue("watch");
  const TempDir files;
  Lope daemon(
      {.broker = broker.url(),
       .groups = "  g: { queue: " + queue +
                 ", handler: scripted, retry: { attempts: 2, delay: 0s }, prefetch: 1 }\n"});
  REQUIRE(daemon.wait_ready());
  broker.publish(queue, "ack", "before");
  REQUIRE(eventually(10s, [&] { return group_of(daemon)["acked"] == 1; }));
  Process trace({LOPE_BIN_DIR "/lope", "watch", "g", "-n", "4", "--json"}, with_socket(daemon));
  REQUIRE(trace.wait_for_line("group 'g': writing down the next 4 messages"));
  broker.publish(queue, "ack", "good");
  broker.publish(queue, "retry", "again");
  broker.publish(queue, "reject", "bad");
  CHECK(trace.wait_exit(20s) == exited(kExitOk));
  INFO(trace.output());
  const std::vector<Json> traces = traces_in(trace.output());
  REQUIRE(traces.size() == 4);
  CHECK(traces[0]["message_id"] == "good");
  CHECK(traces[0]["queue"] == queue);
  CHECK(traces[0]["attempt"] == 1);
  CHECK(traces[0]["body_bytes"] == 3);
  const auto good = steps_of(traces[0]);
  REQUIRE(good.size() == 4);
  CHECK(good[0] == "came from the broker");
  CHECK(good[1] == "given to worker 0");
  CHECK_THAT(good[2], Contains("its handler says ACK, after "));
  CHECK(good[3] == "acked");
  bool retried = false;
  bool dead = false;
  for (const Json& each : traces) {
    for (const std::string& step : steps_of(each)) {
      retried = retried || step.starts_with("another attempt in 0 ms: the handler asked for it");
      dead = dead || step.starts_with("a dead letter, rejected: the handler rejected it");
    }
  }
  CHECK(retried);
  CHECK(dead);

  SECTION("for people") {
    Process text({LOPE_BIN_DIR "/lope", "watch", "g"}, with_socket(daemon));
    REQUIRE(text.wait_for_line("the next 1 message"));
    broker.publish(queue, "ack", "seen");
    CHECK(text.wait_exit(20s) == exited(kExitOk));
    CHECK_THAT(text.output(), Contains("message 'seen' from queue '" + queue + "', tag "));
    CHECK_THAT(text.output(), Contains(" ms  given to worker 0\n"));
  }
  SECTION("who goes away, or whose daemon does, is missed by nobody") {
    Process gone({LOPE_BIN_DIR "/lope", "watch", "g", "-n", "5"}, with_socket(daemon));
    REQUIRE(gone.wait_for_line("the next 5 messages"));
    gone.signal(SIGKILL);
    CHECK(gone.wait_exit(10s) == killed_by(SIGKILL));
    for (int i = 0; i < 20; ++i) broker.publish(queue, "ack", std::to_string(i));
    CHECK(eventually(10s, [&] { return broker.is_empty(queue); }));
    Process left({LOPE_BIN_DIR "/lope", "watch", "g", "-n", "5"}, with_socket(daemon));
    REQUIRE(left.wait_for_line("the next 5 messages"));
    ::kill(daemon.consumers().front(), SIGKILL);
    CHECK(left.wait_exit(10s) == exited(kExitFailed));
    CHECK_THAT(
        left.output(),
        Contains(
            "the group's consumer has ended, or another watch has begun: saw 0 of 5 messages"));
  }
  CHECK(daemon.stop() == exited(kExitOk));
}
