// `lope publish`: its command line.
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "cli/broker_choice.h"
#include "cli/client_commands.h"
#include "cli/publish.h"
#include "common/content_encoding.h"
#include "common/units.h"
#include "common/wall_time.h"

namespace lope::cli {

namespace {

constexpr const char* kCommand = "lope publish";

constexpr const char* kHelp =
    R"(Every message is confirmed by the broker, and persistent unless told otherwise. With --delay or
--at it waits in queues of the broker, until a running daemon with the same --delay-prefix
delivers it. )";
constexpr const char* kExitCodes = R"(

Exit codes: 0 every message confirmed, 1 not so, 2 command line not understood, 75 no broker
could be logged in to, 78 configuration refused.
)";

struct PublishCommand {
  PublishOptions options;
  BrokerChoice broker;
  MessageChoice message;
  std::string delay, at;
  std::int64_t count = 1;
  std::int64_t timestamp = 0;
  bool transient = false, no_mandatory = false;
  double timeout_seconds = 30;
};

void describe(CLI::App& app, PublishCommand& command) {
  PublishOptions& options = command.options;
  app.footer(std::string(kHelp) + kBrokerHelp + kExitCodes);

  const char* const group = "The message's properties";
  add_message_options(app, command.message)->group(group);
  app.add_flag("--lines", options.lines, "Each line of the input is a message");
  app.add_flag("--numbered", options.numbered, "{n} in a message is its number, from 1");

  auto* delay =
      app.add_option("--delay", command.delay, "Deliver it so much later: 500ms, 90s, 5m, 1h, 30d")
          ->option_text("DURATION");
  app.add_option("--at", command.at, "Deliver it then: 2027-02-03T00:00:00+08:00")
      ->excludes(delay)
      ->option_text("TIME");
  app.add_option("--delay-prefix", options.delay_prefix,
                 "The daemons' delays.prefix; without it that of --config, or lope.delay")
      ->option_text("NAME");

  add_broker_options(app, command.broker);

  app.add_option("--count", command.count, "Send the message so many times")->option_text("N");
  app.add_option("--rate", options.rate, "At most so many messages a second")->option_text("N");
  app.add_option("--timeout", command.timeout_seconds,
                 "Give up after so long without a confirm (30); 0: never")
      ->option_text("SECONDS");
  app.add_flag("--json", options.json, "Print the result as JSON");

  const auto text = [&](const char* name, std::string& value, const char* help) {
    app.add_option(name, value, help)->option_text("TEXT")->group(group);
  };
  text("--content-type", options.content_type, "Such as application/json");
  auto* encoding = app.add_option("--content-encoding", options.content_encoding, "Such as gzip")
                       ->option_text("TEXT")
                       ->group(group);
  app.add_option("--compress", options.compress,
                 "Compress each body that gets smaller, and say so: gzip, bzip2, xz, zstd")
      ->check(CLI::IsMember(
          std::vector<std::string>(std::begin(kCompressions), std::end(kCompressions))))
      ->excludes(encoding)
      ->option_text("ENCODING")
      ->group(group);
  text("--correlation-id", options.correlation_id, "What an answer carries to be recognised");
  text("--reply-to", options.reply_to, "The queue for an answer");
  text("--message-id", options.message_id, "Without it a UUID; several messages get -1, -2, …");
  text("--type", options.type, "What kind of message it is");
  text("--app-id", options.app_id, "What program it is from");
  text("--user-id", options.user_id, "The user of the connection; another is refused");
  app.add_option("--expiration", options.expiration,
                 "Milliseconds from delivery after which a queue drops it")
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
}

