// What is stored of a journal's events, and what is read of it: lines, the file, the tree.
#include "journal/journal.h"

#include <sqlite3.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/event_loop.h"
#include "journal/tree.h"
#include "monitor/journal_desk.h"
#include "store.h"
#include "support/tcp_server.h"
#include "support/temp_dir.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;
using Json = nlohmann::json;
namespace journal = lope::journal;
namespace plugins = lope::plugins;

namespace {

constexpr const char* kRoot = "00000000-0000-4000-8000-000000000001";
constexpr const char* kChild = "00000000-0000-4000-8000-000000000002";
constexpr std::int64_t kBegin = 1'795'000'000'000'000;

std::string line(const std::string& event, int n, std::int64_t after_us, const std::string& queue,
                 const std::string& id, const std::string& more = "") {
  return R"({"event":")" + event + R"(","source":"00112233445566ff","n":)" + std::to_string(n) +
         R"(,"time_us":)" + std::to_string(kBegin + after_us) +
         R"(,"host":"mq1","group":"g","queue":")" + queue + R"(","message_id":")" + id + '"' +
         more + "}";
}

void write(plugins::Store& store, const std::vector<std::string>& lines) {
  store.begin();
  for (const std::string& each : lines) {
    plugins::Event event;
    std::string problem;
    const bool parsed = plugins::parse_event(each, event, problem);
    INFO(each << ": " << problem);
    REQUIRE(parsed);
    store.add(event);
  }
  store.commit();
}

std::unique_ptr<journal::Reader> reader(const std::string& path) {
  auto opened = journal::open_journal(path, {});
  INFO((opened ? "" : opened.error()));
  REQUIRE(opened);
  return std::move(*opened);
}

journal::Story story(const std::string& path, const std::string& id, std::size_t most = 1000,
                     std::size_t most_events = 20'000) {
  const auto read = reader(path)->story(id, {.messages = most, .events = most_events});
  INFO((read ? "" : read.error()));
  REQUIRE(read);
  return *read;
}

// A message that came of nothing, one that it published, with a failed attempt, and a dead letter.
std::vector<std::string> a_small_tree() {
  const std::string root = std::string(R"(,"trace_id":")") + kRoot + '"';
  const std::string child = std::string(R"(,"parent_id":")") + kRoot + "\"" + root;
  return {
      line("received", 1, 0, "orders", kRoot, root + R"(,"attempt":1,"size":412)"),
      line(
          "published", 2, 9'000, "orders", kChild,
          child +
              R"(,"kind":"publication","exchange":"shop","routing_key":"mail","fate":"confirmed")"),
      line("published", 3, 9'500, "orders", "to nobody",
           child + R"(,"kind":"publication","routing_key":"audit","fate":"confirmed")"),
      line("handled", 4, 10'000, "orders", kRoot,
           root + R"(,"attempt":1,"outcome":"ack","waited_us":400,"ran_us":9500,"worker":"g/0",)"
                  R"("handler":"orders","handler_version":"1.2")"),
      line("received", 5, 11'000, "mail", kChild, child + R"(,"attempt":1)"),
      line("handled", 6, 12'000, "mail", kChild,
           child +
               R"(,"attempt":1,"outcome":"retry","reason":"the server is busy","waited_us":100,)"
               R"("ran_us":800,"delay_ms":10000)"),
      line("received", 7, 10'012'000, "mail", kChild, child + R"(,"attempt":2)"),
      line(
          "published", 8, 10'013'000, "mail", kChild,
          child +
              R"(,"kind":"dead_letter","exchange":"dead","routing_key":"mail","fate":"confirmed")"),
      line("handled", 9, 10'013'500, "mail", kChild,
           child +
               R"(,"attempt":2,"outcome":"dead","code":"attempts","reason":"no \u001b[31m luck",)"
               R"("waited_us":10,"ran_us":900)"),
  };
}

std::int64_t count(const std::string& path, const std::string& table) {
  sqlite3* database = nullptr;
  REQUIRE(sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READONLY, nullptr) == SQLITE_OK);
  sqlite3_stmt* query = nullptr;
  REQUIRE(sqlite3_prepare_v2(database, ("SELECT count(*) FROM " + table).c_str(), -1, &query,
                             nullptr) == SQLITE_OK);
  REQUIRE(sqlite3_step(query) == SQLITE_ROW);
  const std::int64_t rows = sqlite3_column_int64(query, 0);
  sqlite3_finalize(query);
  sqlite3_close(database);
  return rows;
}

}  // namespace

