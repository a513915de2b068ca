#include "cli/message_json.h"

#include <catch2/catch.hpp>

namespace lope::cli {
namespace {

TEST_CASE("a message is read from JSON", "[unit][message_json]") {
  const auto message = message_from_json(R"({
    "body": "Grüße", "content_type": "text/plain", "message_id": "m1", "exchange": "shop",
    "routing_key": "order.new", "priority": 3, "timestamp": 1700000000, "persistent": false,
    "redelivered": true,
    "headers": {"n": -5, "t": "x", "b": true, "r": 1.5, "l": [1, "a"], "m": {"k": 2}}})");
  REQUIRE(message);
  CHECK(message->body == "Grüße");
  CHECK(message->body_size == message->body.size());
  CHECK(message->content_type == "text/plain");
  CHECK(message->message_id == "m1");
  CHECK(message->exchange == "shop");
  CHECK(message->routing_key == "order.new");
  CHECK(message->priority == 3);
  CHECK(message->timestamp == 1700000000);
  CHECK_FALSE(message->persistent);
  CHECK(message->redelivered);
  CHECK(to_json(message->headers) ==
        R"({"n":-5,"t":"x","b":true,"r":1.5,"l":[1,"a"],"m":{"k":2}})");
}

TEST_CASE("a message as other commands print it is read as well", "[unit][message_json]") {
  Received original;
  original.message_id = "m2";
  original.routing_key = "orders";
  original.body = std::string("\0\xff\x01", 3);
  original.headers = {{"x-lope-attempt", {std::int64_t{3}}}};
  const auto message = message_from_json(
      "{\"number\":1,\"code\":\"rejected\",\"properties\":" + properties_json(original) + "," +
      body_json(original.body) + "}");
  REQUIRE(message);
  CHECK(message->message_id == "m2");
  CHECK(message->routing_key == "orders");
  CHECK(message->body == original.body);
  CHECK(message->headers == original.headers);
}

TEST_CASE("bodies of messages in JSON", "[unit][message_json]") {
  struct Row {
    const char* json;
    const char* body;
    const char* content_type;
  };
  const auto row = GENERATE(values<Row>({
      {R"({})", "", ""},
      {R"({"body":""})", "", ""},
      {R"({"body_base64":"SGk="})", "Hi", ""},
      {R"({"body_base64":"SGk"})", "Hi", ""},
      {R"({"body_json":{"b":1,"a":[true,null]}})", R"({"b":1,"a":[true,null]})",
       "application/json"},
      {R"({"body_json":7,"content_type":"x/y"})", "7", "x/y"},
      {R"({"content_type":"x/y","body_json":"t"})", "\"t\"", "x/y"},
  }));
  INFO(row.json);
  const auto message = message_from_json(row.json);
  REQUIRE(message);
  CHECK(message->body == row.body);
  CHECK(message->content_type == row.content_type);
}

TEST_CASE("what is no message in JSON is refused with its place", "[unit][message_json]") {
  struct Row {
    std::string json;
    const char* error;
  };
  const auto row = GENERATE(values<Row>({
      {"", "expected JSON, found none at line 1, column 1"},
      {"{\n \"body\":", "expected JSON, found none at line 2, column 9"},
      {"[1]", "expected a JSON object, found something else"},
      {R"({"bdy":"x"})", "'bdy': no such member of a message: did you mean 'body'?"},
      {R"({"zzzzzzzz":"x"})", "'zzzzzzzz': no such member of a message"},
      {R"({"body":{"a":1}})",
       "'body': expected a text (or 'body_json' for JSON), found {\\\"a\\\":1}"},
      {R"({"body":"x","body_json":1})",
       "expected one of 'body', 'body_base64' and 'body_json', found more"},
      {R"({"body_base64":"a"})", "'body_base64': expected base64, found \\\"a\\\""},
      {R"({"body_base64":"a b="})", "'body_base64': expected base64, found \\\"a b=\\\""},
      {R"({"priority":256})", "'priority': expected a number from 0 to 255, found 256"},
      {R"({"priority":-1})", "'priority': expected a number from 0 to 255, found -1"},
      {R"({"message_id":7})", "'message_id': expected a text, found 7"},
      {R"({"headers":[]})", "'headers': expected an object, found []"},
      {R"({"headers":{"a":null}})",
       "'headers.a': expected a text, a number of at most 63 bits, true, false, a list or a map, "
       "found null"},
      {R"({"headers":{"a":18446744073709551615}})",
       "'headers.a': expected a text, a number of at most 63 bits, true, false, a list or a map, "
       "found 18446744073709551615"},
      {R"({"persistent":1})", "'persistent': expected true or false, found 1"},
      {R"({"properties":[]})", "'properties': expected an object, found []"},
      {"{\"type\":\"" + std::string(256, 'x') + "\"}", nullptr},
  }));
  INFO(row.json);
  const auto message = message_from_json(row.json);
  REQUIRE_FALSE(message);
  if (row.error != nullptr) CHECK(message.error() == row.error);
  if (row.error == nullptr) CHECK(message.error().find("at most 255 bytes") != std::string::npos);
}

TEST_CASE("base64 is read as it is written", "[unit][message_json]") {
  for (std::size_t size = 0; size < 100; ++size) {
    std::string bytes;
    for (std::size_t i = 0; i < size; ++i) bytes += static_cast<char>(i * 37 + size);
    const auto decoded = base64_decode(base64(bytes));
    REQUIRE(decoded);
    CHECK(*decoded == bytes);
  }
  CHECK_FALSE(base64_decode("ab!d"));
  CHECK_FALSE(base64_decode("abcde"));
}

TEST_CASE("a message becomes a delivery with headers of every kind", "[unit][message_json]") {
  const auto message = message_from_json(
      R"({"body":"x","headers":{"n":-5,"t":"x","b":true,"r":1.5,"l":[],"x-lope-parent-id":"p"}})");
  REQUIRE(message);
  ByteBuffer headers;
  const DeliveryView view = delivery_view(*message, headers);
  CHECK(view[TextProperty::parent_id] == "p");
  CHECK(view.header_count == 6);
  std::string kinds;
  std::string_view rest = view.headers;
  while (const auto header = next_header(rest)) {
    kinds += std::string(header->name) + std::to_string(static_cast<int>(header->kind)) + " ";
  }
  CHECK(kinds == "n1 t5 b4 r3 l9 x-lope-parent-id5 ");
}

}  // namespace
}  // namespace lope::cli
