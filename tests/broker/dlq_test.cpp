// `lope dlq` against a real broker: what it shows, where messages go, and that none is lost.
#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "support/amqp_properties.h"
#include "support/broker.h"
#include "support/lope.h"
#include "support/process.h"
#include "support/scripted.h"
#include "support/tcp_server.h"

namespace {

using namespace lope::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Matches;
using Ids = std::vector<std::string>;

std::int64_t unix_ms() { return static_cast<std::int64_t>(lope::unix_ns() / 1'000'000); }

RunResult dlq_at(const std::string& url, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "dlq");
  arguments.insert(arguments.end(), {"--broker", url});
  return run_lope(std::move(arguments));
}
RunResult dlq(const Broker& broker, std::vector<std::string> arguments) {
  return dlq_at(broker.url(), std::move(arguments));
}

struct Letter {
  std::string id = {};
  std::string origin = {};  // the queue
  std::string reason = "no such customer";
  std::string code = "rejected";
  std::int64_t dead_ms = unix_ms();
  std::string exchange = {};
  std::string body = "body";
};

// As a consumer of Lope writes it.
Publication written(const std::string& queue, const Letter& letter) {
  Publication publication;
  publication.routing_key = queue;
  publication.message_id = letter.id;
  publication.body = letter.body;
  publication.headers = {
      {"x-lope-dead-reason", letter.reason}, {"x-lope-dead-code", letter.code},
      {"x-lope-dead-queue", letter.origin},  {"x-lope-exchange", letter.exchange},
      {"x-lope-routing-key", letter.origin}, {"a", "b"}};
  publication.typed_headers = {{.name = "x-lope-dead-time", .kind = 'l', .number = letter.dead_ms},
                               {.name = "x-lope-dead-attempts", .kind = 'l', .number = 5},
                               {.name = "x-lope-attempt", .kind = 'l', .number = 5}};
  return publication;
}

// A queue of dead letters and the queue they came from.
struct Dead {
  explicit Dead(const QueueOptions& options = {})
      : origin(broker.make_queue("origin")), queue(broker.make_queue("dead", options)) {}
  void add(Letter letter) {
    if (letter.origin.empty()) letter.origin = origin;
    publisher.publish(written(queue, letter));
  }
  // All that is in them, sorted.
  Ids left() { return ids_of(broker.drain(queue)); }
  Ids back() { return ids_of(broker.drain(origin)); }

  Broker broker;
  Publisher publisher = broker.publisher();
  const std::string origin;
  const std::string queue;
};

TEST_CASE("dead letters are listed, one a line", "[broker][dlq]") {
  Dead it;
  it.add({.id = "m-1", .dead_ms = unix_ms() - 7'300'000});
  it.add({.id = "m-2", .reason = std::string(100, 'r'), .code = "crashes"});
  it.publisher.publish(it.queue, "of nobody", "m-3");
  const RunResult list = dlq(it.broker, {"list", it.queue});
  CHECK(list.status == exited(0));
  CHECK_THAT(list.output, Matches("#  MESSAGE ID  AGE +CODE +REASON +ATTEMPTS +QUEUE\n"
                                  "1  m-1 +2h +rejected +no such customer +5 +" +
                                  it.origin +
                                  "\n"
                                  "2  m-2 +\\ds +crashes +r+… +5 +" +
                                  it.origin +
                                  "\n"
                                  "3  m-3 +- +- +- +- +-\n"
                                  "3 messages in queue '" +
                                  it.queue + "'\n"));
  const RunResult json = dlq(it.broker, {"list", it.queue, "--json"});
  CHECK(json.status == exited(0));
  CHECK(std::count(json.output.begin(), json.output.end(), '\n') == 3);
  CHECK_THAT(json.output, Contains("{\"number\":1,\"message_id\":\"m-1\",\"dead_since\":\"2"));
  CHECK_THAT(json.output,
             Contains("\"code\":\"rejected\",\"reason\":\"no such customer\","
                      "\"attempts\":5,\"queue\":\"" +
                      it.origin + "\",\"exchange\":\"\",\"routing_key\":\"" + it.origin + "\"}\n"));
  // As they were, in their order.
  Ids order;
  for (const Received& each : it.broker.drain(it.queue)) order.push_back(each.message_id);
  CHECK(order == Ids{"m-1", "m-2", "m-3"});
}

