#include "supervisor/notify.h"

#include <systemd/sd-daemon.h>

#include "common/text.h"

namespace lope::supervisor {

namespace {

// Best effort throughout: a service manager that does not listen changes nothing for us.
void notify(const std::string& state) { (void)sd_notify(0, state.c_str()); }

// One line, as the protocol wants it.
std::string status_line(const std::string& status) { return "STATUS=" + escape(status, 512); }

}  // namespace

void notify_ready(const std::string& status) { notify("READY=1\n" + status_line(status)); }

void notify_status(const std::string& status) { notify(status_line(status)); }

void notify_stopping(std::chrono::microseconds limit) {
  notify("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=" + std::to_string(limit.count()));
}

}  // namespace lope::supervisor
