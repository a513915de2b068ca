// What is told of messages: an event for each that came, for what became of it, and for what was
// published for it; with confirms every one of them, and never at the messages' cost.
#include <catch2/catch.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "support/courier.h"
#include "support/log_lines.h"
#include "support/memory_alarm.h"
#include "support/talk.h"

using namespace lope::test;

namespace {

// A courier whose group tells what it does to a queue of its own.
struct Told : Couriered {
  explicit Told(const std::string& type = "classic") : Couriered(type) {
    broker.declare_exchange(exchange, "topic");
    broker.bind_queue(events_queue, exchange, "told");
  }

  LopeOptions journaled(const std::string& more = {}, const std::string& keys = {}) const {
    return options(more, "journal: { exchange: " + exchange + ", key: told" + keys + " }\n" +
                             std::string(kWithRelay));
  }

  // Takes what has come since.
  void take_events() {
    for (const Received& message : broker.drain(events_queue)) {
      CHECK(message.content_type == "application/x-ndjson");
      CHECK(message.persistent);
      CHECK(message.message_id.size() == 36);
      std::size_t begin = 0;
      while (begin < message.body.size()) {
        const std::size_t end = message.body.find('\n', begin);
        REQUIRE(end != std::string::npos);
        events.push_back(Json::parse(message.body.substr(begin, end - begin)));
        begin = end + 1;
      }
    }
  }
  std::vector<Json> of(const std::string& kind, const std::string& id) const {
    std::vector<Json> found;
    for (const Json& event : events) {
      if (event["event"] == kind && event.value("message_id", "") == id) found.push_back(event);
    }
    return found;
  }
  // Every event of that kind about this message, once there are so many.
  std::vector<Json> wait(const std::string& kind, const std::string& id, std::size_t count = 1) {
    eventually(20s, [&] {
      take_events();
      return of(kind, id).size() >= count;
    });
    return of(kind, id);
  }
  // A source's events have the numbers from 1 on, each once.
  bool numbers_are_whole() const {
    std::map<std::string, std::multiset<int>> numbers;
    for (const Json& event : events) numbers[event["source"]].insert(event["n"].get<int>());
    for (const auto& [source, all] : numbers) {
      int expected = 0;
      for (const int number : all) {
        if (number != ++expected) return false;
      }
    }
    return true;
  }

  const std::string exchange = broker.unique_exchange();
  const std::string events_queue = broker.make_queue("events");
  std::vector<Json> events;
};

}  // namespace