TEST_CASE("messages are chosen by what is known of them", "[broker][dlq]") {
  Dead it;
  it.add({.id = "old", .reason = "no such order", .dead_ms = unix_ms() - 7'200'000});
  it.add({.id = "late", .reason = "timeout", .code = "attempts"});
  it.add({.id = "bad", .reason = "no such customer"});
  struct Case {
    std::vector<std::string> arguments;
    std::string ids;
  };
  const Case table[] = {
      {{}, "old late bad "},
      {{"--reason", "no such"}, "old bad "},
      {{"--code", "attempts"}, "late "},
      {{"--id", "bad"}, "bad "},
      {{"--older", "1h"}, "old "},
      {{"--newer", "1h"}, "late bad "},
      {{"--limit", "2"}, "old late "},
      {{"--reason", "no such", "--newer", "1h"}, "bad "},
      {{"--id", "nobody"}, ""},
  };
  for (const Case& each : table) {
    CAPTURE(each.arguments);
    std::vector<std::string> arguments{"list", it.queue, "--json"};
    arguments.insert(arguments.end(), each.arguments.begin(), each.arguments.end());
    const RunResult result = dlq(it.broker, arguments);
    CHECK(result.status == exited(0));
    std::string ids;
    const std::regex id("\"message_id\":\"([^\"]*)\"");
    for (std::sregex_iterator m(result.output.begin(), result.output.end(), id), end; m != end; ++m)
      ids += (*m)[1].str() + " ";
    CHECK(ids == each.ids);
  }
  CHECK_THAT(dlq(it.broker, {"list", it.queue, "--limit", "2"}).output,
             Contains("the first 2 messages of 3 in queue"));
  CHECK_THAT(dlq(it.broker, {"list", it.queue, "--id", "bad"}).output,
             Contains("1 of 3 messages in queue"));
  for (const char* verb : {"list", "replay", "purge", "show"}) {
    std::vector<std::string> arguments{verb, it.queue, "--id", "nobody"};
    if (verb == std::string("purge")) arguments.emplace_back("--yes");
    const RunResult none = dlq(it.broker, arguments);
    CHECK(none.status == exited(0));
    CHECK(none.output == "none of 3 messages in queue '" + it.queue + "' matches\n");
  }
  CHECK(it.left() == Ids{"bad", "late", "old"});
  const RunResult empty = dlq(it.broker, {"replay", it.queue});
  CHECK(empty.status == exited(0));
  CHECK(empty.output == "no message is ready in queue '" + it.queue + "'\n");
}

TEST_CASE("one message is shown with all that it has", "[broker][dlq]") {
  Dead it;
  it.add({.id = "first"});
  it.add({.id = "m-2", .exchange = "shop", .body = "line 1\nline 2"});
  for (const auto& which : {Ids{"2"}, Ids{"--id", "m-2"}}) {
    std::vector<std::string> arguments{"show", it.queue};
    arguments.insert(arguments.end(), which.begin(), which.end());
    const RunResult show = dlq(it.broker, arguments);
    INFO(show.output);
    CHECK(show.status == exited(0));
    CHECK_THAT(show.output, Contains("message id   m-2\n") && Contains("code         rejected\n") &&
                                Contains("came from    exchange 'shop' with key '" + it.origin) &&
                                Contains("\nheaders\n") &&
                                Contains("  x-lope-dead-attempts  5\n") &&
                                Contains("\nbody, 13 bytes\nline 1\nline 2\n"));
  }
  const RunResult json = dlq(it.broker, {"show", it.queue, "--json", "--id", "m-2"});
  CHECK_THAT(json.output, Contains("\"number\":2,\"message_id\":\"m-2\"") &&
                              Contains("\"x-lope-dead-attempts\":5") &&
                              Contains(",\"body\":\"line 1\\nline 2\"}\n"));
  CHECK_THAT(dlq(it.broker, {"show", it.queue, "3"}).output, Contains("has only 2 messages"));
  CHECK(it.left() == Ids{"first", "m-2"});
}

