// `lope dlq`: its command lines.
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "cli/broker_choice.h"
#include "cli/client_commands.h"
#include "cli/dlq.h"
#include "common/text.h"
#include "common/units.h"

namespace lope::cli {

namespace {

constexpr std::uint64_t kListed = 100;

constexpr const char* kHelp =
    R"(QUEUE is the queue that holds the dead letters; when there is none of that name, QUEUE.dead is
taken. All four look at as many messages as are ready when they start, one after another. While
one runs nobody else sees the messages it has looked at; afterwards those that it did not deal
with are in their places again, marked as redelivered. For a quorum queue with a delivery limit
looking counts as a delivery.
)";
constexpr const char* kReplayHelp =
    R"(Messages go back to the exchange and the routing key that they were published with first, without
what Lope and the broker noted about their failure: the count of attempts begins anew. An exchange
that feeds several queues feeds all of them again; --to-queue does not. Each is taken from QUEUE
when the broker has confirmed its copy. One that no queue takes, that may not be published there,
or that does not say where it came from, stays, and the exit code is 1. Interrupted, it ends in good
order; killed, it loses nothing, but a message may then be in both places.
)";
constexpr const char* kPurgeHelp =
    R"(Asks on a terminal before it deletes; elsewhere --yes is needed.
)";
constexpr const char* kExitCodes = R"(

Exit codes: 0 done, also when nothing matches, 1 not all of it done, 2 command line not
understood, 75 no broker could be logged in to, 78 configuration refused.
)";

struct DlqCommand {
  DlqOptions options;
  BrokerChoice broker;
  std::string older, newer;
  std::int64_t number = 0, limit = 0;
  bool to_queue = false;
};

using Verb = DlqOptions::Verb;

void describe(CLI::App& app, DlqCommand& command) {
  DlqOptions& options = command.options;
  const Verb verb = options.verb;
  app.footer(std::string(verb == Verb::replay  ? kReplayHelp
                         : verb == Verb::purge ? kPurgeHelp
                                               : "") +
             (verb == Verb::replay || verb == Verb::purge ? "\n" : "") + kHelp + "\n" +
             kBrokerHelp + kExitCodes);
  app.add_option("QUEUE", options.queue, "The queue of dead letters")->option_text(" ")->required();
  if (verb == Verb::show) {
    app.add_option("N", command.number, "The number of a message, as list shows it")
        ->option_text(" ");
  }
  if (verb == Verb::replay) {
    auto* named =
        app.add_option("--queue", options.to_queue, "Send them to this queue")->option_text("NAME");
    app.add_flag("--to-queue", command.to_queue, "Send each straight to the queue it died in")
        ->excludes(named)
        ->option_text(" ");
  }
  if (verb == Verb::purge) app.add_flag("--yes", options.yes, "Do not ask");
  if (verb == Verb::show) app.add_flag("--full", options.full, "All of a body, not 4 KiB");
  app.add_flag("--json", options.json,
               verb == Verb::list || verb == Verb::show ? "One object for each message"
                                                        : "Print the result as JSON");
  add_broker_options(app, command.broker);

  const char* const group = "Which messages (all of these together)";
  app.add_option("--reason", options.filter.reason, "This is part of their reason")
      ->option_text("TEXT")
      ->group(group);
  app.add_option("--code", options.filter.code,
                 "rejected, attempts, crashes, expired, too-large, content-type, encoding,\n"
                 "charset, schema; of the broker's own also maxlen and delivery_limit;\n"
                 "undeliverable: a delayed message")
      ->option_text("CODE")
      ->group(group);
  app.add_option("--id", options.filter.id, "Their message id")->option_text("ID")->group(group);
  app.add_option("--older", command.older, "Dead for so long at least")
      ->option_text("DURATION")
      ->group(group);
  app.add_option("--newer", command.newer, "Dead for so long at most")
      ->option_text("DURATION")
      ->group(group);
  app.add_option("--limit", command.limit,
                 verb == Verb::list   ? "The first N of them (100)"
                 : verb == Verb::show ? "The first N of them (1)"
                                      : "The first N of them")
      ->option_text("N")
      ->group(group);
}

