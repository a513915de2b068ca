// The faces of other languages: the same handler in each of them, driven through its table. Those
// whose compiler is not there are left out.
#include <lope/testing.hpp>

#include <catch2/catch.hpp>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "handlers.h"

using lope::FlushReason;
using lope::Outcome;
using lope::testing::Delivery;
using lope::testing::Driver;
using lope::testing::FakeHost;
using lope::testing::Result;

namespace {

std::vector<std::string> languages() {
  std::istringstream list(LOPE_TEST_LANGUAGES);
  return {std::istream_iterator<std::string>(list), {}};
}

struct Edge {
  explicit Edge(const std::string& language) : table(lope::test::load_handler("edge_" + language)) {
    host.options = {{"name", "n"}};
  }
  Driver& made() {
    if (!driver) driver.emplace(host, table);
    return *driver;
  }
  Result handle(Delivery delivery) { return made().handle(std::move(delivery)); }

  FakeHost host;
  const lope_plugin& table;
  std::optional<Driver> driver;
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a table of another language is whole", "[abi][languages]") {
  for (const std::string& language : languages()) {
    INFO(language);
    const lope_plugin& table = lope::test::load_handler("edge_" + language);
    CHECK(table.struct_size == sizeof(lope_plugin));
    CHECK(table.name == std::string("edge"));
    CHECK(table.version == std::string("1.0.0"));
    CHECK(table.handle_batch != nullptr);
    CHECK(table.flush != nullptr);
    std::vector<std::string> options;
    for (const lope_option* option = table.options; option->name != nullptr; ++option)
      options.emplace_back(option->name);
    CHECK(options == std::vector<std::string>{"name", "width", "panic", "tags.*"});
    CHECK(table.options[0].default_value == nullptr);
    CHECK(table.options[1].default_value == std::string("640"));
    CHECK(table.options[1].kind == LOPE_INT64);
    CHECK(table.options[2].flags == LOPE_OPTION_SECRET);
  }
}

TEST_CASE("options and the end reach it", "[abi][languages]") {
  for (const std::string& language : languages()) {
    INFO(language);
    Edge edge(language);
    edge.host.options = {{"name", "2.5"}, {"tags.0", "a"}, {"tags.1", "b"}};
    edge.made();
    REQUIRE(edge.host.logs().size() == 1);
    CHECK(edge.host.logs()[0].text == R"(made 2.5,640,["a", "b"],2.5,test)");
    edge.driver.reset();
    CHECK(edge.host.logs().back().text == "dropped");
  }
}

TEST_CASE("what goes wrong when it is made is told apart", "[abi][languages]") {
  for (const std::string& language : languages()) {
    INFO(language);
    Edge edge(language);
    edge.host.options["name"] = "wrong";
    CHECK_THROWS_AS(Driver(edge.host, edge.table), lope::InvalidConfiguration);
    CHECK_THROWS_WITH(Driver(edge.host, edge.table), "a wrong name");
    edge.host.options = {{"name", "n"}, {"width", "70000"}};
    CHECK_THROWS_AS(Driver(edge.host, edge.table), lope::InvalidConfiguration);
    CHECK_THROWS_WITH(Driver(edge.host, edge.table),
                      "option 'width': expected an integer from -32768 to 32767, found '70000'");
    edge.host.options = {{"name", "n"}, {"panic", "yes"}};
    CHECK_THROWS_AS(Driver(edge.host, edge.table), lope::Error);
    CHECK_THROWS_WITH(Driver(edge.host, edge.table), Catch::Contains("in the middle of new()"));
  }
}

TEST_CASE("what it returns becomes an outcome and a reason", "[abi][languages]") {
  struct Row {
    const char* body;
    Outcome outcome;
    const char* reason;
  };
  const Row rows[] = {
      {"ack", Outcome::ack, ""},
      {"retry", Outcome::retry, "the disk is full"},
      {"reject", Outcome::reject, "not an image"},
      {"error", Outcome::retry, "invalid"},
      {"panic", Outcome::retry, "in the middle of panic"},
      {"panic with a number", Outcome::retry, "panic"},
      {"metric", Outcome::reject, "metric_record: an argument is not valid"},
      {"too long", Outcome::retry, "publish: an argument is not valid"},
      {"something else", Outcome::reject, "unknown: something else"},
  };
  for (const std::string& language : languages()) {
    Edge edge(language);
    for (const Row& row : rows) {
      INFO(language << ": " << row.body);
      const Result result = edge.handle(row.body);
      CHECK(result.outcome == row.outcome);
      CHECK(contains(result.reason, row.reason));
      CHECK(!result.retry_after);
    }
    const Result later = edge.handle("retry later");
    CHECK(later.reason == "later");
    CHECK(later.retry_after == std::chrono::seconds(7));
    CHECK(edge.host.metric("seen")->value == std::size(rows) + 1);
    CHECK(edge.host.metric("took")->value == 2'000'000);
  }
}

TEST_CASE("a panic is in the log with its place, and harms nothing else", "[abi][languages]") {
  for (const std::string& language : languages()) {
    INFO(language);
    Edge edge(language);
    const Result result = edge.handle("panic");
    CHECK(result.logged("in the middle of panic"));
    CHECK(result.logged(language == "rust" ? "lib.rs:" : "edge.go:"));
    CHECK(result.logs[0].level == lope::Level::error);
    CHECK(edge.handle("ack").outcome == Outcome::ack);
  }
}

TEST_CASE("it reads properties and headers", "[abi][languages]") {
  for (const std::string& language : languages()) {
    INFO(language);
    Edge edge(language);
    Delivery delivery("properties");
    delivery.queue = "edge";
    delivery.routing_key = "orders.new";
    delivery.attempt = 3;
    delivery.redelivered = true;
    delivery.timestamp = 5;
    delivery.header("text", "a").header("number", -3).header("truth", true).opaque_header("table");
    CHECK(edge.handle(delivery).outcome == Outcome::ack);
    delivery.attempt = 4;
    CHECK(edge.handle(delivery).outcome == Outcome::reject);
  }
}

TEST_CASE("what it publishes arrives as it was filled in", "[abi][languages]") {
  for (const std::string& language : languages()) {
    INFO(language);
    Edge edge(language);
    Delivery delivery("publish");
    delivery.reply_to = "asker";
    delivery.header("number", "of the message").header("copied", "c").header("CC", "x");
    delivery.header("too large", UINT64_MAX).opaque_header("table");
    const Result result = edge.handle(delivery);
    REQUIRE(result.publications.size() == 1);
    const lope::testing::Sent& sent = result.publications[0];
    CHECK(sent.routing_key == "orders");
    CHECK(sent.body == "sent");
    CHECK(!sent.persistent);
    CHECK(sent.delay == std::chrono::seconds(2));
    CHECK(sent.due_unix_ms == 1234);
    CHECK(sent.priority == 3);
    std::vector<std::string> names;
    for (const auto& header : sent.headers) names.push_back(header.name);
    CHECK(names == std::vector<std::string>{"number", "natural", "truth", "real", "twice", "time",
                                            "copied"});
    CHECK(sent.header("number")->as_int() == -3);
    CHECK(sent.header("natural")->as_unsigned() == 4);
    CHECK(sent.header("truth")->as_bool() == true);
    CHECK(sent.header("real")->as_double() == 0.5);
    CHECK(sent.header("twice")->as_int() == 2);
    CHECK(sent.header("time")->raw().kind == LOPE_TIMESTAMP);
    CHECK(sent.header("time")->raw().as.u == 9);
    CHECK(sent.header_text("copied") == "c");
    REQUIRE(result.replies.size() == 1);
    CHECK(result.replies[0].body == "the answer");
    CHECK(result.keep_alives == 1);
  }
}

TEST_CASE("a message that it holds is settled later, on any thread", "[abi][languages]") {
  for (const std::string& language : languages()) {
    INFO(language);
    Edge edge(language);
    const Result kept = edge.handle("hold");
    CHECK(kept.outcome == Outcome::hold);
    CHECK(edge.host.held() == 1);
    const Result elsewhere = edge.handle("hold elsewhere");
    CHECK(elsewhere.outcome == Outcome::hold);
    const auto settled = edge.driver->wait_settled(elsewhere.id);
    REQUIRE(settled);
    CHECK(settled->outcome == Outcome::ack);
    REQUIRE(settled->publications.size() == 1);
    CHECK(settled->publications[0].body == "HOLD ELSEWHERE");
    CHECK(edge.driver->flush(FlushReason::interval) == LOPE_OK);
    CHECK(edge.driver->wait_settled(kept.id)->outcome == Outcome::ack);
    CHECK(edge.host.held() == 0);
  }
}

TEST_CASE("hold() counts, whatever else is said", "[abi][languages]") {
  for (const std::string& language : languages()) {
    INFO(language);
    Edge edge(language);
    CHECK(edge.handle("hold, and panic").outcome == Outcome::hold);
    const Result failed = edge.handle("hold, and fail");
    CHECK(failed.outcome == Outcome::hold);
    CHECK(failed.logged("does not count"));
    CHECK(edge.host.held() == 2);
    CHECK(edge.driver->flush(FlushReason::window_full) == LOPE_OK);
    CHECK(edge.host.held() == 0);
  }
}

TEST_CASE("a batch has an outcome for each message", "[abi][languages]") {
  for (const std::string& language : languages()) {
    INFO(language);
    Edge edge(language);
    const auto results = edge.made().handle_batch(
        {"ack", "nothing", "hold, and say nothing", "reject", "panic", "ack"});
    const Outcome expected[] = {Outcome::ack,    Outcome::retry, Outcome::hold,
                                Outcome::reject, Outcome::retry, Outcome::retry};
    for (std::size_t i = 0; i < results.size(); ++i) CHECK(results[i].outcome == expected[i]);
    CHECK(contains(results[3].reason, "not an image"));
    CHECK(contains(results[5].reason, "in a batch"));
    CHECK(edge.driver->handle_batch({"nothing"})[0].outcome == Outcome{});
  }
}

TEST_CASE("a drain that fails is logged, and what is held goes back quietly", "[abi][languages]") {
  for (const std::string& language : languages()) {
    INFO(language);
    Edge edge(language);
    edge.handle("hold");
    CHECK(edge.driver->flush(FlushReason::drain) == LOPE_E_FAILED);
    CHECK(edge.host.logs().back().text == "cannot flush");
    edge.driver.reset();
    CHECK(edge.host.logs().back().text == "dropped");
  }
}

TEST_CASE("in Rust, Hold without hold() is a fault", "[abi][languages]") {
  if (languages().empty() || languages()[0] != "rust") return;
  Edge edge("rust");
  const Result result = edge.handle("say hold");
  CHECK(result.outcome == Outcome::retry);
  CHECK(contains(result.reason, "has not called hold()"));
}

TEST_CASE("in Rust, a held message that is let go of is retried", "[abi][languages]") {
  if (languages().empty() || languages()[0] != "rust") return;
  Edge edge("rust");
  const Result first = edge.handle("hold, and let go");
  CHECK(first.outcome == Outcome::hold);
  const auto result = edge.driver->wait_settled(first.id);
  REQUIRE(result);
  CHECK(result->outcome == Outcome::retry);
  CHECK(result->reason == "the handler let go of it unsettled");
}

TEST_CASE("in Go, a message panics after its call, and a bad pointer is a panic",
          "[abi][languages]") {
  if (languages().empty() || languages().back() != "go") return;
  Edge edge("go");
  edge.handle("ack");
  const Result result = edge.handle("message before");
  CHECK(result.outcome == Outcome::retry);
  CHECK(contains(result.reason, "a message is used after its call has returned"));
  CHECK(contains(edge.handle("panic of the runtime").reason, "nil pointer"));
  CHECK(edge.handle("ack").outcome == Outcome::ack);
}

TEST_CASE("in Go, a batch panics after its call, and leaves the next one alone",
          "[abi][languages]") {
  if (languages().empty() || languages().back() != "go") return;
  Edge edge("go");
  edge.made().handle_batch({"reject", "ack"});
  const auto results = edge.driver->handle_batch({"nothing", "batch before"});
  CHECK(results[0].outcome == Outcome::retry);
  CHECK(results[1].outcome == Outcome::retry);
  CHECK(contains(results[1].reason, "a message is used after its call has returned"));
}

TEST_CASE("in Go, panic(nil) is a panic", "[abi][languages]") {
  if (languages().empty() || languages().back() != "go") return;
  Edge edge("go");
  const Result result = edge.handle("panic with nothing");
  CHECK(result.outcome == Outcome::retry);
  CHECK(contains(result.reason, "edge.go:"));
}

TEST_CASE("in Go, an error that panics when it is read is a failure, and no end",
          "[abi][languages]") {
  if (languages().empty() || languages().back() != "go") return;
  const std::string reason = "in the middle of Error()";
  Edge edge("go");
  edge.host.options["name"] = "untold";
  CHECK_THROWS_AS(Driver(edge.host, edge.table), lope::Error);
  CHECK_THROWS_WITH(Driver(edge.host, edge.table), Catch::Contains(reason));
  edge.host.options["name"] = "n";
  const Result result = edge.handle("untold");
  CHECK(result.outcome == Outcome::retry);
  CHECK(contains(result.reason, reason));
  CHECK(edge.handle("hold, and untold").outcome == Outcome::hold);
  const auto results = edge.driver->handle_batch({"untold", "ack"});
  CHECK(results[0].outcome == Outcome::retry);
  CHECK(contains(results[0].reason, reason));
  CHECK(results[1].outcome == Outcome::ack);
  CHECK(edge.handle("untold at the flush").outcome == Outcome::ack);
  CHECK(edge.driver->flush(FlushReason::interval) == LOPE_E_FAILED);
  CHECK(contains(edge.host.logs().back().text, reason));
}
