// A daemon's status as people read it. Pure.
#pragma once

#include <string>

#include "common/status.h"

namespace lope::cli {

// A line about the daemon, a table with a line for each group, and a line for each that has
// something to tell. `colour`: with the escape sequences of a terminal.
std::string status_text(const DaemonStatus& status, bool colour);

}  // namespace lope::cli
