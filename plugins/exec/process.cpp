#include "process.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>

namespace lope::plugins {

namespace {

[[noreturn]] void fail(const char* what, int error) {
  throw std::system_error(error, std::generic_category(), what);
}

// Between vfork() and exec: the memory is the worker's, so system calls only. Returns the errno of
// what failed.
int become(const ProgramStart& start, pid_t parent) {
  if (::setpgid(0, 0) < 0) return errno;
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) return errno;
  if (::getppid() != parent) return ECANCELED;  // it died before that took effect
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; ++number) {
    ::sigaction(number, &action, nullptr);  // fails for KILL, STOP and libc's own: fine
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int i = 0; i < 3; ++i) {
    if (::dup2(start.standard[i], i) < 0) return errno;
  }
  if (::syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC) < 0) return errno;
  if (start.directory != nullptr && ::chdir(start.directory) < 0) return errno;
  ::execve(start.path, start.argv, start.envp);
  return errno;
}

// A function of its own: nothing of its caller's frame lives in registers over the vfork().
__attribute__((noinline)) pid_t start_program(const ProgramStart& start, volatile int& error) {
  const pid_t parent = ::getpid();
  const pid_t pid = ::vfork();
  if (pid == 0) {
    error = become(start, parent);  // NOLINT(clang-analyzer-unix.Vfork): it makes system calls only
    ::_exit(127);
  }
  if (pid < 0) error = errno;
  return pid;
}

Pipe make_pipe(bool to_program) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) < 0) fail("pipe2", errno);
  Pipe pipe{Fd(fds[to_program ? 1 : 0]), Fd(fds[to_program ? 0 : 1])};
  if (::fcntl(pipe.ours.get(), F_SETFL, O_NONBLOCK) < 0) fail("fcntl", errno);
  return pipe;
}

void reap_child(pid_t pid, int& status) {
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace

void Fd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Pipe pipe_to_program() { return make_pipe(true); }
Pipe pipe_from_program() { return make_pipe(false); }

std::string ProgramEnd::to_string() const {
  if (!signalled) return "exit " + std::to_string(code);
  const char* const name = ::sigabbrev_np(code);
  return name != nullptr ? std::string("SIG") + name : "signal " + std::to_string(code);
}

Process::Process(const ProgramStart& start) {
  // No handler of the worker's may run in the child, in the worker's memory.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  volatile int error = 0;
  pid_ = start_program(start, error);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  int status = 0;
  if (pid_ < 0) fail("vfork", error);
  if (error != 0) {
    reap_child(pid_, status);
    fail("cannot run it", error);
  }
  pidfd_ = Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  if (!pidfd_.open()) {
    const int pidfd_error = errno;
    signal_group(SIGKILL);
    reap_child(pid_, status);
    fail("pidfd_open", pidfd_error);
  }
}

Process::~Process() {
  if (reaped_) return;
  signal_group(SIGKILL);
  int status = 0;
  reap_child(pid_, status);
}

void Process::signal_group(int number) const {
  const bool is_there = ::kill(-pid_, number) == 0;
  if (!is_there || number == SIGKILL) ::kill(pid_, number);  // the program itself may have left it
}

ProgramEnd Process::reap() {
  signal_group(SIGKILL);
  int status = 0;
  reap_child(pid_, status);
  reaped_ = true;
  if (WIFSIGNALED(status)) return {true, WTERMSIG(status)};
  return {false, WEXITSTATUS(status)};
}

}  // namespace lope::plugins
