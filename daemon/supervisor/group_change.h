// What has to be done so that a group runs with other settings. Pure.
#pragma once

#include "common/settings.h"

namespace lope::supervisor {

enum class GroupChange {
  none,
  settings,  // the consumer takes them as it goes on
  workers,   // and replaces its workers
  consumer,  // another consumer
};
const char* to_string(GroupChange change);

// Of what the file says; whether it is paused, and how often it has changed, does not count.
GroupChange change_between(const ConsumerSettings& before, const ConsumerSettings& after);

// Must the old consumer be gone before the new one comes? A queue is exclusive, or serves one
// consumer at a time, or its order is kept.
bool one_at_a_time(const GroupSettings& before, const GroupSettings& after);

}  // namespace lope::supervisor
