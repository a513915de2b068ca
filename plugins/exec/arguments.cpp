#include "arguments.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

namespace lope::plugins {

namespace {

constexpr std::size_t kLongestText = 128 * 1024 - 1;  // MAX_ARG_STRLEN, without the NUL
// Room for what the kernel adds: a script's interpreter, the path, random bytes.
constexpr std::size_t kSlack = 16 * 1024;
constexpr std::size_t kMostEver = 6 * 1024 * 1024;  // three quarters of _STK_LIM

std::size_t size_of(const std::string& text) { return text.size() + 1 + sizeof(char*); }

std::size_t kernel_limit() {
  const long limit = ::sysconf(_SC_ARG_MAX);
  const auto known = limit > 0 ? static_cast<std::size_t>(limit) : kLongestText;
  return std::min(known, kMostEver) - kSlack;
}

}  // namespace

Arguments::Arguments(const ExecSettings& settings)
    : settings_(settings), limit_(kernel_limit()), constant_(2 * sizeof(char*)) {
  for (const std::string& variable : settings.environment) {
    if (variable.size() > kLongestText) {
      throw InvalidConfiguration(
          "the environment: expected variables of less than 128 KiB, found " +
          variable.substr(0, variable.find('=')) + " with " + std::to_string(variable.size()) +
          " bytes");
    }
    constant_ += size_of(variable);
  }
  std::size_t arguments = 0;
  for (const MessageTemplate& argument : settings.arguments) {
    if (argument.is_constant()) arguments += size_of(argument.text());
  }
  if (constant_ + arguments > limit_) {
    throw InvalidConfiguration("command and environment: expected at most " +
                               std::to_string(limit_) + " bytes, found " +
                               std::to_string(constant_ + arguments));
  }
}

void Arguments::fill(const Message& message) {
  used_ = constant_;
  arguments_.clear();
  variables_.clear();
  left_out_.clear();
  names_.clear();
  for (const MessageTemplate& argument : settings_.arguments) {
    add_argument(argument.expand(message), arguments_.size());
  }
  for (const auto& [name, value] : settings_.variables) add_variable(name + value.expand(message));
  for (const MessageField& field : kMessageFields) {
    static const std::vector<std::string> names = [] {
      std::vector<std::string> made;
      for (const MessageField& each : kMessageFields) {
        made.push_back(variable_of_field(each.name) + "=");
      }
      return made;
    }();
    const std::string value = field.get(message);
    if (!value.empty()) {
      add_variable(names[static_cast<std::size_t>(&field - kMessageFields)] + value);
    }
  }
  for (std::size_t i = 0; i < message.header_count(); ++i) {
    const Header header = message.header_at(i);
    const auto value = text_of(header.value);
    if (!value) continue;
    std::string name = variable_of_header(header.name);
    if (names_.insert(name).second) add_variable(std::move(name) + "=" + *value);
  }
  if (!left_out_.empty()) {
    variables_.push_back(std::string(kLeftOutVariable) + "=" + std::to_string(left_out_.size()));
  }
  end();
}

void Arguments::fill_constant() {
  used_ = constant_;
  arguments_.clear();
  for (const MessageTemplate& argument : settings_.arguments) {
    add_argument(argument.text(), arguments_.size());
  }
  end();
}

void Arguments::add_argument(std::string text, std::size_t index) {
  const std::string option = "option 'command." + std::to_string(index) + "': expected ";
  if (text.find('\0') != std::string::npos) {
    throw Reject(option + "a message without a NUL there, found one");
  }
  if (text.size() > kLongestText || used_ + size_of(text) > limit_) {
    throw Reject(option + "arguments of less than 128 KiB each and " + std::to_string(limit_) +
                 " bytes in all, found more: a body belongs on standard input");
  }
  used_ += size_of(text);
  arguments_.push_back(std::move(text));
}

void Arguments::add_variable(std::string text) {
  const bool fits = text.size() <= kLongestText && used_ + size_of(text) <= limit_;
  if (!fits || text.find('\0') != std::string::npos) {
    left_out_.push_back(text.substr(0, text.find('=')));
    return;
  }
  used_ += size_of(text);
  variables_.push_back(std::move(text));
}

void Arguments::end() {
  const auto add = [](std::vector<char*>& to, const std::vector<std::string>& texts) {
    for (const std::string& text : texts) to.push_back(const_cast<char*>(text.c_str()));
  };
  argv_.clear();
  add(argv_, arguments_);
  argv_.push_back(nullptr);
  envp_.clear();
  add(envp_, variables_);
  add(envp_, settings_.environment);
  envp_.push_back(nullptr);
}

}  // namespace lope::plugins
