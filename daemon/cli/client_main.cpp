// lope-client: the commands that talk to the broker. `lope` runs it with the command line it was
// given itself, so that the supervisor's program has no AMQP in it. Here is the command line alone.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "cli/publish.h"
#include "common/broker_url.h"
#include "common/exit_code.h"
#include "supervisor/settings_loader.h"

namespace lope::cli {

namespace {

constexpr const char* kDefaultBroker = "amqp://localhost";

// Of versions to come: "not yet" is another answer than "unknown".
constexpr const char* kLaterOptions[] = {"--delay", "--at"};

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

struct PublishCommand {
  PublishOptions options;
  std::string body, file, queue, exchange, key, broker, config;
  std::vector<std::string> headers;
  std::int64_t count = 1;
  std::int64_t timestamp = 0;
  bool transient = false, no_mandatory = false;
  double timeout_seconds = 30;
};

int usage_error(const std::string& text) {
  std::fprintf(stderr, "lope publish: %s\nlope publish --help explains it\n", text.c_str());
  return kExitUsage;
}

void describe(CLI::App& app, PublishCommand& command) {
  PublishOptions& options = command.options;
  app.set_version_flag("--version", "lope " LOPE_VERSION);
  app.footer(
      "Every message is confirmed by the broker, and persistent unless told otherwise. The broker "
      "is\n"
      "that of --broker, or else of --config, or else of the environment's LOPE_BROKER, or else\n"
      "amqp://localhost.\n\n"
      "Exit codes: 0 every message confirmed, 1 not so, 2 command line not understood, 75 no "
      "broker\n"
      "could be logged in to, 78 configuration refused.");

  auto* body =
      app.add_option("BODY", command.body, "The message; without it or with -: standard input")
          ->option_text(" ");
  app.add_option("--file", command.file, "The message, or its lines, from this file")
      ->excludes(body)
      ->option_text("FILE");
  app.add_flag("--lines", options.lines, "Each line of the input is a message");
  app.add_flag("--numbered", options.numbered, "{n} in a message is its number, from 1");

  auto* queue = app.add_option("--queue", command.queue, "Send to this queue")->option_text("NAME");
  auto* exchange = app.add_option("--exchange", command.exchange, "Send to this exchange")
                       ->excludes(queue)
                       ->option_text("NAME");
  app.add_option("--key", command.key, "The routing key for the exchange")
      ->needs(exchange)
      ->option_text("KEY");

  app.add_option("--broker", command.broker, "amqp://user:password@host:port/vhost")
      ->option_text("URL");
  app.add_option("-c,--config", command.config, "Use the broker of this configuration")
      ->option_text("FILE");

  app.add_option("--count", command.count, "Send the message so many times")->option_text("N");
  app.add_option("--rate", options.rate, "At most so many messages a second")->option_text("N");
  app.add_option("--timeout", command.timeout_seconds,
                 "Give up after so long without a confirm (30); 0: never")
      ->option_text("SECONDS");
  app.add_flag("--json", options.json, "Print the result as JSON");

  const char* const group = "The message's properties";
  app.add_option("--header", command.headers,
                 "A header, text or of type int, bool, double; repeatable")
      ->allow_extra_args(false)
      ->option_text("NAME[:TYPE]=VALUE")
      ->group(group);
  const auto text = [&](const char* name, std::string& value, const char* help) {
    app.add_option(name, value, help)->option_text("TEXT")->group(group);
  };
  text("--content-type", options.content_type, "Such as application/json");
  text("--content-encoding", options.content_encoding, "Such as gzip");
  text("--correlation-id", options.correlation_id, "What an answer carries to be recognised");
  text("--reply-to", options.reply_to, "The queue for an answer");
  text("--message-id", options.message_id, "Without it a UUID; several messages get -1, -2, …");
  text("--type", options.type, "What kind of message it is");
  text("--app-id", options.app_id, "What program it is from");
  text("--user-id", options.user_id, "The user of the connection; another is refused");
  app.add_option("--expiration", options.expiration, "Milliseconds after which a queue drops it")
      ->option_text("MS")
      ->group(group);
  app.add_option("--priority", options.priority, "0 to 255")
      ->check(CLI::Range(0, 255))
      ->option_text("N")
      ->group(group);
  app.add_option("--timestamp", command.timestamp, "Seconds since 1970 (now); 0: none")
      ->option_text("SECONDS")
      ->group(group);
  app.add_flag("--transient", command.transient, "Not persistent: a restart of the broker loses it")
      ->group(group);
  app.add_flag("--no-mandatory", command.no_mandatory,
               "Dropped, and no failure, when no queue takes it")
      ->group(group);

  // In no group: not shown.
  for (const char* option : kLaterOptions) app.add_option(option)->group("");
}

// Where to publish to, or the exit code.
std::variant<std::vector<BrokerAddress>, int> find_brokers(const PublishCommand& command) {
  if (command.broker.empty() && !command.config.empty()) {
    const supervisor::LoadedSettings loaded = supervisor::load_settings(command.config);
    for (const auto& problem : loaded.errors) {
      std::fprintf(stderr, "%s\n", problem.to_string().c_str());
    }
    if (!loaded.errors.empty()) return kExitRefused;
    return loaded.settings.broker.addresses;
  }
  const char* environment = std::getenv("LOPE_BROKER");
  std::string source = "--broker";
  std::string url = command.broker;
  if (url.empty()) {
    source = "LOPE_BROKER";
    url = environment != nullptr && *environment != '\0' ? environment : kDefaultBroker;
  }
  const auto parsed = parse_broker_url(url);
  if (!parsed) return usage_error(source + ": " + parsed.error());
  return std::vector<BrokerAddress>{parsed->address};
}

int publish_command(const CLI::App& app, PublishCommand& command) {
  PublishOptions& options = command.options;
  for (const char* option : kLaterOptions) {
    if (app.count(option) > 0)
      return usage_error(std::string(option) + ": not available in this version");
  }

  if (app.count("--queue") == 0 && app.count("--exchange") == 0) {
    return usage_error("expected --queue, or --exchange and --key, found neither");
  }
  if (app.count("--queue") > 0 && command.queue.empty()) {
    return usage_error("--queue: expected a queue's name, found nothing");
  }
  if (command.count < 1) {
    return usage_error("--count: expected a number from 1, found " + std::to_string(command.count));
  }
  options.count = static_cast<std::uint64_t>(command.count);
  if (app.count("--rate") > 0 && !(options.rate > 0)) {
    return usage_error("--rate: expected a number above 0");
  }
  if (!(command.timeout_seconds >= 0 && command.timeout_seconds <= 1e6)) {
    return usage_error("--timeout: expected a number of seconds from 0 to 1000000");
  }
  options.exchange = command.exchange;
  options.routing_key = app.count("--queue") > 0 ? command.queue : command.key;

  if (app.count("BODY") > 0 && command.body != "-") options.body = command.body;
  if (!command.file.empty()) options.file = command.file;
  if (options.lines && options.body)
    return usage_error("--lines: expected a file or standard input, found BODY");
  if (options.lines && app.count("--count") > 0)
    return usage_error("--lines and --count: expected one of them");

  for (const std::string& text : command.headers) {
    auto header = parse_header(text);
    if (!header) return usage_error("--header: " + header.error());
    options.headers.push_back(std::move(*header));
  }
  if (command.timestamp < 0) return usage_error("--timestamp: expected seconds since 1970");
  if (app.count("--timestamp") > 0) {
    options.timestamp = static_cast<std::uint64_t>(command.timestamp);
  }
  options.persistent = !command.transient;
  options.mandatory = !command.no_mandatory;
  options.timeout =
      std::chrono::milliseconds(static_cast<std::int64_t>(command.timeout_seconds * 1000));
  if (auto checked = check(options); !checked) return usage_error(checked.error());

  auto brokers = find_brokers(command);
  if (const int* code = std::get_if<int>(&brokers)) return *code;
  options.brokers = std::move(std::get<std::vector<BrokerAddress>>(brokers));
  return publish(options);
}

int run(int argc, char** argv) {
  CLI::App app{"Lope runs RabbitMQ consumers", "lope"};
  app.set_version_flag("--version", "lope " LOPE_VERSION);
  app.require_subcommand(1);
  PublishCommand command;
  CLI::App* publish =
      app.add_subcommand("publish", "Send messages, and wait until the broker has them");
  describe(*publish, command);

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
    return usage_error(text);
  }
  hide_passwords(argc, argv);
  return publish_command(*publish, command);
}

}  // namespace

}  // namespace lope::cli

int main(int argc, char** argv) { return lope::cli::run(argc, argv); }
