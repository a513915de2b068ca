#include "consumer/dispatcher.h"

#include <catch2/catch.hpp>
#include <vector>

#include "common/scoreboard.h"

namespace lope::consumer {

TEST_CASE("a worker gets as much ahead as it finishes unnoticed", "[unit][dispatcher]") {
  struct Row {
    const char* what;
    int threads;
    double mean_ns;
    std::size_t expected;
  };
  const Row rows[] = {
      {"nothing ahead while nothing is known", 3, -1, 3},
      {"nothing ahead at 1 ms", 1, 1e6, 1},
      {"nothing ahead at 10 ms", 5, 1e7, 5},
      {"some at 100 us", 1, 1e5, 6},
      {"many at 1 us", 1, 1e3, 501},
      {"bounded at nothing at all", 2, 0, 2 + 2 * 512},
  };
  for (const Row& row : rows) {
    SECTION(row.what) {
      CHECK(capacity({true, row.threads, 0, 0, 0, row.mean_ns}) == row.expected);
    }
  }
}

TEST_CASE("the least loaded ready worker with room takes the next delivery", "[unit][dispatcher]") {
  struct Row {
    const char* what;
    std::vector<WorkerLoad> workers;
    int expected;
  };
  const Row rows[] = {
      {"nobody there", {}, -1},
      {"nobody ready", {{false, 1, 0, 0, 0, -1}, {false, 1, 0, 0, 0, -1}}, -1},
      {"all busy with slow messages", {{true, 1, 1, 0, 1, 1e7}, {true, 1, 1, 0, 1, 1e7}}, -1},
      {"the idle one", {{true, 1, 1, 0, 1, 1e7}, {true, 1, 0, 0, 0, 1e7}}, 1},
      {"the first of equals", {{true, 1, 0, 0, 0, -1}, {true, 1, 0, 0, 0, -1}}, 0},
      {"loads are relative to the threads", {{true, 1, 1, 0, 1, 1e3}, {true, 4, 2, 0, 2, 1e3}}, 1},
      {"an idle worker before a queue at a fast one",
       {{true, 1, 1, 0, 1, 1e3}, {true, 1, 0, 0, 0, 1e9}},
       1},
      {"one that is flushing after one that is not",
       {{true, 1, 0, 1, 0, 1e7}, {true, 1, 0, 0, 0, 1e7}},
       1},
      {"one that is flushing rather than none", {{true, 1, 0, 1, 0, 1e7}}, 0},
      {"never more than its ring can report", {{true, 1, 0, 0, kMaxOwed, 1e3}}, -1},
  };
  for (const Row& row : rows) {
    SECTION(row.what) { CHECK(choose_worker(row.workers) == row.expected); }
  }
}

TEST_CASE("the mean follows what messages take now", "[unit][dispatcher]") {
  double mean = updated_mean(-1, 1000);
  CHECK(mean == 1000);
  for (int i = 0; i < 40; ++i) mean = updated_mean(mean, 10'000'000);
  CHECK(mean > 9e6);
  CHECK(mean <= 1e7);
}

}  // namespace lope::consumer
