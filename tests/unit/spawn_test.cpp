#include "common/spawn.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "support/eventually.h"
#include "support/process.h"
#include "support/temp_dir.h"

namespace lope {

namespace {

using namespace std::chrono_literals;

std::string read_to_end(int fd) {
  std::string text;
  char buffer[4096];
  ssize_t n = 0;
  while ((n = ::read(fd, buffer, sizeof buffer)) > 0)
    text.append(buffer, static_cast<std::size_t>(n));
  return text;
}

// A program, by default a shell that runs `script`, its standard output in `output`.
struct Shell {
  explicit Shell(const std::string& script, const std::string& path = "/bin/sh") {
    auto opened = open_program(path);
    REQUIRE(opened);
    program = std::move(*opened);
    auto pipe = make_pipe();
    REQUIRE(pipe);
    output = std::move(pipe->first);
    write_end = std::move(pipe->second);
    options.program_fd = program.get();
    options.argv = {"sh", "-c", script};
    options.env = {"PATH=/usr/bin:/bin"};
    options.fds = {{write_end.get(), 1}};
  }
  // Starts it and reads what it writes.
  std::string run() {
    auto started = spawn(options);
    INFO((started ? std::string() : started.error()));
    REQUIRE(started);
    child = std::move(*started);
    write_end.reset();
    std::string text = read_to_end(output.get());
    const auto ended = reap(child);
    REQUIRE(ended);
    end = *ended;
    return text;
  }

