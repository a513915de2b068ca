#include "settings.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>

#include "../common/option_units.hpp"

namespace lope::plugins {

namespace {

constexpr const char* kWorkerIdVariable = "LOPE_WORKER_ID";  // what a dead worker left has it

InvalidConfiguration wrong(const std::string& option, const std::string& expected,
                           const std::string& found) {
  return InvalidConfiguration("option '" + option + "': expected " + expected + ", found " + found);
}

std::string in_quotes(std::string_view text) { return "'" + std::string(text) + "'"; }
std::string error_text(int error) { return std::generic_category().message(error); }

// One of the words, by its place.
std::size_t word_option(const Host& host, const char* option,
                        const std::vector<std::string_view>& words) {
  const auto text = host.option_as<std::string>(option);
  const auto found = std::find(words.begin(), words.end(), text);
  if (found != words.end()) return static_cast<std::size_t>(found - words.begin());
  std::string expected;
  for (const std::string_view word : words) {
    if (!expected.empty()) expected += word == words.back() ? " or " : ", ";
    expected += in_quotes(word);
  }
  throw wrong(option, expected, in_quotes(text));
}

// Why it cannot be run; nothing when it can.
std::optional<std::string> refusal(const std::string& path) {
  struct stat file {};
  if (::stat(path.c_str(), &file) < 0) return error_text(errno);
  if (!S_ISREG(file.st_mode)) return "no regular file";
  if (::faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) < 0) return error_text(errno);
  return std::nullopt;
}

std::string find_program(const std::string& name, const std::string& directory) {
  constexpr const char* kOption = "command.0";
  if (name.find('/') != std::string::npos) {
    const bool relative = name.front() != '/' && !directory.empty();
    const std::string path = relative ? directory + "/" + name : name;
    if (const auto why = refusal(path)) {
      throw wrong(kOption, "a program that can be run", in_quotes(path) + ": " + *why);
    }
    return path;
  }
  const char* const set = std::getenv("PATH");
  const std::string all = set != nullptr ? set : "/usr/local/bin:/usr/bin:/bin";
  std::string_view rest = all;
  while (!rest.empty() && !name.empty()) {
    const std::size_t size = std::min(rest.find(':'), rest.size());
    const std::string path = std::string(rest.substr(0, size)) + "/" + name;
    if (size > 0 && !refusal(path)) return path;
    rest.remove_prefix(std::min(size + 1, rest.size()));
  }
  throw wrong(kOption, "a program that can be run",
              in_quotes(name) + ", which is not on PATH " + all);
}

bool is_reserved(std::string_view name) {
  static const std::set<std::string, std::less<>> names = [] {
    std::set<std::string, std::less<>> made = {kWorkerIdVariable, kLeftOutVariable, "LOPE_GROUP"};
    for (const MessageField& field : kMessageFields) made.insert(variable_of_field(field.name));
    return made;
  }();
  return names.find(name) != names.end() || name.substr(0, 12) == "LOPE_HEADER_";
}

std::array<Outcome, 256> outcomes_of(const Host& host) {
  struct Preset {
    std::vector<std::string> ack, reject, retry;
  };
  const Preset presets[] = {{{"0"}, {"65"}, {"75"}},  // EX_DATAERR, EX_TEMPFAIL of sysexits.h
                            {{"0"}, {"3", "5"}, {"4", "6"}}};  // reject, nack; with requeue
  const Preset& preset =
      presets[word_option(host, "preset", {"sysexits", "rabbitmq-cli-consumer"})];
  const bool rejects = word_option(host, "otherwise", {"retry", "reject"}) == 1;
  std::array<Outcome, 256> outcomes;
  outcomes.fill(rejects ? Outcome::reject : Outcome::retry);
  std::set<unsigned> seen;
  const auto set = [&](const char* option, const std::vector<std::string>& by_default,
                       Outcome outcome) {
    std::vector<std::string> codes = host.option_list(option);
    if (codes.empty()) codes = by_default;
    for (const std::string& text : codes) {
      const auto code = detail::parse_option<unsigned>(text);
      if (!code || *code > 255) throw wrong(option, "exit codes from 0 to 255", in_quotes(text));
      if (!seen.insert(*code).second) {
        throw wrong(option, "exit codes that have one outcome each", text + " for the second time");
      }
      outcomes[*code] = outcome;
    }
  };
  set("ack", preset.ack, Outcome::ack);
  set("reject", preset.reject, Outcome::reject);
  set("retry", preset.retry, Outcome::retry);
  return outcomes;
}

// A template whose text is never shown, not even in an error.
MessageTemplate secret_template(const std::string& option, std::string_view text) {
  try {
    return MessageTemplate::parse(option, text);
  } catch (const InvalidConfiguration&) {
    throw wrong(option, "a template, with what a message carries between braces", "something else");
  }
}

}  // namespace

