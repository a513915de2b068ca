// `lope try`: its command line.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "cli/bodies.h"
#include "cli/broker_choice.h"
#include "cli/client_commands.h"
#include "cli/handler_choice.h"
#include "cli/message_json.h"
#include "cli/peek.h"
#include "cli/try.h"
#include "common/exit_code.h"
#include "common/text.h"
#include "common/units.h"

namespace lope::cli {

namespace {

constexpr const char* kCommand = "lope try";
constexpr std::int64_t kMostRepeats = 10'000'000;

constexpr const char* kHelp =
    R"(The handler runs in a worker process of its own, as it would in a group; there is no broker and no
network. A message is a JSON file: {"body": "text", "content_type": "text/plain", "headers":
{"key": 1}}, with "body_json" or "body_base64" in place of "body"; what `lope dlq show --json` and
`lope call --json` print is one too. Without MESSAGE, --body and --queue, each line of standard
input is a body. What a handler publishes is shown, and goes nowhere.)";
constexpr const char* kExitCodes = R"(

Exit codes: 0 all acked, 3 one is kept, 4 one is to be retried, 5 one is rejected, 6 one took too
long, 7 one has taken the worker down (the highest counts); 1 failed, 2 command line not understood,
75 no broker could be logged in to, 78 the handler, its options or the configuration are refused.
)";

struct TryCommand {
  std::string handler;
  std::vector<std::string> files, bodies, headers, properties, options;
  std::string content_type, queue, group, timeout, level = "debug";
  BrokerChoice broker;
  std::uint64_t count = 1;
  std::int64_t repeat = 0;
  int attempts = 1, batch = 0;
  bool json = false, gdb = false, valgrind = false;
};

void describe(CLI::App& app, TryCommand& command) {
  app.footer(std::string(kHelp) + kExitCodes);
  app.add_option(
         "HANDLER", command.handler,
         "A file NAME.so, or a name in the folder of handlers; with --group it can be left out")
      ->option_text(" ");
  app.add_option("MESSAGE", command.files, "Messages, one a file; -: standard input, a body a line")
      ->option_text(" ");
  const auto repeatable = [&](const char* name, std::vector<std::string>& values, const char* what,
                              const char* help) {
    app.add_option(name, values, help)->option_text(what)->allow_extra_args(false);
  };
  repeatable("-b,--body", command.bodies, "TEXT", "A message with this body; repeatable");
  app.add_option("--content-type", command.content_type, "Of the bodies of --body and of lines")
      ->option_text("TEXT");
  repeatable("--header", command.headers, "NAME[:TYPE]=VALUE",
             "A header of the same; of type int, bool, double; repeatable");
  repeatable("-p,--property", command.properties, "NAME=VALUE",
             "A property of the same, such as reply_to or message_id; repeatable");
  auto* queue =
      app.add_option("--queue", command.queue, "The first messages of this queue, which stay there")
          ->option_text("NAME");
  app.add_option("-n", command.count, "So many of them (1)")
      ->needs(queue)
      ->option_text("N")
      ->check(CLI::Range(1, 10'000));
  app.add_option("--broker", command.broker.url, "Where the queue is; see lope publish --help")
      ->option_text("URL");
  app.add_option("-c,--config", command.broker.config, "The configuration of --group and --queue")
      ->option_text("FILE");
  app.add_option("-g,--group", command.group, "Take the settings of this group")
      ->option_text("NAME");
  repeatable("-o,--options", command.options, "KEY=VALUE",
             "An option for the handler; VALUE may be [a, list] or {a: map}; repeatable");
  auto* attempts =
      app.add_option(
             "--attempts", command.attempts,
             "Make so many attempts of each message, if the retry policy does; their delays are\n"
             "not waited for (1)")
          ->option_text("N")
          ->check(CLI::Range(1, 1000));
  app.add_option("--batch", command.batch,
                 "So many messages in a call, if the handler takes several")
      ->option_text("N")
      ->check(CLI::Range(1, kMaxBatch));
  app.add_option("--timeout", command.timeout, "Of a call of the handler (the group's, or 5m)")
      ->option_text("DURATION");
  app.add_option("--repeat", command.repeat,
                 "The messages over and over, so many in all; prints the rate")
      ->option_text("N")
      ->excludes(attempts)
      ->check(CLI::Range(std::int64_t{1}, kMostRepeats));
  app.add_option("--log-level", command.level, "What of the handler's lines is shown (debug)")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}));
  app.add_flag("--json", command.json, "Print a JSON object a line");
  auto* gdb =
      app.add_flag("--gdb", command.gdb, "Start it in gdb, which stops once the handler is loaded");
  app.add_flag("--valgrind", command.valgrind, "Run it in valgrind")->excludes(gdb);
}

LogLevel level_of(const std::string& name) {
  if (name == "debug") return LogLevel::debug;
  if (name == "info") return LogLevel::info;
  return name == "warn" ? LogLevel::warn : LogLevel::error;
}

// One that a body is put into.
Result<Received> plain_message(const TryCommand& command) {
  Received message;
  message.persistent = true;
  message.content_type = command.content_type;
  for (const std::string& text : command.headers) {
    auto header = parse_header(text);
    if (!header) return Error{"--header: " + header.error()};
    message.headers.push_back(std::move(*header));
  }
  for (const std::string& text : command.properties) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos) {
      return Error{"--property: expected NAME=VALUE, found '" + escape(text, 80) + "'"};
    }
    auto set = set_property(message, text.substr(0, equals), text.substr(equals + 1));
    if (!set) return Error{"--property: " + set.error()};
  }
  return message;
}

