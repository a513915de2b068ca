#include "consumer/queue_check.h"

#include <catch2/catch.hpp>
#include <string>

namespace lope::consumer {

namespace {

// Of each tick one letter: 'd' after a delivery, '.' after none; 'a': not a tick, but an answer.
// What came of each tick: '-', 'A' for ask, 'L' for lost.
std::string decisions(const std::string& events) {
  QueueCheck check;
  std::uint64_t deliveries = 0;
  std::string result;
  for (const char event : events) {
    if (event == 'a') {
      check.answered();
      continue;
    }
    if (event == 'd') ++deliveries;
    switch (check.tick(deliveries)) {
      case QueueCheck::Next::nothing: result += '-'; break;
      case QueueCheck::Next::ask: result += 'A'; break;
      case QueueCheck::Next::lost: result += 'L'; break;
    }
  }
  return result;
}

}  // namespace

TEST_CASE("a silent queue is asked, and lost when it does not answer", "[unit][queue_check]") {
  struct Row {
    const char* what;
    std::string events, expected;
  };
  const Row rows[] = {
      {"deliveries: nothing is asked", "dddddd", "------"},
      {"silence: asked, then lost", "d.....", "--A--L"},
      {"never a delivery", ".....", "-A--L"},
      {"an answer, then silence again", "..a..a..", "-A-A-A"},
      {"a delivery is as good as an answer for a while", "..d...", "-A---L"},
      {"deliveries while it does not answer", "..d.d.d.d", "-A-------"},
      {"a late answer", "....a..", "-A---A"},
  };
  for (const Row& row : rows) {
    SECTION(row.what) { CHECK(decisions(row.events) == row.expected); }
  }
}

TEST_CASE("a queue that is silent at every address costs the others no more connections",
          "[unit][queue_check]") {
  constexpr std::size_t kAddresses = 2;
  Suspicion suspicion;
  CHECK(suspicion.silent(kAddresses, true));
  CHECK(suspicion.silent(kAddresses, true));
  CHECK_FALSE(suspicion.silent(kAddresses, true));
  CHECK_FALSE(suspicion.silent(kAddresses, true));
  // Nothing is lost by going on where nothing comes.
  CHECK(suspicion.silent(kAddresses, false));
  CHECK_FALSE(suspicion.silent(kAddresses, true));
  suspicion.answered();
  CHECK(suspicion.silent(kAddresses, true));
}

TEST_CASE("what is not answered is tried soon elsewhere, and waited for longer in each round",
          "[unit][queue_check]") {
  struct Row {
    std::size_t unanswered, addresses;
    int quarters;
  };
  const auto row = GENERATE(values<Row>({
      {0, 3, 1},
      {2, 3, 1},
      {3, 3, 2},
      {5, 3, 2},
      {6, 3, 3},
      {1, 1, 2},
      {20, 3, 7},
      {1000, 3, 8},
  }));
  CAPTURE(row.unanswered, row.addresses);
  constexpr std::chrono::milliseconds kQuarter{1250};
  CHECK(set_up_patience(kQuarter, row.unanswered, row.addresses) == row.quarters * kQuarter);
}

TEST_CASE("a connection over which nothing comes is given up at each address",
          "[unit][queue_check]") {
  Suspicion suspicion;
  for (int i = 0; i < 10; ++i) CHECK(suspicion.silent(2, false));
  CHECK(suspicion.silent(2, true));
}

}  // namespace lope::consumer
