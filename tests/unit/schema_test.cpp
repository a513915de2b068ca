#include "common/schema.h"

#include <catch2/catch.hpp>
#include <random>

using namespace lope;

namespace {

Schema compile(std::string_view text) {
  auto schema = Schema::compile(text);
  if (!schema) FAIL(schema.error());
  return std::move(*schema);
}

std::string wrong(const Schema& schema, std::string_view json) {
  return schema.mismatch(json).value_or("");
}

std::string error_of(std::string_view text) {
  const auto schema = Schema::compile(text);
  REQUIRE_FALSE(schema);
  return schema.error();
}

constexpr std::string_view kOrder = R"({
  "$schema": "http://json-schema.org/draft-07/schema#",
  "type": "object",
  "required": ["id", "items"],
  "properties": {
    "id": { "type": "string", "pattern": "^[a-z0-9-]+$" },
    "placed": { "type": "string", "format": "date-time" },
    "note": { "type": ["string", "null"] },
    "pattern": { "type": "integer" },
    "state": { "enum": ["new", "type"] },
    "items": {
      "type": "array", "minItems": 1,
      "items": { "$ref": "#/definitions/item" }
    }
  },
  "additionalProperties": false,
  "definitions": {
    "item": {
      "type": "object",
      "required": ["price"],
      "properties": { "price": { "type": "number", "minimum": 0 }, "sub": { "$ref": "#/definitions/item" } }
    }
  }
})";

std::string repeated(std::string_view text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

}  // namespace

TEST_CASE("what a schema allows fits", "[unit][schema]") {
  const Schema schema = compile(kOrder);
  CHECK(wrong(schema, R"({"id":"a-1","items":[{"price":1},{"price":2.5,"sub":{"price":0}}]})") ==
        "");
  CHECK(wrong(schema, R"({"id":"a","items":[{"price":1}],"note":null,"pattern":3,"state":"type",
                          "placed":"2026-02-28T23:59:60.123+08:00"})") == "");
}

TEST_CASE("what does not fit is told with its place", "[unit][schema]") {
  const Schema schema = compile(kOrder);
  const auto items = [&](std::string_view list) {
    return wrong(schema, R"({"id":"a","items":)" + std::string(list) + "}");
  };
  CHECK(items(R"([{"price":1},{"price":1},{"price":1},{"price":"x"}])") ==
        "/items/3/price: expected number, found string");
  CHECK(items("{}") == "/items: expected array, found object");
  CHECK(items("[]") == "/items: Array should contain no fewer than 1 elements.");
  CHECK(items(R"([{"price":1,"sub":{"price":true}}])") ==
        "/items/0/sub/price: expected number, found boolean");
  CHECK(items("[{}]") == "/items/0: Missing required property 'price'.");
  CHECK_THAT(items(R"([{"price":-1}])"),
             Catch::StartsWith("/items/0/price: Expected number greater"));
  CHECK(wrong(schema, "[]") == "(root): expected object, found array");
  CHECK(wrong(schema, R"({"id":"A","items":[{"price":1}]})") ==
        "/id: expected a match of '^[a-z0-9-]+$', found 'A'");
  CHECK(wrong(schema, R"({"id":"a","items":[{"price":1}],"note":7})") ==
        "/note: expected string or null, found number");
  CHECK(wrong(schema, R"({"id":"a","items":[{"price":1}],"pattern":1.5})") ==
        "/pattern: expected integer, found number");
  CHECK(wrong(schema, R"({"id":"a","items":[{"price":1}],"placed":"2026-02-29T00:00:00Z"})") ==
        "/placed: expected a date-time, found '2026-02-29T00:00:00Z'");
  CHECK_THAT(wrong(schema, R"({"id":"a","items":[{"price":1}],"more":1})"),
             Catch::Contains("more"));
}

TEST_CASE("what is no JSON is told with its place", "[unit][schema]") {
  const Schema schema = compile("{}");
  CHECK_THAT(wrong(schema, "{\"a\": 1,\n\"b\": }"),
             Catch::StartsWith("line 2, column 6: expected JSON, found "));
  CHECK_THAT(wrong(schema, ""), Catch::StartsWith("line 1, column 1: expected JSON, found "));
  CHECK_THAT(wrong(schema, "\xff\xfe"), Catch::StartsWith("line 1, column 1: "));
  CHECK_THAT(wrong(schema, "{} {}"), Catch::StartsWith("line 1, column 4: "));
  CHECK(wrong(schema, "1e999") != "");
}

