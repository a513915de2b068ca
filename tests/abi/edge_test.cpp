// The C++ face at its edge: what a class derived from lope::Handler makes of calls and exceptions,
// seen from the C side. Each case runs with the handler built as C++17 and as C++20.
#include <array>
#include <catch2/catch.hpp>
#include <string>

#include "fake_host.h"

using namespace lope::test;

namespace {

struct Edge {
  explicit Edge(const std::string& standard) : table(load_handler("edge_cpp" + standard)) {
    host.options = {
        {"name", "n"}, {"width", "640"}, {"ratio", "1.5"}, {"loud", "no"}, {"pin", "1"}};
  }
  ~Edge() {
    if (handler != nullptr) table.destroy(handler);
  }
  Edge(const Edge&) = delete;
  Edge& operator=(const Edge&) = delete;

  lope_status create() { return table.create(&host.table, &handler); }
  lope_outcome handle(std::string_view body, std::size_t header_count = 0) {
    lope_message message = message_with(body);
    message.header_count = static_cast<std::uint32_t>(header_count);
    return table.handle(handler, &message);
  }

  FakeHost host;
  const lope_plugin& table;
  lope_handler* handler = nullptr;
};

lope_header plain_header(std::string_view name, std::int32_t kind, std::uint64_t bits = 0) {
  lope_header header{str(name), {}};
  header.value.kind = kind;
  header.value.as.u = bits;
  return header;
}

lope_header text_header(std::string_view name, std::string_view text,
                        std::int32_t kind = LOPE_TEXT) {
  lope_header header = plain_header(name, kind);
  header.value.as.s = str(text);
  return header;
}

std::vector<std::pair<std::string, std::int32_t>> names_and_kinds(const FakeHost::Sent& sent) {
  std::vector<std::pair<std::string, std::int32_t>> result;
  for (const auto& [name, value] : sent.headers) result.emplace_back(name, value.kind);
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
  REQUIRE(edge.create() == LOPE_OK);
  CHECK(edge.host.lines.back() == "made n,640,quiet,7,x");
  edge.table.destroy(std::exchange(edge.handler, nullptr));
  CHECK(edge.host.lines.back() == "destroyed");
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
  CHECK(edge.create() == LOPE_E_INVALID);
  CHECK(edge.handler == nullptr);
  REQUIRE(edge.host.explanations.size() == 1);
  CHECK(edge.host.explanations[0].first == nullptr);
  CHECK(edge.host.explanation() == row.explanation);
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
  lope_handler* handler = nullptr;
  CHECK(load_handler("create_throws").create(&host.table, &handler) == row.status);
  CHECK(handler == nullptr);
  CHECK(host.explanation() == row.explanation);
}

TEST_CASE("what handle() returns or throws becomes an outcome and an explanation", "[abi][edge]") {
  struct Row {
    const char* body;
    lope_outcome outcome;
    const char* explanation;
  };
  const auto row = GENERATE(values<Row>({
      {"ack", LOPE_ACK, ""},
      {"retry", LOPE_RETRY, ""},
      {"hold", LOPE_HOLD, ""},
      {"none", LOPE_NO_OUTCOME, ""},
      {"throw reject", LOPE_REJECT, "not an image"},
      {"throw retry", LOPE_RETRY, "the disk is full"},
      {"throw standard", LOPE_RETRY, "something else"},
      {"throw nothing standard", LOPE_RETRY,
       "the handler threw something that is no std::exception"},
      {"beyond the last header", LOPE_RETRY, "header_at: beyond the last header"},
      {"metric", LOPE_RETRY, "metric_register: not allowed on this thread, or not at this moment"},
  }));
  Edge edge(GENERATE("17", "20"));
  REQUIRE(edge.create() == LOPE_OK);
  INFO(row.body);
  CHECK(edge.handle(row.body) == row.outcome);
  CHECK(edge.host.explanation() == row.explanation);
  if (!edge.host.explanations.empty()) CHECK(edge.host.explanations[0].first != nullptr);
  CHECK(edge.host.delays.empty());
}

TEST_CASE("a thrown retry may carry its delay", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  REQUIRE(edge.create() == LOPE_OK);
  edge.host.retry_after_status = GENERATE(lope_status{LOPE_OK}, lope_status{LOPE_E_UNSUPPORTED});
  CHECK(edge.handle("throw retry with delay") == LOPE_RETRY);
  CHECK(edge.host.delays == std::vector<std::uint64_t>{7000});
  CHECK(edge.host.explanation() == "later");
}

TEST_CASE("an order that the host does not carry out is an exception that says so", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  REQUIRE(edge.create() == LOPE_OK);
  edge.host.publish_status = LOPE_E_UNSUPPORTED;
  edge.host.retry_after_status = LOPE_E_UNSUPPORTED;
  edge.host.settle_status = LOPE_E_UNSUPPORTED;
  for (const std::string body : {"publish", "reply", "retry_after", "settle"}) {
    CHECK(edge.handle(body) == LOPE_RETRY);
    CHECK(edge.host.explanation() == body + ": this version of Lope does not support it");
  }
  edge.host.publish_status = LOPE_E_TOO_LARGE;
  CHECK(edge.handle("publish") == LOPE_RETRY);
  CHECK(edge.host.explanation() == "publish: it is over a limit");
}

TEST_CASE("a publication arrives as it was filled in", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  REQUIRE(edge.create() == LOPE_OK);
  CHECK(edge.handle("publish") == LOPE_ACK);
  REQUIRE(edge.host.sent.size() == 1);
  const FakeHost::Sent& sent = edge.host.sent[0];
  CHECK(sent.body == "sent");
  CHECK(sent.exchange == "exchange");
  CHECK(sent.routing_key == "key");
  CHECK(sent.flags == LOPE_PUB_TRANSIENT);
  CHECK(sent.delay_ms == 2000);
  REQUIRE(sent.headers.size() == 5);
  CHECK(sent.headers[0].second.kind == LOPE_TEXT);
  CHECK(sent.texts.at("text") == "a");
  CHECK(sent.headers[1].second.kind == LOPE_INT64);
  CHECK(sent.headers[1].second.as.i == -3);
  CHECK(sent.headers[2].second.kind == LOPE_UINT64);
  CHECK(sent.headers[2].second.as.u == 4);
  CHECK(sent.headers[3].second.kind == LOPE_BOOL);
  CHECK(sent.headers[3].second.as.i == 1);
  CHECK(sent.headers[4].second.kind == LOPE_DOUBLE);
  CHECK(sent.headers[4].second.as.d == 0.5);
  CHECK(edge.handle("reply") == LOPE_ACK);
  CHECK(edge.host.sent[1].is_reply);
  CHECK(edge.host.sent[1].body == "the answer");
}

TEST_CASE("a header can be set to a value of any kind, once", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  REQUIRE(edge.create() == LOPE_OK);
  edge.host.headers = {text_header("colour", "red"), plain_header("table", LOPE_OTHER)};
  REQUIRE(edge.handle("publish values", 2) == LOPE_ACK);
  REQUIRE(edge.host.sent.size() == 1);
  const FakeHost::Sent& sent = edge.host.sent[0];
  const std::vector<std::pair<std::string, std::int32_t>> expected = {
      {"bytes", LOPE_BYTES},  {"time", LOPE_TIMESTAMP}, {"long ago", LOPE_TIMESTAMP},
      {"nothing", LOPE_NULL}, {"text", LOPE_TEXT},      {"table", LOPE_OTHER},
      {"twice", LOPE_INT64}};
  CHECK(names_and_kinds(sent) == expected);
  CHECK(sent.texts.at("bytes") == std::string("a\0b", 3));
  CHECK(sent.texts.at("text") == "red");
  CHECK(sent.headers[1].second.as.u == 1234);
  CHECK(sent.headers[2].second.as.u == 0);
  CHECK(sent.headers[6].second.as.i == 2);
}

TEST_CASE("headers are copied but for those that the host would refuse", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  REQUIRE(edge.create() == LOPE_OK);
  constexpr std::uint64_t kLargest = std::uint64_t{INT64_MAX};
  edge.host.headers = {
      text_header("set before", "of the message"),
      text_header("set after", "of the message"),
      text_header("bytes", std::string_view("\0", 1), LOPE_BYTES),
      text_header("", "no name"),
      text_header("CC", "a queue"),
      plain_header("BCC", LOPE_OTHER),
      plain_header("array", LOPE_OTHER),
      plain_header("of a newer host", LOPE_OTHER + 1),
      plain_header("integer", LOPE_INT64, static_cast<std::uint64_t>(-3)),
      plain_header("natural", LOPE_UINT64, kLargest),
      plain_header("too large", LOPE_UINT64, kLargest + 1),
      plain_header("time", LOPE_TIMESTAMP, kLargest + 1),
      plain_header("truth", LOPE_BOOL, 1),
      plain_header("real", LOPE_DOUBLE),
      plain_header("nothing", LOPE_NULL),
      text_header("twice", "first"),
      text_header("twice", "second"),
  };
  REQUIRE(edge.handle("copy headers", edge.host.headers.size()) == LOPE_ACK);
  REQUIRE(edge.host.sent.size() == 1);
  const FakeHost::Sent& sent = edge.host.sent[0];
  const std::vector<std::pair<std::string, std::int32_t>> expected = {
      {"set before", LOPE_TEXT}, {"set after", LOPE_TEXT}, {"bytes", LOPE_BYTES},
      {"integer", LOPE_INT64},   {"natural", LOPE_UINT64}, {"time", LOPE_TIMESTAMP},
      {"truth", LOPE_BOOL},      {"real", LOPE_DOUBLE},    {"nothing", LOPE_NULL},
      {"twice", LOPE_TEXT}};
  CHECK(names_and_kinds(sent) == expected);
  CHECK(sent.texts.at("set before") == "mine");
  CHECK(sent.texts.at("set after") == "mine");
  CHECK(sent.texts.at("bytes") == std::string(1, '\0'));
  CHECK(sent.texts.at("twice") == "first");
  CHECK(sent.headers[3].second.as.i == -3);
  CHECK(sent.headers[4].second.as.u == kLargest);
  CHECK(sent.headers[5].second.as.u == kLargest + 1);
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
  REQUIRE(edge.create() == LOPE_OK);
  CHECK(edge.handle("reply_json " + row.text) == LOPE_ACK);
  REQUIRE(edge.host.sent.size() == 2);
  const FakeHost::Sent& sent = edge.host.sent[0];
  CHECK(sent.is_reply);
  CHECK(sent.content_type == "application/json");
  CHECK(sent.exchange.empty());
  CHECK(sent.routing_key.empty());
  CHECK(sent.body == R"({"code":-404,"message":)" + std::string(row.json) + R"(,"body":{"n":1}})");
  CHECK(edge.host.sent[1].body == R"({"code":0,"message":"","body":null})");
}

TEST_CASE("keeping alive what was taken away is no error", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  REQUIRE(edge.create() == LOPE_OK);
  CHECK(edge.handle("keep_alive") == LOPE_ACK);
  edge.host.keep_alive_status = LOPE_E_STALE;
  CHECK(edge.handle("keep_alive") == LOPE_REJECT);  // how the handler says that it answered false
  edge.host.keep_alive_status = LOPE_E_WRONG_THREAD;
  CHECK(edge.handle("keep_alive") == LOPE_RETRY);
}

TEST_CASE("headers and properties are read through the message", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  REQUIRE(edge.create() == LOPE_OK);
  lope_header colour{str("colour"), {}};
  colour.value.kind = LOPE_TEXT;
  colour.value.as.s = str("red");
  lope_header size{str("size"), {}};
  size.value.kind = LOPE_INT64;
  size.value.as.i = 5;
  edge.host.headers = {colour, size};
  lope_message message = message_with("headers");
  message.header_count = 2;
  CHECK(edge.table.handle(edge.handler, &message) == LOPE_ACK);
  edge.host.headers[0].value.as.s = str("blue");
  CHECK(edge.table.handle(edge.handler, &message) == LOPE_REJECT);
}

TEST_CASE("settling what is settled already is no error", "[abi][edge]") {
  Edge edge(GENERATE("17", "20"));
  REQUIRE(edge.create() == LOPE_OK);
  CHECK(edge.handle("settle") == LOPE_ACK);
  REQUIRE(edge.host.settled.size() == 1);
  CHECK(edge.host.settled[0] == std::pair<std::uint64_t, lope_outcome>(41, LOPE_ACK));
  edge.host.settle_status = LOPE_E_STALE;
  CHECK(edge.handle("settle") == LOPE_REJECT);  // how the handler says that settle() answered false
}

TEST_CASE("an exception in a batch leaves the outcomes that are there", "[abi][edge]") {
  struct Row {
    std::array<const char*, 3> bodies;
    std::array<lope_outcome, 3> outcomes;
    std::size_t explanations;
  };
  const auto row = GENERATE(values<Row>({
      {{"ack", "nothing", "ack"}, {LOPE_ACK, LOPE_NO_OUTCOME, LOPE_ACK}, 0},
      {{"ack", "throw", "ack"}, {LOPE_ACK, LOPE_RETRY, LOPE_RETRY}, 2},
      {{"ack", "throw reject", "ack"}, {LOPE_ACK, LOPE_REJECT, LOPE_REJECT}, 2},
      {{"beyond", "ack", "ack"}, {LOPE_RETRY, LOPE_RETRY, LOPE_RETRY}, 3},
  }));
  const lope_plugin& table = load_handler(std::string("edge_batch_cpp") + GENERATE("17", "20"));
  FakeHost host;
  lope_handler* handler = nullptr;
  REQUIRE(table.create(&host.table, &handler) == LOPE_OK);
  const std::array<lope_message, 3> messages = {
      message_with(row.bodies[0]), message_with(row.bodies[1]), message_with(row.bodies[2])};
  const lope_message* const pointers[] = {&messages[0], &messages[1], &messages[2]};
  const lope_batch batch{sizeof(lope_batch), 3, pointers};
  std::array<lope_outcome, 3> outcomes{};
  table.handle_batch(handler, &batch, outcomes.data());
  CHECK(outcomes == row.outcomes);
  CHECK(host.explanations.size() == row.explanations);
  table.destroy(handler);
}

TEST_CASE("a flush that throws fails and is logged", "[abi][edge]") {
  const lope_plugin& table = load_handler(std::string("edge_batch_cpp") + GENERATE("17", "20"));
  FakeHost host;
  lope_handler* handler = nullptr;
  REQUIRE(table.create(&host.table, &handler) == LOPE_OK);
  CHECK(table.flush(handler, LOPE_FLUSH_INTERVAL) == LOPE_OK);
  CHECK(host.lines.empty());
  CHECK(table.flush(handler, LOPE_FLUSH_DRAIN) == LOPE_E_FAILED);
  CHECK(host.lines == std::vector<std::string>{"cannot flush"});
  table.destroy(handler);
}