  UniqueFd program, output, write_end;
  SpawnOptions options;
  Child child;
  ChildEnd end;
};

}  // namespace

TEST_CASE("a child runs its program with its arguments and environment", "[unit][spawn]") {
  Shell shell("echo \"$0|$1|$ONE|$HOME\"; exit 7");
  shell.options.argv.insert(shell.options.argv.end(), {"zero", "first argument"});
  shell.options.env.push_back("ONE=1");
  CHECK(shell.run() == "zero|first argument|1|\n");
  CHECK_FALSE(shell.end.signalled);
  CHECK(shell.end.code == 7);
  CHECK(shell.end.to_string() == "exit 7");
}

TEST_CASE("a child that a signal ends is reported with its name", "[unit][spawn]") {
  Shell shell("kill -SEGV $$");
  shell.run();
  CHECK(shell.end.signalled);
  CHECK(shell.end.code == SIGSEGV);
  CHECK(shell.end.to_string() == "SIGSEGV");
}

TEST_CASE("descriptors are placed where they are wanted, also crosswise", "[unit][spawn]") {
  const auto a = make_memfd("a", "content of a\n");
  const auto b = make_memfd("b", "content of b\n");
  REQUIRE((a && b));
  // Numbers 3 and 4 on our side, exchanged on the child's.
  const int saved_three = ::fcntl(3, F_DUPFD_CLOEXEC, 100);
  const int saved_four = ::fcntl(4, F_DUPFD_CLOEXEC, 100);
  const int a_copy = ::fcntl(a->get(), F_DUPFD_CLOEXEC, 110);
  const int b_copy = ::fcntl(b->get(), F_DUPFD_CLOEXEC, 110);
  REQUIRE(::dup3(a_copy, 3, O_CLOEXEC) == 3);
  REQUIRE(::dup3(b_copy, 4, O_CLOEXEC) == 4);
  Shell shell("cat /proc/self/fd/3; cat /proc/self/fd/4");
  shell.options.fds.push_back({3, 4});
  shell.options.fds.push_back({4, 3});
  const std::string output = shell.run();
  for (const auto& [saved, number] : {std::pair{saved_three, 3}, {saved_four, 4}}) {
    if (saved >= 0) {
      ::dup3(saved, number, O_CLOEXEC);
      ::close(saved);
    } else {
      ::close(number);
    }
  }
  ::close(a_copy);
  ::close(b_copy);
  CHECK(output == "content of b\ncontent of a\n");
}

TEST_CASE("a descriptor may be given twice", "[unit][spawn]") {
  Shell shell("echo one; echo two >&2; echo three >&7");
  shell.options.fds.push_back({shell.write_end.get(), 2});
  shell.options.fds.push_back({shell.write_end.get(), 7});
  CHECK(shell.run() == "one\ntwo\nthree\n");
}

TEST_CASE("every other descriptor is closed in the child", "[unit][spawn]") {
  // One that a careless library has left open, without close-on-exec.
  const int careless = ::open("/dev/null", O_RDONLY);
  REQUIRE(careless >= 0);
  Shell shell("ls /proc/$$/fd");
  const std::string output = shell.run();
  ::close(careless);
  std::istringstream in(output);
  std::vector<int> open;
  for (int fd = 0; in >> fd;) open.push_back(fd);
  std::sort(open.begin(), open.end());
  // 0 and 2 are the test's own.
  CHECK(open == std::vector<int>{0, 1, 2});
}

TEST_CASE("a child starts with default signals and nothing blocked", "[unit][spawn]") {
  struct sigaction ignore {
  }, old_usr1{}, old_pipe{};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGUSR1, &ignore, &old_usr1);
  ::sigaction(SIGPIPE, &ignore, &old_pipe);
  sigset_t some, old_mask;
  ::sigemptyset(&some);
  ::sigaddset(&some, SIGTERM);
  ::sigaddset(&some, SIGCHLD);
  ::pthread_sigmask(SIG_BLOCK, &some, &old_mask);
  // No shell: it may start with an empty mask of its own.
  Shell shell("", "/bin/grep");
  shell.options.argv = {"grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"};
  const std::string output = shell.run();
  ::sigaction(SIGUSR1, &old_usr1, nullptr);
  ::sigaction(SIGPIPE, &old_pipe, nullptr);
  ::pthread_sigmask(SIG_SETMASK, &old_mask, nullptr);
  CHECK(output == "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

TEST_CASE("signals that are asked for start blocked, and are kept waiting", "[unit][spawn]") {
  Shell shell("", "/bin/cat");
  shell.options.argv = {"cat", "/proc/self/status", "-"};  // then its standard input
  auto input = make_pipe();
  REQUIRE(input);
  shell.options.fds.push_back({input->first.get(), 0});
  shell.options.blocked_signals.assign(std::begin(kGroupSignals), std::end(kGroupSignals));
  auto started = spawn(shell.options);
  REQUIRE(started);
  shell.write_end.reset();
  for (const int signal : kGroupSignals) REQUIRE(::kill(started->pid, signal) == 0);
  REQUIRE(::write(input->second.get(), "alive\n", 6) == 6);
  input->second.reset();
  const std::string output = read_to_end(shell.output.get());
  const auto end = reap(*started);
  REQUIRE(end);
  CHECK(end->to_string() == "exit 0");
  unsigned long long blocked = 0;
  for (const int signal : kGroupSignals) blocked |= 1ull << (signal - 1);
  const std::size_t at = output.find("SigBlk:");
  REQUIRE(at != std::string::npos);
  CHECK(std::stoull(output.substr(at + 7), nullptr, 16) == blocked);
  CHECK(output.ends_with("\nalive\n"));
}

TEST_CASE("a program that cannot be run is an error with its errno", "[unit][spawn]") {
  const test::TempDir dir;
  const auto not_executable = open_program(dir.write("text", "no program\n"));
  REQUIRE(not_executable);
  SpawnOptions options;
  options.program_fd = not_executable->get();
  options.argv = {"text"};
  const auto child = spawn(options);
  REQUIRE_FALSE(child);
  CHECK_THAT(child.error(),
             Catch::Contains("execveat text") && Catch::Contains("ermission denied"));
  // It is reaped already.
  CHECK(test::zombies_of(::getpid()).empty());
}

TEST_CASE("too many descriptors are refused before anything is forked", "[unit][spawn]") {
  Shell shell("true");
  shell.options.fds.assign(17, {shell.write_end.get(), 1});
  CHECK_FALSE(spawn(shell.options));
}

TEST_CASE("the pidfd becomes readable at the child's end, and not before", "[unit][spawn]") {
  const auto input = make_pipe();
  REQUIRE(input);
  Shell shell("read line");
  shell.options.fds.push_back({input->first.get(), 0});
  auto started = spawn(shell.options);
  REQUIRE(started);
  CHECK((::fcntl(started->pidfd.get(), F_GETFD) & FD_CLOEXEC) != 0);
  pollfd waiting{started->pidfd.get(), POLLIN, 0};
  CHECK(::poll(&waiting, 1, 0) == 0);
  REQUIRE(::write(input->second.get(), "\n", 1) == 1);
  CHECK(::poll(&waiting, 1, 10'000) == 1);
  CHECK(reap(*started)->to_string() == "exit 0");
}

TEST_CASE("a child dies with the thread that spawned it", "[unit][spawn]") {
  Shell shell("read line");
  const auto input = make_pipe();
  REQUIRE(input);
  shell.options.fds.push_back({input->first.get(), 0});
  Child child;
  std::thread([&] {
    auto started = spawn(shell.options);
    if (started) child = std::move(*started);
  }).join();
  REQUIRE(child.pidfd.valid());
  pollfd waiting{child.pidfd.get(), POLLIN, 0};
  CHECK(::poll(&waiting, 1, 10'000) == 1);
  ::kill(child.pid, SIGTERM);  // or, should it live on, the test would wait for it
  CHECK(reap(child)->to_string() == "SIGKILL");
}

TEST_CASE("variables are left out of the environment by their whole name", "[unit][spawn]") {
  ::setenv("LOPE_TEST_A", "1", 1);
  ::setenv("LOPE_TEST_AB", "2", 1);
  ::setenv("LOPE_TEST_C", "x=LOPE_TEST_AB", 1);
  const auto environment = environment_without({"LOPE_TEST_A", "LOPE_TEST_NOT_THERE"});
  const auto all = environment_without({});
  for (const char* name : {"LOPE_TEST_A", "LOPE_TEST_AB", "LOPE_TEST_C"}) ::unsetenv(name);
  const auto has = [](const std::vector<std::string>& in, const std::string& entry) {
    return std::find(in.begin(), in.end(), entry) != in.end();
  };
  CHECK_FALSE(has(environment, "LOPE_TEST_A=1"));
  CHECK(has(environment, "LOPE_TEST_AB=2"));
  CHECK(has(environment, "LOPE_TEST_C=x=LOPE_TEST_AB"));
  CHECK(has(all, "LOPE_TEST_A=1"));
  CHECK(all.size() == environment.size() + 1);
}

}  // namespace lope