TEST_CASE("JSON that is nested without end is refused before it is read", "[unit][schema]") {
  const Schema schema = compile(R"({"items": {"$ref": "#"}})");
  CHECK(wrong(schema, repeated("[", 1'000'000)) ==
        "expected at most 256 levels of JSON, found more");
  CHECK(wrong(schema, repeated("[", 256) + repeated("]", 256)) == "");
  CHECK(wrong(schema, "[\"" + repeated("[", 1000) + "\", \"\\\"" + repeated("{", 1000) + "\"]") ==
        "");
}

TEST_CASE("a message that is wrong a million times is told of once", "[unit][schema]") {
  const Schema numbers = compile(R"({"items": {"type": "number"}})");
  CHECK(wrong(numbers, "[" + repeated("\"\",", 1'000'000) + "0]") ==
        "/0: expected number, found string");
  const Schema small =
      compile(R"({"anyOf": [{"items": {"maximum": 5}}, {"items": {"minimum": 9}}]})");
  CHECK_THAT(wrong(small, "[" + repeated("7,", 200'000) + "7]"), Catch::Contains("number"));
}

TEST_CASE("a message that is wrong often in one way and fits another is refused for what is wrong",
          "[unit][schema]") {
  const Schema schema = compile(R"({"properties": {
    "any": {"anyOf": [{"items": {"type": "string"}}, {"items": {"type": "number"}}]},
    "one": {"oneOf": [{"items": {"minimum": 5}}, {"items": {"maximum": 4}}]},
    "bad": {"type": "string"}}})");
  const std::string many = "[" + repeated("1,", 1000) + "1]";
  CHECK(wrong(schema, R"({"any":)" + many + R"(,"bad":1})") ==
        "/bad: expected string, found number");
  CHECK(wrong(schema, R"({"a":1,"one":)" + many + R"(,"bad":1})") ==
        "/bad: expected string, found number");
  CHECK(wrong(schema, R"({"any":[true,)" + repeated("true,", 1000) + R"(true]})") ==
        "/any/0: expected string, found boolean");
}

TEST_CASE("items that are to be unique are", "[unit][schema]") {
  const Schema schema = compile(R"({"uniqueItems": true})");
  CHECK(wrong(schema, R"([1, "1", true, null, "null", [1], [[1]], {"a":1}, {"a":"1"}, 1.5])") ==
        "");
  CHECK(wrong(schema, R"([[1,2],[2,1],["1,2"],{"a":{"b":1}},{"a":1,"b":1},"",[],{}])") == "");
  CHECK(wrong(schema, "[]") == "");
  CHECK(wrong(schema, "3") == "");
  CHECK(wrong(schema, "[3, 1, 2, 1]") ==
        "(root): expected items that differ from one another, found 1 more than once");
  for (const char* const alike :
       {"[1, 1.0]", "[0, -0.0]", R"(["a", "\u0061"])", R"([{"a":1,"b":2}, {"b":2,"a":1}])",
        "[[1, [2]], [1, [2]]]", "[null, null]", "[true, 3, true]", "[1e300, 1e300]"}) {
    CAPTURE(alike);
    CHECK_THAT(wrong(schema, alike), Catch::Contains("differ from one another"));
  }
  CHECK(wrong(compile(R"({"uniqueItems": false})"), "[1, 1]") == "");
  CHECK(wrong(compile(R"({"uniqueItems": true, "maxItems": 2})"), "[1, 1, 1]") ==
        "(root): Array should contain no more than 2 elements.");
  CHECK_THAT(wrong(compile(R"({"uniqueItems": true, "maxItems": 2})"), "[1, 1]"),
             Catch::Contains("differ from one another"));
  CHECK_THAT(error_of(R"({"uniqueItems": 1})"), Catch::Contains("uniqueItems"));
}

TEST_CASE("a great many items are compared in a moment", "[unit][schema]") {
  const Schema schema = compile(R"({"uniqueItems": true})");
  CHECK_THAT(wrong(schema, "[" + repeated("0,", 200'000) + "0]"), Catch::Contains("found 0 more"));
  std::string differing = "[";
  for (int i = 0; i < 200'000; ++i) differing += std::to_string(i) + ",";
  CHECK(wrong(schema, differing + "-1]") == "");
}

TEST_CASE("long texts do not meet a pattern", "[unit][schema]") {
  const Schema schema = compile(
      R"({"properties": {"a": {"pattern": "(a|b)*c"}, "d": {"format": "date"}},
          "patternProperties": {"^(x|y)*$": {}}})");
  CHECK(wrong(schema, "{\"a\": \"" + repeated("a", 1'000'000) + "\"}") ==
        "/a: expected at most 2048 bytes, to be matched with a pattern, found 1000000");
  CHECK(wrong(schema, "{\"a\": \"" + repeated("a", 2'000) + "c\"}") == "");
  CHECK_THAT(wrong(schema, "{\"d\": \"" + repeated("1", 1'000'000) + "\"}"),
             Catch::StartsWith("/d: expected a date, found "));
  CHECK(wrong(schema, "{\"" + repeated("x", 1'000'000) + "\": 1}") ==
        "expected names of at most 2048 bytes, to be matched with patterns, found a longer one");
}

TEST_CASE("formats that are known are held to", "[unit][schema]") {
  const auto fits = [](std::string_view format, std::string_view text) {
    const Schema schema = compile(R"({"format": ")" + std::string(format) + "\"}");
    return wrong(schema, "\"" + std::string(text) + "\"").empty();
  };
  CHECK(fits("date", "2024-02-29"));
  for (const auto* text : {"2023-02-29", "2024-13-01", "2024-1-01", "2024-01-32", "x", ""})
    CHECK_FALSE(fits("date", text));
  for (const auto* text : {"00:00:00Z", "23:59:60.5z", "12:00:00-05:30"}) CHECK(fits("time", text));
  for (const auto* text : {"24:00:00Z", "12:00:00", "12:00:00.Z", "12:00:00+5:00", ""})
    CHECK_FALSE(fits("time", text));
  CHECK(fits("date-time", "2024-02-29t00:00:00Z"));
  CHECK_FALSE(fits("date-time", "2024-02-29 00:00:00Z"));
  CHECK(fits("email", "no address"));
  CHECK(wrong(compile(R"({"format": "date"})"), "7") == "");
}

TEST_CASE("a schema that is none is refused with its place", "[unit][schema]") {
  CHECK_THAT(error_of("{\n  \"type\": }"), Catch::StartsWith("line 2, column 11: expected JSON"));
  CHECK(error_of("[]") == "expected a schema, an object, found another kind of JSON");
  CHECK(error_of(R"({"properties": {"a": {"type": "int"}}})") ==
        "/properties/a/type: expected null, boolean, integer, number, string, array or object, "
        "found \\\"int\\\"");
  CHECK_THAT(error_of(R"({"pattern": "("})"), Catch::StartsWith("/pattern: expected a regular"));
  CHECK_THAT(error_of(R"({"patternProperties": {"[": {}}})"),
             Catch::StartsWith("/patternProperties: expected a regular"));
  CHECK_THAT(error_of(R"({"required": "id"})"), Catch::Contains("draft 4 to 7, found: "));
  CHECK(error_of(R"({"$schema": "https://json-schema.org/draft/2020-12/schema"})") ==
        "$schema: expected draft-04, draft-06 or draft-07, found "
        "'https://json-schema.org/draft/2020-12/schema'");
  CHECK(error_of(repeated("[", 300)) == "expected at most 256 levels, found more");
}

TEST_CASE("a reference to another document is refused", "[unit][schema]") {
  for (const auto* reference :
       {"http://example.com/a.json", "file:///etc/passwd", "other.json#/a"}) {
    CAPTURE(reference);
    CHECK_THAT(error_of(R"({"properties": {"a": {"$ref": ")" + std::string(reference) + "\"}}}"),
               Catch::Contains("remote") || Catch::Contains("ould not"));
  }
  CHECK(error_of(R"({"$ref": "#/definitions/none"})") != "");
}

TEST_CASE("whatever a message holds does no harm to its schema", "[unit][schema]") {
  const Schema schema = compile(kOrder);
  const std::string whole = R"({"id":"a-1","items":[{"price":1},{"price":2.5,"sub":{"price":0}}]})";
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::string damaged = whole;
    for (std::uint32_t changes = 1 + random() % 3; changes > 0; --changes) {
      constexpr std::string_view kBytes = "{}[]\",:0e-\\\x80\xff\0 nt";
      damaged[random() % damaged.size()] = kBytes[random() % kBytes.size()];
    }
    CHECK(wrong(schema, damaged).size() < 1000);
  }
}
