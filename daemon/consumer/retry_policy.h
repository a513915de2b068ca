// When a message whose handler asked for a retry goes back to its queue. Pure.
#pragma once

#include <chrono>

namespace lope::consumer {

// The message is kept this long, and its place in the window with it, so that a failing handler
// cannot make a hot loop. `failures`: retries in a row in this group, with no success between.
std::chrono::milliseconds requeue_delay(int failures);

}  // namespace lope::consumer