TEST_CASE("what Lope gave up is shown with its history and handled again", "[broker][dlq]") {
  Scripted it;
  Lope lope(it.options("    retry: { attempts: 2, delay: 0s }\n"));
  REQUIRE(lope.wait_ready());
  const std::string parking = it.broker.unique_queue();  // so that it goes with the test
  (void)parking;
  it.broker.publish(it.queue, "retry:no such customer", "m-1");
  const std::string dead = it.queue + ".dead";
  REQUIRE(eventually(20s, [&] { return it.broker.message_count(dead) == 1; }));
  // Without a queue of that name the one with .dead is meant; here both are there.
  const RunResult show = dlq(it.broker, {"show", dead, "1"});
  INFO(show.output);
  CHECK(show.status == exited(0));
  CHECK_THAT(show.output,
             Contains("code         attempts\n") &&
                 Contains("reason       the handler asked for it: no such customer\n") &&
                 Contains("attempts     2\n") &&
                 Contains("came from    queue '" + it.queue + "'\n"));
  CHECK_THAT(show.output, Contains("\nhistory\nATTEMPT  TIME ") && Contains("\n1        2") &&
                              Contains("\n2        2"));
  const auto handled = [&] {
    const auto lines = lines_of_file(it.started);
    return std::count(lines.begin(), lines.end(), "m-1");
  };
  CHECK(handled() == 2);
  const RunResult replay = dlq(it.broker, {"replay", dead});
  CHECK(replay.status == exited(0));
  CHECK(replay.output == "1 message of queue '" + dead + "' replayed\n");
  // The count begins anew: two attempts more, and it is dead again.
  REQUIRE(eventually(20s, [&] { return handled() == 4 && it.broker.message_count(dead) == 1; }));
  CHECK_THAT(dlq(it.broker, {"show", dead, "1"}).output, Contains("attempts     2\n"));
  CHECK(lope.stop() == exited(0));
  it.broker.delete_queue(dead);
}

TEST_CASE("a queue that is not there is one whose dead letters are meant", "[broker][dlq]") {
  Broker broker;
  const std::string queue = broker.unique_queue();
  const RunResult neither = dlq(broker, {"list", queue});
  CHECK(neither.status == exited(1));
  CHECK(neither.output ==
        "lope dlq: no queue '" + queue + "' in vhost '/', and no '" + queue + ".dead'\n");
  broker.declare_queue(queue + ".dead");
  broker.publish(queue + ".dead", "x", "m-1");
  const RunResult list = dlq(broker, {"list", queue});
  CHECK(list.status == exited(0));
  CHECK_THAT(list.output, Contains("lope dlq: no queue '" + queue + "' in vhost '/': this is '" +
                                   queue + ".dead'\n") &&
                              Contains("1 message in queue '" + queue + ".dead'\n"));
  broker.delete_queue(queue + ".dead");
}

TEST_CASE("a replayed message is as it was before it died", "[broker][dlq]") {
  Dead it;
  const std::string exchange = it.broker.unique_exchange();
  it.broker.declare_exchange(exchange, "topic");
  it.broker.bind_queue(it.origin, exchange, "#");
  const std::string other = it.broker.make_queue("other");
  Publication publication = written(it.queue, {.id = "m-1", .origin = "k.1", .exchange = exchange});
  publication.content_type = "text/plain";
  publication.correlation_id = "c-1";
  publication.headers.emplace_back("x-lope-trace-id", "t-1");
  it.publisher.publish(publication);
  struct Case {
    std::vector<std::string> arguments;
    std::string exchange, key, queue;
  };
  Case each{{}, exchange, "k.1", it.origin};
  SECTION("to the exchange") {}
  SECTION("to another queue") { each = {{"--queue", other}, "", other, other}; }
  std::vector<std::string> arguments{"replay", it.queue};
  arguments.insert(arguments.end(), each.arguments.begin(), each.arguments.end());
  const RunResult result = dlq(it.broker, arguments);
  INFO(result.output);
  REQUIRE(result.status == exited(0));
  const auto messages = it.broker.drain(each.queue);
  REQUIRE(messages.size() == 1);
  CHECK(messages[0].exchange == each.exchange);
  CHECK(messages[0].routing_key == each.key);
  CHECK(messages[0].body == "body");
  CHECK(messages[0].message_id == "m-1");
  CHECK(messages[0].content_type == "text/plain");
  CHECK(messages[0].correlation_id == "c-1");
  CHECK(messages[0].persistent);
  using Headers = std::vector<std::pair<std::string, std::string>>;
  CHECK(messages[0].headers == Headers{{"x-lope-exchange", exchange},
                                       {"x-lope-routing-key", "k.1"},
                                       {"a", "b"},
                                       {"x-lope-trace-id", "t-1"}});
  CHECK(it.left().empty());
}

