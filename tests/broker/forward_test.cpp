// The handler forward: where its copies go, what they carry, and that none is lost.
#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/refused_options.h"

using namespace lope::test;

namespace {

struct Forwarding {
  LopeOptions options(const std::string& options, const std::string& more = {},
                      const std::string& top = {}) const {
    return {.broker = broker.url(),
            .groups = "  forwarding:\n    queue: " + queue +
                      "\n    handler: forward\n    options: { " + options + " }\n" + more,
            .top = top,
            .handlers_dir = LOPE_HANDLERS_BUILD_DIR};
  }
  // Everything in a queue, once there are so many.
  std::vector<Received> take(const std::string& from, int count) {
    CHECK(eventually(15s, [&] { return broker.message_count(from).value_or(0) >= count; }));
    return broker.drain(from);
  }

  Broker broker;
  const std::string queue = broker.make_queue("forwarding");
  const std::string to = broker.make_queue("to");
};

// What another handler sees of the messages in a queue, a line a property or header.
class Described {
 public:
  Described(const Broker& broker, const std::string& queue)
      : lope_({.broker = broker.url(),
               .groups = "  describe:\n    queue: " + queue +
                         "\n    handler: describe\n    options: { file: " + file_ + " }\n"}) {
    REQUIRE(lope_.wait_ready());
  }
  std::set<std::string> of(const std::string& id) const {
    std::set<std::string> lines;
    const auto done = [&] { return !lines_with(read_file(file_), id + ".checksum=").empty(); };
    CHECK(eventually(10s, done));
    for (const std::string& line : lines_of_file(file_)) {
      if (line.starts_with(id + ".")) lines.insert(line.substr(id.size() + 1));
    }
    for (const char* const name :
         {"queue=", "consumer_tag=", "timestamp=", "redelivered=", "headers=", "checksum="}) {
      std::erase_if(lines, [name](const std::string& line) { return line.starts_with(name); });
    }
    return lines;
  }

 private:
  TempDir files_;
  const std::string file_ = files_.file("seen");
  Lope lope_;
};

Publication full(const std::string& queue) {
  return {.routing_key = queue,
          .body = std::string("b\0dy", 4),
          .message_id = "m",
          .persistent = false,
          .content_type = "text/plain",
          .correlation_id = "c",
          .reply_to = "r",
          .headers = {{"text", "a"}, {"x-one", "1"}, {"x-two", "2"}, {"CC-like", "yes"}},
          .typed_headers = {{.name = "integer", .kind = 'l', .number = -3},
                            {.name = "real", .kind = 'd', .real = 0.5},
                            {.name = "truth", .kind = 't', .number = 1},
                            {.name = "bytes", .kind = 'x', .text = "\x01"},
                            {.name = "time", .kind = 'T', .number = 1234},
                            {.name = "nothing", .kind = 'V'},
                            {.name = "table", .kind = 'F'},
                            {.name = "array", .kind = 'A'}},
          .content_encoding = "identity",
          .type = "t",
          .app_id = "a",
          .expiration = "600000",
          .priority = 3,
          .timestamp = 1234};
}

}  // namespace

