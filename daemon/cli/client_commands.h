// The commands of lope-client. Each describes itself to the command line's parser in a file of its
// own, <name>_command.cpp; what it does is in <name>.cpp.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

namespace lope::cli {

// Does the command that was parsed, and returns the exit code.
using RunCommand = std::function<int()>;

RunCommand add_call(CLI::App& app);
RunCommand add_check(CLI::App& app);
RunCommand add_dlq(CLI::App& app);
RunCommand add_publish(CLI::App& app);

// "lope publish: TEXT" and where to read on; the exit code for it.
int usage_error(const std::string& command, const std::string& text);

}  // namespace lope::cli