TEST_CASE("--to-queue sends straight to the queue a message died in", "[broker][dlq]") {
  Dead it;
  it.add({.id = "m-1", .exchange = "an exchange that is gone"});
  const RunResult gone = dlq(it.broker, {"replay", it.queue});
  CHECK(gone.status == exited(1));
  CHECK_THAT(gone.output,
             Contains("lope dlq: message 1 ('m-1') stays: 404 NOT_FOUND") &&
                 Contains("0 messages of queue '" + it.queue + "' replayed, 1 left there\n"));
  CHECK(dlq(it.broker, {"replay", it.queue, "--to-queue"}).status == exited(0));
  CHECK(it.back() == Ids{"m-1"});
}

TEST_CASE("the broker's own dead letters go back too", "[broker][dlq]") {
  Dead it;
  const std::string exchange = it.broker.unique_exchange();
  it.broker.declare_exchange(exchange, "direct");
  const std::string source = it.broker.make_queue(
      "source",
      {.text_arguments = {{"x-dead-letter-exchange", ""}, {"x-dead-letter-routing-key", it.queue}},
       .number_arguments = {{"x-message-ttl", 1}}});
  it.broker.bind_queue(source, exchange, "k");
  it.publisher.publish(
      Publication{.exchange = exchange, .routing_key = "k", .body = "x", .message_id = "m-1"});
  REQUIRE(eventually(10s, [&] { return it.broker.message_count(it.queue) == 1; }));
  const RunResult show = dlq(it.broker, {"show", it.queue, "--code", "expired"});
  INFO(show.output);
  CHECK_THAT(show.output, Contains("reason       the broker: expired in queue " + source + "\n") &&
                              Contains("dead since   2") &&
                              Contains("came from    exchange '" + exchange + "' with key 'k'"));
  it.broker.delete_queue(source);
  it.broker.declare_queue(source);
  it.broker.bind_queue(source, exchange, "k");
  std::vector<std::string> arguments{"replay", it.queue};
  SECTION("to the exchange") {}
  SECTION("to the queue") { arguments.emplace_back("--to-queue"); }
  const RunResult result = dlq(it.broker, arguments);
  INFO(result.output);
  CHECK(result.status == exited(0));
  CHECK(ids_of(it.broker.drain(source)) == Ids{"m-1"});
}

TEST_CASE("a delayed message that could not be delivered goes where it was to go",
          "[broker][dlq]") {
  Dead it;
  Publication publication{.routing_key = it.queue, .body = "x", .message_id = "m-1"};
  publication.headers = {{"x-lope-to-exchange", ""},
                         {"x-lope-to-key", it.origin},
                         {"x-lope-reason", "returned: no queue takes it"}};
  it.publisher.publish(publication);
  CHECK_THAT(dlq(it.broker, {"list", it.queue}).output,
             Contains("undeliverable") && Contains("returned: no queue takes it"));
  CHECK(dlq(it.broker, {"replay", it.queue, "--code", "undeliverable"}).status == exited(0));
  const auto messages = it.broker.drain(it.origin);
  REQUIRE(messages.size() == 1);
  CHECK(messages[0].headers.empty());
}

TEST_CASE("what no queue takes stays and is told", "[broker][dlq]") {
  Dead it;
  it.add({.id = "gone", .origin = "no-such-queue"});
  it.add({.id = "fine"});
  it.publisher.publish(it.queue, "no headers", "whence");
  const std::string full =
      it.broker.make_queue("full", {.text_arguments = {{"x-overflow", "reject-publish"}},
                                    .number_arguments = {{"x-max-length", 0}}});
  it.add({.id = "full", .origin = full});
  const RunResult result = dlq(it.broker, {"replay", it.queue});
  INFO(result.output);
  CHECK(result.status == exited(1));
  CHECK_THAT(
      result.output,
      Contains("message 1 ('gone') stays: no queue 'no-such-queue' in vhost '/'\n") &&
          Contains("message 3 ('whence') stays: its headers do not say where it came from") &&
          Contains("message 4 ('full') stays: queue '" + full + "': the broker refused it") &&
          Contains("1 message of queue '" + it.queue + "' replayed, 3 left there\n"));
  CHECK(it.back() == Ids{"fine"});
  CHECK(it.left() == Ids{"full", "gone", "whence"});
  CHECK_THAT(dlq(it.broker, {"replay", it.queue, "--json"}).output,
             Contains("no message is ready"));
}

