// What handlers publish: confirmed before the cause is acked, dropped when it is not.
#include <catch2/catch.hpp>

#include <chrono>
#include <fstream>
#include <set>

#include "support/courier.h"
#include "support/log_lines.h"
#include "support/memory_alarm.h"

using namespace lope::test;

TEST_CASE("what a handler publishes is confirmed, and names its cause",
          "[broker][handler_publish]") {
  Couriered it;
  const std::string to = it.broker.make_queue("to");
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish(
      {.routing_key = it.queue,
       .body = "publish " + to + " 3",
       .message_id = "cause",
       .headers = {{"x-lope-trace-id", "root"}, {"traceparent", "00-ab"}}});
  const auto got = it.take(to, 3);
  REQUIRE(got.size() == 3);
  CHECK(ids_of(got) == std::vector<std::string>{"cause.0", "cause.1", "cause.2"});
  for (const Received& each : got) {
    CHECK(each.persistent);
    CHECK(each.header("x-lope-parent-id") == "cause");
    CHECK(each.header("x-lope-trace-id") == "root");
    CHECK(each.header("traceparent") == "00-ab");
  }
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("headers that are passed on arrive as they were, without those that cannot be sent",
          "[broker][handler_publish]") {
  Couriered it;
  const std::string to = it.broker.make_queue("to");
  const std::string seen = it.files.file("seen");
  LopeOptions options = it.options();
  options.groups += "  describe:\n    queue: " + to +
                    "\n    handler: describe\n    options: { file: " + seen + " }\n";
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish({.routing_key = it.queue,
                                 .body = "copy publish " + to + " 1",
                                 .message_id = "m",
                                 .headers = {{"text", "a"}},
                                 .typed_headers = {{.name = "integer", .kind = 'l', .number = -3},
                                                   {.name = "natural", .kind = 'i', .number = 7},
                                                   {.name = "real", .kind = 'd', .real = 0.5},
                                                   {.name = "truth", .kind = 't', .number = 1},
                                                   {.name = "bytes", .kind = 'x', .text = "\x01"},
                                                   {.name = "time", .kind = 'T', .number = 1234},
                                                   {.name = "nothing", .kind = 'V'},
                                                   {.name = "table", .kind = 'F'},
                                                   {.name = "array", .kind = 'A'},
                                                   {.name = "decimal", .kind = 'D', .number = 1},
                                                   {.name = "CC", .kind = 'A'}}});
  const std::string header = "m.0.header.";
  REQUIRE(eventually(10s, [&] { return !lines_with(read_file(seen), "m.0.checksum=").empty(); }));
  std::set<std::string> headers;
  for (const std::string& line : lines_of_file(seen)) {
    if (line.starts_with(header)) headers.insert(line.substr(header.size()));
  }
  std::erase_if(headers, [](const std::string& name) { return name.starts_with("x-lope-"); });
  CHECK(headers == std::set<std::string>{"text=text a", "integer=int64 -3", "natural=int64 7",
                                         "real=double 0.5", "truth=bool true", "bytes=bytes \x01",
                                         "time=timestamp 1234", "nothing=null"});
  CHECK(it.attempts_of("m") == std::vector<int>{1});
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("what is published for a message that is not acked is dropped",
          "[broker][handler_publish]") {
  Couriered it;
  const std::string to = it.broker.make_queue("to");
  Lope lope(it.options("    retry: { attempts: 3, delay: 0s }\n"));
  REQUIRE(lope.wait_ready());
  it.publish("publish " + to + " 2 retry 1 -", "later");
  it.publish("publish " + to + " 2 reject", "never");
  it.publish("publish " + to + " 2 segv", "crash");
  REQUIRE(it.wait_acked("later"));
  CHECK(it.take(it.dead(), 2).size() == 2);
  CHECK(lope.stop() == exited(0));
  CHECK(ids_of(it.broker.drain(to)) == std::vector<std::string>{"later.0", "later.1"});
}

TEST_CASE(
    "a publication that no queue takes, that is refused, or that has no exchange has its "
    "cause retried, and costs the others nothing",
    "[broker][handler_publish]") {
  Couriered it;
  const std::string to = it.broker.make_queue("to");
  const std::string full =
      it.broker.make_queue("full", {.text_arguments = {{"x-overflow", "reject-publish"}},
                                    .number_arguments = {{"x-max-length", 1}}});
  it.broker.publish(full, "full");
  const std::string internal = it.broker.unique_exchange();
  it.broker.declare_exchange(internal, "direct", {.internal = true});
  Lope lope(
      it.options("    retry: { attempts: 2, delay: 0s }\n    prefetch: 100\n    threads: 4\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"publish no-such-queue 1", "returned: 312 NO_ROUTE"},
      {"publish " + full + " 1", "nacked"},
      {"to no-such-exchange publish k 1", "refused: look for exchange 'no-such-exchange'"},
      // It is there, but nobody may publish to it: that closes the channel.
      {"to " + internal + " publish k 1", "refused: 403 ACCESS_REFUSED"},
  };
  publisher.publish_many(400, [&](int i) {
    const bool is_bad = i % 100 == 50;
    return Publication{
        .routing_key = it.queue,
        .body = is_bad ? bad[static_cast<std::size_t>(i / 100)].first : "publish " + to + " 1",
        .message_id = is_bad ? "bad" + std::to_string(i / 100) : "m" + std::to_string(i)};
  });
  REQUIRE(eventually(30s, [&] {
    return it.broker.message_count(it.dead()).value_or(0) >= 4 && it.broker.is_empty(it.queue);
  }));
  // One that was unconfirmed when the channel was closed is there twice, under its id.
  const auto dead = it.broker.drain(it.dead());
  std::set<std::string> ids;
  for (const Received& letter : dead) {
    INFO(letter.message_id << ": " << letter.header("x-lope-dead-reason"));
    REQUIRE(letter.message_id.starts_with("bad"));
    ids.insert(letter.message_id);
    const auto& expected = bad[static_cast<std::size_t>(letter.message_id[3] - '0')].second;
    CHECK(letter.header("x-lope-dead-reason").find(expected) != std::string::npos);
  }
  CHECK(ids.size() == 4);
  CHECK(lope.stop() == exited(0));
  // No cause was run again but the four; each of the others published at least once, under its id,
  // and twice only when a closed channel left its fate open.
  std::map<std::string, int> seen;
  for (const Received& each : it.broker.drain(to)) ++seen[each.message_id];
  CHECK(seen.size() == 396);
  std::multiset<std::string> fine;
  std::map<std::string, std::set<int>> retried;
  for (const CourierStart& start : it.starts()) {
    if (start.id.starts_with("bad")) {
      retried[start.id].insert(start.attempt);  // a copy may be there twice as well
    } else {
      fine.insert(start.id);
    }
  }
  CHECK(fine.size() == 396);
  CHECK(std::set<std::string>(fine.begin(), fine.end()).size() == 396);
  CHECK(retried.size() == 4);
  for (const auto& [id, attempts] : retried) CHECK(attempts == std::set<int>{1, 2});
}

TEST_CASE("replies go to who asked, direct reply-to and a gone requester included",
          "[broker][handler_publish]") {
  Couriered it;
  const std::string answers = it.broker.make_queue("answers");
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish({.routing_key = it.queue,
                                 .body = "reply pong",
                                 .message_id = "m",
                                 .correlation_id = "c-1",
                                 .reply_to = answers});
  const auto got = it.take(answers, 1);
  REQUIRE(got.size() == 1);
  CHECK(got[0].body == "pong");
  CHECK(got[0].correlation_id == "c-1");
  // It consumes from amq.rabbitmq.reply-to, and lets the broker name the place in the request.
  const RunResult direct =
      run_lope({"call", "--broker", it.broker.url(), "--queue", it.queue, "reply direct"});
  CHECK(direct.status == exited(0));
  CHECK(direct.output == "direct");
  it.broker.publisher().publish({.routing_key = it.queue,
                                 .body = "reply pong",
                                 .message_id = "gone",
                                 .reply_to = "nobody-is-here"});
  REQUIRE(it.wait_acked("gone"));
  CHECK(eventually(5s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.process().count_lines("message retried") == 0);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a large publication goes through whole", "[broker][handler_publish]") {
  Couriered it;
  const std::string to = it.broker.make_queue("to");
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  const std::string body(20 << 20, 'x');
  it.publish("body " + body + " publish " + to + " 1", "m");
  const auto got = it.take(to, 1, 30s);
  REQUIRE(got.size() == 1);
  CHECK(got[0].body == body);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a delayed publication comes when it is due, to any exchange and key",
          "[broker][handler_publish]") {
  Couriered it;
  const std::string exchange = it.broker.unique_exchange();
  const std::string to = it.broker.make_queue("to");
  it.broker.declare_exchange(exchange, "topic");
  it.broker.bind_queue(to, exchange, "some.key");
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  const auto asked = std::chrono::steady_clock::now();
  it.publish("to " + exchange + " later 2000 publish some.key 1", "m");
  REQUIRE(it.wait_acked("m"));
  CHECK(it.broker.message_count(to) == 0);
  const auto got = it.take(to, 1);
  const auto took = std::chrono::steady_clock::now() - asked;
  REQUIRE(got.size() == 1);
  CHECK(took >= 2s);
  CHECK(took < 5s);
  CHECK(got[0].message_id == "m.0");
  CHECK(got[0].exchange == exchange);
  CHECK(got[0].routing_key == "some.key");
  CHECK(got[0].header("x-lope-to-exchange").empty());
  CHECK(got[0].number("x-lope-due") > 0);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("under a resource alarm acks go on, publishing waits, and everything completes after it",
          "[broker][handler_publish]") {
  const std::string type = GENERATE(as<std::string>{}, "classic", "quorum");
  CAPTURE(type);
  Couriered it(type);
  const std::string to = it.broker.make_queue("to", {.text_arguments = {{"x-queue-type", type}}});
  const std::string gate = it.files.file("gate");
  Lope lope(it.options("    prefetch: 20\n"));
  REQUIRE(lope.wait_ready());
  // So that the publishing connection is there.
  it.publish("publish " + to + " 1", "before");
  REQUIRE(it.take(to, 1).size() == 1);
  // Nothing of the rest is begun before the alarm.
  it.publish("until " + gate + " publish " + to + " 1", "first");
  REQUIRE(it.wait_attempts("first", 1));
  std::set<std::string> wanted = {"first.0"};
  it.broker.publisher().publish_many(200, [&](int i) {
    const std::string id = "m" + std::to_string(i);
    const bool publishes = i % 20 == 19;
    if (publishes) wanted.insert(id + ".0");
    return Publication{.routing_key = it.queue,
                       .body = publishes ? "publish " + to + " 1" : "sleep 20",
                       .message_id = id};
  });
  MemoryAlarm alarm(it.broker);
  std::ofstream(gate) << "open";
  // The broker stops reading a connection, and says so, at the first publication in an alarm.
  REQUIRE(lope.wait_for_line("the broker blocks publishers", 20s));
  CHECK(eventually(20s, [&] { return it.ends().size() == 202; }));
  const auto unsettled = [&] {
    const auto rows = it.broker.list({"list_queues", "name", "messages"});
    for (const auto& row : rows) {
      if (row[0] == it.queue) return std::stoi(row[1]);
    }
    return -1;
  };
  // Acked but for those whose publications wait.
  CHECK(eventually(10s, [&] { return unsettled() == 11; }));
  CHECK_FALSE(eventually(30s, [&] { return it.broker.message_count(to) != 0; }));
  CHECK(unsettled() == 11);
  alarm.end();
  std::set<std::string> published;
  for (const Received& each : it.take(to, 11, 20s)) published.insert(each.message_id);
  CHECK(published == wanted);
  CHECK(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(it.starts().size() == 202);
  CHECK(lope.process().count_lines("connection lost") == 0);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("handlers that publish faster than the broker takes it get nothing more to do",
          "[broker][handler_publish]") {
  Couriered it;
  const std::string to = it.broker.make_queue("to");
  const std::string gate = it.files.file("gate");
  Lope lope(it.options("    prefetch: 250\n"));
  REQUIRE(lope.wait_ready());
  it.publish("until " + gate + " publish " + to + " 1", "first");
  REQUIRE(it.wait_attempts("first", 1));
  const std::string body = "body " + std::string(1 << 20, 'x') + " publish " + to + " 1";
  std::set<std::string> wanted = {"first.0"};
  it.broker.publisher().publish_many(
      200,
      [&](int i) {
        const std::string id = "m" + std::to_string(i);
        wanted.insert(id + ".0");
        return Publication{.routing_key = it.queue, .body = body, .message_id = id};
      },
      20);
  MemoryAlarm alarm(it.broker);
  std::ofstream(gate) << "open";
  REQUIRE(lope.wait_for_line("the broker blocks publishers", 20s));
  // 64 MiB of publications wait, and the one that goes beyond.
  const auto begun = [&] { return it.starts().size(); };
  CHECK(eventually(20s, [&] { return begun() >= 65; }));
  CHECK_FALSE(eventually(3s, [&] { return begun() > 70; }));
  alarm.end();
  std::set<std::string> published;
  for (const Received& each : it.take(to, 201, 60s)) published.insert(each.message_id);
  CHECK(published == wanted);
  CHECK(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE(
    "a publication goes through bindings of exchanges, or where an alternate exchange takes it",
    "[broker][handler_publish]") {
  Couriered it;
  const std::string front = it.broker.unique_exchange("front");
  const std::string behind = it.broker.unique_exchange("behind");
  const std::string others = it.broker.unique_exchange("others");
  const std::string to = it.broker.make_queue("to");
  const std::string strays = it.broker.make_queue("strays");
  it.broker.declare_exchange(others, "fanout");
  it.broker.bind_queue(strays, others, "");
  it.broker.declare_exchange(front, "topic", {.text_arguments = {{"alternate-exchange", others}}});
  it.broker.declare_exchange(behind, "direct");
  it.broker.bind_exchange(behind, front, "known.#");
  it.broker.bind_queue(to, behind, "known.key");
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  it.publish("to " + front + " publish known.key 1", "m");
  it.publish("to " + front + " publish unknown.key 1", "stray");
  CHECK(ids_of(it.take(to, 1)) == std::vector<std::string>{"m.0"});
  CHECK(ids_of(it.take(strays, 1)) == std::vector<std::string>{"stray.0"});
  CHECK(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(it.starts().size() == 2);  // acked the first time
  CHECK(lope.process().count_lines("message retried") == 0);
  CHECK(lope.stop() == exited(0));
}
