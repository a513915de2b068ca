// What a group's options say, checked.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <lope/handler.hpp>
#include <string>
#include <utility>
#include <vector>

#include "../common/message_template.hpp"

namespace lope::plugins {

struct ExecSettings {
  enum class Output { log, publish, reply, none };

  // Throws InvalidConfiguration.
  explicit ExecSettings(const Host& host);

  bool coprocess;
  std::vector<MessageTemplate> arguments;  // the first as it is configured, and constant
  std::string program;                     // its path
  std::string directory;                   // empty: the worker's
  std::vector<std::string> environment;    // "NAME=value", the same for each message
  std::vector<std::pair<std::string, MessageTemplate>> variables;  // "NAME=", and its value
  std::array<Outcome, 256> outcomes;                               // by exit code
  std::chrono::milliseconds time_limit, grace;                     // a limit of 0: none
  Output output;
  MessageTemplate exchange, routing_key;
  std::string content_type;
  std::size_t output_limit, log_lines, window;
};

// The variable of the environment that tells a field of a message: "LOPE_ROUTING_KEY".
std::string variable_of_field(std::string_view field);
// And a header: letters, digits and '_' stay, other bytes become '_': "LOPE_HEADER_X_SHOP".
std::string variable_of_header(std::string_view header);

inline constexpr const char* kLeftOutVariable = "LOPE_LEFT_OUT";

}  // namespace lope::plugins