TEST_CASE("what may not be published stays and is told, and the rest goes on", "[broker][dlq]") {
  Dead it;
  const std::string exchange = it.broker.unique_exchange("shop");
  it.broker.declare_exchange(exchange, "topic");
  it.broker.bind_queue(it.origin, exchange, "#");
  const std::vector<Letter> letters = {{.id = "m-1", .origin = "orders.1", .exchange = exchange},
                                       {.id = "m-2", .origin = it.origin},
                                       {.id = "m-3", .origin = "mails.1", .exchange = exchange},
                                       {.id = "m-4", .origin = it.origin},
                                       {.id = "m-5", .origin = "orders.2", .exchange = exchange}};
  for (const Letter& letter : letters) it.add(letter);
  LimitedUser user(it.broker);
  Ids back, left;
  std::string said;
  SECTION("to an exchange") {
    user.may("", "^amq.default", ".*");
    back = {"m-2", "m-4"};
    left = {"m-1", "m-3", "m-5"};
    said = "message 1 ('m-1') stays: 403 ACCESS_REFUSED - access to exchange '" + exchange;
  }
  SECTION("to the default exchange") {
    user.may("", "^shop", ".*");
    back = {"m-1", "m-3", "m-5"};
    left = {"m-2", "m-4"};
    said = "message 2 ('m-2') stays: 403 ACCESS_REFUSED - access to exchange 'amq.default'";
  }
  SECTION("with a routing key") {
    user.may("", ".*", ".*");
    user.may_use_keys(exchange, "^orders");
    back = {"m-1", "m-2", "m-4", "m-5"};
    left = {"m-3"};
    said = "message 3 ('m-3') stays: 403 ACCESS_REFUSED - access to topic 'mails.1'";
  }
  const RunResult result = dlq_at(user.url(), {"replay", it.queue});
  INFO(result.output);
  CHECK(result.status == exited(1));
  CHECK_THAT(
      result.output,
      Contains(said) && Contains(std::to_string(back.size()) + " messages of queue '" + it.queue +
                                 "' replayed, " + std::to_string(left.size()) + " left there\n"));
  CHECK(it.back() == back);
  CHECK(it.left() == left);
}

TEST_CASE("a message that says it came from a name no exchange can have stays", "[broker][dlq]") {
  Dead it;
  it.add({.id = "m-1", .exchange = std::string(256, 'x')});
  it.add({.id = "m-2"});
  const RunResult result = dlq(it.broker, {"replay", it.queue});
  INFO(result.output);
  CHECK(result.status == exited(1));
  CHECK_THAT(result.output,
             Contains("message 1 ('m-1') stays: ") &&
                 Contains("1 message of queue '" + it.queue + "' replayed, 1 left there\n"));
  CHECK(it.back() == Ids{"m-2"});
}

// ---- A broker of made-up answers, which does what a real one does when it likes

constexpr int kQueue = 1, kPublish = 2, kLook = 3;  // the channels of a replay

std::string channel_close(int channel, int code, const std::string& text) {
  return method(channel, 20, 40,
                number(static_cast<std::uint64_t>(code), 2) + short_text(text) + number(0, 4));
}

std::string ask_for_message() {
  return method(kQueue, 60, 70, number(0, 2) + short_text("q") + number(0, 1));
}

TcpServer::Step give_message(std::uint64_t tag, const std::string& body) {
  lope::test::Properties properties;
  properties.headers = text_field("x-lope-exchange", "") + text_field("x-lope-routing-key", "home");
  properties.message_id = body;
  return {ask_for_message(),
          method(kQueue, 60, 71,
                 number(tag, 8) + number(0, 1) + short_text("") + short_text("q") + number(0, 4)) +
              frame(2, kQueue,
                    number(60, 2) + number(0, 2) + number(body.size(), 8) + properties.encode()) +
              frame(3, kQueue, body)};
}

std::string confirm(std::uint64_t tag) {
  return method(kPublish, 60, 80, number(tag, 8) + number(0, 1));
}
std::string acked(std::uint64_t tag) {
  return method(kQueue, 60, 80, number(tag, 8) + number(0, 1));
}