TEST_CASE("a message is forwarded with its properties and headers", "[broker][forward]") {
  Forwarding it;
  Described described(it.broker, it.to);
  Lope lope(it.options("routing_key: " + it.to));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish(full(it.queue));
  CHECK(described.of("m") == std::set<std::string>{"routing_key=" + it.to,
                                                   "content_type=text/plain",
                                                   "content_encoding=identity",
                                                   "correlation_id=c",
                                                   "reply_to=r",
                                                   "type=t",
                                                   "priority=3",
                                                   "persistent=false",
                                                   "size=4",
                                                   "expiration=600000",
                                                   "header.text=text a",
                                                   "header.x-one=text 1",
                                                   "header.x-two=text 2",
                                                   "header.CC-like=text yes",
                                                   "header.integer=int64 -3",
                                                   "header.real=double 0.5",
                                                   "header.truth=bool true",
                                                   "header.bytes=bytes \x01",
                                                   "header.time=timestamp 1234",
                                                   "header.nothing=null",
                                                   "header.x-lope-parent-id=text m",
                                                   "header.x-lope-trace-id=text m"});
  CHECK(lope.process().count_lines("is not passed on") == 1);  // of two
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("headers and properties are set and removed", "[broker][forward]") {
  Forwarding it;
  Described described(it.broker, it.to);
  Lope lope(it.options(
      "routing_key: " + it.to +
      ", set_headers: { text: \"{header.x-one}-{app_id}\", new: \"{header.none|?}\" }, "
      "remove_headers: [x-*, real, truth, bytes, time, nothing, table, array, CC-like], "
      "set_properties: { content_type: \"application/{type}\", message_id: \"{message_id}2\" }, "
      "remove_properties: [correlation_id, content_encoding, priority], expiration: 5m, "
      "priority: 7"));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish(full(it.queue));
  CHECK(described.of("m2") ==
        std::set<std::string>{"routing_key=" + it.to, "content_type=application/t", "reply_to=r",
                              "type=t", "priority=7", "persistent=false", "size=4",
                              "expiration=300000", "header.text=text 1-a", "header.new=text ?",
                              "header.integer=int64 -3", "header.x-lope-parent-id=text m",
                              "header.x-lope-trace-id=text m"});
  CHECK(lope.process().count_lines("is not passed on") == 0);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("an expiration goes along as the broker reads it", "[broker][forward]") {
  Forwarding it;
  Described described(it.broker, it.to);
  const auto& [expiration, expected] = GENERATE(table<std::string, std::string>(
      {{"+600000", "expiration=600000"}, {"4294967295", "expiration=4294967295"}}));
  Lope lope(it.options("routing_key: " + it.to));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish(
      {.routing_key = it.queue, .body = "b", .message_id = "m", .expiration = expiration});
  CHECK(described.of("m").contains(expected));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("where to is made of the message", "[broker][forward]") {
  Forwarding it;
  const std::string exchange = it.broker.unique_exchange();
  it.broker.declare_exchange(exchange, "topic");
  it.broker.bind_queue(it.to, exchange, "orders.north");
  const std::string own = it.broker.make_queue("own");
  it.broker.bind_queue(own, exchange, it.queue);
  const bool with_key = GENERATE(true, false);
  Lope lope(
      it.options("exchange: \"{header.to}\"" +
                 std::string(with_key ? ", routing_key: \"orders.{header.place|north}\"" : "")));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish(
      {.routing_key = it.queue, .body = "b", .message_id = "m", .headers = {{"to", exchange}}});
  CHECK(ids_of(it.take(with_key ? it.to : own, 1)) == std::vector<std::string>{"m"});
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("what is forwarded can be delayed", "[broker][forward]") {
  Forwarding it;
  Lope lope(it.options("delay: 1s, routing_key: " + it.to, "", kWithRelay));
  REQUIRE(lope.wait_ready());
  it.broker.publish(it.queue, "b", "m");
  const auto begin = std::chrono::steady_clock::now();
  const auto got = it.take(it.to, 1);
  CHECK(std::chrono::steady_clock::now() - begin > 900ms);
  REQUIRE(got.size() == 1);
  CHECK(got[0].message_id == "m");
  CHECK(got[0].number("x-lope-due") > 0);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("what no queue takes is retried, or dropped", "[broker][forward]") {
  const bool drop = GENERATE(true, false);
  Forwarding it;
  const std::string dead = it.broker.make_queue("dead");
  Lope lope(it.options(
      std::string("routing_key: no-such-queue") + (drop ? ", unroutable: drop" : ""),
      "    retry: { delay: 0s, attempts: 3 }\n    dead_letter: { queue: " + dead + " }\n"));
  REQUIRE(lope.wait_ready());
  it.broker.publish(it.queue, "b", "m");
  if (drop) {
    CHECK(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
  } else {
    const auto letters = it.take(dead, 1);
    REQUIRE(letters.size() == 1);
    CHECK(letters[0].number("x-lope-dead-attempts") == 3);
  }
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(lope.process().count_lines("message retried") == (drop ? 0 : 2));
}

TEST_CASE("what cannot be forwarded is rejected with the reason", "[broker][forward]") {
  Forwarding it;
  const std::string dead = it.broker.make_queue("dead");
  Lope lope(
      it.options("routing_key: \"{header.to}\"", "    dead_letter: { queue: " + dead + " }\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  const auto with = [&](const std::string& id, const std::string& to) {
    return Publication{.routing_key = it.queue, .message_id = id, .headers = {{"to", to}}};
  };
  publisher.publish(it.queue, "", "lacks");
  publisher.publish(with("long", std::string(256, 'x')));
  publisher.publish(with("loop", it.queue));
  const auto letters = it.take(dead, 3);
  REQUIRE(letters.size() == 3);
  for (const Received& letter : letters) {
    CAPTURE(letter.message_id);
    const std::string expected = letter.message_id == "lacks"  ? "'header.to', found none"
                                 : letter.message_id == "long" ? "an argument is not valid"
                                                               : "back to its own queue";
    CHECK(letter.header("x-lope-dead-reason").find(expected) != std::string::npos);
  }
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a forward that cannot work is refused with its reason", "[broker][forward]") {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"delay: 1s", "expected an option 'exchange' or 'routing_key'"},
      {"exchange: x, delay: soon", "option 'delay': expected a time with a unit"},
      {"exchange: x, priority: 256", "option 'priority': expected an integer from 0 to 255"},
      {"exchange: x, unroutable: reject", "option 'unroutable': expected retry or drop"},
      {"exchange: x, set_properties: { app_id: a }", "expected one of content_type"},
      {"exchange: x, remove_properties: [app_id]", "option 'remove_properties': expected some of"},
      {"exchange: x, expiration: 50d", "option 'expiration': expected at most 49d"},
      {"exchange: x, set_headers: { CC: a }", "option 'set_headers.CC': expected a header"},
      {"exchange: x, set_headers: { x-lope-due: a }", "option 'set_headers.x-lope-due'"},
      {"exchange: x, set_headers: { a: \"{b}\" }", "option 'set_headers.a': expected one of"},
  };
  Forwarding it;
  check_refused(it.options("exchange: x"), it.queue, "forward", wrong);
}

TEST_CASE("no message is lost on its way while workers are killed", "[broker][forward]") {
  Forwarding it;
  const std::string body(8192, 'x');
  // All there before, so that no worker is idle when it is killed.
  Publisher publisher = it.broker.publisher();
  publisher.publish_many(10'000, [&](int i) {
    return Publication{.routing_key = it.queue,
                       .body = body + std::to_string(i),
                       .message_id = std::to_string(i),
                       .content_type = "text/plain",
                       .correlation_id = "c" + std::to_string(i),
                       .headers = {{"number", std::to_string(i)}}};
  });
  Lope lope(it.options("routing_key: " + it.to + ", set_headers: { by: \"{queue}\" }",
                       "    workers: 2\n    prefetch: 100\n    retry: { delay: 0s, attempts: 1000 "
                       "}\n    crashes: 100\n    breaker: false\n"));
  REQUIRE(lope.wait_ready());
  std::minstd_rand random(5);
  int kills = 0;
  for (int next = 0; next < 9'500; next += 200 + static_cast<int>(random() % 100)) {
    REQUIRE(eventually(60s, [&] { return it.broker.message_count(it.to).value_or(0) >= next; }));
    const auto workers = lope.workers();
    if (!workers.empty() && ::kill(workers[random() % workers.size()], SIGKILL) == 0) ++kills;
  }
  CHECK(kills >= 10);
  CHECK(eventually(60s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
  int inside = 0;  // messages that a killed worker had
  for (const char* const what : {"running", "waiting"}) {
    for (const auto& count : fields_of(lope.log(), "how=SIGKILL", what)) inside += std::stoi(count);
  }
  CHECK(inside > 0);

  std::vector<std::string> ids;
  int altered = 0;
  for (const Received& got : it.broker.drain(it.to)) {
    const std::string& id = got.message_id;
    ids.push_back(id);
    altered += got.body != body + id || got.content_type != "text/plain" ||
               got.correlation_id != "c" + id || got.header("number") != id ||
               got.header("by") != it.queue || got.header("x-lope-parent-id") != id ||
               !got.persistent;
  }
  CHECK(altered == 0);
  const LedgerReport report = compare_ledger(publisher.confirmed(), ids);
  CHECK(report.missing.empty());
  CHECK(report.unexpected.empty());
}
