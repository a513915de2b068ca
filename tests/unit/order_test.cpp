#include "consumer/order.h"

#include <catch2/catch.hpp>
#include <deque>
#include <map>
#include <random>

using namespace lope;
using namespace lope::consumer;

TEST_CASE("what a message is ordered by", "[unit][order]") {
  ByteBuffer headers;
  HeaderWriter writer(headers);
  writer.add_text("customer", HeaderKind::text, "7");
  writer.add_scalar("number", HeaderKind::int64, static_cast<std::uint64_t>(-7));
  writer.add_scalar("flag", HeaderKind::boolean, 1);
  writer.add_scalar("nothing", HeaderKind::null, 0);
  writer.add_text("empty", HeaderKind::text, "");
  DeliveryView view;
  view[TextProperty::queue] = "q";
  view[TextProperty::routing_key] = "orders.new";
  view.header_count = writer.count();
  view.headers = {headers.data(), headers.size()};
  using By = OrderSettings::By;
  struct Row {
    OrderSettings settings;
    std::optional<std::string> key;
  };
  const Row rows[] = {
      {{By::none, ""}, std::nullopt},
      {{By::queue, ""}, "q"},
      {{By::routing_key, ""}, "orders.new"},
      {{By::header, "customer"}, "7"},
      {{By::header, "number"}, "-7"},
      {{By::header, "flag"}, "1"},
      {{By::header, "empty"}, ""},
      {{By::header, "nothing"}, std::nullopt},
      {{By::header, "Customer"}, std::nullopt},
  };
  for (const Row& row : rows) {
    INFO(row.settings.header);
    CHECK(order_key(row.settings, view) == row.key);
  }
}

TEST_CASE("only the first of a key may be begun", "[unit][order]") {
  KeyOrder order;
  order.join(0, "a");
  order.join(1, "a");
  order.join(2, "b");
  order.join(3, "a");
  CHECK(order.is_first(0));
  CHECK_FALSE(order.is_first(1));
  CHECK(order.is_first(2));
  CHECK_FALSE(order.is_first(3));
  CHECK(order.is_first(99));  // has not joined
  CHECK(order.leave(0) == 1u);
  CHECK(order.is_first(1));
  CHECK_FALSE(order.is_first(3));
  CHECK(order.leave(2) == std::nullopt);
  CHECK(order.leave(2) == std::nullopt);  // it has left
  CHECK(order.leave(1) == 3u);
  CHECK(order.leave(3) == std::nullopt);
  CHECK(order.keys() == 0);
}

TEST_CASE("one that leaves from the middle frees nobody, and closes the gap", "[unit][order]") {
  KeyOrder order;
  for (std::uint32_t i = 0; i < 4; ++i) order.join(i, "a");
  CHECK(order.leave(1) == std::nullopt);
  CHECK(order.leave(3) == std::nullopt);
  order.join(1, "a");  // its number is another message's now
  CHECK(order.leave(0) == 2u);
  CHECK(order.leave(2) == 1u);
  CHECK(order.leave(1) == std::nullopt);
}

TEST_CASE("the same as a row for each key, whatever comes and leaves", "[unit][order]") {
  std::minstd_rand random(5);
  KeyOrder order;
  std::map<std::string, std::deque<std::uint32_t>> rows;
  std::map<std::uint32_t, std::string> joined;
  for (int step = 0; step < 200'000; ++step) {
    const auto message = static_cast<std::uint32_t>(random() % 300);
    const auto known = joined.find(message);
    if (known == joined.end()) {
      const std::string key = "k" + std::to_string(random() % 40);
      order.join(message, key);
      rows[key].push_back(message);
      joined[message] = key;
      continue;
    }
    std::deque<std::uint32_t>& row = rows[known->second];
    REQUIRE(order.is_first(message) == (row.front() == message));
    const bool first = row.front() == message;
    std::erase(row, message);
    const std::optional<std::uint32_t> next =
        first && !row.empty() ? std::optional(row.front()) : std::nullopt;
    REQUIRE(order.leave(message) == next);
    if (row.empty()) rows.erase(known->second);
    joined.erase(known);
    REQUIRE(order.keys() == rows.size());
  }
}

TEST_CASE("100,000 keys are no trouble, and leave nothing behind", "[unit][order]") {
  KeyOrder order;
  constexpr std::uint32_t kMany = 100'000;
  for (std::uint32_t i = 0; i < 2 * kMany; ++i) order.join(i, std::to_string(i % kMany));
  CHECK(order.keys() == kMany);
  for (std::uint32_t i = 0; i < kMany; ++i) REQUIRE(order.leave(i) == i + kMany);
  for (std::uint32_t i = kMany; i < 2 * kMany; ++i) REQUIRE_FALSE(order.leave(i));
  CHECK(order.keys() == 0);
}