// Two dead letters in `q`; the first one's copy is published. Then `more`.
std::vector<TcpServer::Step> replaying(std::vector<TcpServer::Step> more) {
  const auto open = [](int channel) {
    return TcpServer::Step{method(channel, 20, 10, short_text("")),
                           method(channel, 20, 11, long_text(""))};
  };
  std::vector<TcpServer::Step> steps = {
      open(kQueue),
      {short_text("q"), method(kQueue, 50, 11, short_text("q") + number(2, 4) + number(0, 4))},
      open(kPublish),
      {method(kPublish, 85, 10, number(0, 1)), method(kPublish, 85, 11, "")},
      give_message(1, "body 1"),
      open(kLook),
      {method(kLook, 60, 10, number(0, 4) + number(1, 2) + number(0, 1)),
       channel_close(kLook, 406, "PRECONDITION_FAILED - invalid expiration 'none'")},
      {frame(3, kPublish, "body 1"), ""}};
  steps.insert(steps.end(), more.begin(), more.end());
  steps.push_back({number(10, 2) + number(50, 2), method(0, 10, 51, "")});  // the connection's end
  return steps;
}

TEST_CASE("what is confirmed is acked, though the channel it was published on is closed",
          "[broker][dlq]") {
  const std::string none = method(kQueue, 60, 72, short_text(""));
  const TcpServer server(login(),
                         replaying({give_message(2, "body 2"),
                                    {frame(3, kPublish, "body 2"),
                                     confirm(1) + channel_close(kPublish, 404, "NOT_FOUND - gone")},
                                    {acked(1), ""},
                                    {ask_for_message(), none},
                                    {ask_for_message(), none}}));
  const RunResult result = dlq_at(server.url(), {"replay", "q"});
  INFO(result.output);
  CHECK(result.status == exited(1));
  CHECK(server.has_received(acked(1)));
  CHECK_FALSE(server.has_received(acked(2)));
  CHECK_THAT(result.output,
             Contains("lope dlq: the broker closed the channel: 404 NOT_FOUND - gone; 1 message "
                      "replayed, the fate of 1 more message not known: they may be in both "
                      "places\n"));
}

TEST_CASE("a channel that is lost leaves what was confirmed on it in both places",
          "[broker][dlq]") {
  const TcpServer server(
      login(), replaying({give_message(2, "body 2"),
                          {frame(3, kPublish, "body 2"),
                           confirm(1) + confirm(2) +
                               channel_close(kQueue, 541, "INTERNAL_ERROR - the queue's")}}));
  const RunResult result = dlq_at(server.url(), {"replay", "q"});
  INFO(result.output);
  CHECK(result.status == exited(1));
  CHECK_THAT(result.output,
             Contains("0 messages replayed, the fate of 2 more messages not known: they may be in "
                      "both places\n"));
}

TEST_CASE("acks that the broker does not answer for are told", "[broker][dlq]") {
  const TcpServer server(
      login(), replaying({{ask_for_message(), method(kQueue, 60, 72, short_text("")) + confirm(1)},
                          {acked(1), ""},
                          {ask_for_message(), channel_close(kQueue, 404, "NOT_FOUND - gone")}}));
  const RunResult result = dlq_at(server.url(), {"replay", "q"});
  INFO(result.output);
  CHECK(result.status == exited(1));
  CHECK_THAT(result.output,
             Contains("lope dlq: the broker closed the channel: 404 NOT_FOUND - gone; 1 message "
                      "replayed, which may be in both places\n"));
}

TEST_CASE("a message that comes straight back is not taken again", "[broker][dlq]") {
  Dead it;
  for (int i = 0; i < 50; ++i) it.add({.id = "m-" + std::to_string(i), .origin = it.queue});
  const RunResult result = dlq(it.broker, {"replay", it.queue, "--json"});
  CHECK(result.status == exited(0));
  CHECK(result.output == "{\"seen\":50,\"matched\":50,\"replayed\":50,\"stayed\":0}\n");
  CHECK(it.broker.message_count(it.queue) == 50);
}

TEST_CASE("messages without ids, and with the same one, are told apart", "[broker][dlq]") {
  Dead it;
  for (int i = 0; i < 20; ++i) {
    it.add({.id = i < 10 ? "" : "same", .origin = i % 2 == 0 ? it.origin : "no-such-queue"});
  }
  const RunResult result = dlq(it.broker, {"replay", it.queue, "--json"});
  CHECK(result.status == exited(1));
  CHECK_THAT(result.output,
             Contains("{\"seen\":20,\"matched\":20,\"replayed\":10,\"stayed\":10}\n"));
  CHECK(it.broker.message_count(it.origin) == 10);
  CHECK(it.broker.message_count(it.queue) == 10);
}

