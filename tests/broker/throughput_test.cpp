// Many small messages: each acked once, none twice.
#include <catch2/catch.hpp>
#include <set>
#include <string>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"

using namespace lope::test;

namespace {

constexpr int kMessages = 100'000;

void publish_all(Broker& broker, const std::string& queue) {
  Publisher publisher = broker.publisher();
  publisher.publish_many(kMessages, [&](int i) {
    return Publication{.routing_key = queue, .body = "x", .message_id = std::to_string(i)};
  });
  REQUIRE(publisher.confirmed().size() == kMessages);
}

void check_clean_end(Broker& broker, Lope& lope, const std::string& queue) {
  CHECK(lope.stop() == exited(0));
  CHECK(lope.all_gone());
  const auto drained = lines_with(lope.log(), "] drained ");
  REQUIRE(drained.size() == 1);
  CHECK(field(drained[0], "acked_in_all") == std::to_string(kMessages));
  CHECK(field(drained[0], "handed_back") == "0");
  CHECK(field(drained[0], "killed") == "0");
  CHECK(lines_with(lope.log(), "message retried").empty());
  CHECK(lines_with(lope.log(), "outcome dropped").empty());
  CHECK(lines_with(lope.log(), "] connected ").size() == 1);
  CHECK(broker.message_count(queue) == 0);
}

}  // namespace

TEST_CASE("100,000 messages through null: every one acked, the queue empty",
          "[broker][throughput]") {
  Broker broker;
  const std::string queue = broker.make_queue("throughput");
  Lope lope({.broker = broker.url(),
             .groups = "  throughput:\n    queue: " + queue + "\n    handler: 'null'\n" +
                       "    prefetch: 500\n",
             .handlers_dir = LOPE_HANDLERS_BUILD_DIR});
  REQUIRE(lope.wait_ready());
  publish_all(broker, queue);
  CHECK(eventually(120s, [&] { return broker.is_empty(queue); }));
  check_clean_end(broker, lope, queue);
}

TEST_CASE("100,000 messages over workers and threads: each handled once, none redelivered",
          "[broker][throughput]") {
  Broker broker;
  const std::string queue = broker.make_queue("throughput");
  const TempDir files;
  const std::string path = files.file("ids");
  publish_all(broker, queue);  // before, so that the window is always full
  Lope lope({.broker = broker.url(),
             .groups = "  throughput:\n    queue: " + queue + "\n    handler: append_id\n" +
                       "    options: { file: " + path + ", flag: true }\n" +
                       "    workers: 2\n    threads: 3\n    prefetch: 500\n"});
  REQUIRE(lope.wait_ready());
  CHECK(eventually(120s, [&] { return broker.is_empty(queue); }));
  check_clean_end(broker, lope, queue);
  std::set<std::string> expected;
  for (int i = 0; i < kMessages; ++i) expected.insert(std::to_string(i));
  // A redelivered one would be another line.
  const auto lines = lines_of_file(path);
  CHECK(lines.size() == kMessages);
  CHECK(std::set<std::string>(lines.begin(), lines.end()) == expected);
}
