// The journal's events: what they say, what they leave out, and that they are JSON whatever a
// message holds.
#include "consumer/journal_event.h"

#include <bit>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "common/text.h"

using namespace lope;
using namespace lope::consumer;
using nlohmann::json;

namespace {

struct Message {
  ByteBuffer headers;
  DeliveryView view;

  Message() {
    view[TextProperty::message_id] = "m";
    view[TextProperty::exchange] = "shop";
    view[TextProperty::routing_key] = "new";
  }
  HeaderWriter writer{headers};
  const DeliveryView& done() {
    view.headers = {headers.data(), headers.size()};
    view.header_count = writer.count();
    return view;
  }
};

const std::string kOrigin = event_origin("00ff00ff00ff00ff", "h\"1", "g", "q");

template <typename Event>
json told(const Event& event, const MessageIds& ids = {"m", {}, "m"}) {
  std::string line;
  append_event(line, {kOrigin, 7, 1234567, ids, 2}, event);
  INFO(line);
  REQUIRE(line.ends_with("}\n"));
  REQUIRE(line.find('\n') == line.size() - 1);
  return json::parse(line);
}

std::string as_json(std::string_view text) {
  std::string out;
  append_json_text(out, text);
  return out;
}

}  // namespace

TEST_CASE("texts become JSON whatever bytes they have", "[unit][journal_event]") {
  const auto [text, expected] = GENERATE(table<std::string, std::string>({
      {"", "\"\""},
      {"plain", "\"plain\""},
      {"\"\\/", "\"\\\"\\\\/\""},
      {"a\nb\tc\rd", "\"a\\nb\\tc\\rd\""},
      {std::string("\0\x1f\x7f", 3), "\"\\u0000\\u001f\\u007f\""},
      {"grüße 🐇", "\"grüße 🐇\""},
      {"a\xff\xfe\xc3(", "\"a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD(\""},
      {"\xed\xa0\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},  // half of a surrogate pair
      {"cut \xf0\x9f\x90", "\"cut \xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
  }));
  CHECK(as_json(text) == expected);
  CHECK_NOTHROW(json::parse(as_json(text)));
}

TEST_CASE("every event says who tells it, of what", "[unit][journal_event]") {
  const json event = told(HandledEvent{.outcome = "ack"}, {"m", "p", "t"});
  CHECK(event == json{{"event", "handled"},
                      {"source", "00ff00ff00ff00ff"},
                      {"n", 7},
                      {"time_us", 1234567},
                      {"host", "h\"1"},
                      {"group", "g"},
                      {"queue", "q"},
                      {"message_id", "m"},
                      {"parent_id", "p"},
                      {"trace_id", "t"},
                      {"attempt", 2},
                      {"outcome", "ack"}});
  CHECK_FALSE(told(HandledEvent{.outcome = "ack"}, {"m", "m", "m"}).contains("parent_id"));
}

TEST_CASE("what a message is called, and by which trace", "[unit][journal_event]") {
  struct Row {
    const char *id, *made, *parent, *trace, *expected_id, *expected_parent, *expected_trace;
  };
  const auto row = GENERATE(values<Row>({
      {"m", "", "", "", "m", "", "m"},
      {"m", "", "p", "t", "m", "p", "t"},
      {"m", "made", "", "", "m", "", "m"},
      {"", "made", "", "", "made", "", "made"},
      {"", "made", "p", "t", "made", "p", "t"},
      {"", "", "", "", "", "", ""},
  }));
  Message message;
  message.view[TextProperty::message_id] = row.id;
  message.view[TextProperty::parent_id] = row.parent;
  const auto header = [&](const char* name, const char* value) {
    if (*value != '\0') message.writer.add_text(name, HeaderKind::text, value);
  };
  header("x-lope-id", row.made);
  header("x-lope-parent-id", row.parent);
  header("x-lope-trace-id", row.trace);
  const MessageIds ids = ids_of(message.done());
  CHECK(ids.message == row.expected_id);
  CHECK(ids.parent == row.expected_parent);
  CHECK(ids.trace == row.expected_trace);
  const MessageIds published = ids_of("child", message.view.headers);
  CHECK(published.message == "child");
  CHECK(published.parent == row.parent);
  CHECK(published.trace == (*row.trace == '\0' ? "child" : row.trace));
}

TEST_CASE("ids of any length are cut, not inside a character", "[unit][journal_event]") {
  Message message;
  const std::string longer = std::string(254, 'x') + "\u00e4" + std::string(9000, 'y');
  message.writer.add_text("x-lope-id", HeaderKind::text, longer);
  message.writer.add_text("x-lope-parent-id", HeaderKind::text, std::string(5000, '\x80'));
  message.writer.add_text("x-lope-trace-id", HeaderKind::text, std::string(256, 't'));
  message.view[TextProperty::message_id] = "";
  message.view[TextProperty::parent_id] = longer;
  const MessageIds ids = ids_of(message.done());
  CHECK(ids.message == std::string(254, 'x'));
  CHECK(ids.parent == ids.message);
  CHECK(ids.trace == std::string(255, 't'));
  const MessageIds published = ids_of("child", message.view.headers);
  CHECK(published.message == "child");
  CHECK(published.parent.size() > 200);
  CHECK(published.parent.size() <= 255);
}

TEST_CASE("received: its properties, but for those that it does not have",
          "[unit][journal_event]") {
  Message message;
  message.view[TextProperty::content_type] = "text/plain";
  message.view[TextProperty::type] = "order";
  message.view[TextProperty::app_id] = "shop";
  message.view.timestamp = 99;
  message.view.flags = kDeliveryRedelivered;
  message.writer.add_text("x", HeaderKind::text, "1");
  json event = told(ReceivedEvent{.view = message.done(), .size = 5});
  CHECK(event["event"] == "received");
  CHECK(event["exchange"] == "shop");
  CHECK(event["routing_key"] == "new");
  CHECK(event["size"] == 5);
  CHECK(event["redelivered"] == true);
  CHECK(event["content_type"] == "text/plain");
  CHECK(event["type"] == "order");
  CHECK(event["app_id"] == "shop");
  CHECK(event["timestamp"] == 99);
  CHECK_FALSE(event.contains("headers"));
  CHECK_FALSE(event.contains("body"));
  Message bare;
  event = told(ReceivedEvent{.view = bare.done(), .headers = true});
  for (const char* name : {"redelivered", "content_type", "timestamp", "headers"}) {
    CHECK_FALSE(event.contains(name));
  }
}

TEST_CASE("received: headers of every kind, secret ones without their value",
          "[unit][journal_event]") {
  Message message;
  HeaderWriter& writer = message.writer;
  writer.add_text("text", HeaderKind::text, "a\"b");
  writer.add_text("bytes", HeaderKind::bytes, "\xff");
  writer.add_scalar("int", HeaderKind::int64, static_cast<std::uint64_t>(-3));
  writer.add_scalar("real", HeaderKind::real, std::bit_cast<std::uint64_t>(0.5));
  writer.add_scalar("endless", HeaderKind::real, std::bit_cast<std::uint64_t>(1.0 / 0.0));
  writer.add_scalar("truth", HeaderKind::boolean, 1);
  writer.add_scalar("time", HeaderKind::timestamp, 1234);
  writer.add_scalar("nothing", HeaderKind::null, 0);
  writer.add_text("X-Authorization-2", HeaderKind::text, "Bearer me");
  writer.add_scalar("my-PassWord", HeaderKind::int64, 5);
  const std::vector<std::string> secret = {"authorization", "password"};
  const json event =
      told(ReceivedEvent{.view = message.done(), .headers = true, .secret_headers = secret});
  CHECK(event["headers"] == json{{"text", "a\"b"},
                                 {"bytes", "\xEF\xBF\xBD"},
                                 {"int", -3},
                                 {"real", 0.5},
                                 {"endless", nullptr},
                                 {"truth", true},
                                 {"time", 1234},
                                 {"nothing", nullptr},
                                 {"X-Authorization-2", "***"},
                                 {"my-PassWord", "***"}});
}

TEST_CASE("received: a body is text or base64, and cut between characters",
          "[unit][journal_event]") {
  struct Row {
    std::string body;
    std::size_t max;
    std::string shown;
    bool encoded, cut;
  };
  const auto row = GENERATE(values<Row>({
      {"", 10, "", false, false},
      {"hello", 5, "hello", false, false},
      {"hello!", 5, "hello", false, true},
      {"grüße", 3, "gr", false, true},
      {"grüße", 4, "grü", false, true},
      {"a🐇", 4, "a", false, true},
      {std::string("a\0b", 3), 10, "YQBi", true, false},
      {"\xff", 10, "/w==", true, false},
      {"\xff\xfe", 10, "//4=", true, false},
      {"\xff\xfe\xfd\xfc", 3, "//79", true, true},
      {"ab\xff", 3, "YWL/", true, false},
      {"ab\xff\xff", 3, "YWL/", true, true},  // no character that goes on behind the cut
  }));
  Message message;
  const json event = told(
      ReceivedEvent{.view = message.done(), .body = true, .bytes = row.body, .max_body = row.max});
  CHECK(event["body"] == row.shown);
  CHECK(event.contains("body_encoding") == row.encoded);
  CHECK(event.contains("body_cut") == row.cut);
}

TEST_CASE("handled: only what is known", "[unit][journal_event]") {
  const json event = told(HandledEvent{.outcome = "crash",
                                       .reason = "its worker died: SIGSEGV",
                                       .code = "crashes",
                                       .waited_us = 0,
                                       .ran_us = 15,
                                       .worker = "g/0",
                                       .handler = "h",
                                       .handler_version = "1.0",
                                       .crashes = 3,
                                       .delay_ms = 10'000});
  CHECK(event["outcome"] == "crash");
  CHECK(event["reason"] == "its worker died: SIGSEGV");
  CHECK(event["code"] == "crashes");
  CHECK(event["waited_us"] == 0);
  CHECK(event["ran_us"] == 15);
  CHECK(event["worker"] == "g/0");
  CHECK(event["handler"] == "h");
  CHECK(event["handler_version"] == "1.0");
  CHECK(event["crashes"] == 3);
  CHECK(event["delay_ms"] == 10'000);
  CHECK(told(HandledEvent{.outcome = "dead", .reason = std::string(9999, 'x')})["reason"]
            .get<std::string>()
            .size() == 2000);
  const json bare = told(HandledEvent{.outcome = "handed_back"});
  for (const char* name : {"reason", "code", "waited_us", "ran_us", "worker", "crashes"}) {
    CHECK_FALSE(bare.contains(name));
  }
}

TEST_CASE("published: what, to where, and what became of it", "[unit][journal_event]") {
  const json event = told(PublishedEvent{.kind = "publication",
                                         .exchange = "e",
                                         .routing_key = "k",
                                         .size = 3,
                                         .delay_ms = 500,
                                         .fate = "confirmed"},
                          {"child", "m", "m"});
  CHECK(event["event"] == "published");
  CHECK(event["message_id"] == "child");
  CHECK(event["parent_id"] == "m");
  CHECK(event["trace_id"] == "m");
  CHECK(event["kind"] == "publication");
  CHECK(event["exchange"] == "e");
  CHECK(event["routing_key"] == "k");
  CHECK(event["size"] == 3);
  CHECK(event["delay_ms"] == 500);
  CHECK(event["fate"] == "confirmed");
}