TEST_CASE("purge deletes what matches and nothing else", "[broker][dlq]") {
  const bool quorum = GENERATE(false, true);
  CAPTURE(quorum);
  QueueOptions options;
  if (quorum) options.text_arguments = {{"x-queue-type", "quorum"}};
  Dead it(options);
  it.publisher.publish_many(3000, [&](int i) {
    return written(
        it.queue,
        {.id = std::to_string(i), .origin = it.origin, .reason = i % 3 == 0 ? "keep" : "drop"});
  });
  CHECK(run_lope({"dlq", "purge", it.queue, "--broker", it.broker.url()}).status == exited(2));
  const RunResult some = dlq(it.broker, {"purge", it.queue, "--reason", "drop", "--yes"});
  CHECK(some.status == exited(0));
  CHECK(some.output == "2000 messages of queue '" + it.queue + "' deleted\n");
  CHECK(eventually(5s, [&] { return it.broker.message_count(it.queue) == 1000; }));
  const RunResult all = dlq(it.broker, {"purge", it.queue, "--yes", "--json"});
  CHECK(all.output == "{\"seen\":1000,\"matched\":1000,\"deleted\":1000,\"stayed\":0}\n");
  // The node counts what is in a quorum queue every few seconds.
  CHECK(eventually(20s, [&] { return it.broker.is_empty(it.queue); }));
}

TEST_CASE("what was replayed from a quorum queue is not there again", "[broker][dlq]") {
  Dead it({.text_arguments = {{"x-queue-type", "quorum"}}});
  for (int round = 0; round < 5; ++round) {
    it.publisher.publish_many(500, [&](int i) {
      return written(it.queue, {.id = std::to_string(i), .origin = it.origin});
    });
    const std::string verb = round % 2 == 0 ? "replay" : "purge";
    std::vector<std::string> arguments{verb, it.queue, "--json"};
    if (verb == "purge") arguments.emplace_back("--yes");
    CHECK_THAT(dlq(it.broker, arguments).output, Contains("{\"seen\":500,\"matched\":500,"));
  }
  CHECK(it.broker.message_count(it.origin) == 1500);
  CHECK(eventually(20s, [&] { return it.broker.is_empty(it.queue); }));
}

TEST_CASE("a queue that goes with its last consumer stays, with what is left in it",
          "[broker][dlq]") {
  Dead it({.auto_delete = true});
  for (int i = 0; i < 5; ++i) it.add({.id = std::to_string(i), .origin = it.origin});
  const RunResult one = dlq(it.broker, {"replay", it.queue, "--limit", "1"});
  INFO(one.output);
  CHECK(one.status == exited(0));
  CHECK(it.broker.message_count(it.queue) == 4);
  CHECK(dlq(it.broker, {"purge", it.queue, "--limit", "1", "--yes"}).status == exited(0));
  CHECK(it.broker.message_count(it.queue) == 3);
}

TEST_CASE("on a terminal purge asks", "[broker][dlq]") {
  Dead it;
  for (int i = 0; i < 12; ++i) it.add({.id = std::to_string(i)});
  const auto purge = [&](const std::string& answer) {
    ProcessOptions options;
    options.env = {{"TERM", "xterm"}};
    options.standard_input = answer;
    const std::string command =
        LOPE_BIN_DIR "/lope dlq purge " + it.queue + " --broker " + it.broker.url();
    return run({"script", "-qec", command, "/dev/null"}, options);
  };
  const RunResult no = purge("n\n");
  CHECK_THAT(no.output, Contains("Delete 12 messages? [y/N] ") && Contains("nothing deleted"));
  CHECK(no.status == exited(0));
  CHECK(it.broker.message_count(it.queue) == 12);
  const RunResult yes = purge("y\n");
  CHECK_THAT(yes.output, Contains("12 messages of queue '" + it.queue + "' deleted"));
  CHECK(it.broker.message_count(it.queue) == 0);
}

// Many, on their way to where each takes its time to be confirmed.
void fill(Dead& it, int count) {
  it.publisher.publish_many(count, [&](int i) {
    return written(it.queue,
                   {.id = std::to_string(i), .origin = it.origin, .body = std::string(2000, 'x')});
  });
}

TEST_CASE("a bar shows how far replay is, on a terminal", "[broker][dlq]") {
  Dead it;
  fill(it, 10000);
  ProcessOptions options;
  options.env = {{"TERM", "xterm"}};
  const std::string command =
      LOPE_BIN_DIR "/lope dlq replay " + it.queue + " --broker " + it.broker.url();
  const RunResult result = run({"script", "-qec", command, "/dev/null"}, options, 60s);
  CHECK(result.status == exited(0));
  CHECK_THAT(result.output, Contains("% [#") && Contains("/10000 ") && Contains(" left\x1b[K"));
  CHECK_THAT(result.output, Contains("\x1b[K10000 messages of queue '" + it.queue + "' replayed"));
}

