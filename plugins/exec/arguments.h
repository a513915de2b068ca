// The arguments and the environment of a command, as large as the kernel takes them.
#pragma once

#include <cstddef>
#include <lope/handler.hpp>
#include <string>
#include <unordered_set>
#include <vector>

#include "settings.h"

namespace lope::plugins {

class Arguments {
 public:
  // Throws InvalidConfiguration when the kernel would not take even what has no message in it.
  explicit Arguments(const ExecSettings& settings);

  // For one message. Throws Reject when it cannot be in an argument.
  void fill(const Message& message);
  // Without any: for a co-process.
  void fill_constant();

  // Valid until the next fill.
  char* const* argv() const { return argv_.data(); }
  char* const* envp() const { return envp_.data(); }
  // The variables for which there is no room, or that hold a NUL.
  const std::vector<std::string>& left_out() const { return left_out_; }

 private:
  void add_argument(std::string text, std::size_t index);
  void add_variable(std::string text);
  void end();

  const ExecSettings& settings_;
  const std::size_t limit_;   // bytes, as the kernel counts them
  std::size_t constant_ = 0;  // of these, what is the same for each message
  std::size_t used_ = 0;
  std::vector<std::string> arguments_, variables_, left_out_;
  std::unordered_set<std::string> names_;  // of variables that are there because of headers
  std::vector<char*> argv_, envp_;
};

}  // namespace lope::plugins
