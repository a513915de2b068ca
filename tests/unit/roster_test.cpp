#include "consumer/roster.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>
#include <string>
#include <vector>

namespace lope::consumer {

namespace {

// One letter a place: '-' nobody, 's' starting, 'r' ready, 'l' leaving; capitals: outdated.
std::vector<RosterEntry> entries_of(const std::string& text) {
  std::vector<RosterEntry> entries;
  for (const char c : text) {
    RosterEntry entry;
    entry.present = c != '-';
    entry.outdated = c == 'S' || c == 'R';
    entry.ready = c == 'r' || c == 'R';
    entry.leaving = c == 'l';
    entries.push_back(entry);
  }
  return entries;
}

}  // namespace

TEST_CASE("roster: who starts and who leaves", "[unit][roster]") {
  struct Row {
    const char* what;
    const char* entries;
    int wanted;
    int start;
    std::vector<std::size_t> leave;
  };
  const auto row = GENERATE(values<Row>({
      {"at the start all begin", "----", 4, 4, {}},
      {"who is starting counts", "ss-r", 4, 1, {}},
      {"all there", "rrrr", 4, 0, {}},
      {"who leaves does not count", "rrlr", 4, 1, {}},
      {"one more is wanted", "rr-", 3, 1, {}},
      {"fewer are wanted: the last leave", "rrrr", 2, 0, {3, 2}},
      {"fewer are wanted: before all, those that are not ready", "srrr", 3, 0, {0}},
      {"nobody is wanted", "rs", 0, 0, {1, 0}},
      {"replacing begins with a new one", "RRRR", 4, 1, {}},
      {"with a quarter at a time", "RRRRRRRR", 8, 2, {}},
      {"of one there are two meanwhile", "R", 1, 1, {}},
      {"an old one stays until the new one is ready", "Rs", 1, 0, {}},
      {"and leaves then", "Rr", 1, 0, {0}},
      {"the next begins when one leaves", "lRRRr", 4, 1, {}},
      {"an old one that is not ready leaves at once, and one begins", "SRRR", 4, 2, {0}},
      {"all are old and none is ready", "SS", 2, 2, {0, 1}},
      {"fewer and newer: old ones leave first", "RRr", 1, 0, {1, 0}},
      {"fewer and newer, nothing new is ready: enough old ones stay", "RRRR", 2, 0, {3, 2}},
      {"more and newer", "RR", 4, 3, {}},
      {"the last old one", "rrrRr", 4, 0, {3}},
  }));
  INFO(row.what << ": " << row.entries << " of " << row.wanted);
  const RosterPlan plan = plan_roster(entries_of(row.entries), row.wanted);
  CHECK(plan.start == row.start);
  CHECK(plan.leave == row.leave);
}

// Whatever happens in whatever order, replacing comes to its end and never leaves fewer at work
// than wanted, or than there were.
TEST_CASE("roster: replacing never leaves too few at work, and ends", "[unit][roster]") {
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    const int wanted = 1 + static_cast<int>(random() % 20);
    std::vector<RosterEntry> entries(static_cast<std::size_t>(wanted));
    for (RosterEntry& entry : entries) entry = {true, true, false, true};
    const auto working = [&] {
      return std::count_if(entries.begin(), entries.end(), [](const RosterEntry& entry) {
        return entry.present && entry.ready && !entry.leaving;
      });
    };
    int steps = 0;
    while (std::any_of(entries.begin(), entries.end(), [](const RosterEntry& entry) {
      return entry.present && (entry.outdated || entry.leaving || !entry.ready);
    })) {
      REQUIRE(++steps < 10'000);
      const RosterPlan plan = plan_roster(entries, wanted);
      for (const std::size_t i : plan.leave) entries[i].leaving = true;
      for (int i = 0; i < plan.start; ++i) {
        auto place = std::find_if(entries.begin(), entries.end(),
                                  [](const RosterEntry& entry) { return !entry.present; });
        if (place == entries.end()) place = entries.insert(entries.end(), RosterEntry{});
        *place = {.present = true};
      }
      CHECK(working() >= wanted);
      const auto there = std::count_if(entries.begin(), entries.end(), [](const auto& entry) {
        return entry.present && !entry.leaving;
      });
      CHECK(there <= roster_limit(wanted));
      RosterEntry& some = entries[random() % entries.size()];
      if (some.leaving) some = {};
      if (some.present) some.ready = true;
    }
    CHECK(working() == wanted);
  }
}

}  // namespace lope::consumer
