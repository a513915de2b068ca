// What systemd is told. The only place that knows sd-daemon. Does nothing when the daemon does not
// run as a notify service.
#pragma once

#include <chrono>
#include <string>

namespace lope::supervisor {

void notify_ready(const std::string& status);
void notify_status(const std::string& status);
// Stopping, and may take `limit` for it.
void notify_stopping(std::chrono::microseconds limit);

}  // namespace lope::supervisor
