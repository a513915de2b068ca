// The requests that bring one queue's channel from nothing to consuming. Pure.
#pragma once

#include <vector>

#include "common/settings.h"
#include "consumer/connection.h"

namespace lope::consumer {

// In order; each is sent when the one before it was answered. `channel_open`: the channel is open
// already (the broker cancelled only the consumer).
std::vector<Request> subscription_steps(const QueueSettings& queue, bool channel_open);

}  // namespace lope::consumer
