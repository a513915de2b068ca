#include "cli/dead_letter.h"

#include <catch2/catch.hpp>

#include "cli/dead_letter_text.h"
#include "cli/table.h"

namespace lope::cli {
namespace {

using namespace std::chrono_literals;
using Catch::Matchers::Contains;

AmqpValue text(std::string value) { return {std::move(value)}; }
AmqpValue number(std::int64_t value) { return {value}; }

AmqpValue death(const std::string& queue, const std::string& reason, const std::string& exchange,
                const std::string& key, std::int64_t seconds) {
  return {AmqpTable{{"reason", text(reason)},
                    {"queue", text(queue)},
                    {"time", number(seconds)},
                    {"exchange", text(exchange)},
                    {"routing-keys", {AmqpArray{text(key)}}}}};
}

Received by_lope() {
  Received message;
  message.message_id = "m-1";
  message.headers = {{"x-lope-dead-reason", text("no such customer")},
                     {"x-lope-dead-code", text("attempts")},
                     {"x-lope-dead-time", number(1'000'000)},
                     {"x-lope-dead-queue", text("orders")},
                     {"x-lope-dead-attempts", number(5)},
                     {"x-lope-exchange", text("shop")},
                     {"x-lope-routing-key", text("order.new")}};
  return message;
}

TEST_CASE("a dead letter of Lope tells all there is", "[unit][dead_letter]") {
  const DeadLetter letter = dead_letter_of(by_lope());
  CHECK(letter.message_id == "m-1");
  CHECK(letter.since_ms == 1'000'000);
  CHECK(letter.code == "attempts");
  CHECK(letter.reason == "no such customer");
  CHECK(letter.attempts == 5);
  CHECK(letter.queue == "orders");
  CHECK(letter.origin == Address{"shop", "order.new"});
}

TEST_CASE("the broker's dead letter tells when it died last and where it came from first",
          "[unit][dead_letter]") {
  Received message;
  message.headers = {{"x-death",
                      {AmqpArray{death("second", "expired", "dlx", "k2", 2000),
                                 death("first", "rejected", "shop", "order.new", 1000)}}}};
  const DeadLetter letter = dead_letter_of(message);
  CHECK(letter.since_ms == 2'000'000);
  CHECK(letter.code == "expired");
  CHECK(letter.reason == "the broker: expired in queue second");
  CHECK_FALSE(letter.attempts);
  CHECK(letter.queue == "first");
  CHECK(letter.origin == Address{"shop", "order.new"});
  SECTION("but where Lope says where it came from, that is it") {
    message.headers.emplace_back("x-lope-exchange", text(""));
    message.headers.emplace_back("x-lope-routing-key", text("orders"));
    message.headers.emplace_back("x-lope-attempt", number(3));
    const DeadLetter retried = dead_letter_of(message);
    CHECK(retried.origin == Address{"", "orders"});
    CHECK(retried.attempts == 3);
    CHECK(retried.code == "expired");
  }
}

TEST_CASE("a delayed message that could not be delivered goes where it was to go",
          "[unit][dead_letter]") {
  Received message;
  message.headers = {{"x-lope-to-exchange", text("")},  {"x-lope-to-key", text("orders")},
                     {"x-lope-due", number(5000)},      {"x-lope-reason", text("returned: …")},
                     {"x-lope-exchange", text("shop")}, {"x-lope-routing-key", text("k")}};
  const DeadLetter letter = dead_letter_of(message);
  CHECK(letter.code == "undeliverable");
  CHECK(letter.reason == "returned: …");
  CHECK(letter.since_ms == 5000);
  CHECK(letter.queue == "orders");
  CHECK(letter.origin == Address{"", "orders"});
}

TEST_CASE("headers of another shape tell nothing", "[unit][dead_letter]") {
  const AmqpTable table[] = {
      {},
      {{"x-death", text("no list")}},
      {{"x-death", {AmqpArray{}}}},
      {{"x-death", {AmqpArray{text("no table")}}}},
      {{"x-death", {AmqpArray{{AmqpTable{}}}}}},
      {{"x-lope-dead-time", text("no number")}, {"x-lope-exchange", text("half of it")}},
      {{"x-lope-to-key", text("half of it")}, {"x-lope-dead-code", number(5)}},
  };
  for (const AmqpTable& headers : table) {
    Received message;
    message.headers = headers;
    const DeadLetter letter = dead_letter_of(message);
    CHECK(letter.code.empty());
    CHECK_FALSE(letter.origin);
    CHECK_FALSE(letter.since_ms);
  }
}

TEST_CASE("all that a filter names has to match", "[unit][dead_letter]") {
  const DeadLetter letter = dead_letter_of(by_lope());
  const std::int64_t hour_later = 1'000'000 + 3'600'000;
  struct Case {
    DeadLetterFilter filter;
    bool matches;
  };
  const Case table[] = {
      {{}, true},
      {{.reason = "customer"}, true},
      {{.reason = "Customer"}, false},
      {{.code = "attempts"}, true},
      {{.code = "rejected"}, false},
      {{.id = "m-1"}, true},
      {{.id = "m"}, false},
      {{.older = 1h}, true},
      {{.older = 61min}, false},
      {{.newer = 1h}, true},
      {{.newer = 59min}, false},
      {{.older = 30min, .newer = 2h}, true},
      {{.reason = "such", .code = "attempts", .id = "m-1"}, true},
      {{.reason = "such", .code = "crashes", .id = "m-1"}, false},
  };
  for (const Case& each : table) {
    CHECK(each.filter.matches(letter, hour_later) == each.matches);
  }
  DeadLetter unknown;
  CHECK_FALSE(DeadLetterFilter{.older = 0s}.matches(unknown, hour_later));
  CHECK_FALSE(DeadLetterFilter{.newer = 24h}.matches(unknown, hour_later));
  CHECK(DeadLetterFilter{}.empty());
  CHECK_FALSE(DeadLetterFilter{.newer = 24h}.empty());
}

TEST_CASE("a message goes back to where it was published, to its queue, or to a given one",
          "[unit][dead_letter]") {
  const DeadLetter letter = dead_letter_of(by_lope());
  CHECK(*replay_address(letter, ReplayTo::origin, "") == Address{"shop", "order.new"});
  CHECK(*replay_address(letter, ReplayTo::queue, "") == Address{"", "orders"});
  CHECK(*replay_address(letter, ReplayTo::named, "other") == Address{"", "other"});
  CHECK_THAT(replay_address({}, ReplayTo::origin, "").error(), Contains("where it came from"));
  CHECK_THAT(replay_address({}, ReplayTo::queue, "").error(), Contains("do not name the queue"));
  CHECK(replay_address({}, ReplayTo::named, "other").ok());
  const std::string longest(255, 'x');
  DeadLetter forged;
  forged.origin = Address{longest, longest};
  CHECK(replay_address(forged, ReplayTo::origin, "").ok());
  for (const Address& origin : {Address{longest + "x", ""}, Address{"", longest + "x"}}) {
    forged.origin = origin;
    CHECK_THAT(replay_address(forged, ReplayTo::origin, "").error(), Contains("255 bytes"));
  }
}

TEST_CASE("an age is told in one unit", "[unit][dead_letter]") {
  CHECK(age_text(-5) == "0s");
  CHECK(age_text(119'999) == "119s");
  CHECK(age_text(120'000) == "2m");
  CHECK(age_text(7'200'000) == "2h");
  CHECK(age_text(172'800'000) == "2d");
}

TEST_CASE("columns are as wide as what is in them", "[unit][dead_letter]") {
  CHECK(table_text({}).empty());
  CHECK(table_text({{"A", "B", "C"}, {"long", "ü", "x"}, {"", "mid", ""}}) ==
        "A     B    C\n"
        "long  ü    x\n"
        "      mid  \n");
}

TEST_CASE("a body is shown as text or as bytes, and cut", "[unit][dead_letter]") {
  CHECK(body_text("", false).empty());
  CHECK(body_text("{\"a\": 1}\n\tb\\", false) == "{\"a\": 1}\n\tb\\\n");
  CHECK(body_text("a\x1b[31mb\r\n", false) == "a\\x1B[31mb\\r\n");
  CHECK(body_text(std::string("\x00\xff"
                              "0123456789abcdefg",
                              19),
                  false) ==
        "00000000  00 ff 30 31 32 33 34 35  36 37 38 39 61 62 63 64  |..0123456789abcd|\n"
        "00000010  65 66 67                                          |efg|\n");
  const std::string large(5000, 'x');
  CHECK(body_text(large, false) == large.substr(0, 4096) + "\n… 904 more bytes: --full\n");
  CHECK(body_text(large, true) == large + "\n");
  // Not in the middle of a character.
  const std::string wide = "x" + [] {
    std::string text;
    for (int i = 0; i < 3000; ++i) text += "ü";
    return text;
  }();
  CHECK_THAT(body_text(wide, false), Contains("ü\n… 1906 more bytes"));
}

TEST_CASE("bytes as base64", "[unit][dead_letter]") {
  CHECK(base64("").empty());
  CHECK(base64("f") == "Zg==");
  CHECK(base64("fo") == "Zm8=");
  CHECK(base64("foo") == "Zm9v");
  CHECK(base64("foobar") == "Zm9vYmFy");
  CHECK(base64("\xff\xfe") == "//4=");
}

}  // namespace
}  // namespace lope::cli