TEST_CASE("an event for a message that came, and one for what became of it", "[broker][journal]") {
  Told it;
  Lope lope(it.journaled({}, ", bodies: true, headers: true"));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish({.routing_key = it.queue,
                                 .body = "sleep 50",
                                 .message_id = "m",
                                 .content_type = "text/plain",
                                 .headers = {{"x-kind", "a"}, {"my-token", "b"}},
                                 .type = "order",
                                 .app_id = "shop",
                                 .timestamp = 99});
  const auto handled = it.wait("handled", "m");
  REQUIRE(handled.size() == 1);
  const auto received = it.of("received", "m");
  REQUIRE(received.size() == 1);
  const Json& came = received[0];
  CHECK(came["n"] == 1);
  CHECK(came["source"].get<std::string>().size() == 16);
  CHECK(came["group"] == "courier");
  CHECK(came["queue"] == it.queue);
  CHECK(came["trace_id"] == "m");
  CHECK(came["attempt"] == 1);
  CHECK(came["routing_key"] == it.queue);
  CHECK(came["size"] == 8);
  CHECK(came["content_type"] == "text/plain");
  CHECK(came["type"] == "order");
  CHECK(came["app_id"] == "shop");
  CHECK(came["timestamp"] == 99);
  CHECK(came["headers"] == Json{{"x-kind", "a"}, {"my-token", "***"}});
  CHECK(came["body"] == "sleep 50");
  const Json& became = handled[0];
  CHECK(became["n"] == 2);
  CHECK(became["source"] == came["source"]);
  CHECK(became["time_us"] > came["time_us"]);
  CHECK(became["outcome"] == "ack");
  CHECK(became["worker"] == "courier/0");
  CHECK(became["handler"] == "courier");
  CHECK(became["ran_us"].get<int>() >= 50'000);
  CHECK(became["waited_us"].get<int>() >= 0);
  CHECK(became["waited_us"].get<int>() + became["ran_us"].get<int>() <=
        became["time_us"].get<std::int64_t>() - came["time_us"].get<std::int64_t>() + 1000);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("of a large body the beginning is told, of one that is too large nothing",
          "[broker][journal]") {
  Told it;
  Lope lope(
      it.journaled("    max_body: 200kB\n    dead_letter: broker\n", ", bodies: { max: 50kB }"));
  REQUIRE(lope.wait_ready());
  const std::string body = "body " + std::string(100'000, 'x');
  it.publish(body, "large");
  it.publish(std::string(200'001, 'x'), "too-large");
  const auto large = it.wait("received", "large");
  REQUIRE(large.size() == 1);
  CHECK(large[0]["size"] == body.size());
  CHECK(large[0]["body"] == body.substr(0, 50'000));
  CHECK(large[0]["body_cut"] == true);
  const auto refused = it.wait("handled", "too-large");
  REQUIRE(refused.size() == 1);
  CHECK(refused[0]["outcome"] == "dead");
  CHECK(refused[0]["code"] == "too-large");
  REQUIRE(it.of("received", "too-large").size() == 1);
  CHECK(it.of("received", "too-large")[0]["size"] == 200'001);
  CHECK_FALSE(it.of("received", "too-large")[0].contains("body"));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("retries, crashes, rejects and dead letters are told with their reason",
          "[broker][journal]") {
  Told it;
  Lope lope(it.journaled("    retry: { attempts: 3, delay: 0s }\n    crashes: 1\n"));
  REQUIRE(lope.wait_ready());
  it.publish("retry 1 1000", "later");
  it.publish("retry 9 -", "never");
  it.publish("segv", "crash");
  it.publish("reject", "bad");

  const auto later = it.wait("handled", "later", 2);
  REQUIRE(later.size() == 2);
  CHECK(later[0]["outcome"] == "retry");
  CHECK(later[0]["delay_ms"] == 1000);
  CHECK(later[0]["attempt"] == 1);
  CHECK(later[0]["reason"] == "the handler asked for it");
  CHECK(later[1]["outcome"] == "ack");
  CHECK(later[1]["attempt"] == 2);
  const auto copies = it.of("published", "later");
  REQUIRE(copies.size() == 1);
  CHECK(copies[0]["kind"] == "retry");
  CHECK(copies[0]["routing_key"] == it.queue);
  CHECK(copies[0]["delay_ms"] == 1000);
  CHECK(copies[0]["fate"] == "confirmed");

  const auto never = it.wait("handled", "never", 3);
  REQUIRE(never.size() == 3);
  CHECK(never[1]["outcome"] == "retry");
  CHECK(never[2]["outcome"] == "dead");
  CHECK(never[2]["code"] == "attempts");
  const auto letters = it.wait("published", "never", 3);
  REQUIRE(letters.size() == 3);
  CHECK(letters[2]["kind"] == "dead_letter");
  CHECK(letters[2]["routing_key"] == it.dead());

  const auto crash = it.wait("handled", "crash");
  REQUIRE(crash.size() == 1);
  CHECK(crash[0]["outcome"] == "crash");
  CHECK(crash[0]["code"] == "crashes");
  CHECK(crash[0]["crashes"] == 1);
  CHECK(crash[0]["reason"].get<std::string>().find("SIGSEGV") != std::string::npos);

  const auto bad = it.wait("handled", "bad");
  REQUIRE(bad.size() == 1);
  CHECK(bad[0]["outcome"] == "reject");
  CHECK(bad[0]["code"] == "rejected");
  CHECK(lope.stop() == exited(0));
  it.take_events();
  CHECK(it.numbers_are_whole());
}

TEST_CASE("what is published beside something that fails is told of too", "[broker][journal]") {
  Told it;
  const std::string second = it.broker.make_queue("second");
  Lope lope(it.journaled("    retry: { attempts: 1 }\n    dead_letter: broker\n"));
  REQUIRE(lope.wait_ready());
  const auto fates = [&](const std::string& id) {
    std::multiset<std::string> found;
    for (const Json& event : it.wait("published", id)) {
      const std::string fate = event["fate"];
      found.insert(fate.substr(0, fate.find(':')));
    }
    return found;
  };
  it.publish("publish " + it.queue + ".absent 1 publish " + second + " 1", "one-returned");
  CHECK(it.wait("handled", "one-returned").size() == 1);
  CHECK(fates("one-returned.0") == std::multiset<std::string>{"not waited for", "returned"});
  CHECK(it.take(second, 1).size() == 1);
  it.publish("to " + it.queue + ".absent publish a 3", "all-refused");
  CHECK(it.wait("handled", "all-refused").size() == 1);
  CHECK(fates("all-refused.0") == std::multiset<std::string>{"refused"});
  CHECK(fates("all-refused.1") == std::multiset<std::string>{"not waited for"});
  CHECK(fates("all-refused.2") == std::multiset<std::string>{"not waited for"});
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a message that an old worker has is told of with its handler, not the new one",
          "[broker][journal]") {
  Told it;
  const std::string go = it.files.file("go");
  Lope lope(it.journaled());
  REQUIRE(lope.wait_ready());
  it.publish("until " + go + " reject", "old");
  REQUIRE(it.wait_attempts("old", 1));
  LopeOptions changed = it.journaled();
  const std::size_t at = changed.groups.find("handler: courier");
  changed.groups.replace(
      at, std::string::npos,
      "handler: append_id\n    options: { file: " + it.files.file("new") + " }\n");
  lope.dir().write("lope.yaml", config_text(changed));
  CHECK_THAT(told(lope, {"reload", "--wait"}), Catch::Contains("new workers"));
  it.files.write("go", "");
  const auto old = it.wait("handled", "old");
  REQUIRE(old.size() == 1);
  CHECK(old[0]["handler"] == "courier");
  const auto dead = it.take(it.dead(), 1);
  REQUIRE(dead.size() == 1);
  CHECK(dead[0].header("x-lope-dead-handler") == "courier");
  it.publish("x", "new");
  const auto next = it.wait("handled", "new");
  REQUIRE(next.size() == 1);
  CHECK(next[0]["handler"] == "append_id");
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a tree of messages has one trace, with ids or without", "[broker][journal]") {
  Told it;
  const std::string second = it.broker.make_queue("second");
  LopeOptions options = it.journaled("    retry: { attempts: 3, delay: 0s }\n");
  options.groups += "  second: { queue: " + second +
                    ", handler: courier, options: { file: " + it.files.file("second") + " } }\n";
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  const std::string to_second = "body ack publish " + second + " 2";
  it.publish("retry 1 - " + to_second, "root");
  it.publish("retry 1 - " + to_second, "");
  REQUIRE(eventually(20s, [&] {
    it.take_events();
    int acks = 0;
    for (const Json& event : it.events) acks += event.value("outcome", "") == "ack";
    return acks >= 6;
  }));
  for (const bool named : {true, false}) {
    std::string root = "root";
    if (!named) {
      for (const Json& event : it.events) {
        if (event["event"] == "received" && event["queue"] == it.queue &&
            event["message_id"] != "root") {
          root = event["message_id"];
        }
      }
    }
    INFO(root);
    CHECK(it.of("received", root).size() == 2);  // the second attempt goes by the same name
    int children = 0;
    for (const Json& event : it.events) {
      if (event.value("trace_id", "") != root || event["message_id"] == root) continue;
      CHECK(event["parent_id"] == root);
      children += event["event"] == "received";
    }
    CHECK(children == 2);
  }
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("what is handed back unhandled is told, and the last events at a drain",
          "[broker][journal]") {
  Told it;
  Lope lope(it.journaled("    prefetch: 10\n"));
  REQUIRE(lope.wait_ready());
  it.publish("sleep 1000", "runs");
  REQUIRE(it.wait_attempts("runs", 1));
  it.publish("ack", "waits");
  REQUIRE(it.wait("received", "waits").size() == 1);
  CHECK(lope.stop() == exited(0));
  it.take_events();
  REQUIRE(it.of("handled", "runs").size() == 1);
  CHECK(it.of("handled", "runs")[0]["outcome"] == "ack");
  REQUIRE(it.of("handled", "waits").size() == 1);
  CHECK(it.of("handled", "waits")[0]["outcome"] == "handed_back");
  CHECK(it.numbers_are_whole());
}

TEST_CASE("kept messages and batches are told as they are settled", "[broker][journal]") {
  Told it;
  LopeOptions options = it.journaled();
  const bool batch = GENERATE(false, true);
  options.groups = "  g: { queue: " + it.queue +
                   ", handler: gather, options: { file: " + it.files.file("gathered") + " }" +
                   (batch ? ", batch: { size: 3, wait: 10s }" : "") + " }\n";
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  for (const char* id : {"a", "b", "c"}) it.publish(batch ? "ack" : "later:300", id);
  for (const char* id : {"a", "b", "c"}) {
    const auto handled = it.wait("handled", id);
    REQUIRE(handled.size() == 1);
    CHECK(handled[0]["outcome"] == "ack");
    CHECK(handled[0]["worker"] == "g/0");
    CHECK(handled[0]["waited_us"].get<int>() >= 0);
    // From when the consumer heard that it is kept, which is a moment later.
    if (!batch) CHECK(handled[0]["ran_us"].get<int>() >= 200'000);
  }
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("without its exchange events are given up and messages are not", "[broker][journal]") {
  Couriered it;
  const std::string exchange = it.broker.unique_exchange();
  Lope lope(it.options({}, "journal: { exchange: " + exchange + " }\n" + kWithRelay));
  REQUIRE(lope.wait_ready());
  it.publish("ack", "m");
  REQUIRE(it.wait_acked("m"));
  const auto line = lope.wait_for_line("cannot send the journal");
  REQUIRE(line);
  CHECK(line->find("404") != std::string::npos);
  CHECK(line->find(exchange) != std::string::npos);
  // So long they are kept: the exchange may be about to come.
  REQUIRE(eventually(30s, [&] { return group_of(lope)["journal_dropped"] == 2; }));
  CHECK(lope.log().find("journal events dropped") != std::string::npos);
  // It is looked for again.
  it.broker.declare_exchange(exchange, "fanout");
  const std::string events = it.broker.make_queue("events");
  it.broker.bind_queue(events, exchange, "");
  it.publish("ack", "n");
  REQUIRE(it.wait_acked("n"));
  CHECK(eventually(20s, [&] { return group_of(lope)["journal_sent"] == 2; }));
  CHECK(eventually(20s, [&] { return it.broker.message_count(events).value_or(0) > 0; }));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("while the broker blocks publishers messages go on, and a drain is not held up",
          "[broker][journal]") {
  Told it;
  Lope lope(it.journaled());
  REQUIRE(lope.wait_ready());
  it.publish("ack", "first");  // opens the connection
  REQUIRE(it.wait("handled", "first").size() == 1);
  for (int i = 0; i < 20; ++i) it.publish("sleep 100", "m" + std::to_string(i));
  MemoryAlarm alarm(it.broker);
  REQUIRE(it.wait_acked("m19", 30s));
  CHECK(eventually(30s, [&] { return group_of(lope)["acked"] == 21; }));
  const auto asked = std::chrono::steady_clock::now();
  CHECK(lope.stop() == exited(0));
  CHECK(std::chrono::steady_clock::now() - asked < 10s);
}

TEST_CASE("with confirms every event arrives, over lost connections", "[broker][journal]") {
  Told it("quorum");
  Lope lope(it.journaled("    prefetch: 100\n    threads: 4\n", ", confirm: true"));
  REQUIRE(lope.wait_ready());
  constexpr int kMessages = 3000;
  RatePublisher rate(it.broker.url(), 500, std::chrono::seconds(kMessages / 500), [&](int i) {
    return Publication{.routing_key = it.queue, .message_id = "m" + std::to_string(i)};
  });
  const auto cut = [&](int at) {
    REQUIRE(eventually(30s, [&] { return rate.sent() > at; }));
    // Only those that publish.
    for (const std::string& pid : it.broker.connections_named("publishing")) {
      it.broker.ctl({"close_connection", pid, "test"});
    }
  };
  cut(kMessages / 4);
  cut(kMessages / 2);
  rate.join();
  CHECK(lope.process().count_lines("connection=publishing") == 2);
  const std::set<std::string> ids(rate.confirmed().begin(), rate.confirmed().end());
  REQUIRE(eventually(60s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.stop() == exited(0));
  it.take_events();
  std::set<std::pair<std::string, int>> known;  // an event may come twice, under its number
  std::set<std::string> received, acked;
  std::map<std::string, int> highest;
  for (const Json& event : it.events) {
    const std::string source = event["source"];
    const int number = event["n"];
    known.emplace(source, number);
    highest[source] = std::max(highest[source], number);
    const std::string id = event["message_id"];
    if (event["event"] == "received") received.insert(id);
    if (event.value("outcome", "") == "ack") acked.insert(id);
  }
  std::size_t expected = 0;
  for (const auto& [source, number] : highest) expected += static_cast<std::size_t>(number);
  CHECK(known.size() == expected);
  CHECK(std::includes(received.begin(), received.end(), ids.begin(), ids.end()));
  CHECK(std::includes(acked.begin(), acked.end(), ids.begin(), ids.end()));
}
