// The C++ face at its edge: what a class derived from lope::Handler makes of calls and exceptions,
// seen from the C side. Each case runs with the handler built as C++17 and as C++20.
#include <lope/testing.hpp>

#include <array>
#include <catch2/catch.hpp>
#include <string>

#include "handlers.h"

using lope::Outcome;
using lope::test::load_handler;
using lope::testing::Delivery;
using lope::testing::Driver;
using lope::testing::FakeHost;
using lope::testing::Result;
using lope::testing::Sent;

namespace {

struct Edge {
  explicit Edge(const std::string& standard) : table(load_handler("edge_cpp" + standard)) {
    host.options = {
        {"name", "n"}, {"width", "640"}, {"ratio", "1.5"}, {"loud", "no"}, {"pin", "1"}};
  }

  Result handle(Delivery delivery) {
    if (!driver) driver.emplace(host, table);
    return driver->handle(std::move(delivery));
  }

  FakeHost host;
  const lope_plugin& table;
  std::optional<Driver> driver;
};

lope_value value_of(std::int32_t kind, std::uint64_t bits = 0) {
  lope_value value{};
  value.kind = kind;
  value.as.u = bits;
  return value;
}

std::vector<std::pair<std::string, std::int32_t>> names_and_kinds(const Sent& sent) {
  std::vector<std::pair<std::string, std::int32_t>> result;
  for (const auto& header : sent.headers) result.emplace_back(header.name, header.value.kind);
  return result;
}

}  // namespace

TEST_CASE("only what a class overrides is in its table", "[abi][edge]") {
  const std::string standard = GENERATE("17", "20");
  const lope_plugin& single = load_handler("edge_cpp" + standard);
  CHECK(single.struct_size == sizeof(lope_plugin));
  CHECK(single.abi_minor == 0);
  CHECK(single.name == std::string("edge"));
  CHECK(single.handle != nullptr);
  CHECK(single.handle_batch == nullptr);
  CHECK(single.flush == nullptr);
  const lope_plugin& batch = load_handler("edge_batch_cpp" + standard);
  CHECK(batch.handle == nullptr);
  CHECK(batch.handle_batch != nullptr);
  CHECK(batch.flush != nullptr);
  CHECK(batch.options == nullptr);
}

TEST_CASE("options reach the constructor as their types", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  edge.driver.emplace(edge.host, edge.table);
  CHECK(edge.host.logs().back().text == "made n,640,quiet,7,x");
  edge.driver.reset();
  CHECK(edge.host.logs().back().text == "destroyed");
}

TEST_CASE("an option that does not fit fails create() as a wrong configuration", "[abi][edge]") {
  struct Row {
    const char* key;
    const char* value;  // nullptr: not configured
    const char* explanation;
  };
  const auto row = GENERATE(values<Row>({
      {"name", nullptr, "option 'name': expected a value, found none"},
      {"width", "wide", "option 'width': expected an integer from -32768 to 32767, found 'wide'"},
      {"width", "", "option 'width': expected an integer from -32768 to 32767, found ''"},
      {"width", "5x", "option 'width': expected an integer from -32768 to 32767, found '5x'"},
      {"width", "70000", "option 'width': expected an integer from -32768 to 32767, found '70000'"},
      {"ratio", "half", "option 'ratio': expected a number, found 'half'"},
      {"ratio", "-1", "a negative ratio"},
      {"loud", "very", "option 'loud': expected true or false, found 'very'"},
      {"pin", "hunter2",
       "option 'pin': expected an integer from -2147483648 to 2147483647, found something else"},
  }));
  Edge edge(GENERATE("17", "20"));
  if (row.value == nullptr) {
    edge.host.options.erase(row.key);
  } else {
    edge.host.options[row.key] = row.value;
  }
  lope_plugin table = edge.table;
  table.options = nullptr;  // the host leaves them all to the handler
  CHECK_THROWS_AS(Driver(edge.host, table), lope::InvalidConfiguration);
  CHECK_THROWS_WITH(Driver(edge.host, table), row.explanation);
}