int publish_command(const CLI::App& app, PublishCommand& command) {
  PublishOptions& options = command.options;
  if (auto taken = take_message(app, command.message, options); !taken) {
    return usage_error(kCommand, taken.error());
  }
  if (command.count < 1) {
    return usage_error(kCommand,
                       "--count: expected a number from 1, found " + std::to_string(command.count));
  }
  options.count = static_cast<std::uint64_t>(command.count);
  if (app.count("--rate") > 0 && !(options.rate > 0)) {
    return usage_error(kCommand, "--rate: expected a number above 0");
  }
  if (!(command.timeout_seconds >= 0 && command.timeout_seconds <= 1e6)) {
    return usage_error(kCommand, "--timeout: expected a number of seconds from 0 to 1000000");
  }
  if (options.lines && options.body)
    return usage_error(kCommand, "--lines: expected a file or standard input, found BODY");
  if (options.lines && app.count("--count") > 0)
    return usage_error(kCommand, "--lines and --count: expected one of them");

  if (command.timestamp < 0)
    return usage_error(kCommand, "--timestamp: expected seconds since 1970");
  if (app.count("--timestamp") > 0) {
    options.timestamp = static_cast<std::uint64_t>(command.timestamp);
  }
  options.persistent = !command.transient;
  options.mandatory = !command.no_mandatory;
  options.timeout =
      std::chrono::milliseconds(static_cast<std::int64_t>(command.timeout_seconds * 1000));
  if (app.count("--delay") > 0) {
    const auto delay = parse_duration(command.delay);
    if (!delay) return usage_error(kCommand, "--delay: " + delay.error());
    options.delay = *delay;
  }
  if (app.count("--at") > 0) {
    const auto time = parse_time(command.at);
    if (!time) return usage_error(kCommand, "--at: " + time.error());
    options.at_ms = *time;
  }
  if (auto checked = check(options); !checked) return usage_error(kCommand, checked.error());

  const bool later = options.delay.count() > 0 || options.at_ms.has_value();
  auto found = find_broker(command.broker, kCommand, later);
  if (const int* code = std::get_if<int>(&found)) return *code;
  auto& chosen = std::get<ChosenBroker>(found);
  options.broker = std::move(chosen.broker);
  if (app.count("--delay-prefix") == 0) options.delay_prefix = chosen.delays.prefix;
  return publish(options);
}

}  // namespace

CLI::Option* add_message_options(CLI::App& app, MessageChoice& choice) {
  auto* body =
      app.add_option("BODY", choice.body, "The message; without it or with -: standard input")
          ->option_text(" ");
  app.add_option("--file", choice.file, "The message, from this file")
      ->excludes(body)
      ->option_text("FILE");
  auto* queue = app.add_option("--queue", choice.queue, "Send to this queue")->option_text("NAME");
  auto* exchange = app.add_option("--exchange", choice.exchange, "Send to this exchange")
                       ->excludes(queue)
                       ->option_text("NAME");
  app.add_option("--key", choice.key, "The routing key for the exchange")
      ->needs(exchange)
      ->option_text("KEY");
  return app
      .add_option("--header", choice.headers,
                  "A header, text or of type int, bool, double; repeatable")
      ->allow_extra_args(false)
      ->option_text("NAME[:TYPE]=VALUE");
}

Result<void> take_message(const CLI::App& app, const MessageChoice& choice,
                          PublishOptions& options) {
  if (app.count("--queue") == 0 && app.count("--exchange") == 0) {
    return Error{"expected --queue, or --exchange and --key, found neither"};
  }
  if (app.count("--queue") > 0 && choice.queue.empty()) {
    return Error{"--queue: expected a queue's name, found nothing"};
  }
  options.exchange = choice.exchange;
  options.routing_key = app.count("--queue") > 0 ? choice.queue : choice.key;
  if (app.count("BODY") > 0 && choice.body != "-") options.body = choice.body;
  if (!choice.file.empty()) options.file = choice.file;
  for (const std::string& text : choice.headers) {
    auto header = parse_header(text);
    if (!header) return Error{"--header: " + header.error()};
    options.headers.push_back(std::move(*header));
  }
  return {};
}

RunCommand add_publish(CLI::App& app) {
  auto command = std::make_shared<PublishCommand>();
  describe(app, *command);
  return [&app, command] { return publish_command(app, *command); };
}

}  // namespace lope::cli
