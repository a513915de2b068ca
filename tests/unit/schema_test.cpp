#include "common/schema.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

#include "common/schema_pattern.h"
#include "common/text.h"

using namespace lope;
using namespace std::string_view_literals;

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

std::string of_draft(int draft, const std::string& keywords) {
  return R"({"$schema": "http://json-schema.org/draft-0)" + std::to_string(draft) +
         R"(/schema#", )" + keywords + "}";
}

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
  CHECK(items("[]") == "/items: expected at least 1 item, found 0");
  CHECK(items(R"([{"price":1,"sub":{"price":true}}])") ==
        "/items/0/sub/price: expected number, found boolean");
  CHECK(items("[{}]") == "/items/0: expected a member 'price', found none");
  CHECK(items(R"([{"price":-1}])") == "/items/0/price: expected at least 0, found -1");
  CHECK(wrong(schema, "[]") == "(root): expected object, found array");
  CHECK(wrong(schema, R"({"id":"A","items":[{"price":1}]})") ==
        "/id: expected a match of '^[a-z0-9-]+$', found a text of 1 character");
  CHECK(wrong(schema, R"({"id":"a","items":[{"price":1}],"note":7})") ==
        "/note: expected null or string, found number");
  CHECK(wrong(schema, R"({"id":"a","items":[{"price":1}],"pattern":1.5})") ==
        "/pattern: expected integer, found number");
  CHECK(wrong(schema, R"({"id":"a","items":[{"price":1}],"placed":"2026-02-29T00:00:00Z"})") ==
        "/placed: expected a date-time, found a text of 20 characters");
  CHECK(wrong(schema, R"({"id":"a","items":[{"price":1}],"state":"old"})") ==
        "/state: expected 'new' or 'type', found a text of 3 characters");
  CHECK(wrong(schema, R"({"id":"a","items":[{"price":1}],"more":1})") ==
        "/more: expected nothing, found number");
}

TEST_CASE("what is no JSON is told with its place", "[unit][schema]") {
  const Schema schema = compile("{}");
  CHECK_THAT(wrong(schema, "{\"a\": 1,\n\"b\": }"),
             Catch::StartsWith("line 2, column 6: expected JSON, found "));
  CHECK_THAT(wrong(schema, ""), Catch::StartsWith("line 1, column 1: expected JSON, found "));
  CHECK_THAT(wrong(schema, "\xff\xfe"), Catch::StartsWith("line 1, column 1: "));
  CHECK_THAT(wrong(schema, "{} {}"), Catch::StartsWith("line 1, column 4: "));
  CHECK(wrong(schema, "1e999") == "expected numbers up to 1.8e308, found a larger one");
  CHECK(wrong(schema, "\xef\xbb\xbf{}") == "");
}

TEST_CASE("a NUL ends no JSON", "[unit][schema]") {
  const Schema schema = compile("{}");
  CHECK(wrong(schema, "{}\0"sv) == "line 1, column 3: expected JSON, found a NUL");
  CHECK(wrong(schema, "{}\n \0{}"sv) == "line 2, column 2: expected JSON, found a NUL");
  CHECK(wrong(schema, "\"a\0b\""sv) == "line 1, column 3: expected JSON, found a NUL");
  CHECK(error_of("{}\0{"sv) == "line 1, column 3: expected JSON, found a NUL");
}

