// lope: the command line. The commands that talk to a broker are in lope-client, which this program
// becomes for them, so that the supervisor has no AMQP in it.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "cli/commands.h"
#include "cli/programs.h"
#include "common/exit_code.h"
#include "common/spawn.h"
#include "common/text.h"
#include "supervisor/load_child.h"

namespace {

using lope::ControlRequest;
using lope::errno_text;
using lope::escape;
using lope::kExitFailed;
using lope::kExitOk;
using lope::kExitUsage;
using lope::nearest;
namespace cli = lope::cli;

struct ClientCommand {
  std::string_view name;
  const char* help;
};
constexpr ClientCommand kClientCommands[] = {
    {"publish", "Publish a message, confirmed by the broker"},
    {"call", "Send a request, and print its reply"},
    {"dlq", "Look into a queue of dead letters, send them back, delete them"},
    {"trace", "Show what became of a message, and of all that came of it"},
    {"try", "Run a handler on some messages, without a broker"},
    {"test", "Run the test cases of a handler, without a broker"},
};

constexpr std::string_view kLocalCommands[] = {"run",   "check",  "inspect",   "new",   "status",
                                               "top",   "stop",   "reload",    "scale", "restart",
                                               "pause", "resume", "log-level", "watch"};

int become_client(char** argv) {
  const auto path = cli::program_path("lope-client");
  if (!path) {
    std::fprintf(stderr, "lope: %s\n", path.error().c_str());
    return kExitFailed;
  }
  std::string name = "lope-client";
  argv[0] = name.data();
  ::execv(path->c_str(), argv);
  std::fprintf(stderr, "lope: %s\n", errno_text("execv " + *path, errno).c_str());
  return kExitFailed;
}

int run_local(int argc, char** argv) {
  CLI::App app("Runs RabbitMQ consumers: handlers from .so files, in groups of worker processes",
               "lope");
  app.set_version_flag("--version", std::string("lope ") + LOPE_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 clean, 1 failed, 2 command line not understood, 75 temporary failure (start\n"
      "again), 78 configuration or handler refused (do not start again).");

  std::string config_path = cli::kDefaultConfigPath;
  std::string plugin_path;
  bool json = false;
  const auto add_config = [&](CLI::App& command) {
    command.add_option("-c,--config", config_path, "The configuration file")->capture_default_str();
  };

  CLI::App& run =
      *app.add_subcommand("run", "Run the groups of a configuration until told to stop");
  add_config(run);

  CLI::App& check = *app.add_subcommand(
      "check", "Check a configuration and the handlers it names; exit code 0 or 78");
  check.footer(
      "With --broker it then asks the broker what would fail there, and changes nothing: exit code "
      "1\n"
      "when something would, 75 when no address of it could be logged in to. With --json that is "
      "a\n"
      "second object, on a line of its own.\n");
  add_config(check);
  check.add_flag("--json", json, "Print one JSON object");
  bool broker = false;
  check.add_flag("--broker", broker, "Ask the broker too: its queues, exchanges and permissions");

  CLI::App& inspect =
      *app.add_subcommand("inspect", "Describe a handler file: name, version, ABI, options");
  inspect.add_option("file", plugin_path, "The handler's .so file")->required();
  inspect.add_flag("--json", json, "Print JSON");

  CLI::App& new_project =
      *app.add_subcommand("new", "Make a project for a handler, to build, test and install");
  cli::NewOptions new_options;
  new_project.add_option("name", new_options.name, "The handler's name")->required();
  new_project.add_option("-l,--lang", new_options.language, "cpp, c, rust, go or python")
      ->required()
      ->check(CLI::IsMember(cli::known_languages()));
  new_project.add_option("-d,--dir", new_options.folder,
                         "The folder to make, instead of one with the handler's name");

  std::string socket;
  const auto add_socket = [&](CLI::App& command) {
    command.add_option("-s,--socket", socket,
                       "The daemon's control socket; by default LOPE_SOCKET, or else\n"
                       "/run/lope/control.sock or XDG_RUNTIME_DIR/lope/control.sock");
  };
  CLI::App& status = *app.add_subcommand("status", "What a running daemon does, group by group");
  status.footer("Exit codes: 0 it has answered, 1 it refused, 75 no daemon answers.");
  add_socket(status);
  status.add_flag("--json", json, "Print one JSON object");
  double watch_s = 1;
  CLI::Option* const watching =
      status.add_option("--watch", watch_s, "Again each second, or each so many, until Ctrl-C")
          ->expected(0, 1)
          ->check(CLI::Range(0.1, 3600.0));

  CLI::App& top = *app.add_subcommand("top", "The same live, on one screen");
  top.footer("Keys sort the groups, pause and resume them; its last line says which.");
  add_socket(top);

  CLI::App& stop =
      *app.add_subcommand("stop", "Stop a running daemon, and wait until it has ended");
  stop.footer("It finishes what runs, within shutdown_timeout, as at SIGTERM.");
  add_socket(stop);
  cli::StopOptions stop_options;
  stop.add_flag("--now", stop_options.now, "At once: what is unfinished goes back to its queue");
  bool no_wait = false;
  stop.add_flag("--no-wait", no_wait, "Do not wait until it has ended");

  CLI::App& reload =
      *app.add_subcommand("reload", "Have a running daemon read its configuration again");
  reload.footer(
      "It is checked first, and its new handlers are tried: when anything is wrong, nothing is\n"
      "changed, and the exit code is 1. Only the groups that differ change. SIGHUP does the same.");
  add_socket(reload);
  bool wait_for_reload = false;
  reload.add_flag("--wait", wait_for_reload, "Until what is new works");
  CLI::App& log_level = *app.add_subcommand("log-level", "Change what a running daemon logs");
  log_level.footer("Until the configuration is loaded again with another level.");
  add_socket(log_level);
  std::string level;
  log_level.add_option("level", level, "debug, info, warn or error")
      ->required()
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}));

  ControlRequest request;
  const auto add_group = [&](CLI::App& command) {
    add_socket(command);
    command.add_option("group", request.group, "The group's name")->required();
  };
  CLI::App& scale = *app.add_subcommand("scale", "Change how many workers a group has");
  scale.footer("Until the daemon ends. What is running is finished first.");
  add_group(scale);
  scale.add_option("workers", request.workers, "1 to 256")->required()->check(CLI::Range(1, 256));
  CLI::App& restart = *app.add_subcommand("restart", "Replace a group's workers without a gap");
  restart.footer("A new one first; when it is ready an old one finishes what it has and leaves.");
  add_group(restart);

  CLI::App& pause = *app.add_subcommand("pause", "Stop taking a group's messages, until resume");
  pause.footer("What runs is finished; the rest stays in its queue, for others or for later.");
  add_group(pause);
  CLI::App& resume = *app.add_subcommand("resume", "Go on with a paused group");
  add_group(resume);

  CLI::App& watch =
      *app.add_subcommand("watch", "Show the way of a group's next messages, and its times");
  watch.footer("Each when it is over. Of their content only the size is shown.");
  add_group(watch);
  int watched = 1;
  watch.add_option("-n", watched, "So many messages")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  watch.add_flag("--json", json, "Print a JSON object a line");

  // Only for the list in the help: their words are read by lope-client.
  for (const ClientCommand& command : kClientCommands) {
    app.add_subcommand(std::string(command.name), command.help);
  }

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  if (run.parsed()) return cli::run_command(config_path);
  if (check.parsed()) {
    const int code = cli::check_command(config_path, json, broker);
    if (!broker || code != kExitOk) return code;
    std::fflush(stdout);
    return become_client(argv);
  }
  if (inspect.parsed()) return cli::inspect_command(plugin_path, json);
  if (new_project.parsed()) return cli::new_command(new_options);
  if (status.parsed()) {
    cli::StatusOptions options{.socket = socket, .json = json, .watch = std::nullopt};
    if (watching->count() > 0) {
      options.watch = std::chrono::milliseconds(std::lround(watch_s * 1000));
    }
    return cli::status_command(options);
  }
  if (top.parsed()) return cli::top_command(socket);
  if (stop.parsed()) {
    stop_options.socket = socket;
    stop_options.wait = !no_wait;
    return cli::stop_command(stop_options);
  }
  if (reload.parsed()) return cli::reload_command(socket, wait_for_reload);
  if (log_level.parsed()) return cli::log_level_command(socket, level);
  if (watch.parsed()) {
    return cli::watch_command(
        {.socket = socket, .group = request.group, .messages = watched, .json = json});
  }
  for (const CLI::App* const command : {&scale, &restart, &pause, &resume}) {
    if (!command->parsed()) continue;
    request.command = command->get_name();
    return cli::group_command(socket, request);
  }
  std::fputs("lope: expected the command first; see lope --help\n", stderr);
  return kExitUsage;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && argv[0] == std::string_view(lope::supervisor::kLoadProgram)) {
    lope::adopt_child_fds();
    return lope::supervisor::run_load_child(argv[1]);
  }
  const std::string_view command = argc > 1 ? argv[1] : "";
  if (std::ranges::find(kClientCommands, command, &ClientCommand::name) !=
      std::end(kClientCommands)) {
    return become_client(argv);
  }
  if (!command.empty() && command.front() != '-' &&
      std::ranges::find(kLocalCommands, command) == std::end(kLocalCommands)) {
    std::vector<std::string_view> known(std::begin(kLocalCommands), std::end(kLocalCommands));
    for (const ClientCommand& other : kClientCommands) known.push_back(other.name);
    const std::string near = nearest(command, known);
    std::fprintf(stderr, "lope: unknown command '%s'%s; see lope --help\n",
                 escape(command, 80).c_str(),
                 near.empty() ? "" : (": did you mean '" + near + "'?").c_str());
    return kExitUsage;
  }
  try {
    return run_local(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lope: %s\n", escape(error.what()).c_str());
    return kExitFailed;
  }
}
