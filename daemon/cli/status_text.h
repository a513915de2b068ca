// A daemon's status as people read it. Pure.
#pragma once

#include <string>

#include "common/status.h"

namespace lope::cli {

// A line about the daemon, a table with a line for each group, and a line for each that has
// something to tell. `colour`: with the escape sequences of a terminal.
std::string status_text(const DaemonStatus& status, bool colour);

// One line of a trace, for people; lines that are none come back as they are.
std::string trace_text(const std::string& line);

}  // namespace lope::cli
