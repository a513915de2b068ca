// The one file that forks. A child starts with default signals, nothing blocked but what is asked
// for, and only the descriptors it was given; it dies when the thread that spawned it does.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <string>
#include <utility>
#include <vector>

#include "common/fd.h"
#include "common/result.h"

namespace lope {

// Descriptor numbers our programs find in place at start (0 to 2 are the usual ones).
inline constexpr int kSettingsFd = 3;  // memfd with JSON
inline constexpr int kScoreboardFd =
    4;                               // shared memory: group board (consumer), worker board (worker)
inline constexpr int kLinkFd = 5;    // socket to the parent
inline constexpr int kWakeFd = 6;    // worker: eventfd that wakes its consumer
inline constexpr int kReportFd = 5;  // lope-load: pipe to the supervisor
inline constexpr int kWorkerProgramFd = 6;  // consumer: the lope-worker to run
inline constexpr int kListenerFd = 6;       // monitor: the socket that it serves on

struct SpawnOptions {
  int program_fd = -1;                   // from open_program()
  std::vector<std::string> argv;         // argv[0] included
  std::vector<std::string> env;          // "NAME=value"
  std::vector<std::pair<int, int>> fds;  // ours -> the child's number; all others are closed
  std::vector<int> blocked_signals;      // kept waiting until the program is ready for them
  int parent_death_signal = SIGKILL;
  bool own_group = false;  // it leads a process group of its own
};

// What may be sent to the whole process group at any moment. Our own programs start with them
// blocked: one that comes before the program has made its arrangements must not end it.
inline constexpr int kGroupSignals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

struct Child {
  pid_t pid = -1;
  UniqueFd pidfd;  // readable when the child has died
};

// How a child ended, from waitid.
struct ChildEnd {
  bool signalled = false;
  int code = 0;                   // exit code, or signal
  std::string to_string() const;  // "exit 3", "SIGSEGV"
};

// Returns once the child runs its program; a failure to exec is an error here. Call from the main
// thread only: the parent death signal follows the calling thread.
Result<Child> spawn(const SpawnOptions& options);

// Reaps a child that has ended. Only after its pidfd is readable, or it blocks.
Result<ChildEnd> reap(const Child& child);

// For the child, first thing in main(): marks the descriptors it was given close-on-exec again.
void adopt_child_fds();

// Lets this process open as many descriptors as it may. Its children get the limit that it was
// started with: programs that use select() break with a higher one.
void raise_descriptor_limit();

// This process's environment less the variables named (and their values).
std::vector<std::string> environment_without(const std::vector<std::string>& names);

}  // namespace lope