Result<void> add_lines(const Received& plain, std::vector<Received>& messages) {
  for (std::string line; std::getline(std::cin, line);) {
    messages.push_back(plain);
    messages.back().body = line;
  }
  if (std::cin.bad()) return Error{errno_text("standard input", errno)};
  return {};
}

Result<void> add_file(const std::string& path, std::vector<Received>& messages) {
  auto bodies = Bodies::open({.body = {}, .file = path, .lines = false, .count = 1}, kCommand);
  if (!bodies) return Error{bodies.error()};
  auto message = message_from_json(bodies->next().value_or(""));
  if (!message) return Error{"message file '" + escape(path, 4096) + "': " + message.error()};
  messages.push_back(std::move(*message));
  return {};
}

// The messages, or the exit code.
std::variant<std::vector<Received>, int> collect(const TryCommand& command) {
  const auto failed = [](const std::string& text) {
    std::fprintf(stderr, "%s: %s\n", kCommand, text.c_str());
    return kExitFailed;
  };
  auto plain = plain_message(command);
  if (!plain) return usage_error(kCommand, plain.error());
  std::vector<Received> messages;
  for (const std::string& path : command.files) {
    auto added = path == "-" ? add_lines(*plain, messages) : add_file(path, messages);
    if (!added) return failed(added.error());
  }
  for (const std::string& body : command.bodies) {
    messages.push_back(*plain);
    messages.back().body = body;
  }
  if (!command.queue.empty()) {
    const auto broker = find_broker(command.broker, kCommand);
    if (const int* code = std::get_if<int>(&broker)) return *code;
    Peeked peeked =
        peek(kCommand, std::get<ChosenBroker>(broker).broker, command.queue, command.count);
    if (peeked.exit_code != kExitOk) return peeked.exit_code;
    if (peeked.messages.empty()) {
      return failed("no message is ready in queue '" + escape(command.queue, 255) + "'");
    }
    for (Received& message : peeked.messages) messages.push_back(std::move(message));
  } else if (command.files.empty() && command.bodies.empty()) {
    if (::isatty(STDIN_FILENO) != 0) {
      std::fprintf(stderr, "%s: each line is a message, until Ctrl-D\n", kCommand);
    }
    if (auto added = add_lines(*plain, messages); !added) return failed(added.error());
  }
  if (messages.empty()) return failed("expected a message, found none");
  return messages;
}

int try_command(const CLI::App& app, TryCommand& command) {
  // With a group, the first word may be a message.
  if (!command.group.empty() && !command.handler.empty() && !command.handler.ends_with(".so")) {
    command.files.insert(command.files.begin(), std::exchange(command.handler, ""));
  }
  if (command.handler.empty() && command.group.empty()) {
    return usage_error(kCommand, "expected a handler, or --config and --group, found neither");
  }
  if (!command.group.empty() && command.broker.config.empty()) {
    return usage_error(kCommand, "--group: expected --config with it");
  }
  if (!command.broker.config.empty() && command.group.empty() && command.queue.empty()) {
    return usage_error(kCommand, "--config: expected --group or --queue with it");
  }
  const bool reads_input = command.queue.empty() && command.files.empty() && command.bodies.empty();
  if (command.gdb &&
      (reads_input || std::ranges::find(command.files, "-") != command.files.end())) {
    return usage_error(kCommand,
                       "--gdb: expected messages from elsewhere than standard input, "
                       "which is the debugger's");
  }
  auto settings = trial_settings({command.handler, command.broker.config, command.group});
  if (!settings) {
    std::fprintf(stderr, "%s: %s\n", kCommand, settings.error().c_str());
    return kExitRefused;
  }
  TryOptions options;
  options.settings = std::move(*settings);
  GroupSettings& group = options.settings.group;
  auto map = option_map(command.options);
  if (!map) return usage_error(kCommand, "--options: " + map.error());
  if (auto added = add_options(group, *map, "--options"); !added) {
    return usage_error(kCommand, added.error());
  }
  if (app.count("--timeout") > 0) {
    const auto timeout = parse_duration(command.timeout);
    if (!timeout) return usage_error(kCommand, "--timeout: " + timeout.error());
    group.timeout = *timeout;
  }
  if (command.batch > 0) group.batch_size = command.batch;
  options.settings.attempts = command.attempts;
  options.settings.log_level = level_of(command.level);
  if (command.gdb) {
    const std::string file = group.handler + ".so";
    options.settings.under = {
        "gdb", "-q",  "-ex",   "set breakpoint pending on", "-ex", "catch load " + file,
        "-ex", "run", "--args"};
  } else if (command.valgrind) {
    options.settings.under = {"valgrind", "--error-exitcode=1"};
  }
  options.repeat = static_cast<std::uint64_t>(command.repeat);
  options.json = command.json;

  auto messages = collect(command);
  if (const int* code = std::get_if<int>(&messages)) return *code;
  options.messages = std::move(std::get<std::vector<Received>>(messages));
  return try_handler(std::move(options));
}

}  // namespace

RunCommand add_try(CLI::App& app) {
  auto command = std::make_shared<TryCommand>();
  describe(app, *command);
  return [&app, command] { return try_command(app, *command); };
}

}  // namespace lope::cli
