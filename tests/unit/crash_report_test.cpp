// Each crash is that of a forked child.
#include "worker/crash_report.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <string>
#include <thread>

#include "common/fd.h"

// With sanitizers there is no crash report.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace lope::worker {

namespace {

struct Crash {
  std::string report;
  int signal = 0;  // that it ended of

  bool says(std::string_view text) const { return report.find(text) != std::string::npos; }
};

// What becomes of a process with the report installed that does this.
template <typename F>
Crash crash_of(F f) {
  auto pipe = make_pipe();
  REQUIRE(pipe);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::dup2(pipe->second.get(), STDERR_FILENO);
    const rlimit no_core{0, 0};
    ::setrlimit(RLIMIT_CORE, &no_core);
    // The test's own actions.
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS}) {
      ::signal(signal, SIG_DFL);
    }
    UniqueFd fd;
    const auto board = BoardMapping<WorkerBoard>::create("test", fd);
    if (!board) ::_exit(1);
    install_crash_report(**board);
    f(**board);
    ::_exit(0);
  }
  pipe->second.reset();
  Crash crash;
  char buffer[4096];
  ssize_t n = 0;
  while ((n = ::read(pipe->first.get(), buffer, sizeof buffer)) > 0) {
    crash.report.append(buffer, static_cast<std::size_t>(n));
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  if (WIFSIGNALED(status)) crash.signal = WTERMSIG(status);
  return crash;
}

// Endless for *above == 0, and no tail call.
int deeper(volatile int* above) {
  volatile int here[256] = {*above};
  return *above == 0 ? deeper(here) + here[1] : 0;
}

}  // namespace

TEST_CASE("a crash names its signal, its thread and its message", "[unit][crash_report]") {
  struct Row {
    int signal;
    std::uint64_t first, last;
    const char* line;
  };
  const auto row = GENERATE(values<Row>({
      {SIGSEGV, 7, 7, "lope-worker: SIGSEGV in thread 3, with message 7\n"},
      {SIGBUS, 7, 9, "lope-worker: SIGBUS in thread 3, with messages 7 to 9\n"},
      {SIGFPE, 0, 9, "lope-worker: SIGFPE in thread 3, with no message\n"},
      {SIGILL, 0, 0, "lope-worker: SIGILL in thread 3, with no message\n"},
      {SIGABRT, ~0ull, ~0ull,
       "lope-worker: SIGABRT in thread 3, with message 18446744073709551615\n"},
      {SIGSYS, 1, 1, "lope-worker: SIGSYS in thread 3, with message 1\n"},
  }));
  const Crash crash = crash_of([&row](WorkerBoard& board) {
    const CrashStack stack(3);
    board.slots[3].sequence = row.first;
    board.slots[3].last = row.last;
    std::raise(row.signal);
  });
  INFO(crash.report);
  CHECK(crash.signal == row.signal);
  CHECK(crash.report.starts_with(row.line));
  CHECK(crash.says("lope-unit-tests("));  // a frame of ours
  CHECK(std::count(crash.report.begin(), crash.report.end(), '\n') <= 1 + 64);
}

TEST_CASE("a crash names the message by its message_id as well", "[unit][crash_report]") {
  struct Row {
    std::string message_id;
    bool over;  // its call is
    std::string line;
  };
  const auto row = GENERATE(values<Row>({
      {"order-1", false, "with message 7, message_id 'order-1'\n"},
      {std::string("a\nb\x1b\xff\0c", 7), false, "with message 7, message_id 'a?b???c'\n"},
      {std::string(255, 'x'), false,
       "with message 7, message_id '" + std::string(255, 'x') + "'\n"},
      {"", false, "with message 7\n"},
      {"order-1", true, "with message 7\n"},
  }));
  const Crash crash = crash_of([&row](WorkerBoard& board) {
    const CrashStack stack(0);
    board.slots[0].sequence = board.slots[0].last = 7;
    std::optional<CrashMessage> current(row.message_id);
    if (row.over) current.reset();
    std::abort();
  });
  INFO(crash.report);
  CHECK(crash.report.starts_with("lope-worker: SIGABRT in thread 0, " + row.line));
}

