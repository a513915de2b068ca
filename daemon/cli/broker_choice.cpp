#include "cli/broker_choice.h"

#include <cstdio>
#include <cstdlib>

#include "cli/client_commands.h"
#include "common/broker_url.h"
#include "common/exit_code.h"
#include "supervisor/settings_loader.h"

namespace lope::cli {

namespace {

constexpr const char* kDefaultBroker = "amqp://localhost";

}  // namespace

void add_broker_options(CLI::App& app, BrokerChoice& choice) {
  app.add_option("--broker", choice.url, "amqp://user:password@host:port/vhost")
      ->option_text("URL");
  app.add_option("-c,--config", choice.config, "Use the broker of this configuration")
      ->option_text("FILE");
}

std::variant<ChosenBroker, int> find_broker(const BrokerChoice& choice, const std::string& command,
                                            bool wants_delays) {
  ChosenBroker chosen;
  if (!choice.config.empty() && (choice.url.empty() || wants_delays)) {
    const supervisor::LoadedSettings loaded = supervisor::load_settings(choice.config);
    for (const auto& problem : loaded.errors) {
      std::fprintf(stderr, "%s\n", problem.to_string().c_str());
    }
    if (!loaded.errors.empty()) return kExitRefused;
    chosen.addresses = loaded.settings.broker.addresses;
    chosen.delays = loaded.settings.delays;
    if (choice.url.empty()) return chosen;
  }
  const char* environment = std::getenv("LOPE_BROKER");
  std::string source = "--broker";
  std::string url = choice.url;
  if (url.empty()) {
    source = "LOPE_BROKER";
    url = environment != nullptr && *environment != '\0' ? environment : kDefaultBroker;
  }
  const auto parsed = parse_broker_url(url);
  if (!parsed) return usage_error(command, source + ": " + parsed.error());
  chosen.addresses = {parsed->address};
  return chosen;
}

}  // namespace lope::cli
