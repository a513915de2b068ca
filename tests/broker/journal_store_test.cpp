// The handler journal: what it stores and what it refuses, over crashes too; `lope trace`; the
// monitor's page. The events are made here: who makes them in earnest is tested with the consumer.
#include <signal.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/exit_code.h"
#include "support/broker.h"
#include "support/http.h"
#include "support/lope.h"
#include "support/temp_dir.h"
#include "support/undo.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;
using Json = nlohmann::json;

namespace {

constexpr std::int64_t kBegin = 1'795'000'000'000'000;

std::string event(const std::string& kind, int n, const std::string& id,
                  const std::string& more = "") {
  return R"({"event":")" + kind + R"(","source":"00112233445566ff","n":)" + std::to_string(n) +
         R"(,"time_us":)" + std::to_string(kBegin + n * 1000) +
         R"(,"host":"mq1","group":"shop","queue":"orders","message_id":")" + id + '"' + more +
         "}\n";
}

// One message, and another that it published and that failed once.
std::string a_tree() {
  const std::string root = R"(,"trace_id":"root")";
  const std::string child = R"(,"trace_id":"root","parent_id":"root")";
  return event("received", 1, "root", root) +
         event("published", 2, "child",
               child + R"(,"kind":"publication","routing_key":"orders","fate":"confirmed")") +
         event("handled", 3, "root",
               root + R"(,"outcome":"ack","waited_us":100,"ran_us":2000,"worker":"shop/0")") +
         event("received", 4, "child", child) +
         event(
             "handled", 5, "child",
             child + R"(,"outcome":"retry","reason":"<img src=x onerror=alert(1)>","ran_us":10)") +
         event("received", 6, "child", child + R"(,"attempt":2)") +
         event("handled", 7, "child", child + R"(,"attempt":2,"outcome":"ack","ran_us":500)");
}

std::int64_t number(const std::string& path, const std::string& sql) {
  sqlite3* database = nullptr;
  sqlite3_stmt* query = nullptr;
  std::int64_t found = -1;
  if (sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READONLY, nullptr) == SQLITE_OK &&
      sqlite3_prepare_v2(database, sql.c_str(), -1, &query, nullptr) == SQLITE_OK &&
      sqlite3_step(query) == SQLITE_ROW) {
    found = sqlite3_column_int64(query, 0);
  }
  sqlite3_finalize(query);
  sqlite3_close(database);
  return found;
}

struct Journalling {
  LopeOptions options(const std::string& more_options = {}, const std::string& more_keys = {},
                      const std::string& top = {}) const {
    return {.broker = broker.url(),
            .groups = "  journal:\n    queue: " + queue +
                      "\n    handler: journal\n    prefetch: 1000\n    flush_interval: 100ms\n" +
                      more_keys + "    options: { store: '" + store + "'" + more_options + " }\n",
            .top = top,
            .handlers_dir = LOPE_HANDLERS_BUILD_DIR};
  }
  std::int64_t events() const { return number(path, "SELECT count(*) FROM events"); }

  Broker broker;
  const std::string queue = broker.make_queue("journal");
  const TempDir dir;
  const std::string path = dir.file("journal.db");
  std::string store = path;
};

// A server of its own, for one test, in its folder.
class Postgres {
 public:
  Postgres() {
    if (::geteuid() == 0)
      as_ = {"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"};
    REQUIRE(::chmod(dir_.path().c_str(), 0777) == 0);
    const RunResult made = run(with({kBin + "initdb", "-D", data(), "-A", "trust", "-U", "postgres",
                                     "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"}),
                               {}, 60s);
    INFO(made.output);
    REQUIRE(made.status == exited(0));
    start();
  }
  void start() {
    server_.emplace(with(
        {kBin + "postgres", "-D", data(), "-k", dir_.path().string(), "-c", "listen_addresses="}));
    REQUIRE(server_->wait_for_line("ready to accept connections", 60s));
  }
  // As a server that is killed.
  void kill() {
    server_->signal_group(SIGKILL);
    server_->wait_exit(20s);
    server_.reset();
  }
  std::string url(const std::string& database = "postgres") const {
    return "postgresql:///" + database + "?host=" + dir_.path().string() + "&user=postgres";
  }
  std::string ask(const std::string& sql, const std::string& database = "postgres") const {
    return run({"psql", "-XAtq", "-d", url(database), "-c", sql}).output;
  }

