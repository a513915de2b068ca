// `lope try` on messages of a live queue.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/log_lines.h"
#include "support/lope.h"

using namespace lope::test;

TEST_CASE("lope try looks at a queue's first messages and leaves them there", "[broker][try]") {
  Broker broker;
  const std::string queue = broker.make_queue("try");
  const std::string large(200'000, 'x');
  Publisher publisher = broker.publisher();
  publisher.publish({.routing_key = queue,
                     .body = "describe",
                     .message_id = "one",
                     .content_type = "text/plain",
                     .headers = {{"colour", "red"}}});
  publisher.publish(queue, large, "two");
  publisher.publish(queue, "", "three");
  publisher.publish(queue, "never seen", "four");
  const std::vector<std::string> command = {
      "try", LOPE_HANDLERS_BUILD_DIR "/log.so", "--broker", broker.url(), "--queue", queue};
  std::vector<std::string> several = command;
  several.insert(several.end(), {"-n", "3"});
  const RunResult result = run_lope(several);
  INFO(result.output);
  CHECK(result.status == exited(0));
  CHECK(lines_with(result.output, "message ").size() == 3);
  CHECK(result.output.find("key=" + queue + " id=one size=8 body=describe") != std::string::npos);
  CHECK(result.output.find("id=two size=200000") != std::string::npos);
  CHECK(result.output.find("id=three size=0") != std::string::npos);

  // Fewer than asked for, and in their order as before.
  several.back() = "9";
  CHECK(lines_with(run_lope(several).output, "message ").size() == 4);
  REQUIRE(eventually(10s, [&] { return broker.message_count(queue) == 4; }));
  CHECK(ids_of(broker.drain(queue)) == std::vector<std::string>{"four", "one", "three", "two"});

  const RunResult empty = run_lope(command);
  CHECK(empty.output.find("no message is ready in queue '" + queue + "'") != std::string::npos);
  CHECK(empty.status == exited(1));
  std::vector<std::string> missing = command;
  missing.back() = "no-such-queue";
  CHECK(run_lope(missing).output.find("lope try: no queue 'no-such-queue'") != std::string::npos);
  std::vector<std::string> nobody = command;
  nobody[3] = "amqp://127.0.0.1:1";
  CHECK(run_lope(nobody).status == exited(75));
}