TEST_CASE("a member that is there twice is refused with its place", "[unit][schema]") {
  const Schema schema = compile("{}");
  CHECK(wrong(schema, R"({"a":1,"b":2,"\u0061":1})") ==
        "(root): expected each member once, found 'a' twice");
  CHECK(wrong(schema, R"([1,{"a":{"a":1}},{"b":{"x":[],"c'":1,"c'":{"y":1}}}])") ==
        "/2/b: expected each member once, found 'c\'' twice");
  CHECK(wrong(schema, R"([{"a":1},{"a":1,"b":{"a":1}}])") == "");
  CHECK(error_of(R"({"properties":{"a":{"type":"null","type":"array"}}})") ==
        "/properties/a: expected each member once, found 'type' twice");
  std::string open;
  for (int i = 0; i < 200; ++i) open += "{\"" + repeated("ä", 1000) + "\":";
  CHECK(wrong(schema, open + R"({"a":1,"a":1)").size() < 500);
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
  CHECK(wrong(small, "[" + repeated("7,", 200'000) + "7]") ==
        "(root): fits none of the 2 ways of anyOf; as for the first: /0: expected at most 5, "
        "found 7");
  CHECK(wrong(compile(R"({"items": false})"), "[" + repeated("0,", 200'000) + "0]") ==
        "/0: expected nothing, found number");
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
        "/any: fits none of the 2 ways of anyOf; as for the first: /0: expected string, found "
        "boolean");
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
        "(root): expected at most 2 items, found 3");
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
  CHECK(error_of("[]") == "(root): expected a schema, found []");
  CHECK(error_of(R"({"properties": {"a": {"type": "int"}}})") ==
        "/properties/a/type: expected null, boolean, integer, number, string, array or object, "
        "found \\\"int\\\"");
  CHECK_THAT(error_of(R"({"pattern": "("})"), Catch::StartsWith("/pattern: expected a regular"));
  CHECK_THAT(error_of(R"({"patternProperties": {"[": {}}})"),
             Catch::StartsWith("/patternProperties/[: expected a regular"));
  CHECK(error_of(R"({"required": "id"})") ==
        "/required: expected a list of names, found \\\"id\\\"");
  CHECK(error_of(R"({"items": {"minLength": -1}})") ==
        "/items/minLength: expected a whole number from 0, found -1");
  CHECK(error_of(R"({"multipleOf": 0})") == "/multipleOf: expected a number above 0, found 0");
  CHECK(error_of(R"({"anyOf": []})") == "/anyOf: expected a list of schemas, found []");
  CHECK(error_of(R"({"properties": {"a": {"not": 5}}})") ==
        "/properties/a/not: expected a schema, found 5");
  CHECK(error_of(R"({"maximum": 1e999})") == "expected numbers up to 1.8e308, found a larger one");
  CHECK(error_of(R"({"$schema": 4})") ==
        "$schema: expected draft-04, draft-06 or draft-07, found '4'");
  CHECK(error_of(R"({"$schema": "https://json-schema.org/draft/2020-12/schema"})") ==
        "$schema: expected draft-04, draft-06 or draft-07, found "
        "'https://json-schema.org/draft/2020-12/schema'");
  CHECK(error_of(repeated("[", 300)) == "expected at most 256 levels of JSON, found more");
}

TEST_CASE("a reference to another document is refused", "[unit][schema]") {
  for (const std::string reference : {"http://example.com/a.json", "file:///etc/passwd",
                                      "other.json#/a", "#/definitions/none", "#name", "#/%"}) {
    CAPTURE(reference);
    CHECK(error_of(R"({"properties": {"a": {"$ref": ")" + reference + "\"}}}") ==
          "/properties/a/$ref: '" + reference + "' is not in this file");
  }
  CHECK(error_of(R"({"items": {"$ref": 5}})") == "/items/$ref: expected a text, found 5");
  CHECK(error_of(R"({"$ref": "#/definitions/a", "definitions": {"a": 5}})") ==
        "/definitions/a: expected a schema, found 5");
}

TEST_CASE("a reference finds ids and pointers in its file", "[unit][schema]") {
  for (const char* const reference :
       {"#/definitions/a", "order.json#/definitions/a", "#whole", "part.json",
        "http://example.com/schemas/part.json", "/schemas/order.json#whole", "#/definitions/%61"}) {
    CAPTURE(reference);
    const Schema schema = compile(
        R"({"$id": "http://example.com/schemas/order.json", "properties": {"n": {"$ref": ")" +
        std::string(reference) +
        R"("}}, "definitions": {"a": {"type": "integer"}, "b": {"$id": "#whole", "type": "integer"},
           "c": {"$id": "part.json", "$ref": "#/definitions/a"},
           "d": {"$id": "part.json", "type": "integer"}}})");
    CHECK(wrong(schema, R"({"n": 1})") == "");
    CHECK(wrong(schema, R"({"n": "1"})") == "/n: expected integer, found string");
  }
}

TEST_CASE("a value of a schema names nothing", "[unit][schema]") {
  for (const char* const value : {R"("default": {"$id": "#a"})", R"("const": {"$id": "#a"})",
                                  R"("enum": [{"$id": "#a"}])", R"("examples": [{"$id": "#a"}])"}) {
    CAPTURE(value);
    const Schema schema =
        compile(R"({"definitions": {"a": {)" + std::string(value) +
                R"(}, "x": {"$id": "#a", "type": "integer"}}, "items": {"$ref": "#a"}})");
    CHECK(wrong(schema, "[\"x\"]") == "/0: expected integer, found string");
  }
  // As the names of members they are no keywords.
  for (const char* const names : {"properties", "definitions", "dependencies", "$defs"}) {
    CAPTURE(names);
    const Schema schema =
        compile("{\"" + std::string(names) +
                R"(": {"default": {"$id": "#a", "type": "integer"}}, "items": {"$ref": "#a"}})");
    CHECK(wrong(schema, "[1.5]") == "/0: expected integer, found number");
  }
}

TEST_CASE("what refers to an id that is there twice is refused", "[unit][schema]") {
  CHECK(error_of(R"({"definitions": {"a": {"$id": "#x"}, "b": {"not": {"$id": "#x"}}},
                     "items": {"$ref": "#x"}})") ==
        "/items/$ref: expected an id that one schema has, found \\\"#x\\\"");
  CHECK_THAT(error_of(R"({"$id": "http://a/b/c", "items": {"$id": "./d/../c", "not": {}},
                          "contains": {"$ref": "c"}})"),
             Catch::StartsWith("/contains/$ref: expected an id that one schema has"));
  // Nothing refers to it: it may be in what is no schema.
  compile(R"({"example": {"$id": "42"}, "x-more": {"$id": "42"}})");
}

TEST_CASE("a reference and its id are compared without dots", "[unit][schema]") {
  struct Row {
    const char *base, *id, *reference;
  };
  for (const Row& row : {
           Row{"x.json", "./part.json", "part.json"},
           Row{"x.json", "part.json", "./part.json"},
           Row{"http://a/b/c/d", "http://a/b/part.json", "../part.json"},
           Row{"http://a/b/c/d", "http://a/part.json", "../../../../part.json"},
           Row{"http://a/b/c/d", "http://a/b/", ".."},
           Row{"http://a/b/c/d", "http://a/b/c/", "."},
           Row{"http://a/b/c/d", "http://a/b/c/e", "./x/../e"},
           Row{"http://a/b/c/d", "http://a/b/c/e?y=/../z", "e?y=/../z"},
           Row{"http://a/b/c/d", "http://a/b/c/..e/f.", "..e/f."},
           Row{"http://a/b/c/d", "/x/./y", "http://a/x/z/../y"},
       }) {
    CAPTURE(row.base, row.id, row.reference);
    const Schema schema =
        compile(R"({"$id": ")" + std::string(row.base) + R"(", "definitions": {"x": {"$id": ")" +
                row.id + R"(", "type": "integer"}}, "items": {"$ref": ")" + row.reference + "\"}}");
    CHECK(wrong(schema, "[\"x\"]") == "/0: expected integer, found string");
  }
}

