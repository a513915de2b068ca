// How long messages may stay here while the broker counts.
#include <catch2/catch.hpp>

#include "common/patience.h"

using namespace lope;
using namespace std::chrono_literals;

TEST_CASE("what the broker's consumer_timeout and a group's timeout leave", "[unit][patience]") {
  struct Row {
    std::chrono::milliseconds all, timeout, waited, worked, published, stays;
  };
  const auto row = GENERATE(values<Row>({
      {30min, 5min, 1470s, 1770s, 1785s, 1413'750ms},
      {30min, 0s, 885s, 1770s, 1785s, 828'750ms},
      // At least an eighth for what waits; and a quarter is margin enough.
      {30min, 29min, 225s, 1770s, 1785s, 168'750ms},
      {16s, 1s, 11s, 12s, 14s, 10'500ms},
  }));
  CAPTURE(row.all.count(), row.timeout.count());
  const Patience limits = patience(row.all, row.timeout);
  CHECK(limits.waited == row.waited);
  CHECK(limits.worked == row.worked);
  CHECK(limits.published == row.published);
  CHECK(limits.stays() == row.stays);
}
