// The example of a handler that keeps messages: bulk_insert, against a real file.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "support/broker.h"
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
