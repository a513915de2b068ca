// The commands of lope-client. Each describes itself to the command line's parser in a file of its
// own, <name>_command.cpp; what it does is in <name>.cpp.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "cli/publish.h"
#include "common/result.h"

namespace lope::cli {

// Does the command that was parsed, and returns the exit code.
using RunCommand = std::function<int()>;

RunCommand add_call(CLI::App& app);
RunCommand add_check(CLI::App& app);
RunCommand add_dlq(CLI::App& app);
RunCommand add_publish(CLI::App& app);
RunCommand add_test(CLI::App& app);
RunCommand add_trace(CLI::App& app);
RunCommand add_try(CLI::App& app);

// What `lope publish` and `lope call` take alike: a body, where it goes, its headers.
struct MessageChoice {
  std::string body, file, queue, exchange, key;
  std::vector<std::string> headers;
};
// Returns --header.
CLI::Option* add_message_options(CLI::App& app, MessageChoice& choice);
// Puts the choice into `options`. On failure the text is for usage_error().
Result<void> take_message(const CLI::App& app, const MessageChoice& choice,
                          PublishOptions& options);

// "lope publish: TEXT" and where to read on; the exit code for it.
int usage_error(const std::string& command, const std::string& text);

}  // namespace lope::cli
