#include "common/spawn.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/text.h"

namespace lope {

namespace {

// Above every number a child is given, so that dup2 never overwrites a source.
constexpr int kFirstSpareFd = 64;

// The limit of descriptors that this process was started with; zeros when it still has that.
rlimit first_limit{};

// Runs in the child, between fork and exec of a possibly threaded parent: system calls only.
[[noreturn]] void exec_child(const SpawnOptions& options, pid_t parent, int error_fd,
                             char* const* argv, char* const* envp) {
  const auto fail = [&error_fd](int error) {
    [[maybe_unused]] const ssize_t n = ::write(error_fd, &error, sizeof error);
    ::_exit(127);
  };
  if (::prctl(PR_SET_PDEATHSIG, options.parent_death_signal) < 0) fail(errno);
  if (::getppid() != parent) ::_exit(127);  // the parent died before prctl took effect

  if (options.own_group && ::setpgid(0, 0) < 0) fail(errno);
  if (first_limit.rlim_max != 0) ::setrlimit(RLIMIT_NOFILE, &first_limit);

  sigset_t mask;
  ::sigfillset(&mask);
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
  struct sigaction default_action {};
  default_action.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) {
    ::sigaction(signal, &default_action, nullptr);  // fails for KILL, STOP and libc's own: fine
  }
  ::sigemptyset(&mask);
  for (const int signal : options.blocked_signals) ::sigaddset(&mask, signal);
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);

  // Sources first out of the way, then to their places.
  int moved[16];
  std::size_t count = 0;
  for (const auto& [ours, theirs] : options.fds) {
    moved[count] = ::fcntl(ours, F_DUPFD_CLOEXEC, kFirstSpareFd);
    if (moved[count++] < 0) fail(errno);
  }
  const int program = ::fcntl(options.program_fd, F_DUPFD_CLOEXEC, kFirstSpareFd);
  if (program < 0) fail(errno);
  const int error_pipe = ::fcntl(error_fd, F_DUPFD_CLOEXEC, kFirstSpareFd);
  if (error_pipe < 0) fail(errno);
  error_fd = error_pipe;
  // A library on another thread may be between socket() and its FD_CLOEXEC just now.
  if (::syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC) < 0) fail(errno);
  count = 0;
  for (const auto& [ours, theirs] : options.fds) {
    if (::dup2(moved[count++], theirs) < 0) fail(errno);
  }
  ::syscall(SYS_execveat, program, "", argv, envp, AT_EMPTY_PATH);
  fail(errno);
  ::_exit(127);
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> result;
  result.reserve(strings.size() + 1);
  for (const std::string& string : strings) result.push_back(const_cast<char*>(string.c_str()));
  result.push_back(nullptr);
  return result;
}

}  // namespace

std::string ChildEnd::to_string() const {
  return signalled ? signal_name(code) : "exit " + std::to_string(code);
}

Result<Child> spawn(const SpawnOptions& options) {
  if (options.fds.size() > 16) return Error{"spawn: more than 16 descriptors"};
  auto error_pipe = make_pipe();
  if (!error_pipe) return Error{error_pipe.error()};
  const std::vector<char*> argv = pointers(options.argv);
  const std::vector<char*> envp = pointers(options.env);
  const pid_t parent = ::getpid();

  const pid_t pid = ::fork();
  if (pid < 0) return Error{errno_text("fork", errno)};
  if (pid == 0) {
    exec_child(options, parent, error_pipe->second.get(), argv.data(), envp.data());
  }
  error_pipe->second.reset();

  Child child;
  child.pid = pid;
  child.pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const int pidfd_error = errno;

  int error = 0;
  ssize_t n = 0;
  do {
    n = ::read(error_pipe->first.get(), &error, sizeof error);
  } while (n < 0 && errno == EINTR);
  if (n == sizeof error || !child.pidfd.valid()) {
    ::kill(pid, SIGKILL);
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    if (n == sizeof error) return Error{errno_text("execveat " + options.argv[0], error)};
    return Error{errno_text("pidfd_open", pidfd_error)};
  }
  ::fcntl(child.pidfd.get(), F_SETFD, FD_CLOEXEC);
  return child;
}

Result<ChildEnd> reap(const Child& child) {
  siginfo_t info{};
  int result = 0;
  do {
    result = ::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(child.pidfd.get()), &info,
                      WEXITED);
  } while (result < 0 && errno == EINTR);
  if (result < 0) return Error{errno_text("waitid", errno)};
  return ChildEnd{info.si_code != CLD_EXITED, info.si_status};
}

void adopt_child_fds() { ::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC); }

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= limit.rlim_max) return;
  const rlimit raised{limit.rlim_max, limit.rlim_max};
  if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) first_limit = limit;
}

std::vector<std::string> environment_without(const std::vector<std::string>& names) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view variable(*entry);
    const std::string_view name = variable.substr(0, variable.find('='));
    if (std::find(names.begin(), names.end(), name) == names.end()) result.emplace_back(variable);
  }
  return result;
}

}  // namespace lope