TEST_CASE("a schema that comes to no end is refused with its place", "[unit][schema]") {
  struct Row {
    const char* schema;
    const char* place;
  };
  for (const Row& row : {
           Row{R"({"$ref": "#"})", "(root)"},
           Row{R"({"definitions": {"a": {"$ref": "#/definitions/b"},
                "b": {"$ref": "#/definitions/a"}}, "not": {"$ref": "#/definitions/a"}})",
               "/definitions/a"},
           Row{R"({"properties": {"a": {"$ref": "#/definitions/x"}},
                "definitions": {"x": {"allOf": [{"$ref": "#/definitions/x"}]}}})",
               "/definitions/x"},
           Row{R"({"anyOf": [{"not": {"$ref": "#"}}]})", "(root)"},
           Row{R"({"if": {}, "else": {"$ref": "#"}})", "(root)"},
           Row{R"({"items": {"oneOf": [{"dependencies": {"a": {"$ref": "#/items"}}}]}})", "/items"},
       }) {
    CAPTURE(row.schema);
    CHECK(error_of(row.schema) ==
          std::string(row.place) +
              ": expected a schema that comes to an end, found one that applies itself to the same "
              "value");
  }
  // What descends does.
  CHECK(wrong(compile(R"({"allOf": [{"items": {"$ref": "#"}}], "type": "array"})"), "[[], [[]]]") ==
        "");
}

TEST_CASE("a chain of schemas for one value has a bound, one of references has none",
          "[unit][schema]") {
  const auto chain = [](const std::string& before, const std::string& behind, int length) {
    std::string text = R"({"items": {"$ref": "#/definitions/0"}, "definitions": {)";
    for (int i = 0; i < length; ++i) {
      text += "\"" + std::to_string(i) + "\": " + before + "{\"$ref\": \"#/definitions/" +
              std::to_string(i + 1) + "\"}" + behind + ", ";
    }
    return text + "\"" + std::to_string(length) + R"(": {"type": "null"}}})";
  };
  CHECK(wrong(compile(chain("", "", 5'000)), "[1]") == "/0: expected null, found number");
  CHECK(wrong(compile(chain(R"({"allOf": [)", "]}", 200)), "[1]") ==
        "/0: expected null, found number");
  CHECK_THAT(error_of(chain(R"({"allOf": [)", "]}", 5'000)),
             Catch::EndsWith("expected at most 256 schemas that apply to the same value, one "
                             "through the other, found more"));
}

TEST_CASE("what an unknown keyword holds is not looked at", "[unit][schema]") {
  CHECK(wrong(compile(R"({"x-ui": {"type": "slider", "pattern": "(", "$ref": "http://x/"},
                          "default": {"type": 5}, "examples": [{"type": 5}], "type": "string"})"),
              "5") == "(root): expected string, found number");
  CHECK(error_of(R"({"x-ui": {"type": "slider"}, "items": {"$ref": "#/x-ui"}})") ==
        "/x-ui/type: expected null, boolean, integer, number, string, array or object, found "
        "\\\"slider\\\"");
}

TEST_CASE("a keyword that is none is noted with its place", "[unit][schema]") {
  using Notes = std::vector<std::string>;
  const auto notes = [](const std::string& text) { return compile(text).notes(); };
  CHECK(compile(kOrder).notes().empty());
  CHECK(notes(R"({"$comment": "", "$defs": {"requierd": {}}, "x-ui": {"a": 1}, "default": {"a": 1},
                  "properties": {"a": {"if": {}, "then": {}, "else": {}}}})") == Notes{});
  CHECK(notes(R"({"requierd": ["a"], "items": {"prefixItems": [{"a": 1}], "minContains": 1}})") ==
        Notes{"/requierd: no keyword of draft 7, and not looked at: did you mean 'required'?",
              "/items/minContains: no keyword of draft 7, and not looked at: did you mean "
              "'contains'?",
              "/items/prefixItems: no keyword of draft 7, and not looked at"});
  CHECK(notes(R"({"dependentRequired": {}, "unevaluatedProperties": false})").size() == 2);
  CHECK(notes(of_draft(4, R"("const": 1, "id": "a", "$id": "b")")) ==
        Notes{"/$id: no keyword of draft 4, and not looked at: did you mean 'id'?",
              "/const: no keyword of draft 4, and not looked at"});
  CHECK(notes(of_draft(6, R"("const": 1, "if": 1)")) ==
        Notes{"/if: no keyword of draft 6, and not looked at"});
  CHECK(notes(R"({"not": {"a\n": 1}})") ==
        Notes{"/not/a\\n: no keyword of draft 7, and not looked at"});
  std::string many = "{";
  for (int i = 0; i < 100; ++i) many += "\"a" + std::to_string(i) + "\": 1, ";
  CHECK(notes(many + "\"b\": 1}").size() == 20);
}

TEST_CASE("each draft knows its own keywords", "[unit][schema]") {
  CHECK(wrong(compile(of_draft(4, R"("const": 1, "contains": 5, "if": 5)")), "[2]") == "");
  CHECK(wrong(compile(of_draft(6, R"("if": true, "then": false)")), "2") == "");
  CHECK(wrong(compile(of_draft(7, R"("if": true, "then": false)")), "2") ==
        "(root): expected nothing, found number");
  CHECK(wrong(compile(of_draft(4, R"("minimum": 2, "exclusiveMinimum": true)")), "2") ==
        "(root): expected more than 2, found 2");
  for (const int draft : {4, 6}) {
    CHECK(wrong(compile(of_draft(draft, R"("format": "date")")), "\"x\"") == "");
    CHECK(wrong(compile(of_draft(draft, R"("format": "time")")), "\"x\"") == "");
    CHECK(wrong(compile(of_draft(draft, R"("format": "date-time")")), "\"x\"") != "");
  }
  CHECK(error_of(of_draft(4, R"("exclusiveMinimum": 2)")) ==
        "/exclusiveMinimum: expected true or false, found 2");
  CHECK(error_of(of_draft(6, R"("exclusiveMinimum": true)")) ==
        "/exclusiveMinimum: expected a number, found true");
  CHECK(error_of(of_draft(4, R"("not": true)")) == "/not: expected a schema, found true");
}

TEST_CASE("multiples of decimal fractions are what they look like", "[unit][schema]") {
  const Schema cents = compile(R"({"multipleOf": 0.01})");
  for (int amount = 0; amount < 10'000; ++amount) {
    char text[32];
    std::snprintf(text, sizeof text, "%d.%02d", amount / 100, amount % 100);
    if (wrong(cents, text) != "") FAIL(text);
    std::snprintf(text, sizeof text, "%d.%02d5", amount / 100, amount % 100);
    if (wrong(cents, text) == "") FAIL(text);
  }
  CHECK(wrong(cents, "4.357") == "(root): expected a multiple of 0.01, found 4.357");
  CHECK(wrong(cents, "5000000000.01") == "");
  CHECK(wrong(cents, "5000000000.015") != "");
  CHECK(wrong(cents, "1e-12") != "");
  CHECK(wrong(cents, "[1e-12, \"x\"]") == "");
  CHECK(wrong(cents, "-0.29") == "");
  CHECK(wrong(cents, "999999999999.99") == "");
  CHECK(wrong(cents, "999999999999.995") != "");
  CHECK(wrong(compile(R"({"multipleOf": 1e-8})"), "1000000.12345678") == "");
  CHECK(wrong(compile(R"({"multipleOf": 1e-8})"), "1000000.123456789") != "");
  CHECK(wrong(compile(R"({"multipleOf": 1.5})"), "1000000000000000.5") == "");
  CHECK(wrong(compile(R"({"multipleOf": 1.5})"), "1000000000000000") != "");
  CHECK(wrong(compile(R"({"multipleOf": 3})"), "3e16") == "");
  CHECK(wrong(compile(R"({"multipleOf": 3})"), "2e16") != "");

  const Schema fives = compile(R"({"multipleOf": 5})");
  for (const char* const fits : {"10", "-10", "0", "10.0", "1e30", "18446744073709551615", "\"7\"",
                                 "-9223372036854775805", "null"})
    CHECK(wrong(fives, fits) == "");
  for (const char* const not_so : {"10.7", "7", "-1", "18446744073709551614", "5.0000000001"})
    CHECK(wrong(fives, not_so) != "");
}

TEST_CASE("a multiple stays one, however both are rounded", "[unit][schema]") {
  std::mt19937_64 random(11);
  for (int round = 0; round < 20'000; ++round) {
    // DIVISOR and TIMES x DIVISOR as whole numbers, then both moved behind the point.
    const std::uint64_t divisor = 1 + random() % 99'999, times = random() % 10'000'000'000;
    const std::string places = "e-" + std::to_string(1 + random() % 12);
    const Schema schema = compile("{\"multipleOf\": " + std::to_string(divisor) + places + "}");
    const std::string multiple = std::to_string(divisor * times) + places;
    if (wrong(schema, multiple) != "") FAIL(multiple << " is one of " << divisor << places);
  }
}

TEST_CASE("numbers of whatever kind compare as numbers", "[unit][schema]") {
  const auto fits = [](const std::string& schema, std::string_view json) {
    return wrong(compile(schema), json).empty();
  };
  CHECK(fits(R"({"minimum": 0})", "18446744073709551615"));
  CHECK_FALSE(fits(R"({"maximum": 9223372036854775807})", "9223372036854775808"));
  CHECK_FALSE(fits(R"({"minimum": 18446744073709551615})", "-1"));
  CHECK_FALSE(fits(R"({"exclusiveMaximum": 9007199254740993})", "9007199254740993"));
  CHECK(fits(R"({"exclusiveMaximum": 9007199254740993.5})", "9007199254740993"));
  CHECK_FALSE(fits(R"({"maximum": 9007199254740992.0})", "9007199254740993"));
  CHECK(fits(R"({"const": 1})", "1.0"));
  CHECK(fits(R"({"enum": [{"a": [1.0]}, 2]})", R"({"a": [1]})"));
  CHECK_FALSE(fits(R"({"const": 18446744073709551615})", "-1"));
  CHECK_FALSE(fits(R"({"const": 9007199254740992.0})", "9007199254740993"));
  CHECK_FALSE(fits(R"({"enum": [0, ""]})", "false"));
  CHECK(fits(R"({"uniqueItems": true})", "[18446744073709551615, -1, 18446744073709551614]"));
  CHECK(fits(R"({"uniqueItems": true})", "[9007199254740993, 9007199254740992.0]"));
  CHECK_FALSE(fits(R"({"uniqueItems": true})", "[9007199254740992, 9007199254740992.0]"));
  CHECK(fits(R"({"type": "integer"})", "1.0"));
  CHECK(fits(R"({"type": "integer"})", "18446744073709551615"));
  CHECK(fits(R"({"minLength": 2.0})", "\"ab\""));
}

TEST_CASE("the length of a text is in characters, all of them", "[unit][schema]") {
  const Schema schema = compile(R"({"minLength": 3, "maxLength": 4})");
  CHECK(wrong(schema, R"("a\u0000b")") == "");
  CHECK(wrong(schema, R"("\u0000\u0000")") == "(root): expected at least 3 characters, found 2");
  CHECK(wrong(schema, "\"äöü\"") == "");
  CHECK(wrong(schema, R"("\ud83d\ude00aa")") == "");
  CHECK(wrong(schema, R"("a\u0000aaa")") == "(root): expected at most 4 characters, found 5");
}

TEST_CASE("patterns are ECMAScript's", "[unit][schema]") {
  const auto fits = [](const std::string& pattern, const std::string& text) {
    std::string schema;
    append_json_text(schema, pattern);
    std::string json;
    append_json_text(json, text);
    return wrong(compile("{\"pattern\": " + schema + "}"), json).empty();
  };
  struct Row {
    std::string pattern, text;
    bool fits;
  };
  for (const Row& row : std::initializer_list<Row>{
           {"b", "abc", true},
           {"^b", "abc", false},
           {"c$", "abc\n", false},
           {"^.$", "\n", false},
           {"^.$", "\r", false},
           {"^.$", "\xe2\x80\xa8", false},
           {"^.$", "\xe2\x80\xa9", false},
           {"^[.]$", "a", false},
           {"^\\.$", "a", false},
           {"^\\s|\\s$", "abc\r\n", true},
           {"[^a]$", "a\r\n", true},
           {"\\W$", "a\r\n", true},
           {"\n", "\r\n", true},
           {"^.$", "ä", true},
           {"^.$", "\xf0\x9f\x98\x80", true},
           {"^[^]$", "\n", true},
           {"[]", "a", false},
           {"^\\d$", "\xd9\xa3", false},
           {"^\\w$", "ä", false},
           {"^\\s$", "\xc2\xa0", true},
           {"^[a\\s]$", "\xe2\x80\xa8", true},
           {"^\\S$", "\xef\xbb\xbf", false},
           {"^\\v$", "\n", false},
           {"^\\v$", "\v", true},
           {"^\\u00e4$", "ä", true},
           {"^\\ud83d\\ude00$", "\xf0\x9f\x98\x80", true},
           {"^\\u{1F600}$", "\xf0\x9f\x98\x80", true},
           {"^\\p{L}+$", "äß", true},
           {"^\\cC$", "\x03", true},
           {"^[[:alpha:]]+$", "a", false},
           {"^(?:(a)|b)\\1$", "b", true},
           {"^(?<x>a)\\k<x>$", "aa", true},
           {"^a(?=b)", "ab", true},
           {"(?<!a)b", "ab", false},
           {"^a{2,3}$", "aaa", true},
           {"^a{,3}$", "a{,3}", true},
           {"^x}+$", "x}}", true},
           {"^a+?$", "aa", true},
           {"^a\\/b$", "a/b", true},
           {"^\\p{Script=Greek}\\P{Lu}$", "αa", true},
           {"^\\p{sc=Greek}\\p{Alphabetic}$", "ab", false},
           {"^\\0\\x41\\ca$", std::string("\0A\x01", 3), true},
           {"^[\\s-]+[+\\-\\d-]+$", "- +-1-", true},
           {"^(a)\\1(?:b|\\1)+?(?=c)c$", "aabac", true},
           {"^()()()()()()()()()(a)\\10$", "aa", true},
           {std::string("^a") + "\\u0000b$", std::string("a\0b", 3), true},
       }) {
    CAPTURE(row.pattern, row.text);
    CHECK(fits(row.pattern, row.text) == row.fits);
  }
  for (const std::string pattern :
       {"\\\\p{^L}", "\\\\p{L&}", "\\\\p{Greek}", "\\\\p{Lc}", "\\\\p{bc=L}", "\\\\01",
        "[\\\\1]",   "(a)\\\\12", "\\\\u12",      "\\\\u{}",   "\\\\x",       "\\\\x4",
        "\\\\c1",    "(?=a)*",    "(?!a)+",       "(?<=a)?",   "(?<!a){2}",   "[\\\\s-\\\\uffff]",
        "[\\\\s-.]", "[\\\\S-a]"}) {
    CAPTURE(pattern);
    CHECK_THAT(error_of("{\"pattern\": \"" + pattern + "\"}"),
               Catch::StartsWith("/pattern: expected a regular expression, found '"));
  }
  CHECK_THAT(error_of(R"({"pattern": "[\\s-.]"})"),
             Catch::EndsWith("': '-' behind a class makes no range: put it last"));
  // PCRE2's own bounds.
  CHECK_THAT(
      error_of(R"({"pattern": "^(?:[0-9a-f]{2}:){1,1000}$"})"),
      Catch::EndsWith("': it is too large: lower the counts of groups, {1,1000}, or leave them "
                      "to maxLength"));
  CHECK_THAT(error_of(R"({"pattern": "a{65536}"})"),
             Catch::EndsWith("': a count goes up to 65535: leave a larger one to maxLength"));
  for (const std::string pattern :
       {"\\\\Z", "\\\\Aa", "\\\\Qa\\\\E", "\\\\h", "\\\\R",  "\\\\K",     "(?i)a",
        "(?>a)", "(?R)",   "(*UCP)a",     "a++",   "a{2}+",  "a**",       "(?P<n>a)",
        "(?#x)", "(",      "[",           "a\\\\", "\\\\pL", "\\\\ud800", "*"}) {
    CAPTURE(pattern);
    CHECK_THAT(error_of("{\"pattern\": \"" + pattern + "\"}"),
               Catch::StartsWith("/pattern: expected a regular expression, found '"));
  }
}

TEST_CASE("a pattern takes long texts, and says when one is too much", "[unit][schema]") {
  const std::string letters = repeated("a", 1'000'000);
  const auto text = [](const std::string& of) { return "\"" + of + "\""; };
  CHECK(wrong(compile(R"({"pattern": "^[a-z]+$"})"), text(letters)) == "");
  CHECK(wrong(compile(R"({"pattern": "b"})"), text(letters)) ==
        "(root): expected a match of 'b', found a text of 1000000 characters");
  CHECK(wrong(compile(R"({"pattern": "^(?:a|b)*c"})"), text(repeated("ab", 50'000) + "c")) == "");
  CHECK(wrong(compile(R"({"patternProperties": {"^x*$": {}}, "additionalProperties": false})"),
              "{" + text(repeated("x", 1'000'000)) + ": 1}") == "");
  // Each goes over the text for each of its places, or worse.
  for (const char* const pattern :
       {"(a+)+$", "^(a+)+$", "[a-z]*\\\\d", "(?:a|a)*cd", "(a*)*cd", "(?=(a+))a*b\\\\1d",
        "a.*b.*d$", "(a*)\\\\1*b!$", "(?:(?=a*b)a)*d$"}) {
    CAPTURE(pattern);
    CHECK(wrong(compile(R"({"pattern": ")" + std::string(pattern) + "\"}"),
                text(repeated("a", 200'000) + "!d")) ==
          "expected to be held against the schema in 20000200 steps, found that it takes more");
  }
  CHECK(max_schema_steps(128 << 20) == max_schema_steps(16 << 20));  // a handler's timeout is near
  CHECK(wrong(compile(R"({"pattern": "^(a+)+$"})"), text(repeated("a", 40) + "!")) ==
        "expected to be held against the schema in 10002150 steps, found that it takes more");
  CHECK(wrong(compile(R"({"pattern": "^(?:a|b)*$"})"), text(letters)) ==
        "expected to be matched with a pattern in 64 MiB, found that it takes more");
  CHECK_THAT(
      wrong(compile(R"({"items": {"pattern": "^(a+)+$"}})"),
            "[" + repeated("\"aaaaaaaaaaaaaaaaaa\",", 10'000) + "\"" + repeated("a", 18) + "!\"]"),
      Catch::StartsWith("/10000: expected a match"));
}

TEST_CASE("what a pattern goes over in vain costs steps too", "[unit][schema]") {
  const auto steps_for = [](std::string_view text, const std::string& in) {
    const auto pattern = schema::Pattern::compile(text);
    REQUIRE(pattern);
    std::uint64_t left = UINT64_MAX;
    CHECK(schema::Matcher().find(*pattern, in, left) != schema::Matcher::Found::too_many_steps);
    return UINT64_MAX - left;
  };
  constexpr int kMany = 4000;
  constexpr std::uint64_t kSquare = std::uint64_t{kMany} * kMany / 16;
  const std::string letters(kMany, 'a');
  // At each of so many places as far as that, or half as far on average.
  CHECK(steps_for("^(a*c).*\\1$", letters + "c" + letters + letters) > kSquare);
  CHECK(steps_for("^(?<x>a*c).*\\k<x>$", letters + "c" + letters + letters) > kSquare);
  CHECK(steps_for("^(a).*\\1{4000}b$", letters + letters + "b" + letters) > kSquare);
  CHECK(steps_for("a{4000}", letters.substr(1) + "b" + letters.substr(1)) > kSquare / 2);
  CHECK(steps_for("(?<=b{4000})[ac]", letters) > kSquare / 2);
  // What is short costs no more than its items.
  const std::string marks(1000, '.');
  CHECK(steps_for("^(['\"]).*\\1$", "'" + marks + "\"") < 3 * marks.size());
  CHECK(steps_for("^(.*)=\\1$", marks + "=" + marks + "x") < 5 * marks.size());
  CHECK(steps_for("^[0-9a-f]{64}$", std::string(64, 'f')) < 30);
  CHECK(steps_for("^([\"'])(.*?)\\1$", "'" + marks + "'") < 5 * marks.size());
  CHECK(steps_for("^(?=[\\s\\S]{2000})(?:[a-z]| )*$", letters) < 5 * letters.size());
  CHECK(steps_for("^\\p{Ll}*\\u{61}{3}$", letters) < 5 * letters.size());
}

TEST_CASE("a message may cost so many steps", "[unit][schema]") {
  std::string patterns = R"({"patternProperties": {)", members = "{";
  for (int i = 0; i < 2'000; ++i) patterns += "\"x" + std::to_string(i) + "\": {}, ";
  for (int i = 0; i < 20'000; ++i) members += "\"" + std::to_string(i) + "\": 1, ";
  CHECK_THAT(wrong(compile(patterns + R"("y": {}}})"), members + "\"y\": 1}"),
             Catch::EndsWith(" steps, found that it takes more"));
  // 4,096 ways at each item, and 2^100 ways through the levels.
  std::string doubling =
      R"({"items": {"$ref": "#/definitions/12"}, "definitions": {"0": {"type": "null"})";
  for (int i = 0; i < 12; ++i) {
    const std::string one = R"({"$ref": "#/definitions/)" + std::to_string(i) + "\"}";
    doubling += ", \"" + std::to_string(i + 1) + R"(": {"anyOf": [)" + one + ", " + one + "]}";
  }
  doubling += "}}";
  const Schema schema = compile(doubling);
  CHECK_THAT(wrong(schema, "[1]"), Catch::StartsWith("/0: fits none of the 2 ways of anyOf"));
  CHECK(wrong(schema, "[null]") == "");
  const std::string nested = R"({"items": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}})";
  CHECK_THAT(wrong(compile(R"({"type": "array", )" + nested.substr(1)),
                   repeated("[", 100) + "1" + repeated("]", 100)),
             Catch::EndsWith(" steps, found that it takes more"));
  CHECK(wrong(compile(R"({"type": ["array", "number"], )" + nested.substr(1)),
              repeated("[", 100) + "1" + repeated("]", 100)) == "");
}

TEST_CASE("a large message that is honest meets no bound", "[unit][schema]") {
  const std::string name = repeated("n", 500'000);
  const Schema numbers = compile(
      R"({"additionalProperties": {"items": {"oneOf": [{"type": "string"}, {"minimum": 0}]}}})");
  CHECK(wrong(numbers, "{\"" + name + "\": [" + repeated("0,", 250'000) + "0]}") == "");
  const std::string told =
      wrong(numbers, "{\"" + name + "\": [" + repeated("0,", 250'000) + "-1]}");
  CHECK_THAT(told, Catch::EndsWith("fits none of the 2 ways of oneOf; as for the first: expected "
                                   "string, found number"));
  CHECK(told.size() < 400);

  const Schema objects = compile(R"({"items": {"type": "object", "required": ["id"],
      "additionalProperties": false, "properties": {"id": {"type": "integer", "minimum": 0},
      "name": {"type": "string", "pattern": "^[a-z]+$"}}}})");
  std::string many = "[";
  while (many.size() < 16 << 20) many += R"({"id":12,"name":"ab"},)";
  CHECK(wrong(objects, many + R"({"id":12}])") == "");

  const Schema unique = compile(R"({"uniqueItems": true, "items": {"uniqueItems": true}})");
  std::string differing = "[", deep = "[";
  for (int i = 0; differing.size() < 1'000'000; ++i) differing += std::to_string(i) + ",";
  for (int i = 0; deep.size() < 1'000'000; ++i)
    deep += "[{\"a\":[1,2," + std::to_string(i) + "]},{\"a\":[1,2]}],";
  CHECK(wrong(unique, differing + "-1]") == "");
  CHECK(wrong(unique, deep + "0]") == "");
  CHECK(wrong(unique, deep + "0,[{\"a\":[1,2,0]},{\"a\":[1,2]}]]") ==
        "(root): expected items that differ from one another, found an array of 2 more than once");

  const Schema levels = compile(
      R"({"allOf": [{"items": {"$ref": "#"}}], "anyOf": [{"type": "array"}, {"type": "number"}]})");
  CHECK(wrong(levels, repeated("[", 256) + repeated("]", 256)) == "");
  const Schema more =
      compile(R"({"allOf": [{"allOf": [{"allOf": [{"allOf": [{"items": {"$ref": "#"}}]}]}]}]})");
  CHECK(wrong(more, repeated("[", 200) + repeated("]", 200)) == "");
  CHECK(wrong(more, repeated("[", 256) + repeated("]", 256)) ==
        "expected at most 1024 schemas to be gone into, one inside the other, found more");
  CHECK(wrong(levels, repeated("[", 1000) + repeated("]", 1000)) ==
        "expected at most 256 levels of JSON, found more");
}

TEST_CASE("a reason has a bound, whatever the names", "[unit][schema]") {
  const Schema schema = compile(R"({"additionalProperties": {"$ref": "#"}, "type": "object"})");
  std::string open, close;
  for (int i = 0; i < 200; ++i) {
    open += "{\"" + repeated("ä", 1000) + "\":";
    close += "}";
  }
  const std::string told = wrong(schema, open + "1" + close);
  CHECK(told.size() < 400);
  CHECK(first_invalid_utf8(told) == std::string::npos);
  CHECK_THAT(told, Catch::EndsWith("…: expected object, found number"));
  CHECK(wrong(compile(R"({"propertyNames": {"maxLength": 2}})"), R"({"ab": 1, "abc": 2})") ==
        "(root): the name 'abc': expected at most 2 characters, found 3");
}

TEST_CASE("a value that is none of those given is told from them", "[unit][schema]") {
  const Schema object = compile(R"({"const": {"a": 1}})");
  CHECK(wrong(object, R"({"a": 2})") ==
        "(root): expected the value of 'const', found another object");
  CHECK(wrong(object, "[1]") == "(root): expected the value of 'const', found an array of 1");
  CHECK(wrong(compile(R"({"const": 5})"), R"({"a": 2})") ==
        "(root): expected 5, found an object of 1");
  const Schema some = compile(R"({"enum": ["new", [1], [2], null]})");
  CHECK(wrong(some, "[3]") ==
        "(root): expected null or 'new' or a value of 'enum', found another array");
  CHECK(wrong(some, "{}") == "(root): expected null or 'new' or a value of 'enum', found {}");
}

TEST_CASE("a reason has no text of the body", "[unit][schema]") {
  const std::string body = R"({"password": "secret", "list": ["secret", "secret"]})";
  for (const char* const schema :
       {R"({"properties": {"password": {"pattern": "^x"}}})",
        R"({"properties": {"password": {"format": "date"}}})",
        R"({"properties": {"password": {"format": "time"}}})",
        R"({"properties": {"password": {"const": "x"}}})",
        R"({"properties": {"password": {"enum": ["x", 1]}}})",
        R"({"properties": {"list": {"uniqueItems": true}}})",
        R"({"properties": {"list": {"enum": [["x"]]}}})",
        R"({"properties": {"list": {"contains": {"const": "x"}}}})",
        R"({"additionalProperties": {"anyOf": [{"const": "x"}, {"pattern": "^x"}]}})"}) {
    CAPTURE(schema);
    const std::string told = wrong(compile(schema), body);
    CHECK(told != "");
    CHECK_THAT(told, !Catch::Contains("secret"));
  }
  for (const std::string damaged :
       {"\"secret", "\"secret\n\"", "{\"a\": \"secret\\x\"}", "[\"secret\" 1", "\"secret\xff\"",
        "\"secret\\ud800\"", "\"a\" \"secret\""}) {
    CAPTURE(damaged);
    const std::string told = wrong(compile("{}"), damaged);
    CHECK_THAT(told, Catch::StartsWith("line ") && !Catch::Contains("secret"));
  }
}

TEST_CASE("what belongs together is told so", "[unit][schema]") {
  CHECK(wrong(compile(R"({"dependencies": {"a": ["b"]}})"), R"({"a": 1})") ==
        "(root): expected a member 'b' beside 'a', found none");
  CHECK(wrong(compile(R"({"oneOf": [{}, {"type": "null"}, {"minimum": 1}]})"), "1") ==
        "(root): fits more than one of the 3 ways of oneOf: number 1 and number 3");
  CHECK(wrong(compile(R"({"not": {"type": "null"}})"), "null") ==
        "(root): fits what 'not' excludes");
  CHECK(wrong(compile(R"({"contains": {"type": "null"}})"), "[1]") ==
        "(root): expected an item that fits 'contains', found none");
  CHECK(wrong(compile(R"({"minProperties": 1})"), "{}") ==
        "(root): expected at least 1 member, found 0");
}

TEST_CASE("threads share a schema", "[unit][schema]") {
  const Schema schema = compile(kOrder);
  std::atomic<int> failures = 0;
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        if (wrong(schema, R"({"id":"a-1","items":[{"price":1}]})") != "") ++failures;
        if (wrong(schema, R"({"id":"A","items":[{"price":1}]})").empty()) ++failures;
      }
    });
  }
  threads.clear();
  CHECK(failures == 0);
}

TEST_CASE("whatever a message holds does no harm to its schema", "[unit][schema]") {
  const Schema schema = compile(kOrder);
  const std::string whole = R"({"id":"a-1","items":[{"price":1},{"price":2.5,"sub":{"price":0}}]})";
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::string damaged = whole;
    for (std::uint32_t changes = 1 + random() % 3; changes > 0; --changes) {
      constexpr std::string_view kBytes = "{}[]\",:0e-\\\x80\xff\0 nt"sv;
      damaged[random() % damaged.size()] = kBytes[random() % kBytes.size()];
    }
    CHECK(wrong(schema, damaged).size() < 1000);
  }
}
