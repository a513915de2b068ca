// A thread beside the one that waits for signals.
#pragma once

#include <functional>

#include "common/result.h"

namespace lope {

// Runs it on a thread that nobody joins: it holds what it needs. No signal comes to that thread,
// nor to those that it starts.
Result<void> start_detached_thread(std::function<void()> run);

}  // namespace lope
