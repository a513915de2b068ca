#include "support/lope.h"

#include <signal.h>

namespace lope::test {

std::string config_text(const LopeOptions& options) {
  std::string text;
  text += "broker: " + (options.broker.empty() ? "amqp://127.0.0.1:1" : options.broker) + "\n";
  text += "handlers_dir: " + options.handlers_dir + "\n";
  if (("\n" + options.top).find("\nlog:") == std::string::npos) text += "log: { level: debug }\n";
  if (("\n" + options.top).find("\ndelays:") == std::string::npos) {
    text += "delays: { relay: false }\n";
  }
  if (("\n" + options.top).find("\ncontrol:") == std::string::npos) {
    text += "control: { socket: control.sock }\n";
  }
  text += options.top;
  if (!text.ends_with('\n')) text += '\n';
  text += "groups:\n" + options.groups;
  if (!text.ends_with('\n')) text += '\n';
  return text;
}

Lope::Lope(const LopeOptions& options) {
  dir_.write("lope.yaml", config_text(options));
  ProcessOptions process;
  process.env = options.env;
  process.env.emplace_back("CACHE_DIRECTORY", dir_.file("cache"));
  process_ = std::make_unique<Process>(
      std::vector<std::string>{LOPE_BIN_DIR "/lope", "run", "--config", config_path()}, process);
}

bool Lope::wait_ready(std::chrono::milliseconds deadline) {
  return process_->wait_for_line("] ready", deadline).has_value();
}

std::optional<ExitStatus> Lope::stop(std::chrono::milliseconds deadline) {
  process_->signal_group(SIGTERM);
  return process_->wait_exit(deadline);
}

bool Lope::all_gone(std::chrono::milliseconds deadline) const {
  return eventually(deadline, [&] { return processes_of_group(pid()).empty(); });
}

RunResult run_lope(std::vector<std::string> arguments, ProcessOptions options,
                   std::chrono::milliseconds deadline) {
  arguments.insert(arguments.begin(), LOPE_BIN_DIR "/lope");
  return run(std::move(arguments), std::move(options), deadline);
}

}  // namespace lope::test
