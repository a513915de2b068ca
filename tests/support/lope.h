// A daemon under test: its configuration file, and `lope run` on it in a process group of its own.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/process.h"
#include "support/temp_dir.h"

namespace lope::test {

struct LopeOptions {
  std::string broker = {};  // URL; empty: one where nobody listens
  std::string groups = {};  // what stands under `groups:`, two spaces in
  std::string top = {};     // more top-level lines, for example "shutdown_timeout: 2s\n"
  std::string handlers_dir = LOPE_TEST_HANDLERS_DIR;
  std::vector<std::pair<std::string, std::optional<std::string>>> env = {};
};

// For LopeOptions::top: with the relay, without which what is delayed does not come back.
inline constexpr const char* kWithRelay = "delays: { relay: true }\n";

// The configuration's text, with log level debug unless `top` has a `log:`, without a relay unless
// it has `delays:`, and with a control socket beside it unless it has `control:`.
std::string config_text(const LopeOptions& options);

class Lope {
 public:
  // Writes the configuration and starts `lope run`; does not wait.
  explicit Lope(const LopeOptions& options);

  Process& process() { return *process_; }
  pid_t pid() const { return process_->pid(); }
  std::string config_path() const { return dir_.file("lope.yaml"); }
  const TempDir& dir() const { return dir_; }
  std::string control_socket() const { return dir_.file("control.sock"); }
  // The whole log so far.
  std::string log() const { return process_->output(); }

  // Every group consumes. False when that was not so in time, or lope ended.
  bool wait_ready(std::chrono::milliseconds deadline = 30s);
  std::optional<std::string> wait_for_line(std::string_view text,
                                           std::chrono::milliseconds deadline = 10s) {
    return process_->wait_for_line(text, deadline);
  }
  // kill -TERM -- -PGID, and how lope ended.
  std::optional<ExitStatus> stop(std::chrono::milliseconds deadline = 40s);

  std::vector<pid_t> consumers() const { return descendants_named(pid(), "lope-consumer"); }
  std::vector<pid_t> workers() const { return descendants_named(pid(), "lope-worker"); }
  // Nothing of its process group is left. Waits a moment for those that are just ending.
  bool all_gone(std::chrono::milliseconds deadline = 5s) const;

 private:
  TempDir dir_;
  std::unique_ptr<Process> process_;
};

// A command of the built `lope`, to its end.
RunResult run_lope(std::vector<std::string> arguments, ProcessOptions options = {},
                   std::chrono::milliseconds deadline = 30s);

}  // namespace lope::test
