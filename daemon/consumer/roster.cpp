#include "consumer/roster.h"

#include <algorithm>

namespace lope::consumer {

RosterPlan plan_roster(std::span<const RosterEntry> entries, int wanted) {
  RosterPlan plan;
  int fit = 0;
  int old = 0;
  int ready = 0;  // of both
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const RosterEntry& entry = entries[i];
    if (!entry.present || entry.leaving) continue;
    if (entry.outdated && !entry.ready) {  // it will never be of use
      plan.leave.push_back(i);
      continue;
    }
    ++(entry.outdated ? old : fit);
    if (entry.ready) ++ready;
  }
  const int most = old > 0 ? roster_limit(wanted) : wanted;
  plan.start = std::max(0, std::min(most - fit - old, wanted - fit));

  // The old leave as the new get ready; then whoever is one too many, the last first, and before
  // all those that are not ready.
  const auto let_go = [&](int count, bool outdated, bool is_ready) {
    for (std::size_t i = entries.size(); i-- > 0 && count > 0;) {
      const RosterEntry& entry = entries[i];
      if (!entry.present || entry.leaving || entry.outdated != outdated ||
          entry.ready != is_ready) {
        continue;
      }
      plan.leave.push_back(i);
      --count;
    }
    return count;
  };
  let_go(std::min(old, ready - wanted), true, true);
  let_go(let_go(fit - wanted, false, false), false, true);
  return plan;
}

}  // namespace lope::consumer
