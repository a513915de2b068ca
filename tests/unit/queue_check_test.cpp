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

}  // namespace lope::consumer
