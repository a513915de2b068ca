#include "consumer/delivery_table.h"

#include <catch2/catch.hpp>

namespace lope::consumer {

TEST_CASE("only the present sequence of a delivery finds it", "[unit][delivery_table]") {
  DeliveryTable table;
  Delivery& first = table.allocate();
  Delivery& second = table.allocate();
  first.frame.assign_size(10);
  const std::uint64_t before = table.new_sequence(first);
  const std::uint64_t other = table.new_sequence(second);
  CHECK(before < other);
  CHECK(table.next_sequence() > other);
  CHECK(table.find(before) == &first);
  CHECK(table.find(other) == &second);
  const std::uint64_t again = table.new_sequence(first);
  CHECK(again > other);
  CHECK(table.find(before) == nullptr);
  CHECK(table.find(again) == &first);
  table.free(first);
  CHECK(table.find(again) == nullptr);
  CHECK(table.find(0) == nullptr);
  CHECK(table.find(~0ull) == nullptr);
}

TEST_CASE("a freed delivery's place is used again, its large frame given back",
          "[unit][delivery_table]") {
  DeliveryTable table;
  Delivery& delivery = table.allocate();
  delivery.frame.assign_size(1 << 20);
  CHECK(table.in_use() == 1);
  table.free(delivery);
  CHECK(table.in_use() == 0);
  CHECK(delivery.frame.capacity() == 0);
  CHECK(&table.allocate() == &delivery);
}

}  // namespace lope::consumer
