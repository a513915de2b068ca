#include "consumer/travel.h"

#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <string>
#include <variant>
#include <vector>

namespace lope::consumer {

namespace {

struct Given {
  std::string_view name;
  HeaderKind kind;
  std::uint64_t bits = 0;
  std::string_view text = {};
};

Given number(std::string_view name, std::int64_t value) {
  return {name, HeaderKind::int64, static_cast<std::uint64_t>(value)};
}
Given text(std::string_view name, std::string_view value) {
  return {name, HeaderKind::text, 0, value};
}
Given flag(std::string_view name, bool value) {
  return {name, HeaderKind::boolean, value ? 1u : 0u};
}

class Packed {
 public:
  explicit Packed(const std::vector<Given>& headers) {
    HeaderWriter writer(buffer_);
    for (const Given& each : headers) {
      if (each.kind == HeaderKind::text || each.kind == HeaderKind::bytes) {
        writer.add_text(each.name, each.kind, each.text);
      } else {
        writer.add_scalar(each.name, each.kind, each.bits);
      }
    }
  }
  std::string_view bytes() const { return {buffer_.data(), buffer_.size()}; }

 private:
  ByteBuffer buffer_;
};

// A header of each kind that there is.
std::vector<Given> every_kind(std::string_view name) {
  return {number(name, 7),
          {name, HeaderKind::uint64, 7},
          {name, HeaderKind::real, std::bit_cast<std::uint64_t>(7.0)},
          {name, HeaderKind::boolean, 1},
          text(name, "7"),
          {name, HeaderKind::bytes, 0, "7"},
          {name, HeaderKind::timestamp, 7},
          {name, HeaderKind::null},
          {name, HeaderKind::other}};
}

bool is_number(HeaderKind kind) { return kind == HeaderKind::int64 || kind == HeaderKind::uint64; }
bool is_text(HeaderKind kind) { return kind == HeaderKind::text || kind == HeaderKind::bytes; }

struct Number {
  std::string_view name;
  std::uint64_t (*get)(const Travel&);
  std::uint64_t absent;
  std::uint64_t highest;  // what is higher counts as this, up to kSane
};
const Number kNumbers[] = {
    {header::kAttempt, [](const Travel& t) -> std::uint64_t { return t.attempt; }, 1, INT32_MAX},
    {header::kCrashes, [](const Travel& t) -> std::uint64_t { return t.crashes; }, 0, INT32_MAX},
    {header::kFirstSeen, [](const Travel& t) { return t.first_seen_ms; }, 0, UINT64_MAX},
    {header::kExpires, [](const Travel& t) { return t.expires_ms; }, 0, UINT64_MAX},
    {header::kDue, [](const Travel& t) { return t.due_ms; }, 0, UINT64_MAX},
    {header::kExpiration, [](const Travel& t) { return t.expiration_ms; }, 0, UINT64_MAX},
};
// What is higher is nonsense: two such times can be added.
constexpr std::uint64_t kSane = INT64_MAX / 2;

}  // namespace

TEST_CASE("a message without headers of ours is on its first attempt", "[unit][travel]") {
  const Packed headers({text("a", "b"), number("attempt", 3), number("x-lope", 3),
                        number("x-lope-", 3), number("X-Lope-Attempt", 3),
                        number("x-lope-attempts", 3)});
  for (const std::string_view bytes : {std::string_view(), headers.bytes()}) {
    const Travel travel = travel_of(bytes);
    CHECK(travel.attempt == 1);
    CHECK(travel.crashes == 0);
    CHECK(travel.first_seen_ms == 0);
    CHECK(travel.expires_ms == 0);
    CHECK(travel.due_ms == 0);
    CHECK(travel.expiration_ms == 0);
    CHECK_FALSE(travel.transient);
    CHECK_FALSE(travel.may_be_unroutable);
    CHECK_FALSE(travel.has_origin);
    CHECK_FALSE(travel.has_destination);
  }
}

TEST_CASE("all headers of a message's way are read", "[unit][travel]") {
  const Packed headers(
      {number(header::kAttempt, 4), number(header::kCrashes, 2), text("other", "x"),
       number(header::kFirstSeen, 1'700'000'000'001), number(header::kExpires, 1'700'000'000'002),
       number(header::kDue, 1'700'000'000'003), number(header::kExpiration, 60'000),
       flag(header::kTransient, true), flag(header::kUnroutable, true),
       text(header::kExchange, "orders"), text(header::kRoutingKey, "new.eu"),
       text(header::kToExchange, ""), text(header::kToKey, "queue")});
  const Travel travel = travel_of(headers.bytes());
  CHECK(travel.attempt == 4);
  CHECK(travel.crashes == 2);
  CHECK(travel.first_seen_ms == 1'700'000'000'001);
  CHECK(travel.expires_ms == 1'700'000'000'002);
  CHECK(travel.due_ms == 1'700'000'000'003);
  CHECK(travel.expiration_ms == 60'000);
  CHECK(travel.transient);
  CHECK(travel.may_be_unroutable);
  REQUIRE(travel.has_origin);
  CHECK(travel.exchange == "orders");
  CHECK(travel.routing_key == "new.eu");
  REQUIRE(travel.has_destination);
  CHECK(travel.to_exchange.empty());
  CHECK(travel.to_key == "queue");
}

TEST_CASE("a header that is not of its kind counts as not there", "[unit][travel]") {
  for (const Number& each : kNumbers) {
    for (const Given& given : every_kind(each.name)) {
      CAPTURE(each.name, static_cast<int>(given.kind));
      CHECK(each.get(travel_of(Packed({given}).bytes())) ==
            (is_number(given.kind) ? 7 : each.absent));
    }
  }
  for (const Given& given : every_kind(header::kTransient)) {
    CAPTURE(static_cast<int>(given.kind));
    CHECK(travel_of(Packed({given}).bytes()).transient == (given.kind == HeaderKind::boolean));
  }
  for (const Given& given : every_kind(header::kUnroutable)) {
    CAPTURE(static_cast<int>(given.kind));
    CHECK(travel_of(Packed({given}).bytes()).may_be_unroutable ==
          (given.kind == HeaderKind::boolean));
  }
  for (const Given& given : every_kind(header::kExchange)) {
    CAPTURE(static_cast<int>(given.kind));
    const Packed headers({given, text(header::kRoutingKey, "key")});
    CHECK(travel_of(headers.bytes()).has_origin == is_text(given.kind));
  }
  for (const Given& given : every_kind(header::kToKey)) {
    CAPTURE(static_cast<int>(given.kind));
    const Packed headers({text(header::kToExchange, "x"), given});
    CHECK(travel_of(headers.bytes()).has_destination == is_text(given.kind));
  }
}

TEST_CASE("a flag may say no", "[unit][travel]") {
  const Packed headers({flag(header::kTransient, false), flag(header::kUnroutable, false)});
  CHECK_FALSE(travel_of(headers.bytes()).transient);
  CHECK_FALSE(travel_of(headers.bytes()).may_be_unroutable);
}

TEST_CASE("numbers that make no sense count as not there", "[unit][travel]") {
  for (const Number& each : kNumbers) {
    CAPTURE(each.name);
    const auto with = [&](HeaderKind kind, std::uint64_t bits) {
      return each.get(travel_of(Packed({{each.name, kind, bits}}).bytes()));
    };
    for (const std::int64_t negative : {std::int64_t{-1}, std::int64_t{INT32_MIN}, INT64_MIN}) {
      CHECK(with(HeaderKind::int64, static_cast<std::uint64_t>(negative)) == each.absent);
    }
    CHECK(with(HeaderKind::int64, kSane + 1) == each.absent);
    CHECK(with(HeaderKind::int64, INT64_MAX) == each.absent);
    CHECK(with(HeaderKind::uint64, std::uint64_t{1} << 63) == each.absent);
    CHECK(with(HeaderKind::uint64, UINT64_MAX) == each.absent);
    CHECK(with(HeaderKind::int64, 0) == (each.absent == 1 ? 1 : 0));
    for (const std::uint64_t huge : {std::uint64_t{INT32_MAX}, std::uint64_t{INT32_MAX} + 1,
                                     std::uint64_t{1} << 32, (std::uint64_t{1} << 32) + 1, kSane}) {
      CHECK(with(HeaderKind::int64, huge) == std::min(huge, each.highest));
      CHECK(with(HeaderKind::uint64, huge) == std::min(huge, each.highest));
    }
  }
}

TEST_CASE("half a pair is none", "[unit][travel]") {
  for (const auto name : {header::kExchange, header::kRoutingKey}) {
    CHECK_FALSE(travel_of(Packed({text(name, "x")}).bytes()).has_origin);
  }
  for (const auto name : {header::kToExchange, header::kToKey}) {
    CHECK_FALSE(travel_of(Packed({text(name, "x")}).bytes()).has_destination);
  }
  const Packed crossed({text(header::kExchange, "x"), text(header::kToKey, "y")});
  CHECK_FALSE(travel_of(crossed.bytes()).has_origin);
  CHECK_FALSE(travel_of(crossed.bytes()).has_destination);
}

TEST_CASE("the history keeps the latest ten attempts, the oldest first", "[unit][travel]") {
  AmqpTable headers = {{"x-lope-attempt", {std::int64_t{1}}}};
  for (std::uint32_t number = 1; number <= 25; ++number) {
    const AmqpArray now =
        history(headers, {number, 1'000'000 + number, "orders on host7", "it failed"});
    REQUIRE(now.size() == std::min<std::size_t>(number, kHistoryKept));
    for (std::size_t i = 0; i < now.size(); ++i) {
      const auto expected = static_cast<std::int64_t>(number - now.size() + i + 1);
      CHECK(now[i] == AmqpValue{AmqpTable{{"attempt", {expected}},
                                          {"time", {1'000'000 + expected}},
                                          {"worker", {std::string("orders on host7")}},
                                          {"reason", {std::string("it failed")}}}});
    }
    headers = {{"x-lope-historian", {AmqpArray{{true}}}}, {"x-lope-history", {now}}};
  }
}

TEST_CASE("what is no history is none, and a longer one is cut", "[unit][travel]") {
  const Attempt attempt{3, 5, "w", "r"};
  CHECK(history({{"x-lope-history", {std::string("text")}}}, attempt).size() == 1);
  CHECK(history({{"x-lope-history", {AmqpTable{}}}}, attempt).size() == 1);
  CHECK(history({{"x-lope-history", {AmqpArray(1000, AmqpValue{true})}}}, attempt).size() ==
        kHistoryKept);
}

TEST_CASE("since when a message is in its queue", "[unit][travel]") {
  const auto since = [](const std::vector<Given>& headers, std::uint64_t timestamp) {
    return in_queue_since_ms(travel_of(Packed(headers).bytes()), timestamp);
  };
  CHECK(since({}, 0) == 0);  // nobody says
  CHECK(since({}, 1'700'000'000) == 1'700'000'000'000);
  CHECK(since({number("timestamp_in_ms", 1'700'000'000'123)}, 1'600'000'000) == 1'700'000'000'123);
  CHECK(since({text("timestamp_in_ms", "1700000000123")}, 1'600'000'000) == 1'600'000'000'000);
  CHECK(since({number("timestamp_in_ms", -1)}, 0) == 0);
  // A delay is no time in the queue.
  CHECK(since({number("timestamp_in_ms", 5'000), number(header::kDue, 9'000)}, 5) == 9'000);
  CHECK(since({number("timestamp_in_ms", 5'000), {"x-death", HeaderKind::other}}, 5) == 0);
  CHECK(since({}, UINT64_MAX) == 0);
}

}  // namespace lope::consumer