TEST_CASE("what a constructor throws becomes a status and an explanation", "[abi][edge]") {
  struct Row {
    const char* how;
    lope_status status;
    const char* explanation;
  };
  const auto row = GENERATE(values<Row>({
      {"runtime_error", LOPE_E_FAILED, "thrown by the constructor"},
      {"int", LOPE_E_FAILED, "the handler's constructor threw something that is no std::exception"},
      {"invalid", LOPE_E_INVALID, "thrown as invalid"},
      {"option", LOPE_E_INVALID, "option 'missing': expected a value, found none"},
  }));
  FakeHost host;
  host.options["how"] = row.how;
  const lope_plugin& table = load_handler("create_throws");
  if (row.status == LOPE_E_INVALID) {
    CHECK_THROWS_AS(Driver(host, table), lope::InvalidConfiguration);
  } else {
    CHECK_THROWS_AS(Driver(host, table), lope::Error);
  }
  CHECK_THROWS_WITH(Driver(host, table), row.explanation);
}

TEST_CASE("what handle() returns or throws becomes an outcome and an explanation", "[abi][edge]") {
  struct Row {
    const char* body;
    Outcome outcome;
    const char* explanation;
  };
  const auto row = GENERATE(values<Row>({
      {"ack", Outcome::ack, ""},
      {"retry", Outcome::retry, ""},
      {"hold", Outcome::hold, ""},
      {"none", Outcome{}, ""},
      {"throw reject", Outcome::reject, "not an image"},
      {"throw retry", Outcome::retry, "the disk is full"},
      {"throw standard", Outcome::retry, "something else"},
      {"throw nothing standard", Outcome::retry,
       "the handler threw something that is no std::exception"},
      {"beyond the last header", Outcome::retry, "header_at: beyond the last header"},
      {"metric", Outcome::retry,
       "metric_register: not allowed on this thread, or not at this moment"},
  }));
  Edge edge(GENERATE("17", "20"));
  INFO(row.body);
  const Result result = edge.handle(row.body);
  CHECK(result.outcome == row.outcome);
  CHECK(result.reason == row.explanation);
  CHECK(!result.retry_after);
}

TEST_CASE("a thrown retry may carry its delay", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  edge.host.retry_after_status = GENERATE(lope_status{LOPE_OK}, lope_status{LOPE_E_UNSUPPORTED});
  const Result result = edge.handle("throw retry with delay");
  CHECK(result.outcome == Outcome::retry);
  CHECK(result.retry_after.has_value() == (edge.host.retry_after_status == LOPE_OK));
  if (result.retry_after) CHECK(*result.retry_after == std::chrono::seconds(7));
  CHECK(result.reason == "later");
}

TEST_CASE("an order that the host does not carry out is an exception that says so", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  edge.host.publish_status = LOPE_E_UNSUPPORTED;
  edge.host.retry_after_status = LOPE_E_UNSUPPORTED;
  edge.host.settle_status = LOPE_E_UNSUPPORTED;
  for (const std::string body : {"publish", "reply", "retry_after", "settle"}) {
    const Result result = edge.handle(body);
    CHECK(result.outcome == Outcome::retry);
    CHECK(result.reason == body + ": this version of Lope does not support it");
  }
  edge.host.publish_status = LOPE_E_TOO_LARGE;
  CHECK(edge.handle("publish").reason == "publish: it is over a limit");
}

TEST_CASE("a publication arrives as it was filled in", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  const Result published = edge.handle("publish");
  CHECK(published.outcome == Outcome::ack);
  REQUIRE(published.publications.size() == 1);
  const Sent& sent = published.publications[0];
  CHECK(sent.body == "sent");
  CHECK(sent.exchange == "exchange");
  CHECK(sent.routing_key == "key");
  CHECK(!sent.persistent);
  CHECK(!sent.may_be_unroutable);
  CHECK(sent.delay == std::chrono::seconds(2));
  const std::vector<std::pair<std::string, std::int32_t>> expected = {{"text", LOPE_TEXT},
                                                                      {"number", LOPE_INT64},
                                                                      {"natural", LOPE_UINT64},
                                                                      {"truth", LOPE_BOOL},
                                                                      {"real", LOPE_DOUBLE}};
  CHECK(names_and_kinds(sent) == expected);
  CHECK(sent.header_text("text") == "a");
  CHECK(sent.header("number")->as_int() == -3);
  CHECK(sent.header("natural")->as_unsigned() == 4);
  CHECK(sent.header("truth")->as_bool() == true);
  CHECK(sent.header("real")->as_double() == 0.5);
  Delivery request("reply");
  request.reply_to = "asker";
  const Result replied = edge.handle(request);
  REQUIRE(replied.replies.size() == 1);
  CHECK(replied.replies[0].body == "the answer");
}