TEST_CASE("a signal to the process accuses no thread and no message, one to a thread does",
          "[unit][crash_report]") {
  const bool to_thread = GENERATE(true, false);
  const Crash crash = crash_of([to_thread](WorkerBoard& board) {
    const CrashStack stack(0);
    board.slots[0].sequence = board.slots[0].last = 7;
    board.slots[1].sequence = board.slots[1].last = 8;
    std::atomic<pid_t> tid = 0;
    std::thread other([&tid] {
      const CrashStack own_stack(1);
      tid = ::gettid();
      for (;;) ::pause();
    });
    while (tid == 0) std::this_thread::yield();
    if (to_thread) {
      ::tgkill(::getpid(), tid, SIGABRT);
    } else {
      ::kill(::getpid(), SIGABRT);
    }
    other.join();
  });
  INFO(crash.report);
  CHECK(crash.signal == SIGABRT);
  if (to_thread) {
    CHECK(crash.report.starts_with("lope-worker: SIGABRT in thread 1, with message 8\n"));
  } else {
    CHECK(crash.report.starts_with("lope-worker: SIGABRT from process "));
    CHECK_FALSE(crash.says("message"));
  }
}

TEST_CASE("a crash in a thread of the handler's own is reported too", "[unit][crash_report]") {
  const Crash crash = crash_of([](WorkerBoard&) { std::thread([] { std::abort(); }).join(); });
  INFO(crash.report);
  CHECK(crash.signal == SIGABRT);
  CHECK(crash.report.starts_with("lope-worker: SIGABRT outside of the handlers' threads\n"));
}

TEST_CASE("a stack overflow is reported, in any thread", "[unit][crash_report]") {
  const bool main_thread = GENERATE(true, false);
  const Crash crash = crash_of([main_thread](WorkerBoard&) {
    const auto overflow = [] {
      const CrashStack stack(1);
      volatile int start = 0;
      deeper(&start);
    };
    if (main_thread) {
      overflow();
    } else {
      std::thread(overflow).join();
    }
  });
  INFO(crash.report);
  CHECK(crash.signal == SIGSEGV);
  CHECK(crash.says("SIGSEGV in thread 1"));
}

TEST_CASE("an action that somebody else has set stays", "[unit][crash_report]") {
  const Crash crash = crash_of([](WorkerBoard& board) {
    ::signal(SIGSEGV, [](int) { ::_exit(0); });
    install_crash_report(board);
    std::raise(SIGSEGV);
  });
  CHECK(crash.signal == 0);
  CHECK(crash.report.empty());
}

TEST_CASE("a crash while a crash is reported ends the process", "[unit][crash_report]") {
  const Crash crash = crash_of([](WorkerBoard& board) {
    const CrashStack stack(0);
    ::munmap(&board, sizeof board);  // the report looks for the message there
    std::abort();
  });
  CHECK(crash.signal == SIGSEGV);
  CHECK(crash.report.empty());
}

TEST_CASE("a report that hangs ends the process", "[unit][crash_report]") {
  const Crash crash = crash_of([](WorkerBoard&) {
    const CrashStack stack(0);
    auto full = make_pipe();  // that nobody reads
    if (!full || !set_nonblocking(full->second.get(), true)) return;
    while (::write(full->second.get(), "x", 1) == 1) {
    }
    if (!set_nonblocking(full->second.get(), false)) return;
    ::dup2(full->second.get(), STDERR_FILENO);
    std::abort();
  });
  CHECK(crash.signal == SIGABRT);
}

TEST_CASE("a forked child has no crash report once it has dropped it", "[unit][crash_report]") {
  const Crash crash = crash_of([](WorkerBoard&) {
    drop_crash_report();
    std::raise(SIGSEGV);
  });
  CHECK(crash.signal == SIGSEGV);
  CHECK(crash.report.empty());
}

}  // namespace lope::worker

#endif
