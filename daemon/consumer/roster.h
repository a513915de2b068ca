// Which workers a group starts and which leave, so that there are as many as wanted, all of them of
// the present kind, and never too few at work meanwhile. Pure.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace lope::consumer {

struct RosterEntry {
  bool present = false;  // a worker process is there
  bool ready = false;
  bool leaving = false;   // gets nothing more; ends when what it has is done
  bool outdated = false;  // to be replaced
};

struct RosterPlan {
  int start = 0;
  std::vector<std::size_t> leave;  // by their place in what was given
};

// While workers are replaced there are up to a quarter more than wanted, at least one: a new one
// first, and when that is ready an old one leaves.
RosterPlan plan_roster(std::span<const RosterEntry> entries, int wanted);

// The most that plan_roster() ever has, those that leave not counted.
constexpr int roster_limit(int wanted) { return wanted + (wanted + 3) / 4; }

}  // namespace lope::consumer
