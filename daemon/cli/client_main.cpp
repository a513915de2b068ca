// lope-client: the commands that talk to the broker. `lope` runs it with the command line it was
// given itself, so that the supervisor's program has no AMQP in it. Here is what the commands have
// in common: which they are, and that no password of a command line is shown.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/client_commands.h"
#include "common/exit_code.h"

namespace lope::cli {

int usage_error(const std::string& command, const std::string& text) {
  std::fprintf(stderr, "%s: %s\n%s --help explains it\n", command.c_str(), text.c_str(),
               command.c_str());
  return kExitUsage;
}

namespace {

// The password in a URL, or in what was meant to be one; a view of `text`, empty when there is
// none.
std::string_view password_in(std::string_view text) {
  const std::size_t scheme = text.find("://");
  const std::size_t at = text.rfind('@');
  if (scheme == std::string_view::npos || at == std::string_view::npos) return {};
  const std::size_t colon = text.find(':', scheme + 3);
  if (colon == std::string_view::npos || colon > at) return {};
  return text.substr(colon + 1, at - colon - 1);
}

// The command line can be seen by everybody on the machine: no password stays in it.
void hide_passwords(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view password = password_in(argv[i]);
    char* from = argv[i] + (password.empty() ? 0 : password.data() - argv[i]);
    std::fill(from, from + password.size(), '*');
  }
}

int run(int argc, char** argv) {
  CLI::App app{"Lope runs RabbitMQ consumers", "lope"};
  app.set_version_flag("--version", "lope " LOPE_VERSION);
  app.require_subcommand(1);
  const auto add = [&app](const char* name, const char* help, RunCommand (*describe)(CLI::App&)) {
    CLI::App* const command = app.add_subcommand(name, help);
    command->set_version_flag("--version", "lope " LOPE_VERSION);
    return std::pair(command, describe(*command));
  };
  const std::pair<CLI::App*, RunCommand> commands[] = {
      add("call", "Send a request, and print its reply", add_call),
      add("check", "Ask the broker what of a configuration would fail", add_check),
      add("dlq", "Look into a queue of dead letters, send them back, delete them", add_dlq),
      add("publish", "Send messages, and wait until the broker has them", add_publish),
      add("test", "Run the test cases of a handler, without a broker", add_test),
      add("trace", "Show what became of a message, and of all that came of it", add_trace),
      add("try", "Run a handler on some messages, without a broker", add_try),
  };

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {
    return app.exit(request);  // --help, --version
  } catch (const CLI::ParseError& error) {
    // It quotes what it does not understand, and that may be a URL.
    std::string text = error.what();
    if (const std::string_view password = password_in(text); !password.empty()) {
      text.replace(static_cast<std::size_t>(password.data() - text.data()), password.size(), "***");
    }
    std::string command = "lope";
    for (const CLI::App* each = &app; !each->get_subcommands().empty();) {
      each = each->get_subcommands().front();
      command += " " + each->get_name();
    }
    return usage_error(command, text);
  }
  hide_passwords(argc, argv);
  for (const auto& [command, run_it] : commands) {
    if (command->parsed()) return run_it();
  }
  return kExitUsage;
}

}  // namespace

}  // namespace lope::cli

int main(int argc, char** argv) { return lope::cli::run(argc, argv); }
