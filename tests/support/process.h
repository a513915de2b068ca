// Processes of a test: started in a group of their own, their output read line by line, and nothing
// of them left when the object is gone.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "common/fd.h"
#include "support/eventually.h"

namespace lope::test {

// How a process ended: exited with `code`, or was killed by `signal`.
struct ExitStatus {
  bool exited = false;
  int code = 0;
  int signal = 0;
  friend bool operator==(const ExitStatus&, const ExitStatus&) = default;
};
inline ExitStatus exited(int code) { return {true, code, 0}; }
inline ExitStatus killed_by(int signal) { return {false, 0, signal}; }
// "exit 3", "signal 9"; for Catch2 too.
std::ostream& operator<<(std::ostream& out, const ExitStatus& status);

struct ProcessOptions {
  // Added to this process's environment; a value of nullopt takes the variable away.
  std::vector<std::pair<std::string, std::optional<std::string>>> env;
  std::string directory;       // empty: this process's
  std::string standard_input;  // what the process reads; then end of file
  bool new_group = true;       // false: stays in the test's process group
};

// One process. Its standard output and error come together, in order, through one pipe.
class Process {
 public:
  // Runs argv[0], looked for on PATH. Throws std::runtime_error when it cannot be started.
  explicit Process(std::vector<std::string> argv, ProcessOptions options = {});
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  // Kills the group, or the process alone without one of its own, and reaps.
  ~Process();

  pid_t pid() const { return pid_; }

  // The first line, from the start or from where the last find ended, that contains `text`; nothing
  // when none came in time or the output ended without one.
  std::optional<std::string> wait_for_line(std::string_view text,
                                           std::chrono::milliseconds deadline = 10s);
  // Everything written so far.
  std::string output() const;
  // How many complete lines so far contain `text`.
  int count_lines(std::string_view text) const;

  void signal(int number) const;
  void signal_group(int number) const;

  // How it ended; nothing when it has not in time. May be asked again. Once it has ended, output()
  // is complete unless a descendant holds the pipe open.
  std::optional<ExitStatus> wait_exit(std::chrono::milliseconds deadline = 10s);

 private:
  void read_output(int fd);
  void reap_if_ended();

  pid_t pid_ = -1;
  const bool own_group_;
  UniqueFd output_;  // read end; the reader thread's
  UniqueFd stop_reader_;
  std::thread reader_;
  std::optional<ExitStatus> status_;
  std::size_t searched_ = 0;  // where wait_for_line goes on

  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::string text_;       // under mutex_
  bool finished_ = false;  // under mutex_: end of file
};

// The processor time that a process has used so far; 0 when it is gone.
double cpu_seconds(pid_t pid);

struct RunResult {
  std::optional<ExitStatus> status;  // nothing: it was killed at the deadline
  std::string output;
};

// Runs a command to its end.
RunResult run(std::vector<std::string> argv, ProcessOptions options = {},
              std::chrono::milliseconds deadline = 30s);

// What /proc says of a process that is no zombie.
struct ProcessInfo {
  pid_t pid = 0;
  pid_t parent = 0;
  pid_t group = 0;
  std::string name;     // comm, at most 15 bytes
  std::string command;  // the command line, joined with spaces
};

std::vector<ProcessInfo> all_processes();
std::vector<ProcessInfo> processes_of_group(pid_t group);
std::vector<ProcessInfo> children_of(pid_t parent);
// Children, their children and so on.
std::vector<ProcessInfo> descendants_of(pid_t ancestor);
// The descendants with this name, for example "lope-worker", in the order of their pids.
std::vector<pid_t> descendants_named(pid_t ancestor, std::string_view name);
// False for a zombie.
bool is_alive(pid_t pid);
// Children that have ended and wait to be reaped.
std::vector<pid_t> zombies_of(pid_t parent);

}  // namespace lope::test
