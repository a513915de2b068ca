// Runs a program for each message, or one that answers many.
#include <csignal>
#include <lope/handler.hpp>
#include <optional>

#include "command.h"
#include "coprocess.h"
#include "settings.h"

namespace {

using lope::plugins::Command;
using lope::plugins::Coprocess;
using lope::plugins::ExecSettings;

constexpr lope_option kOptions[] = {
    lope::required("command.*",
                   "the program and its arguments, a list of templates; the program is "
                   "looked for on PATH, once"),
    lope::defaulted(
        "mode", "command",
        "command: runs it for each message; coprocess: once, for messages as JSON lines"),
    lope::defaulted("cwd", "", "folder that it runs in; empty: the worker's"),
    lope::secret(
        lope::defaulted("env.*", "", "more variables of its environment, a map of templates")),
    lope::defaulted("inherit_env", "true", "whether it has the worker's environment too",
                    LOPE_BOOL),
    lope::defaulted("time_limit", "4m",
                    "then it is ended; less than the group's timeout. 0s: none"),
    lope::defaulted("grace", "5s", "between SIGTERM and SIGKILL"),
    lope::defaulted("preset", "sysexits",
                    "what exit codes mean: sysexits (0 ack, 65 reject, 75 retry), or "
                    "rabbitmq-cli-consumer (0 ack, 3 and 5 reject, 4 and 6 retry)"),
    lope::defaulted("ack.*", "", "exit codes that ack, in place of the preset's"),
    lope::defaulted("reject.*", "", "exit codes that reject, in place of the preset's"),
    lope::defaulted("retry.*", "", "exit codes that retry, in place of the preset's"),
    lope::defaulted("otherwise", "retry", "retry or reject: what all other exit codes mean"),
    lope::defaulted("output", "log", "where its output goes: log, publish, reply, none"),
    lope::defaulted("publish.exchange", "", "where output publish goes: the exchange, a template"),
    lope::defaulted("publish.routing_key", "", "and the routing key, a template"),
    lope::defaulted("content_type", "", "of an output that is published or replied"),
    lope::defaulted("output_limit", "1MiB",
                    "of an output that is published or replied, and of a line of a co-process"),
    lope::defaulted(
        "log_lines", "100",
        "at most so many lines of each stream are logged, for a message; of a co-process, in "
        "a second",
        LOPE_UINT64),
    lope::defaulted("window", "100", "so many messages are with a co-process at a time",
                    LOPE_UINT64),
    lope::kEndOfOptions};

class Exec final : public lope::Handler {
 public:
  explicit Exec(lope::Host host) : settings_(host) {
    // A program that does not read its input is no reason to die.
    sigset_t pipe;
    ::sigemptyset(&pipe);
    ::sigaddset(&pipe, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
    if (settings_.coprocess) {
      coprocess_.emplace(host, settings_);  // its thread has the same signals blocked
    } else {
      command_.emplace(host, settings_);
    }
  }

  lope::Outcome handle(const lope::Message& message) override {
    if (command_) return command_->run(message);
    coprocess_->take(message);
    return lope::Outcome::hold;
  }

  // Its answers come by themselves. Only at a drain is there reason to wait for them.
  void flush(lope::FlushReason reason) override {
    if (coprocess_ && reason == lope::FlushReason::drain) coprocess_->drain();
  }

 private:
  const ExecSettings settings_;
  std::optional<Command> command_;  // one of the two
  std::optional<Coprocess> coprocess_;
};

}  // namespace

LOPE_HANDLER_WITH(Exec, "exec", "1.0.0",
                  "runs a program for each message, or hands messages to one that answers them",
                  kOptions)
