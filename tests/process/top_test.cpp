// `lope top`, on a terminal of the test's own.
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <string>

#include "common/fd.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;

namespace {

class Terminal {
 public:
  explicit Terminal(const std::string& socket) {
    int fd = -1;
    const winsize size{20, 120, 0, 0};
    pid_ = ::forkpty(&fd, nullptr, nullptr, &size);
    if (pid_ == 0) {
      ::execl(LOPE_BIN_DIR "/lope", "lope", "top", "--socket", socket.c_str(), nullptr);
      ::_exit(127);
    }
    terminal_.reset(fd);
  }
  ~Terminal() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void type(const std::string& keys) const {
    REQUIRE(::write(terminal_.get(), keys.data(), keys.size()) ==
            static_cast<ssize_t>(keys.size()));
  }
  // Is this on what has been drawn since the last time?
  bool shows(const std::string& text) {
    return eventually(10s, [&] {
      pollfd poll{terminal_.get(), POLLIN, 0};
      char bytes[4096];
      if (::poll(&poll, 1, 50) == 1) {
        const ssize_t n = ::read(terminal_.get(), bytes, sizeof bytes);
        if (n > 0) drawn_.append(bytes, static_cast<std::size_t>(n));
      }
      const std::size_t found = drawn_.find(text);
      if (found == std::string::npos) return false;
      drawn_.erase(0, found + text.size());
      return true;
    });
  }
  // Its exit code.
  int wait() {
    int status = 0;
    REQUIRE(eventually(10s, [&] {
      shows_nothing();
      return ::waitpid(pid_, &status, WNOHANG) == pid_;
    }));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  void shows_nothing() const {
    pollfd poll{terminal_.get(), POLLIN, 0};
    char bytes[4096];
    if (::poll(&poll, 1, 0) == 1) (void)!::read(terminal_.get(), bytes, sizeof bytes);
  }

  pid_t pid_ = -1;
  UniqueFd terminal_;
  std::string drawn_;
};

}  // namespace

TEST_CASE("top shows the groups, sorts them, pauses them, and leaves", "[process][top]") {
  Lope daemon({.groups = "  beta: { handler: scripted }\n  alpha: { handler: scripted }\n"});
  REQUIRE(eventually(10s, [&] { return daemon.process().count_lines("worker ready") == 2; }));
  Terminal terminal(daemon.control_socket());
  CHECK(terminal.shows("GROUP"));
  CHECK(terminal.shows("\033[7mbeta"));
  CHECK(terminal.shows("sorted by as in the file"));
  terminal.type("g");
  // What was selected stays so, wherever it goes.
  CHECK(terminal.shows("alpha"));
  CHECK(terminal.shows("\033[7mbeta"));
  CHECK(terminal.shows("sorted by group"));
  terminal.type("\033[A");
  CHECK(terminal.shows("\033[7malpha"));
  terminal.type("\033[B");
  CHECK(terminal.shows("\033[7mbeta"));
  terminal.type("p");
  CHECK(terminal.shows("group 'beta': paused"));
  CHECK(eventually(10s, [&] { return group_of(daemon, "beta")["state"] == "paused"; }));
  CHECK(terminal.shows("paused "));
  terminal.type("p");
  CHECK(terminal.shows("group 'beta': resumed"));
  terminal.type(" ");
  CHECK(terminal.shows("FROZEN"));
  terminal.type(" ");
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(terminal.shows("no daemon answers"));
  terminal.type("q");
  CHECK(terminal.shows("\033[?1049l"));
  CHECK(terminal.wait() == 0);
}

TEST_CASE("top needs a terminal, and a daemon", "[process][top]") {
  const RunResult result = run_lope({"top"});
  CHECK(result.status == exited(kExitFailed));
  CHECK_THAT(result.output, Contains("expected a terminal, found none"));
  Terminal terminal("/nowhere/control.sock");
  CHECK(terminal.shows("lope top: no daemon answers"));
  CHECK(terminal.wait() == kExitTemporary);
}
