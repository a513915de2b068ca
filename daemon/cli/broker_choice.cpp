#include "cli/broker_choice.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "cli/client_commands.h"
#include "common/broker_url.h"
#include "common/exit_code.h"
#include "supervisor/settings_loader.h"

namespace lope::cli {

namespace {

constexpr const char* kDefaultBroker = "amqp://localhost";

std::variant<ChosenBroker, int> with_ca(const BrokerChoice& choice, const std::string& command,
                                        ChosenBroker chosen) {
  if (choice.ca.empty()) return chosen;
  if (std::ranges::none_of(chosen.broker.addresses, &BrokerAddress::tls)) {
    return usage_error(command, "--ca: expected a broker with amqps://, found amqp://");
  }
  chosen.broker.tls.ca_file = choice.ca;
  chosen.broker.tls.insecure = false;  // a CA is given to be verified with
  return chosen;
}

void warn_of_insecure(const std::string& command, const BrokerSettings& broker) {
  if (!broker.tls.insecure || std::ranges::none_of(broker.addresses, &BrokerAddress::tls)) return;
  std::fprintf(stderr, "%s: broker.tls.insecure: the broker's certificate is not verified\n",
               command.c_str());
}

}  // namespace

void add_broker_options(CLI::App& app, BrokerChoice& choice) {
  app.add_option("--broker", choice.url, "amqp://user:password@host:port/vhost, or amqps://…")
      ->option_text("URL");
  app.add_option("-c,--config", choice.config, "Use the broker of this configuration")
      ->option_text("FILE");
  app.add_option("--ca", choice.ca, "CA certificates for amqps://, in place of the system's")
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
    chosen.delays = loaded.settings.delays;
    if (choice.url.empty()) {
      chosen.broker = loaded.settings.broker;
      auto result = with_ca(choice, command, std::move(chosen));
      if (const auto* found = std::get_if<ChosenBroker>(&result)) {
        warn_of_insecure(command, found->broker);
      }
      return result;
    }
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
  chosen.broker.addresses = {parsed->address};
  return with_ca(choice, command, std::move(chosen));
}

}  // namespace lope::cli
