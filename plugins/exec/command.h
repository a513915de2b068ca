// mode: command. One program for each message, from its start to its end.
#pragma once

#include <cstddef>
#include <lope/handler.hpp>
#include <string>
#include <string_view>

#include "arguments.h"
#include "line_log.h"
#include "measures.h"
#include "process.h"
#include "settings.h"

namespace lope::plugins {

class Command {
 public:
  // Throws InvalidConfiguration. `settings` outlives it.
  Command(const Host& host, const ExecSettings& settings);

  // [in-call] Throws Reject, std::system_error.
  Outcome run(const Message& message);

 private:
  struct Ended {
    ProgramEnd how;
    bool out_of_time = false;
  };
  Ended run_program(std::string_view body);
  void take_output(std::string_view bytes);
  bool read_from(const Fd& pipe, bool is_output);
  void drain(const Fd& pipe, bool is_output);
  Outcome judge(const Message& message, const Ended& ended) const;
  void send_output(const Message& message, Publication& made);

  const Host host_;
  const ExecSettings& settings_;
  const Measures measures_;
  Arguments arguments_;
  LineLog output_, errors_;
  std::string captured_;  // of its output, where it is to be sent
  bool too_large_ = false;
  Fd null_;
};

}  // namespace lope::plugins