std::string variable_of_field(std::string_view field) {
  std::string name = "LOPE_";
  for (const char c : field) name += c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return name;
}

std::string variable_of_header(std::string_view header) {
  std::string name = "LOPE_HEADER_";
  for (const char c : header) {
    const bool lower = c >= 'a' && c <= 'z';
    const bool kept = (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    name += lower ? static_cast<char>(c - 'a' + 'A') : kept ? c : '_';
  }
  return name;
}

ExecSettings::ExecSettings(const Host& host)
    : coprocess(word_option(host, "mode", {"command", "coprocess"}) == 1),
      directory(host.option_as<std::string>("cwd")),
      outcomes(outcomes_of(host)),
      time_limit(duration_option(host, "time_limit")),
      grace(duration_option(host, "grace")),
      output(static_cast<Output>(word_option(host, "output", {"log", "publish", "reply", "none"}))),
      exchange(MessageTemplate::parse("publish.exchange",
                                      host.option_as<std::string>("publish.exchange"))),
      routing_key(MessageTemplate::parse("publish.routing_key",
                                         host.option_as<std::string>("publish.routing_key"))),
      content_type(host.option_as<std::string>("content_type")),
      output_limit(size_option(host, "output_limit")),
      log_lines(host.option_as<std::size_t>("log_lines")),
      window(host.option_as<std::size_t>("window")) {
  if (window == 0) throw wrong("window", "at least 1", "0");
  if (coprocess && output != Output::log) {
    throw wrong("output", "'log' with mode 'coprocess', whose answers publish and reply",
                in_quotes(host.option_as<std::string>("output")));
  }
  if (output == Output::publish && exchange.empty() && routing_key.empty()) {
    throw wrong("publish", "an exchange or a routing_key, where the output is to go", "neither");
  }
  struct stat folder {};
  if (!directory.empty() && (::stat(directory.c_str(), &folder) < 0 || !S_ISDIR(folder.st_mode))) {
    throw wrong("cwd", "a folder", in_quotes(directory) + ", which is none");
  }
  const auto check = [this](const std::string& option, const std::string& text,
                            const MessageTemplate& made, const std::string& shown) {
    if (coprocess && !made.is_constant()) {
      throw wrong(option, "no braces with mode 'coprocess', which is started before any message",
                  shown);
    }
    if (text.find('\0') != std::string::npos) throw wrong(option, "no NUL", "one");
  };
  for (const std::string& text : host.option_list("command")) {
    const std::string option = "command." + std::to_string(arguments.size());
    arguments.push_back(MessageTemplate::parse(option, text));
    check(option, text, arguments.back(), in_quotes(text));
  }
  if (arguments.empty()) throw wrong("command", "a list", "something else");
  if (!arguments.front().is_constant()) {
    throw wrong("command.0", "a program, which no message may choose", "braces");
  }
  program = find_program(arguments.front().text(), directory);

  std::set<std::string, std::less<>> set;
  const auto all = nlohmann::json::parse(host.options_json());
  if (const auto map = all.find("env"); map != all.end()) {
    if (!map->is_object()) throw wrong("env", "a map", "something else");
    for (const auto& [name, value] : map->items()) {
      const std::string option = "env." + name;
      const auto text = host.option(option);
      if (!text) throw wrong(option, "a text", "something else");
      if (name.empty() || name.find('=') != std::string::npos || is_reserved(name)) {
        throw wrong(option, "a name that the handler does not use itself, without '='",
                    in_quotes(name));
      }
      set.insert(name);
      MessageTemplate made = secret_template(option, *text);
      check(option, std::string(*text), made, "some");
      if (made.is_constant()) {
        environment.push_back(name + "=" + made.text());
      } else {
        variables.emplace_back(name + "=", std::move(made));
      }
    }
  }
  environment.push_back("LOPE_GROUP=" + std::string(host.group()));
  const auto inherits = host.option_as<bool>("inherit_env");
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view variable(*entry);
    const std::string_view name = variable.substr(0, variable.find('='));
    const bool wanted = inherits && set.find(name) == set.end() && !is_reserved(name);
    if (wanted || name == kWorkerIdVariable) environment.emplace_back(variable);
  }
}

}  // namespace lope::plugins
