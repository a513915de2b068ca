#include "consumer/streams.h"

#include <catch2/catch.hpp>
#include <vector>

namespace lope::consumer {

TEST_CASE("a stream is short when it has stayed so, not when it seemed so twice",
          "[unit][streams]") {
  struct Row {
    std::vector<int> seen_at;  // seconds
    bool stays;                // at the last of them
  };
  const std::vector<Row> rows = {
      {{0}, false},
      {{0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20}, true},
      {{0, 2, 4, 6, 8, 10, 12, 14, 16, 18}, false},
      {{0, 10, 20}, true},
      {{0, 20}, false},
      {{0, 3600}, false},
      {{0, 2, 3600, 3610, 3618}, false},
      {{0, 2, 3600, 3610, 3620}, true},
  };
  for (const Row& row : rows) {
    Shortness shortness;
    bool stays = false;
    for (const int second : row.seen_at) {
      CHECK_FALSE(stays);
      stays = shortness.stays(TimePoint(std::chrono::hours(100) + std::chrono::seconds(second)));
    }
    CHECK(stays == row.stays);
  }
}

}  // namespace lope::consumer
