// Which broker a command talks to: that of --broker, of --config or of the environment.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <variant>

#include "common/settings.h"

namespace lope::cli {

// "The broker is that of …", for the end of a help text.
inline constexpr const char* kBrokerHelp =
    R"(The broker is that of --broker, or else of --config, or else of the
environment's LOPE_BROKER, or else amqp://localhost.)";

struct BrokerChoice {
  std::string url, config, ca;
};

void add_broker_options(CLI::App& app, BrokerChoice& choice);

struct ChosenBroker {
  BrokerSettings broker;
  DelaySettings delays;  // of --config
};

// What was chosen, or the exit code; then it has said why. `command`: "lope publish".
// `wants_delays`: the configuration is read for them also when --broker says where the broker is.
std::variant<ChosenBroker, int> find_broker(const BrokerChoice& choice, const std::string& command,
                                            bool wants_delays = false);

}  // namespace lope::cli