TEST_CASE("interrupted, replay ends in good order", "[broker][dlq]") {
  Dead it;
  constexpr int kCount = 20000;
  fill(it, kCount);
  const int signal = GENERATE(SIGINT, SIGTERM);
  Process process({LOPE_BIN_DIR "/lope", "dlq", "replay", it.queue, "--broker", it.broker.url()});
  REQUIRE(eventually(10s, [&] { return it.broker.message_count(it.origin).value_or(0) > 50; }));
  process.signal(signal);
  CHECK(process.wait_exit() == exited(1));
  std::smatch counts;
  const std::string output = process.output();
  REQUIRE(std::regex_search(output, counts,
                            std::regex("interrupted by (\\w+); (\\d+) messages replayed\n")));
  CHECK(counts[1] == (signal == SIGINT ? "SIGINT" : "SIGTERM"));
  const int done = std::stoi(counts[2]);
  CHECK(done < kCount);
  CHECK(it.broker.message_count(it.origin) == done);
  CHECK(eventually(5s, [&] { return it.broker.message_count(it.queue) == kCount - done; }));
}

TEST_CASE("killed at any moment, replay loses nothing", "[broker][dlq]") {
  Dead it;
  constexpr int kCount = 5000;
  fill(it, kCount);
  for (int round = 0; round < 3; ++round) {
    const int before = it.broker.message_count(it.origin).value_or(0);
    Process process({LOPE_BIN_DIR "/lope", "dlq", "replay", it.queue, "--broker", it.broker.url()});
    REQUIRE(eventually(
        10s, [&] { return it.broker.message_count(it.origin).value_or(0) > before + 50; }));
    process.signal(SIGKILL);
    CHECK(process.wait_exit() == killed_by(SIGKILL));
  }
  // The broker takes a moment to see that it is gone.
  REQUIRE(eventually(10s, [&] { return it.broker.message_count(it.queue).value_or(0) > 0; }));
  std::set<std::string> ids;
  REQUIRE(eventually(20s, [&] {
    for (const std::string* queue : {&it.queue, &it.origin}) {
      for (const Received& each : it.broker.drain(*queue)) ids.insert(each.message_id);
    }
    return ids.size() == kCount;
  }));
}

TEST_CASE("a dlq command line that makes no sense is refused", "[broker][dlq]") {
  struct Case {
    std::vector<std::string> arguments;
    std::string said;
  };
  const Case table[] = {
      {{}, "lope dlq: A subcommand is required"},
      {{"list"}, "lope dlq list: QUEUE is required"},
      {{"list", ""}, "lope dlq list: QUEUE: expected a queue's name"},
      {{"list", "q", "--code", "rejcted"}, "found 'rejcted': did you mean 'rejected'?"},
      {{"list", "q", "--older", "5"}, "--older: expected a duration with a unit"},
      {{"list", "q", "--limit", "0"}, "--limit: expected a number from 1, found 0"},
      {{"list", "q", "--id", ""}, "--id: expected a text, found nothing"},
      {{"show", "q"}, "expected the number of a message, --id or another such option"},
      {{"show", "q", "0"}, "N: expected a number from 1, found 0"},
      {{"replay", "q", "--queue", "r", "--to-queue"}, "excludes"},
      {{"replay", "q", "--queue", ""}, "--queue: expected a queue's name"},
      {{"purge", "q"}, "expected --yes where nobody can be asked"},
      {{"list", "q", "--broker", "localhost"}, "--broker: URL: expected amqp://"},
  };
  for (const Case& each : table) {
    std::vector<std::string> arguments{"dlq"};
    arguments.insert(arguments.end(), each.arguments.begin(), each.arguments.end());
    CAPTURE(arguments);
    const RunResult result = run_lope(arguments);
    CHECK(result.status == exited(2));
    CHECK_THAT(result.output, Contains("lope dlq") && Contains(each.said));
  }
  const RunResult nobody =
      run_lope({"dlq", "list", "q", "--broker", "amqp://guest:hunter2@127.0.0.1:1"});
  CHECK(nobody.status == exited(75));
  CHECK_THAT(nobody.output, !Contains("hunter2"));
}

}  // namespace