TEST_CASE("a line of a journal becomes an event", "[unit][journal]") {
  plugins::Event event;
  std::string problem;
  REQUIRE(plugins::parse_event(
      R"({"event":"received","source":"0f","n":7,"time_us":5,"queue":"q\u00e4","new":{"a":[1,{}]},)"
      R"("headers":{"a":"b\"c","n":-1,"list":[1,true,null,{"x":1.5}],"empty":{}},"redelivered":true,)"
      R"("body":"\u0000x","attempt":18446744073709551615})",
      event, problem));
  CHECK(event.event == "received");
  CHECK(event.n == 7);
  CHECK(event.time_us == 5);
  CHECK(event.queue == "qä");
  CHECK(event.headers == R"({"a":"b\"c","n":-1,"list":[1,true,null,{"x":1.5}],"empty":{}})");
  CHECK(event.redelivered);
  CHECK(event.body == std::string("\0x", 2));
  CHECK(event.attempt == INT64_MAX);
  // Nothing is left of one in the next.
  REQUIRE(plugins::parse_event(R"({"event":"handled","source":"0f","n":8,"time_us":6})", event,
                               problem));
  CHECK(event.queue == "");
  CHECK(event.headers == "");
  CHECK_FALSE(event.redelivered);
}

TEST_CASE("what is no event says why", "[unit][journal]") {
  struct Row {
    std::string line, problem;
  };
  const Row row = GENERATE(values<Row>({
      {"", "unexpected end of input"},
      {"{", "unexpected end of input"},
      {"nonsense", "invalid literal"},
      {"[]", "expected a JSON object, found something else"},
      {"5", "expected a JSON object, found something else"},
      {"\"text\"", "expected a JSON object, found something else"},
      {"{}", "event: expected received, handled or published, found ''"},
      {R"({"event":"other","source":"a","n":1,"time_us":1})",
       "event: expected received, handled or published, found 'other'"},
      {R"({"event":"handled","n":1,"time_us":1})", "source: expected a text, found none"},
      {R"({"event":"handled","source":"a","time_us":1})", "n: expected a number above 0, found 0"},
      {R"({"event":"handled","source":"a","n":1,"time_us":-4})",
       "time_us: expected a number above 0, found -4"},
      {R"({"event":"handled","source":"a","n":1,"time_us":1} {})", "expected end of input"},
      {"{\"event\":\"\xff\"}", "invalid string"},
  }));
  plugins::Event event;
  std::string problem;
  CAPTURE(row.line);
  CHECK_FALSE(plugins::parse_event(row.line, event, problem));
  CHECK_THAT(problem, Contains(row.problem));
  CHECK_FALSE(plugins::parse_event(std::string(100'000, '['), event, problem));
}

TEST_CASE("an event from the future is none, and no text is endless", "[unit][journal]") {
  plugins::Event event;
  std::string problem;
  const auto at = [](std::int64_t time_us) {
    return R"({"event":"handled","source":"a","n":1,"time_us":)" + std::to_string(time_us) + "}";
  };
  CHECK(plugins::parse_event(at(kBegin), event, problem, kBegin));
  CHECK_FALSE(plugins::parse_event(at(kBegin + 1), event, problem, kBegin));
  CHECK_THAT(problem, Contains("time_us: expected at most a day ahead"));
  const std::string endless = std::string(1023, 'x') + "ä" + std::string(5000, 'y');
  Json json = Json::parse(at(kBegin));
  for (const char* const name :
       {"source", "message_id", "queue", "worker", "outcome", "routing_key", "reason", "body"}) {
    json[name] = endless;
  }
  json["waited_us"] = -5;
  json["ran_us"] = INT64_MAX;
  REQUIRE(plugins::parse_event(json.dump(), event, problem, kBegin));
  for (const std::string& text : {event.source, event.message_id, event.queue, event.worker,
                                  event.outcome, event.routing_key}) {
    CHECK(text == std::string(1023, 'x'));
  }
  CHECK(event.reason == endless.substr(0, 2000));
  CHECK(event.body == endless);
  CHECK(event.waited_us == 0);
  CHECK(event.ran_us < INT64_MAX / 1000);
  json["event"] = endless;
  CHECK_FALSE(plugins::parse_event(json.dump(), event, problem, kBegin));
  CHECK(problem.size() < 1200);
}

TEST_CASE("what is stored is found again, by any id of the tree", "[unit][journal]") {
  const TempDir dir;
  const std::string path = dir.file("journal.db");
  const auto store = plugins::open_sqlite_store(path, 1000);
  write(*store, a_small_tree());
  const std::string id = GENERATE(as<std::string>(), kRoot, kChild, "to nobody");
  const journal::Story found = story(path, id);
  CHECK(found.messages == 3);
  CHECK(found.left_out == 0);
  REQUIRE(found.events.size() == 9);
  CHECK(found.events[0].trace_id == kRoot);
  CHECK(found.events[0].size == 412);
  CHECK(found.events[1].parent_id == kRoot);
  CHECK(found.events[1].routing_key == "mail");
  CHECK(found.events[1].fate == "confirmed");
  CHECK(found.events[3].handler_version == "1.2");
  CHECK(found.events[5].delay_ms == 10'000);
  CHECK(found.events[8].reason == "no \x1b[31m luck");
  CHECK(story(path, "unknown").events.empty());

  const journal::Story some = story(path, id, 1);
  CHECK(some.messages == 1);
  CHECK(some.left_out == 2);
}

TEST_CASE("the tree for people", "[unit][journal]") {
  const TempDir dir;
  const std::string path = dir.file("journal.db");
  write(*plugins::open_sqlite_store(path, 1000), a_small_tree());
  const journal::Tree tree = make_tree(story(path, kChild));
  CHECK(to_text(tree) ==
        "3 messages in 2 queues, 10.0 s from 2026-11-18T11:06:40Z\n"
        "00000000-0000-4000-8000-000000000001\n"
        "│  +0 us  attempt 1 in 'orders': ack, waited 400 us, ran 9.5 ms, by g/0 (orders 1.2)\n"
        "├─ 00000000-0000-4000-8000-000000000002\n"
        "│     +11.0 ms  attempt 1 in 'mail': retry in 10s: the server is busy, waited 100 us, ran "
        "800 us\n"
        "│     +10.0 s  attempt 2 in 'mail': dead, attempts: no \\x1B[31m luck, waited 10 us, ran "
        "900 us\n"
        "│     +10.0 s  a dead letter, to exchange 'dead' with key 'mail', confirmed\n"
        "└─ to nobody\n"
        "      +9.5 ms  published to queue 'audit', confirmed\n");
  const Json json = Json::parse(to_json(tree));
  CHECK(json["trace_id"] == kRoot);
  CHECK(json["messages"].size() == 3);
  CHECK(json["messages"][1]["state"] == "dead");
  CHECK(json["messages"][1]["level"] == 1);
  CHECK(json["messages"][1]["attempts"][0]["outcome"] == "retry");
  CHECK(json["messages"][2]["state"] == "waiting");
  CHECK(to_text(make_tree(story(path, kChild, 2))).ends_with("\n1 message left out\n"));
}

TEST_CASE("a tree is found by parents alone, and circles end", "[unit][journal]") {
  const TempDir dir;
  const std::string path = dir.file("journal.db");
  write(*plugins::open_sqlite_store(path, 1000),
        {line("received", 1, 0, "q", "a"), line("received", 2, 1, "q", "b", R"(,"parent_id":"a")"),
         line("received", 3, 2, "q", "c", R"(,"parent_id":"b")"),
         line("received", 4, 3, "q", "d", R"(,"parent_id":"b")"),
         line("received", 5, 4, "q", "other"),
         line("received", 6, 5, "q", "self", R"(,"parent_id":"self","trace_id":"self")"),
         line("received", 7, 6, "q", "x", R"(,"parent_id":"y")"),
         line("received", 8, 7, "q", "y", R"(,"parent_id":"x")"),
         line("received", 9, 8, "q", "orphan", R"(,"parent_id":"not told of")"),
         line("received", 10, 9, "q", "root of it"),
         line("received", 11, 10, "q", "told late", R"(,"trace_id":"root of it")")});
  for (const char* const id : {"a", "b", "c", "d"}) CHECK(story(path, id).messages == 4);
  const journal::Tree tree = make_tree(story(path, "d"));
  REQUIRE(tree.messages.size() == 4);
  CHECK(tree.messages[0].id == "a");
  CHECK(tree.messages[0].children == std::vector<std::size_t>{1});
  CHECK(tree.messages[1].children == std::vector<std::size_t>{2, 3});
  CHECK(tree.messages[3].level == 2);
  CHECK(make_tree(story(path, "self")).messages.size() == 1);
  CHECK(story(path, "told late").messages == 2);
  CHECK(make_tree(story(path, "x")).messages.size() == 2);
  CHECK_THAT(to_text(make_tree(story(path, "orphan"))),
             Contains("orphan, published for not told of, which is not here\n"));
  CHECK(story(path, "not told of").messages == 1);
}

TEST_CASE("an event that comes twice is stored once", "[unit][journal]") {
  const TempDir dir;
  const std::string path = dir.file("journal.db");
  auto store = plugins::open_sqlite_store(path, 1000);
  std::vector<std::string> lines = a_small_tree();
  lines.push_back(line("received", 10, 20, "q", "with a body", R"(,"body":"x","headers":{"a":1})"));
  write(*store, lines);
  write(*store, lines);
  store = plugins::open_sqlite_store(path, 1000);  // another process
  write(*store, lines);
  CHECK(count(path, "events") == 10);
  CHECK(count(path, "contents") == 1);
  store->begin();
  plugins::Event event;
  std::string problem;
  REQUIRE(plugins::parse_event(line("received", 11, 30, "q", "undone"), event, problem));
  store->add(event);
  store->roll_back();
  CHECK(count(path, "events") == 10);
  write(*store, {line("received", 11, 30, "q", "undone")});
  CHECK(story(path, "undone").messages == 1);
}

TEST_CASE("what is old is forgotten in small steps, and all that belongs to it",
          "[unit][journal]") {
  const TempDir dir;
  const std::string path = dir.file("journal.db");
  const auto store = plugins::open_sqlite_store(path, 1000);
  const auto other = plugins::open_sqlite_store(path, 1000);
  write(*store, a_small_tree());
  write(*other, {line("received", 20, 1, "q", "x", R"(,"body":"x")"),
                 line("received", 21, 5'000'000, "q", "young", R"(,"trace_id":"x")")});
  CHECK(store->forget(kBegin, 100) == 0);
  CHECK(store->forget(kBegin + 10'000'000, 3) == 3);
  CHECK(count(path, "events") == 8);
  CHECK(store->forget(kBegin + 5'000'000, 100) == 4);
  CHECK(store->forget(kBegin + 5'000'000, 100) == 0);
  CHECK(count(path, "events") == 4);
  CHECK(count(path, "contents") == 0);
  CHECK(story(path, "young").events[0].trace_id == "x");  // for as long as it is referred to
  CHECK(story(path, kChild).events.size() == 3);
  CHECK(store->forget(kBegin + 60'000'000, 100) == 4);
  for (const char* const table : {"events", "contents", "ids", "contexts"}) {
    CHECK(count(path, table) == 0);
  }
  // The other one does not go on with numbers that are gone.
  write(*other, {line("received", 22, 70'000'000, "q", "young", R"(,"trace_id":"x")")});
  CHECK(story(path, "x").events.size() == 1);
  CHECK(story(path, "young").events[0].queue == "q");
}

TEST_CASE("of a message with events without end some are read", "[unit][journal]") {
  const TempDir dir;
  const std::string path = dir.file("journal.db");
  std::vector<std::string> lines;
  for (int n = 1; n <= 20; ++n) lines.push_back(line("handled", n, n, "q", "m"));
  lines.push_back(line("received", 21, 30, "q", "n", R"(,"parent_id":"m")"));
  write(*plugins::open_sqlite_store(path, 0), lines);
  const journal::Story some = story(path, "m", 1000, 8);
  CHECK(some.events.size() == 8);
  CHECK(some.messages == 1);
  CHECK(some.left_out == 1);
  CHECK(some.more_left_out);
  CHECK_THAT(to_text(make_tree(some)), Contains("more than 1 message left out\n"));
  const journal::Story first = story(path, "m", 1, 19);
  CHECK(first.events.size() == 19);
  CHECK(first.more_left_out);
  const journal::Story all = story(path, "m", 1000, 21);
  CHECK(all.events.size() == 21);
  CHECK(all.left_out == 0);
  CHECK_FALSE(all.more_left_out);
}

TEST_CASE("a tree of very many attempts is made in a moment", "[unit][journal]") {
  journal::Story many;
  for (int i = 0; i < 100'000; ++i) {
    journal::Event event;
    event.event = i % 3 == 0 ? "received" : "handled";
    event.queue = "q";
    event.message_id = "m";
    event.attempt = i % 3 == 2 ? i : 1;
    event.time_us = kBegin + i;
    many.events.push_back(event);
  }
  const journal::Tree tree = make_tree(many);
  REQUIRE(tree.messages.size() == 1);
  CHECK(tree.messages[0].attempts.size() == 66'667);
  CHECK(tree.messages[0].attempts[0].handled_us == kBegin + 1);
  CHECK(tree.messages[0].attempts[1].received_us == 0);
}

TEST_CASE("publishers with a new type for each message do not slow down", "[unit][journal]") {
  const TempDir dir;
  const std::string path = dir.file("journal.db");
  std::vector<std::string> lines;
  for (int n = 1; n <= 30'000; ++n) {
    lines.push_back(line("received", n, n, "q", "m", R"(,"type":"t)" + std::to_string(n) + '"'));
  }
  const auto store = plugins::open_sqlite_store(path, 0);
  const auto begin = std::chrono::steady_clock::now();
  write(*store, lines);
  // A scan of them for each took two minutes.
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(30));
  CHECK(count(path, "contexts") == 30'000);
}

TEST_CASE("a search has the latest first", "[unit][journal]") {
  const TempDir dir;
  const std::string path = dir.file("journal.db");
  std::vector<std::string> lines;
  for (int i = 0; i < 100; ++i) {
    lines.push_back(line("handled", i + 1, i * 1000, "q" + std::to_string(i % 3), std::to_string(i),
                         i % 2 == 0 ? R"(,"outcome":"ack")" : R"(,"outcome":"retry")"));
  }
  write(*plugins::open_sqlite_store(path, 1000), lines);
  const auto ids = [&](const journal::Search& search) {
    const auto found = reader(path)->search(search, {});
    REQUIRE(found);
    std::string text;
    for (const journal::Event& event : *found) text += event.message_id + " ";
    return text;
  };
  CHECK(ids({.limit = 4}) == "99 98 97 96 ");
  CHECK(ids({.queue = "q1", .limit = 3}) == "97 94 91 ");
  CHECK(ids({.queue = "q1", .outcome = "retry", .limit = 3}) == "97 91 85 ");
  CHECK(ids({.from_us = kBegin + 95'000, .to_us = kBegin + 98'000}) == "97 96 95 ");
  CHECK(ids({.queue = "none"}) == "");
}

TEST_CASE("of texts without end the beginning is read, and not all of them", "[unit][journal]") {
  const TempDir dir;
  const std::string path = dir.file("journal.db");
  const auto store = plugins::open_sqlite_store(path, 1000);
  store->begin();
  plugins::Event event;
  std::string problem;
  for (int n = 1; n <= 20; ++n) {
    REQUIRE(plugins::parse_event(line("handled", n, n, "q", "m"), event, problem));
    // As an older version has stored it.
    event.reason = std::string(1999, 'x') + "ä" + std::string(100'000, 'y');
    event.routing_key = std::string(3000, 'k');
    store->add(event);
  }
  store->commit();
  const journal::Limits few{.bytes = 10'000};
  const auto some = reader(path)->story("m", few);
  REQUIRE(some);
  CHECK(some->events.size() == 4);
  CHECK(some->more_left_out);
  CHECK(some->events[0].reason == std::string(1999, 'x'));
  CHECK(some->events[0].routing_key.size() == 1024);
  CHECK(story(path, "m").events.size() == 20);
  CHECK_FALSE(story(path, "m").more_left_out);
  const auto found = reader(path)->search({}, few);
  REQUIRE(found);
  REQUIRE(found->size() == 3);
  CHECK((*found)[0].n == 20);
}

TEST_CASE("a question with what is no text is refused before it is asked", "[unit][journal]") {
  auto loop = EventLoop::create();
  REQUIRE(loop);
  std::vector<int> answers;
  const auto desk = monitor::JournalDesk::create(
      **loop, "/nonexistent/journal.db", [&](std::uint64_t, const monitor::HttpAnswer& answer) {
        CHECK_THAT(answer.body, Contains("expected UTF-8 without a zero byte"));
        answers.push_back(answer.status);
      });
  REQUIRE(desk);
  const auto ask = [&](std::uint64_t id, const std::string& path, const std::string& query) {
    monitor::HttpRequest request;
    request.path = path;
    request.query = query;
    (*desk)->ask(id, request);
  };
  ask(1, "/api/journal/trace", "id=%ff%01");
  ask(2, "/api/journal/trace", "id=a%00b");
  ask(3, "/api/journal/search", "queue=%c3");
  ask(4, "/api/journal/search", "outcome=%00");
  CHECK(answers == std::vector<int>(4, 400));
}

#ifdef LOPE_WITH_POSTGRESQL
TEST_CASE("a server of PostgreSQL that says nothing more is given up", "[unit][journal]") {
  // It lets everybody in.
  const std::string welcome("R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", 15);
  const TcpServer server("", {{"lope", welcome}});
  const std::string url =
      "postgresql" + server.url().substr(4) + "/x?user=lope&sslmode=disable&gssencmode=disable";
  const auto begin = Clock::now();
  const auto opened = journal::open_journal(url, {.until = begin + std::chrono::milliseconds(300)});
  REQUIRE_FALSE(opened);
  CHECK_THAT(opened.error(), Contains(journal::kTookTooLong));
  CHECK(server.has_received("BEGIN"));
  CHECK_THROWS_AS(plugins::open_postgres_store(url, std::chrono::milliseconds(300)),
                  plugins::StoreError);
  CHECK(Clock::now() - begin < std::chrono::seconds(10));
}
#endif

TEST_CASE("what is no journal is told apart", "[unit][journal]") {
  const TempDir dir;
  const auto refused = [](const std::string& path) {
    const auto opened = journal::open_journal(path, {});
    REQUIRE_FALSE(opened);
    return opened.error();
  };
  CHECK_THAT(refused(dir.file("none.db")), Contains("none.db': expected a file, found none"));
  CHECK_THAT(refused(dir.path()), Contains("expected a file, found something else"));
  CHECK_THAT(refused(dir.write("text", std::string(5000, 'x'))), Contains("found no SQLite file"));
  CHECK_THAT(refused("mysql://user:secret@db/x"), !Contains("secret"));
  const auto run = [](const std::string& path, const char* sql) {
    sqlite3* database = nullptr;
    REQUIRE(sqlite3_open(path.c_str(), &database) == SQLITE_OK);
    REQUIRE(sqlite3_exec(database, sql, nullptr, nullptr, nullptr) == SQLITE_OK);
    sqlite3_close(database);
  };
  const std::string other = dir.file("other.db");
  run(other, "CREATE TABLE t (x)");
  CHECK_THAT(refused(other), Contains("expected a journal, found another kind of database"));
  CHECK_THROWS_WITH(plugins::open_sqlite_store(other, 1000),
                    Contains("expected a journal of version 1, found another kind of database"));
  const std::string newer = dir.file("newer.db");
  plugins::open_sqlite_store(newer, 1000);
  run(newer, "PRAGMA user_version = 2");
  CHECK_THAT(refused(newer), Contains("expected a journal of version 1, found one of version 2"));
  CHECK_THROWS_WITH(plugins::open_sqlite_store(newer, 1000),
                    Contains("expected a journal of version 1, found one of version 2"));
}

TEST_CASE("a URL of another kind is no path, and nothing of it is shown", "[unit][journal]") {
  const auto* const url =
      GENERATE("postgresql+psycopg2://lope:secret@db/x", "Postgresql://lope:secret@db/x",
               " postgresql://lope:secret@db/x", "mysql://lope:secret@db/x");
  CAPTURE(url);
  CHECK_THROWS_WITH(plugins::open_store(url, 0),
                    "option 'store': expected the path of a file or postgresql://…, found another "
                    "kind of URL");
  const auto opened = journal::open_journal(url, {});
  REQUIRE_FALSE(opened);
  CHECK_THAT(opened.error(), !Contains("secret"));
}