TEST_CASE("a header can be set to a value of any kind, once", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  const Result result = edge.handle(Delivery("publish values").header("colour", "red"));
  REQUIRE(result.publications.size() == 1);
  const Sent& sent = result.publications[0];
  const std::vector<std::pair<std::string, std::int32_t>> expected = {
      {"bytes", LOPE_BYTES},  {"time", LOPE_TIMESTAMP}, {"long ago", LOPE_TIMESTAMP},
      {"nothing", LOPE_NULL}, {"text", LOPE_TEXT},      {"twice", LOPE_INT64}};
  CHECK(names_and_kinds(sent) == expected);
  CHECK(sent.header_text("bytes") == std::string("a\0b", 3));
  CHECK(sent.header_text("text") == "red");
  CHECK(sent.header("time")->raw().as.u == 1234);
  CHECK(sent.header("long ago")->raw().as.u == 0);
  CHECK(sent.header("twice")->as_int() == 2);
  const Result table = edge.handle(Delivery("publish table").opaque_header("table"));
  CHECK(table.reason == "publish: an argument is not valid");
}

TEST_CASE("headers are copied but for those that the host would refuse", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  constexpr std::uint64_t kLargest = std::uint64_t{INT64_MAX};
  Delivery delivery("copy headers");
  delivery.headers = {{"large", value_of(LOPE_TIMESTAMP, kLargest + 1)},
                      {"BCC", value_of(LOPE_OTHER)},
                      {"array", value_of(LOPE_OTHER)},
                      {"of a newer host", value_of(LOPE_OTHER + 1)},
                      {"natural", value_of(LOPE_UINT64, kLargest)},
                      {"too large", value_of(LOPE_UINT64, kLargest + 1)},
                      {"nothing", value_of(LOPE_NULL)}};
  delivery.header("set before", "of the message")
      .header("set after", "of the message")
      .header("bytes", lope::Value::bytes(std::string_view("\0", 1)))
      .header("", "no name")
      .header("CC", "a queue")
      .header("integer", -3)
      .header("truth", true)
      .header("real", 0.5)
      .header("twice", "first")
      .header("twice", "second");
  const Result result = edge.handle(delivery);
  REQUIRE(result.publications.size() == 1);
  const Sent& sent = result.publications[0];
  const std::vector<std::pair<std::string, std::int32_t>> expected = {
      {"set before", LOPE_TEXT}, {"large", LOPE_TIMESTAMP}, {"natural", LOPE_UINT64},
      {"nothing", LOPE_NULL},    {"set after", LOPE_TEXT},  {"bytes", LOPE_BYTES},
      {"integer", LOPE_INT64},   {"truth", LOPE_BOOL},      {"real", LOPE_DOUBLE},
      {"twice", LOPE_TEXT}};
  CHECK(names_and_kinds(sent) == expected);
  CHECK(sent.header_text("set before") == "mine");
  CHECK(sent.header_text("set after") == "mine");
  CHECK(sent.header_text("bytes") == std::string(1, '\0'));
  CHECK(sent.header_text("twice") == "first");
  CHECK(sent.header("integer")->as_int() == -3);
  CHECK(sent.header("natural")->as_unsigned() == kLargest);
  CHECK(sent.header("large")->raw().as.u == kLargest + 1);
}

