// `lope trace ID`: what a journal has of a message, and of all that came of it.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "cli/client_commands.h"
#include "common/exit_code.h"
#include "common/text.h"
#include "journal/journal.h"
#include "journal/tree.h"
#include "supervisor/settings_loader.h"

namespace lope::cli {

namespace {

constexpr const char* kDefaultConfig = "/etc/lope/lope.yaml";
constexpr std::size_t kMostMessages = 100'000;
constexpr std::size_t kEventsOfEach = 20;
constexpr std::size_t kBytesOfEach = 800;
constexpr std::chrono::seconds kTimeLimit{60};

constexpr const char* kHelp =
    R"(ID is that of a message, or of a trace. Shown is the message that it all began with, and below it
what was published for it, with each attempt: when, since the beginning, what came of it, how long
it waited for a worker and ran in its handler. The journal is that of --journal, or else
monitor.journal of the configuration.

Exit codes: 0 shown, 1 the journal cannot be read or does not know the id, 2 command line not
understood, 78 configuration refused.
)";

struct TraceCommand {
  std::string id, store, config = kDefaultConfig;
  std::size_t most = journal::Limits{}.messages;
  bool json = false;
};

int fail(const std::string& text) {
  std::fprintf(stderr, "lope trace: %s\n", text.c_str());
  return kExitFailed;
}

int run(const TraceCommand& command) {
  std::string store = command.store;
  if (store.empty()) {
    if (command.config == kDefaultConfig && ::access(kDefaultConfig, F_OK) != 0) {
      return fail("expected --journal or --config, found neither, and no " +
                  std::string(kDefaultConfig));
    }
    const auto loaded =
        supervisor::load_settings(command.config, supervisor::Passwords::of_journal_alone);
    for (const auto& problem : loaded.errors) {
      std::fprintf(stderr, "%s\n", problem.to_string().c_str());
    }
    if (!loaded.errors.empty()) return kExitRefused;
    store = loaded.settings.monitor_journal;
    if (store.empty()) {
      return fail("expected a journal, found none: " + command.config +
                  " has no monitor.journal; --journal says where it is");
    }
  }
  const journal::Limits standard;
  const std::size_t events = std::max(standard.events, kEventsOfEach * command.most);
  const journal::Limits limits{.until = Clock::now() + kTimeLimit,
                               .messages = command.most,
                               .events = events,
                               .bytes = std::max(standard.bytes, kBytesOfEach * events)};
  const auto opened = journal::open_journal(store, limits);
  if (!opened) return fail(opened.error());
  const auto story = (*opened)->story(command.id, limits);
  if (!story) return fail("the journal cannot be read: " + story.error());
  if (story->events.empty()) {
    return fail("the journal has nothing of '" + escape(command.id, 256) +
                "': is it the whole id of a message, not older than the journal's retention?");
  }
  const journal::Tree tree = make_tree(*story);
  const std::string text = command.json ? to_json(tree) + "\n" : to_text(tree);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    return fail("standard output cannot be written");
  }
  return kExitOk;
}

}  // namespace

RunCommand add_trace(CLI::App& app) {
  const auto command = std::make_shared<TraceCommand>();
  app.footer(kHelp);
  app.add_option("id", command->id, "Of a message, or of a trace")->required();
  app.add_option("--journal", command->store, "A file, or postgresql://…")->option_text("STORE");
  app.add_option("-c,--config", command->config, "Use monitor.journal of this configuration")
      ->option_text("FILE")
      ->capture_default_str();
  app.add_option("--limit", command->most, "Show so many messages")
      ->check(CLI::Range(std::size_t{1}, kMostMessages))
      ->capture_default_str();
  app.add_flag("--json", command->json, "Print one JSON object");
  return [command] { return run(*command); };
}

}  // namespace lope::cli