 private:
  std::string data() const { return dir_.file("data"); }
  std::vector<std::string> with(std::vector<std::string> command) const {
    command.insert(command.begin(), as_.begin(), as_.end());
    return command;
  }

  const std::string kBin = "/usr/lib/postgresql/15/bin/";
  std::vector<std::string> as_;
  const TempDir dir_;
  std::optional<Process> server_;
};

int port_of(Lope& daemon) {
  const auto line = daemon.wait_for_line("monitor started");
  REQUIRE(line);
  return std::atoi(line->substr(line->rfind(':') + 1).c_str());
}

constexpr const char* kText =
    "root\n"
    "│  +0 us  attempt 1 in 'orders': ack, waited 100 us, ran 2.0 ms, by shop/0\n"
    "└─ child\n"
    "      +3.0 ms  attempt 1 in 'orders': retry: <img src=x onerror=alert(1)>, waited 0 us, ran "
    "10 us\n"
    "      +5.0 ms  attempt 2 in 'orders': ack, waited 0 us, ran 500 us\n";

}  // namespace

TEST_CASE("events are stored, and lope trace shows their tree", "[broker][journal_store]") {
  Journalling j;
  Lope daemon(j.options("", "", "monitor: { listen: 0, journal: '" + j.path + "' }\n"));
  const int port = port_of(daemon);
  REQUIRE(daemon.wait_ready());
  j.broker.publish(j.queue, a_tree());
  j.broker.publish(j.queue, a_tree());  // once more
  CHECK(eventually(20s, [&] { return j.broker.is_empty(j.queue) && j.events() == 7; }));

  const RunResult traced = run_lope({"trace", "child", "--journal", j.path});
  CHECK(traced.status == exited(kExitOk));
  CHECK(traced.output ==
        std::string("2 messages in 1 queue, 6.0 ms from 2026-11-18T11:06:40.001Z\n") + kText);
  const RunResult configured =
      run_lope({"trace", "root", "--config", daemon.config_path(), "--json"});
  CHECK(configured.status == exited(kExitOk));
  CHECK(Json::parse(configured.output)["messages"].size() == 2);
  const RunResult unknown = run_lope({"trace", "other", "--journal", j.path});
  CHECK(unknown.status == exited(kExitFailed));
  CHECK_THAT(unknown.output, Contains("lope trace: the journal has nothing of 'other': is it"));
  CHECK(run_lope({"trace", "x", "--journal", j.dir.file("none")}).status == exited(kExitFailed));

  const auto json = [&](const std::string& path) {
    const HttpReply reply = http_get(port, path);
    INFO(path << ": " << reply.body);
    REQUIRE(reply.status == 200);
    return Json::parse(reply.body);
  };
  CHECK(json("/api/journal/trace?id=child")["messages"].size() == 2);
  CHECK(json("/api/journal/search")["events"].size() == 3);
  CHECK(json("/api/journal/search?queue=orders&outcome=retry")["events"][0]["message_id"] ==
        "child");
  CHECK(json("/api/journal/search?limit=1")["events"][0]["attempt"] == 2);
  CHECK(json("/api/journal/search?id=root")["events"].size() == 7);
  const Json last = json("/api/journal/search?id=root&limit=2")["events"];
  REQUIRE(last.size() == 2);
  CHECK(last[0]["event"] == "handled");
  CHECK(last[0]["attempt"] == 2);
  CHECK(json("/api/journal/search?id=root&outcome=retry")["events"].size() == 1);
  CHECK(json("/api/journal/search?id=root&queue=other")["events"].empty());
  CHECK(json("/api/journal/search?id=root&from=2026-11-18T11:06:41Z")["events"].empty());
  CHECK(json("/api/journal/search?from=2026-11-18T11:06:41Z")["events"].empty());
  CHECK(http_get(port, "/api/journal/trace?id=other").status == 404);
  CHECK(http_get(port, "/api/journal/trace").status == 400);
  CHECK(http_get(port, "/api/journal/search?from=yesterday").status == 400);
  CHECK(http_get(port, "/api/journal/search?limit=0").status == 400);
  CHECK(http_get(port, "/journal").status == 200);

  const RunResult browser = run({"python3", LOPE_SOURCE_DIR "/tests/support/journal_page.py",
                                 "http://127.0.0.1:" + std::to_string(port) + "/"},
                                {}, 120s);
  INFO(browser.output);
  CHECK(browser.status == exited(0));
  CHECK_THAT(browser.output, Contains("ok: nothing from elsewhere\n"));
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("the page says how when there is no journal", "[broker][journal_store]") {
  Journalling j;
  Lope daemon(j.options("", "", "monitor: { listen: 0 }\n"));
  const int port = port_of(daemon);
  const HttpReply reply = http_get(port, "/api/journal/search");
  CHECK(reply.status == 404);
  CHECK(reply.body == "no journal is configured: see monitor.journal\n");
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("of a message that is partly unreadable the rest is stored", "[broker][journal_store]") {
  Journalling j;
  const std::string dead = j.broker.make_queue("dead");
  Lope daemon(j.options("", "    dead_letter: { queue: " + dead + " }\n"));
  REQUIRE(daemon.wait_ready());
  j.broker.publish(j.queue, event("received", 1, "a") + "nonsense\n\n" + event("received", 2, "b"));
  j.broker.publish(j.queue, "nonsense\n{}", "bad");
  j.broker.publish(j.queue, "\n", "empty");
  CHECK(eventually(20s, [&] { return j.broker.message_count(dead) == 2; }));
  CHECK(eventually(20s, [&] { return j.events() == 2; }));
  CHECK_THAT(daemon.log(), Contains("1 lines were no events, the first: line 2: "));
  for (const Received& message : j.broker.drain(dead)) {
    CHECK_THAT(message.header("x-lope-dead-reason"),
               Contains(message.message_id == "bad" ? "no event in it: line 1: "
                                                    : "expected lines of JSON, found none"));
  }
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("every event is stored once, whatever dies meanwhile", "[broker][journal_store]") {
  Journalling j;
  Lope daemon(j.options(", messages: 20", "    workers: 2\n    threads: 2\n"));
  REQUIRE(daemon.wait_ready());
  constexpr int kMessages = 3000, kEach = 5;
  Publisher publisher = j.broker.publisher();
  for (int i = 0; i < kMessages; ++i) {
    std::string body;
    for (int n = 1; n <= kEach; ++n) {
      body += event("received", i * kEach + n, "m" + std::to_string(i * kEach + n));
    }
    publisher.send({.routing_key = j.queue, .body = body});
    if (i % 300 != 299) continue;
    publisher.wait_confirmed();
    // In the middle of what was sent: some of it is stored, some is on its way.
    // Those of the time before may not have been replaced yet.
    CHECK(eventually(20s, [&] {
      const auto victims = i % 900 == 899 ? daemon.consumers() : daemon.workers();
      return !victims.empty() && ::kill(victims.front(), SIGKILL) == 0;
    }));
  }
  publisher.wait_confirmed();
  CHECK(eventually(90s, [&] { return j.events() == kMessages * kEach; }));
  CHECK(eventually(60s, [&] { return j.broker.is_empty(j.queue); }));
  CHECK(j.events() == kMessages * kEach);
  CHECK(number(j.path, "SELECT count(DISTINCT n) FROM events") == kMessages * kEach);
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("a full disk is a retry, and what waited is stored when there is room",
          "[broker][journal_store]") {
  Journalling j;
  const std::string small = j.dir.file("small");
  REQUIRE(::mkdir(small.c_str(), 0755) == 0);
  REQUIRE(run({"mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small}).status == exited(0));
  const Undo unmount([&] { run({"umount", "-l", small}); });
  j.store = small + "/journal.db";
  Lope daemon(j.options("", "    retry: { attempts: 100, delay: 1s }\n", kWithRelay));
  REQUIRE(daemon.wait_ready());
  const std::string filler = small + "/filler";
  REQUIRE(run({"sh", "-c", "cat /dev/zero > " + filler + " || true"}).status == exited(0));
  j.broker.publish(j.queue, a_tree());
  CHECK(daemon.wait_for_line("messages not stored", 20s));
  CHECK_THAT(daemon.log(), Contains("database or disk is full"));
  REQUIRE(::unlink(filler.c_str()) == 0);
  CHECK(eventually(30s, [&] { return number(j.store, "SELECT count(*) FROM events") == 7; }));
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("what is older than the retention goes", "[broker][journal_store]") {
  Journalling j;
  Lope daemon(j.options(", retention: 1d"));
  REQUIRE(daemon.wait_ready());
  const auto aged = [](std::uint64_t time_us) {
    return R"({"event":"received","source":"1","n":1,"message_id":"m","trace_id":"t","time_us":)" +
           std::to_string(time_us) + "}\n";
  };
  j.broker.publish(j.queue, aged(5) + aged(6) + aged(unix_ms() * 1000));
  CHECK(eventually(20s, [&] { return j.broker.is_empty(j.queue) && j.events() == 1; }));
  CHECK(number(j.path, "SELECT count(*) FROM events WHERE time < 10") == 0);
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("what PostgreSQL refuses is a dead letter, and nothing else", "[broker][journal_store]") {
  Postgres postgres;
  REQUIRE(postgres.ask("CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0") ==
          "");
  Journalling j;
  j.store = postgres.url("latin");
  const std::string dead = j.broker.make_queue("dead");
  Lope daemon(j.options("", "    dead_letter: { queue: " + dead + " }\n"));
  REQUIRE(daemon.wait_ready(60s));
  for (int i = 1; i <= 40; ++i) {
    j.broker.publish(j.queue, event("received", i, i == 17 ? "no rabbit 🐇" : std::to_string(i)));
  }
  CHECK(eventually(20s, [&] { return j.broker.is_empty(j.queue); }));
  CHECK(eventually(20s, [&] { return j.broker.message_count(dead) == 1; }));
  CHECK(postgres.ask("SELECT count(*) FROM lope_events", "latin") == "39\n");
  CHECK_THAT(run_lope({"dlq", "list", dead, "--broker", j.broker.url()}).output,
             Contains("rejected it: PostgreSQL: COPY"));
  // Whatever a database keeps its texts in, they are read as UTF-8.
  j.broker.publish(j.queue, event("received", 41, "grüße"));
  CHECK(eventually(
      20s, [&] { return postgres.ask("SELECT count(*) FROM lope_events", "latin") == "40\n"; }));
  CHECK_THAT(run_lope({"trace", "grüße", "--journal", j.store}).output, Contains("\ngrüße\n"));
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("a table of PostgreSQL that others have changed costs no message",
          "[broker][journal_store]") {
  Postgres postgres;
  Journalling j;
  j.store = postgres.url();
  const std::string dead = j.broker.make_queue("dead");
  Lope daemon(j.options(
      "", "    retry: { attempts: 100, delay: 1s }\n    dead_letter: { queue: " + dead + " }\n",
      kWithRelay));
  REQUIRE(daemon.wait_ready(60s));
  const auto stored = [&](const std::string& count) {
    return eventually(
        60s, [&] { return postgres.ask("SELECT count(*) FROM lope_events") == count + "\n"; });
  };
  j.broker.publish(j.queue, event("received", 1, "a"));
  CHECK(stored("1"));
  postgres.ask(
      "ALTER TABLE lope_events ADD COLUMN note text, ADD COLUMN place text NOT NULL DEFAULT 'x'");
  j.broker.publish(j.queue, event("received", 2, "b"));
  CHECK(stored("2"));
  // A new connection looks at the table as it is now.
  postgres.ask(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
      "'lope journal'");
  j.broker.publish(j.queue, event("received", 3, "c"));
  CHECK(stored("3"));
  // One alone, and then several that the table does not take.
  postgres.ask("ALTER TABLE lope_events ADD CHECK (n < 4)");
  j.broker.publish(j.queue, event("received", 4, "d"));
  CHECK(daemon.wait_for_line("1 messages not stored: PostgreSQL: INSERT INTO lope_events: ", 20s));
  for (int n = 5; n < 10; ++n) j.broker.publish(j.queue, event("received", n, "e"));
  j.broker.publish(j.queue, event("received", 3, "c"));
  CHECK(stored("3"));
  postgres.ask("ALTER TABLE lope_events DROP CONSTRAINT lope_events_n_check");
  CHECK(stored("9"));
  // No column of the journal's takes any of these, for what is in them as it seems.
  postgres.ask("ALTER TABLE lope_events ALTER COLUMN host TYPE varchar(2) USING left(host, 2)");
  Publisher publisher = j.broker.publisher();
  for (int n = 10; n < 30; ++n) {
    publisher.send({.routing_key = j.queue, .body = event("received", n, "f")});
  }
  publisher.wait_confirmed();
  CHECK(daemon.wait_for_line("value too long for type", 20s));
  postgres.ask("ALTER TABLE lope_events ALTER COLUMN host TYPE text");
  CHECK(stored("29"));
  CHECK(j.broker.message_count(dead) == 0);
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("a journal in PostgreSQL, over a server that dies", "[broker][journal_store]") {
  Postgres postgres;
  Journalling j;
  j.store = postgres.url();
  Lope daemon(j.options("", "    retry: { attempts: 100, delay: 1s }\n",
                        "monitor: { listen: 0, journal: '" + j.store + "' }\n" + kWithRelay));
  const int port = port_of(daemon);
  REQUIRE(daemon.wait_ready(60s));
  const auto events = [&] { return postgres.ask("SELECT count(*) FROM lope_events"); };
  j.broker.publish(j.queue, a_tree());
  j.broker.publish(j.queue, a_tree());
  CHECK(eventually(20s, [&] { return j.broker.is_empty(j.queue) && events() == "7\n"; }));
  const RunResult traced = run_lope({"trace", "child", "--journal", j.store});
  CHECK(traced.status == exited(kExitOk));
  CHECK(traced.output ==
        std::string("2 messages in 1 queue, 6.0 ms from 2026-11-18T11:06:40.001Z\n") + kText);
  CHECK(Json::parse(http_get(port, "/api/journal/trace?id=root").body)["messages"].size() == 2);
  CHECK(Json::parse(http_get(port, "/api/journal/search?queue=orders").body)["events"].size() == 3);

  // What an older version has stored, or others have.
  postgres.ask(
      "INSERT INTO lope_events (source, n, time_us, event, outcome, message_id, reason)"
      " SELECT 'forged', n, 9000000000000000000, 'handled', 'odd', 'forged', repeat('x', 20000000)"
      " FROM generate_series(1, 20) n");
  const Json odd = Json::parse(http_get(port, "/api/journal/search?outcome=odd").body)["events"];
  REQUIRE(odd.size() == 20);
  CHECK(odd[0]["reason"] == std::string(2000, 'x'));
  CHECK(run_lope({"trace", "forged", "--journal", j.store}).output.size() < 100'000);
  CHECK(http_get(port, "/api/journal/trace?id=%ff%01").status == 400);
  CHECK(daemon.log().find("the journal cannot be read") == std::string::npos);
  // One deadline for all of it.
  Process locked({"psql", "-XAtq", "-d", postgres.url(), "-c",
                  "BEGIN; LOCK TABLE lope_events; SELECT 'locked'; SELECT pg_sleep(60)"});
  REQUIRE(eventually(20s, [&] {
    return postgres.ask(
               "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock'"
               " AND granted AND relation = 'lope_events'::regclass") == "1\n";
  }));
  const auto asked = Clock::now();
  CHECK(http_get(port, "/api/journal/search").body ==
        "the journal cannot be read: it took too long\n");
  CHECK(Clock::now() - asked > 4s);
  CHECK(Clock::now() - asked < 8s);
  locked.signal_group(SIGKILL);
  locked.wait_exit(20s);
  postgres.ask(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)'"
      " AND pid <> pg_backend_pid()");
  postgres.ask("DELETE FROM lope_events WHERE source = 'forged'");

  postgres.kill();
  j.broker.publish(j.queue, event("received", 8, "tab\\t \\\\ \\u0000 new\\nline"));
  CHECK(daemon.wait_for_line("messages not stored", 30s));
  const HttpReply unanswered = http_get(port, "/api/journal/search");
  CHECK(unanswered.status == 503);
  CHECK(unanswered.body == "the journal cannot be read: the monitor's log says why\n");
  CHECK(daemon.wait_for_line("the journal cannot be read", 10s));
  postgres.start();
  CHECK(eventually(60s, [&] { return events() == "8\n"; }));
  CHECK(postgres.ask("SELECT message_id FROM lope_events WHERE n = 8") ==
        "tab\t \\ \xEF\xBF\xBD new\nline\n");
  CHECK(Json::parse(http_get(port, "/api/journal/trace?id=root").body)["messages"].size() == 2);
  CHECK(daemon.stop() == exited(kExitOk));

  postgres.ask("UPDATE lope_journal SET version = 2");
  const RunResult newer = run_lope({"trace", "child", "--journal", j.store});
  CHECK(newer.status == exited(kExitFailed));
  CHECK_THAT(newer.output, Contains("expected a journal of version 1, found one of version 2"));
  Lope refused(j.options());
  CHECK(refused.wait_for_line("expected a journal of version 1, found one of version 2", 30s));
}
