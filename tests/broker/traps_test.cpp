// What brokers do that surprises: each of these has cost the users of other clients messages.
#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <set>

#include "common/clock.h"
#include "support/courier.h"
#include "support/ladder.h"
#include "support/log_lines.h"

using namespace lope::test;

namespace {

std::set<std::string> acked(const Couriered& it) {
  std::set<std::string> ids;
  for (const CourierEnd& end : it.ends()) {
    if (end.outcome == "ack") ids.insert(end.id);
  }
  return ids;
}

}  // namespace

TEST_CASE("what cannot be delivered at the ladder's end is set aside, and holds up nothing",
          "[broker][traps]") {
  Couriered it;
  const Ladder ladder(it.broker);
  const std::string due = ladder.prefix + ".due";
  const std::string undeliverable = ladder.prefix + ".undeliverable";
  const std::string to = it.broker.make_queue("to");
  const std::string internal = it.broker.unique_exchange("internal");
  it.broker.declare_exchange(internal, "direct", {.internal = true});
  Lope lope(it.options({}, ladder.top(", retry: 1s, give_up: 2s")));
  REQUIRE(lope.wait_ready());
  REQUIRE(eventually(10s, [&] { return it.broker.consumer_count(due).value_or(0) == 1; }));
  struct Row {
    std::string id, exchange, key;
    std::int64_t expiration;  // 0: none; -1: no headers at all
    std::string reason;       // empty: it arrives
  };
  const std::vector<Row> rows = {
      {"fine", "", to, 0, ""},
      {"expired", "", to, 1000, "expired: it was to be delivered at the latest "},
      {"missing", "no-such-exchange", "k", 0, "refused: look for exchange 'no-such-exchange'"},
      {"unroutable", "", "no-such-queue", 0, "returned: 312 NO_ROUTE"},
      {"lost", "", "", -1, "its headers do not say where it is to go"},
      {"after", "", to, 0, ""},
      // It is there, but nobody may publish to it.
      {"internal", internal, "k", 0, "refused: 403 ACCESS_REFUSED"},
  };
  Publisher publisher = it.broker.publisher();
  const auto publish = [&](const Row& row) {
    const auto now = static_cast<std::int64_t>(lope::unix_ms());
    Publication publication{.routing_key = due, .body = "as it was", .message_id = row.id};
    if (row.expiration >= 0) {
      publication.headers = {{"x-lope-to-exchange", row.exchange}, {"x-lope-to-key", row.key}};
      // What has expired was due a while ago.
      publication.typed_headers = {
          {.name = "x-lope-due", .kind = 'l', .number = now - 2 * row.expiration},
          {.name = "x-lope-expiration", .kind = 'l', .number = row.expiration}};
    }
    publisher.publish(publication);
  };
  const auto check = [&](const Received& letter) {
    INFO(letter.message_id << ": " << letter.header("x-lope-reason"));
    const auto row = std::find_if(rows.begin(), rows.end(),
                                  [&](const Row& each) { return each.id == letter.message_id; });
    REQUIRE(row != rows.end());
    CHECK(letter.header("x-lope-reason").find(row->reason) != std::string::npos);
    CHECK(letter.body == "as it was");
    CHECK(letter.persistent);
    CHECK(letter.header("x-lope-to-exchange") == row->exchange);
    CHECK(letter.header("x-lope-to-key") == row->key);
  };
  for (std::size_t i = 0; i + 1 < rows.size(); ++i) publish(rows[i]);
  CHECK(ids_of(it.take(to, 2)) == std::vector<std::string>{"after", "fine"});
  // None of the others is kept unacked until its fate is known.
  CHECK(eventually(10s, [&] { return it.broker.is_empty(due); }));
  auto letters = it.take(undeliverable, 4);
  CHECK(ids_of(letters) == std::vector<std::string>{"expired", "lost", "missing", "unroutable"});

  // This one closes the channel, and costs nobody else anything: who was unconfirmed then arrives
  // at least once.
  publish(rows.back());
  publish(rows.front());
  CHECK_FALSE(it.take(to, 1).empty());
  const auto refused = it.take(undeliverable, 1);
  CHECK(ids_of(refused) == std::vector<std::string>{"internal"});
  letters.insert(letters.end(), refused.begin(), refused.end());
  for (const Received& letter : letters) check(letter);
  // Those that may yet be delivered were tried again.
  const auto again = fields_of(lope.log(), "delayed message cannot be delivered now", "message_id");
  CHECK(std::set<std::string>(again.begin(), again.end()) ==
        std::set<std::string>{"internal", "missing", "unroutable"});
  CHECK(eventually(10s, [&] { return it.broker.is_empty(due); }));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE(
    "what cannot be delivered yet waits in the ladder, and arrives once its exchange is there",
    "[broker][traps]") {
  Couriered it;
  const Ladder ladder(it.broker);
  const std::string due = ladder.prefix + ".due";
  const std::string to = it.broker.make_queue("to");
  const std::string exchange = it.broker.unique_exchange("later");
  Lope lope(it.options({}, ladder.top(", retry: 1s, give_up: 1h")));
  REQUIRE(lope.wait_ready());
  it.publish("later 200 to " + exchange + " publish k 1", "early");
  const auto line = lope.wait_for_line("delayed message cannot be delivered now");
  REQUIRE(line);
  CHECK(field(*line, "message_id") == "early.0");
  // It is not kept unacked.
  CHECK(eventually(10s, [&] { return it.broker.is_empty(due); }));
  it.broker.declare_exchange(exchange, "direct");
  it.broker.bind_queue(to, exchange, "k");
  const auto arrived = it.take(to, 1);
  REQUIRE(arrived.size() == 1);
  CHECK(arrived[0].message_id == "early.0");
  CHECK_FALSE(arrived[0].has_header("x-lope-to-"));
  CHECK_FALSE(arrived[0].has_header("x-lope-reason"));
  CHECK(it.broker.message_count(ladder.prefix + ".undeliverable") == 0);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a group whose messages fail pauses, each time for longer, and goes on when they do not",
          "[broker][traps]") {
  Couriered it;
  Lope lope(
      it.options("    prefetch: 2\n    retry: { attempts: 1 }\n"
                 "    breaker: { failures: 0.9, outcomes: 10, pause: 1s, max_pause: 4s }\n"));
  REQUIRE(lope.wait_ready());
  RatePublisher load(it.broker.url(), 20, 120s, [&](int i) {
    return Publication{
        .routing_key = it.queue, .body = "retry 9 -", .message_id = "f" + std::to_string(i)};
  });
  const auto pauses = [&] {
    std::vector<int> lengths;
    for (const std::string& line : lines_with(lope.log(), "pausing")) {
      lengths.push_back(std::stoi(field(line, "pause_ms")));
    }
    return lengths;
  };
  REQUIRE(eventually(60s, [&] { return pauses().size() >= 4; }));
  load.stop();
  load.join();
  it.broker.purge_queue(it.queue);
  // Of the failing ones only those are left that have been delivered.
  Publisher publisher = it.broker.publisher();
  for (int i = 0; i < 50; ++i) publisher.publish(it.queue, "ack", "a" + std::to_string(i));
  CHECK(eventually(30s, [&] { return acked(it).size() == 50; }));
  const auto lengths = pauses();
  CHECK(std::vector<int>(lengths.begin(), lengths.begin() + 4) ==
        std::vector<int>{1000, 2000, 4000, 4000});
  // What the handler saw of it.
  std::vector<long> gaps;
  const auto starts = it.starts();
  for (std::size_t i = 1; i < starts.size(); ++i) {
    gaps.push_back(starts[i].now_ms - starts[i - 1].now_ms);
  }
  const auto at_least = [&gaps](long length) {
    return std::count_if(gaps.begin(), gaps.end(), [&](long gap) { return gap >= length; });
  };
  CHECK(at_least(990) >= 4);
  CHECK(at_least(1990) >= 3);
  CHECK(at_least(3990) >= 2);
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("messages that wait are handed back before the broker's consumer_timeout",
          "[broker][traps]") {
  Couriered it;
  const std::string gate = it.files.file("gate");
  LopeOptions options = it.options("    timeout: 0s\n    prefetch: 5\n");
  options.broker = "{ url: '" + it.broker.url() + "', consumer_timeout: 10s }";
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  it.publish("until " + gate, "long");
  REQUIRE(it.wait_attempts("long", 1));
  const auto began = lope::Clock::now();
  const std::vector<std::string> waiting = {"a", "b", "c", "d"};
  it.broker.publisher().publish_many(4, [&](int i) {
    return Publication{
        .routing_key = it.queue, .body = "ack", .message_id = waiting[static_cast<std::size_t>(i)]};
  });
  const auto line = lope.wait_for_line("messages handed back", 20s);
  REQUIRE(line);
  CHECK(lope::Clock::now() - began < 10s);
  CHECK(field(*line, "messages") == "4");  // all at once, as they have come
  CHECK(line->find("consumer_timeout") != std::string::npos);
  std::ofstream(gate) << "open";
  REQUIRE(it.wait_acked("long"));
  for (const std::string& id : waiting) REQUIRE(it.wait_acked(id));
  for (const CourierStart& start : it.starts()) {
    INFO(start.id);
    CHECK(start.attempt == 1);
    CHECK(start.redelivered == (start.id != "long"));
  }
  CHECK(it.starts().size() == 5);
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("with a delivery limit of 1 a crash costs none of the messages beside it",
          "[broker][traps]") {
  Couriered it;
  it.broker.delete_queue(it.queue);
  it.broker.declare_queue(it.queue, {.text_arguments = {{"x-queue-type", "quorum"}},
                                     .number_arguments = {{"x-delivery-limit", 1}}});
  Lope lope(
      it.options("    prefetch: 50\n    workers: 2\n    crashes: 3\n"
                 "    retry: { attempts: 10, delay: 200ms }\n"));
  REQUIRE(lope.wait_ready());
  std::set<std::string> innocents;
  it.broker.publisher().publish_many(50, [&](int i) {
    const bool kills = i == 10;
    const std::string id = kills ? "killer" : "m" + std::to_string(i);
    if (!kills) innocents.insert(id);
    return Publication{
        .routing_key = it.queue, .body = kills ? "segv" : "sleep 5", .message_id = id};
  });
  CHECK(eventually(20s, [&] { return acked(it) == innocents; }));
  CHECK(ids_of(it.take(it.dead(), 1)) == std::vector<std::string>{"killer"});
  CHECK(it.attempts_of("killer") == std::vector<int>{1, 2, 3});
  CHECK(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(it.starts().size() == 49 + 3);
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.dead()) == 0);
}

TEST_CASE("relays of several daemons share a ladder, and what a dead one had is not lost",
          "[broker][traps]") {
  Couriered it;
  const Ladder ladder(it.broker);
  const std::string due = ladder.prefix + ".due";
  const std::string to = it.broker.make_queue("to");
  const LopeOptions options = it.options("    prefetch: 50\n", ladder.top());
  Lope one(options);
  Lope two(options);
  REQUIRE(one.wait_ready());
  REQUIRE(two.wait_ready());
  REQUIRE(eventually(10s, [&] { return it.broker.consumer_count(due) == 2; }));
  std::set<std::string> wanted;
  it.broker.publisher().publish_many(500, [&](int i) {
    const std::string id = "m" + std::to_string(i);
    wanted.insert(id + ".0");
    return Publication{.routing_key = it.queue,
                       .body = "later " + std::to_string(1000 + i * 6) + " publish " + to + " 1",
                       .message_id = id};
  });
  // In the middle of it.
  REQUIRE(eventually(20s, [&] { return it.broker.message_count(to).value_or(0) >= 100; }));
  auto victims = one.consumers();
  const auto relays = descendants_named(one.pid(), "lope-relay");
  REQUIRE(victims.size() == 1);
  REQUIRE(relays.size() == 1);
  victims.insert(victims.end(), relays.begin(), relays.end());
  for (const pid_t victim : victims) REQUIRE(::kill(victim, SIGKILL) == 0);
  CHECK(eventually(20s, [&] { return it.broker.message_count(to).value_or(0) >= 500; }));
  CHECK(eventually(20s, [&] { return it.broker.consumer_count(due) == 2; }));
  CHECK(eventually(10s, [&] { return it.broker.is_empty(due); }));
  std::set<std::string> arrived;
  for (const Received& each : it.broker.drain(to)) arrived.insert(each.message_id);
  CHECK(arrived == wanted);
  CHECK(one.stop() == exited(0));
  CHECK(two.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("a handler over its timeout that does not end at SIGABRT is killed", "[broker][traps]") {
  Couriered it;
  Lope lope(it.options("    timeout: 1s\n    retry: { attempts: 1 }\n"));
  REQUIRE(lope.wait_ready());
  it.publish("deaf sleep 60000", "late");
  it.publish("ack", "after");
  const auto dead = it.take(it.dead(), 1);
  REQUIRE(dead.size() == 1);
  CHECK(dead[0].message_id == "late");
  CHECK(dead[0].header("x-lope-dead-reason").starts_with("timeout"));
  CHECK(dead[0].number("x-lope-dead-crashes") == 0);
  const auto ended = lope.wait_for_line("worker ended");
  REQUIRE(ended);
  CHECK(field(*ended, "how") == "SIGKILL");
  CHECK(it.wait_acked("after"));
  CHECK(lope.process().count_lines("worker ended") == 1);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("of two daemons at a queue with a single active consumer one handles, the other waits",
          "[broker][traps]") {
  Couriered it;
  it.broker.delete_queue(it.queue);
  const std::string more =
      "    prefetch: 10\n"
      "    declare: { arguments: { x-single-active-consumer: true } }\n";
  Couriered second;  // for its ledger
  LopeOptions options = it.options(more);
  Lope active(options);
  REQUIRE(active.wait_ready());
  options.groups.replace(options.groups.find(it.file), it.file.size(), second.file);
  Lope waiting(options);
  REQUIRE(waiting.wait_ready());
  REQUIRE(it.broker.consumer_count(it.queue) == 2);
  std::vector<std::string> wanted;
  it.broker.publisher().publish_many(200, [&](int i) {
    wanted.push_back("m" + std::to_string(i));
    return Publication{.routing_key = it.queue, .body = "sleep 10", .message_id = wanted.back()};
  });
  REQUIRE(eventually(20s, [&] { return it.ends().size() >= 50; }));
  CHECK(second.starts().empty());
  CHECK(active.stop() == exited(0));
  CHECK(eventually(20s, [&] { return it.ends().size() + second.ends().size() >= 200; }));
  CHECK(waiting.stop() == exited(0));
  const auto ids = [](const Couriered& each) {
    std::vector<std::string> handled;
    for (const CourierStart& start : each.starts()) handled.push_back(start.id);
    return handled;
  };
  // In the order of the queue while nothing changes; what is handed back at the change may come
  // after what the other has got already.
  std::vector<std::string> first = ids(it), rest = ids(second);
  const auto change = wanted.begin() + static_cast<std::ptrdiff_t>(first.size());
  CHECK(first == std::vector<std::string>(wanted.begin(), change));
  CHECK(first.size() < 200);
  std::sort(rest.begin(), rest.end());
  std::sort(change, wanted.end());
  CHECK(rest == std::vector<std::string>(change, wanted.end()));
}
