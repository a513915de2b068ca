// The example handlers that keep messages: bulk_insert and async_http, against a real file and a
// real server.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/scripted.h"

using namespace lope::test;

namespace {

LopeOptions group_of(const Broker& broker, const std::string& queue, const std::string& handler,
                     const std::string& options, const std::string& more) {
  return {.broker = broker.url(),
          .groups = "  examples:\n    queue: " + queue + "\n    handler: " + handler +
                    "\n    options: { " + options + " }\n" + more,
          .handlers_dir = LOPE_HANDLERS_BUILD_DIR};
}

// What a query gives, a line a row.
std::string query(const std::string& database, const std::string& sql) {
  const RunResult result = run({"python3", "-c",
                                "import sqlite3, sys\n"
                                "for row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]):\n"
                                "    print('|'.join(str(value) for value in row))",
                                database, sql});
  INFO(result.output);
  REQUIRE(result.status == exited(0));
  return result.output;
}

}  // namespace

TEST_CASE("bulk_insert writes every message once, many in a transaction", "[broker][examples]") {
  Broker broker;
  const std::string queue = broker.make_queue("rows");
  const TempDir files;
  const std::string database = files.file("rows.db");
  const std::string more = "    prefetch: 300\n    flush_interval: 200ms\n    workers: 2\n";
  Lope lope(group_of(broker, queue, "bulk_insert", "rows: 100, database: " + database, more));
  REQUIRE(lope.wait_ready());
  Publisher publisher = broker.publisher();
  publisher.publish_many(2345, [&](int i) {
    return Publication{.routing_key = queue,
                       .body = std::string("body\0", 5) + std::to_string(i),
                       .message_id = "id" + std::to_string(i),
                       .content_type = "text/plain"};
  });
  publisher.publish(queue, "again", "id7");  // as it is after a lost connection
  REQUIRE(eventually(20s, [&] {
    return broker.message_count(queue) == 0 &&
           query(database, "SELECT count(*) FROM messages") == "2345\n";
  }));
  CHECK(lope.stop() == exited(0));
  CHECK(broker.message_count(queue) == 0);
  CHECK(query(database, "SELECT count(*), count(DISTINCT message_id) FROM messages") ==
        "2345|2345\n");
  CHECK(query(database,
              "SELECT queue = '" + queue +
                  "', routing_key = queue, content_type, received_ms > 1700000000000, hex(body) "
                  "FROM messages WHERE message_id = 'id7'") == "1|1|text/plain|1|626F64790037\n");
}

TEST_CASE("bulk_insert retries what it cannot write, and loses nothing", "[broker][examples]") {
  Broker broker;
  const std::string queue = broker.make_queue("rows");
  const TempDir files;
  const std::string database = files.file("rows.db");
  Lope lope(group_of(broker, queue, "bulk_insert", "busy_ms: 50, database: " + database,
                     "    flush_interval: 50ms\n    retry: { delay: 0s, attempts: 1000 }\n"));
  REQUIRE(lope.wait_ready());
  Process locked({"python3", "-c",
                  "import sqlite3, sys, signal\n"
                  "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
                  "c.execute('BEGIN EXCLUSIVE')\n"
                  "print('locked', flush=True)\n"
                  "signal.pause()",
                  database});
  REQUIRE(locked.wait_for_line("locked"));
  broker.publish(queue, "x", "one");
  REQUIRE(lope.wait_for_line("rows not written"));
  REQUIRE(lope.wait_for_line("message retried"));
  locked.signal(SIGKILL);
  CHECK(eventually(20s,
                   [&] { return query(database, "SELECT message_id FROM messages") == "one\n"; }));
  CHECK(lope.stop() == exited(0));
  CHECK(broker.message_count(queue) == 0);
}

TEST_CASE("async_http has hundreds of requests in the air on one thread", "[broker][examples]") {
  Broker broker;
  const std::string queue = broker.make_queue("posts");
  Process server({"python3", LOPE_SOURCE_DIR "/tests/support/http_server.py", "0.5"});
  const auto port = server.wait_for_line("port ");
  REQUIRE(port);
  Lope lope(group_of(broker, queue, "async_http",
                     "connections: 300, url: \"http://127.0.0.1:" + port->substr(5) + "/\"",
                     "    prefetch: 300\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = broker.publisher();
  publisher.publish_many(900, [&](int i) {
    return Publication{.routing_key = queue, .body = "post", .message_id = std::to_string(i)};
  });
  // The last of them in the air when it is told to stop.
  REQUIRE(eventually(30s, [&] { return broker.message_count(queue) == 0; }));
  CHECK(lope.stop() == exited(0));
  CHECK(broker.message_count(queue) == 0);
  REQUIRE(server.wait_for_line("most 200"));
  CHECK(lines_with(lope.log(), "message retried").empty());
}

TEST_CASE("async_http makes outcomes of answers", "[broker][examples]") {
  Broker broker;
  const std::string dead = broker.make_queue("dead");
  const std::string queue = broker.make_queue(
      "posts",
      {.text_arguments = {{"x-dead-letter-exchange", ""}, {"x-dead-letter-routing-key", dead}}});
  Process server({"python3", LOPE_SOURCE_DIR "/tests/support/http_server.py", "0.01"});
  const auto port = server.wait_for_line("port ");
  REQUIRE(port);
  Lope lope(group_of(broker, queue, "async_http",
                     "url: \"http://127.0.0.1:" + port->substr(5) + "/\"",
                     "    retry: { delay: 0s, attempts: 2 }\n"));
  REQUIRE(lope.wait_ready());
  for (const char* word : {"200", "204", "404", "503", "hang up"}) {
    broker.publish(queue, word, word);
  }
  CHECK(eventually(10s, [&] { return lope.process().count_lines("message retried") >= 2; }));
  CHECK(eventually(10s, [&] { return broker.message_count(dead) == 3; }));
  CHECK(lope.stop() == exited(0));
  const std::string log = lope.log();
  CHECK(fields_of(log, "message rejected", "message_id") == std::multiset<std::string>{"404"});
  CHECK(lines_with(log, "HTTP status 404").size() == 1);
  CHECK(!lines_with(log, "HTTP status 503").empty());
  const auto retried = fields_of(log, "message retried", "message_id");
  CHECK(std::set<std::string>(retried.begin(), retried.end()) ==
        std::set<std::string>{"503", "hang up"});
  CHECK(broker.message_count(queue) == 0);
  CHECK(ids_of(broker.drain(dead)) == std::vector<std::string>{"404", "503", "hang up"});
}