int dlq_command(const CLI::App& app, DlqCommand& command) {
  const std::string name = "lope dlq " + app.get_name();
  DlqOptions& options = command.options;
  if (options.queue.empty() || options.queue.size() > 255) {
    return usage_error(name, "QUEUE: expected a queue's name of at most 255 bytes, found " +
                                 std::to_string(options.queue.size()));
  }
  const std::string& code = options.filter.code;
  if (app.count("--code") > 0 &&
      std::ranges::find(kDeadLetterCodes, code) == std::end(kDeadLetterCodes)) {
    const std::string near = nearest(code, kDeadLetterCodes);
    return usage_error(name,
                       "--code: expected rejected, attempts, crashes, expired, too-large, "
                       "content-type, encoding, charset, schema, maxlen, delivery_limit or "
                       "undeliverable, found '" +
                           escape(code, 80) + "'" +
                           (near.empty() ? "" : ": did you mean '" + near + "'?"));
  }
  for (const char* const filter : {"--reason", "--id"}) {
    if (app.count(filter) > 0 && app.get_option(filter)->as<std::string>().empty()) {
      return usage_error(name, std::string(filter) + ": expected a text, found nothing");
    }
  }
  const std::pair<const char*, const std::string&> ages[] = {{"--older", command.older},
                                                             {"--newer", command.newer}};
  for (const auto& [option, text] : ages) {
    if (app.count(option) == 0) continue;
    const auto age = parse_duration(text);
    if (!age) return usage_error(name, std::string(option) + ": " + age.error());
    (std::string_view(option) == "--older" ? options.filter.older : options.filter.newer) = *age;
  }
  if (app.count("--limit") > 0 && command.limit < 1) {
    return usage_error(name,
                       "--limit: expected a number from 1, found " + std::to_string(command.limit));
  }
  options.limit = static_cast<std::uint64_t>(command.limit);
  switch (options.verb) {
    case Verb::list:
      if (app.count("--limit") == 0) options.limit = kListed;
      break;
    case Verb::show:
      if (app.count("--limit") == 0) options.limit = 1;
      if (app.count("N") > 0 && command.number < 1) {
        return usage_error(name,
                           "N: expected a number from 1, found " + std::to_string(command.number));
      }
      options.number = static_cast<std::uint64_t>(command.number);
      if (options.number == 0 && options.filter.empty()) {
        return usage_error(name,
                           "expected the number of a message, --id or another such option, "
                           "found none");
      }
      break;
    case Verb::replay:
      if (app.count("--queue") > 0) {
        if (options.to_queue.empty() || options.to_queue.size() > 255) {
          return usage_error(name, "--queue: expected a queue's name of at most 255 bytes, found " +
                                       std::to_string(options.to_queue.size()));
        }
        options.to = ReplayTo::named;
      }
      if (command.to_queue) options.to = ReplayTo::queue;
      break;
    case Verb::purge:
      if (!options.yes && (::isatty(STDIN_FILENO) != 1 || ::isatty(STDERR_FILENO) != 1)) {
        return usage_error(name, "expected --yes where nobody can be asked, found no terminal");
      }
      break;
  }
  auto found = find_broker(command.broker, name);
  if (const int* exit_code = std::get_if<int>(&found)) return *exit_code;
  options.broker = std::move(std::get<ChosenBroker>(found).broker);
  return dlq(options);
}

}  // namespace

RunCommand add_dlq(CLI::App& app) {
  struct Name {
    Verb verb;
    const char* name;
    const char* help;
  };
  constexpr Name kVerbs[] = {
      {Verb::list, "list", "A line for each message"},
      {Verb::show, "show", "One message with all that it has"},
      {Verb::replay, "replay", "Send messages back to where they came from"},
      {Verb::purge, "purge", "Delete messages"},
  };
  app.require_subcommand(1);
  app.footer(std::string("lope dlq list --help, and so on, explains each.\n"));
  struct Described {
    CLI::App* app;
    std::shared_ptr<DlqCommand> command;
  };
  std::vector<Described> described;
  for (const Name& each : kVerbs) {
    auto command = std::make_shared<DlqCommand>();
    command->options.verb = each.verb;
    CLI::App* const verb = app.add_subcommand(each.name, each.help);
    describe(*verb, *command);
    described.push_back({verb, std::move(command)});
  }
  return [described] {
    const auto given =
        std::ranges::find_if(described, [](const Described& each) { return each.app->parsed(); });
    return dlq_command(*given->app, *given->command);
  };
}

}  // namespace lope::cli