TEST_CASE("a reply in JSON is valid whatever its text", "[abi][edge]") {
  struct Row {
    std::string text;
    const char* json;
  };
  const auto row = GENERATE(values<Row>({
      {"", R"("")"},
      {"not found", R"("not found")"},
      {R"(a "quote" and a \)", R"("a \"quote\" and a \\")"},
      {"line\nand\ttab\x01", R"("line\u000aand\u0009tab\u0001")"},
      {std::string("a\0b", 3), R"("a\u0000b")"},
      {"\x7F/", "\"\x7F/\""},
      {"äöü€😀", R"("äöü€😀")"},
      {"\xF4\x8F\xBF\xBF", "\"\xF4\x8F\xBF\xBF\""},  // the last code point
      {"a\xFFz", "\"a\xEF\xBF\xBDz\""},              // never in UTF-8
      {"\xC3", "\"\xEF\xBF\xBD\""},                  // cut off
      {"\xC3(", "\"\xEF\xBF\xBD(\""},                // not continued
      {"\xC0\xAF", "\"\xEF\xBF\xBD\xEF\xBF\xBD\""},  // too long for what it is
      {"\xE0\x80\xAF", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
      {"\xED\xA0\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},  // a surrogate
      {"\xF4\x90\x80\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
  }));
  Edge edge(GENERATE("17", "20"));
  Delivery request("reply_json " + row.text);
  request.reply_to = "asker";
  const Result result = edge.handle(request);
  REQUIRE(result.replies.size() == 2);
  const Sent& sent = result.replies[0];
  CHECK(sent.content_type == "application/json");
  CHECK(sent.body == R"({"code":-404,"message":)" + std::string(row.json) + R"(,"body":{"n":1}})");
  CHECK(result.replies[1].body == R"({"code":0,"message":"","body":null})");
}

TEST_CASE("keeping alive what was taken away is no error", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  CHECK(edge.handle("keep_alive").outcome == Outcome::ack);
  edge.host.keep_alive_status = LOPE_E_STALE;
  // How the handler says that it answered false.
  CHECK(edge.handle("keep_alive").outcome == Outcome::reject);
  edge.host.keep_alive_status = LOPE_E_WRONG_THREAD;
  CHECK(edge.handle("keep_alive").outcome == Outcome::retry);
}

TEST_CASE("headers and properties are read through the message", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  Delivery delivery("headers");
  delivery.queue = "edge";
  delivery.routing_key = "";
  delivery.header("colour", "red").header("size", 5);
  CHECK(edge.handle(delivery).outcome == Outcome::ack);
  delivery.headers[0].text = "blue";
  CHECK(edge.handle(delivery).outcome == Outcome::reject);
}

TEST_CASE("settling what is settled already is no error", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  CHECK(edge.handle("settle").outcome == Outcome::ack);
  edge.host.settle_status = LOPE_E_STALE;
  // How the handler says that settle() answered false.
  CHECK(edge.handle("settle").outcome == Outcome::reject);
}

TEST_CASE("an exception in a batch leaves the outcomes that are there", "[abi][edge]") {
  struct Row {
    std::array<const char*, 3> bodies;
    std::array<Outcome, 3> outcomes;
    std::size_t explanations;
  };
  const auto row = GENERATE(values<Row>({
      {{"ack", "nothing", "ack"}, {Outcome::ack, Outcome{}, Outcome::ack}, 0},
      {{"ack", "throw", "ack"}, {Outcome::ack, Outcome::retry, Outcome::retry}, 2},
      {{"ack", "throw reject", "ack"}, {Outcome::ack, Outcome::reject, Outcome::reject}, 2},
      {{"beyond", "ack", "ack"}, {Outcome::retry, Outcome::retry, Outcome::retry}, 3},
  }));
  FakeHost host;
  Driver driver(host, load_handler(std::string("edge_batch_cpp") + GENERATE("17", "20")));
  const auto results = driver.handle_batch({row.bodies[0], row.bodies[1], row.bodies[2]});
  REQUIRE(results.size() == row.outcomes.size());
  std::size_t explanations = 0;
  for (std::size_t i = 0; i < results.size(); ++i) {
    CHECK(results[i].outcome == row.outcomes[i]);
    if (!results[i].reason.empty()) ++explanations;
  }
  CHECK(explanations == row.explanations);
}

TEST_CASE("a flush that throws fails and is logged", "[abi][edge]") {
  FakeHost host;
  Driver driver(host, load_handler(std::string("edge_batch_cpp") + GENERATE("17", "20")));
  CHECK(driver.flush(lope::FlushReason::interval) == LOPE_OK);
  CHECK(host.logs().empty());
  CHECK(driver.flush(lope::FlushReason::drain) == LOPE_E_FAILED);
  REQUIRE(host.logs().size() == 1);
  CHECK(host.logs()[0].text == "cannot flush");
}
