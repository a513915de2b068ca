// `lope run` from its start to its end, as a process group, a terminal, a service manager and a log
// reader see it. Without a broker: the groups' workers are ready and their consumers keep trying.
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "common/exit_code.h"
#include "support/ledger.h"
#include "support/lope.h"
#include "support/tcp_server.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

// Enough for a machine that is busy with something else.
constexpr auto kSoon = 10s;
// "Quickly": nothing that is waited for takes this long.
constexpr auto kQuickly = 4s;

LopeOptions one_group(const std::string& handler = "scripted") {
  LopeOptions options;
  options.groups = "  g: { handler: " + handler + " }\n";
  return options;
}

// As far as a daemon without a broker comes.
bool wait_for_workers(Lope& daemon, int count, std::chrono::milliseconds deadline = kSoon) {
  return eventually(deadline,
                    [&] { return daemon.process().count_lines("worker ready") >= count; });
}

bool wait_for_log(Lope& daemon, const std::string& text) {
  return eventually(kSoon, [&] { return daemon.process().count_lines(text) > 0; });
}

std::vector<pid_t> everybody(const Lope& daemon) {
  std::vector<pid_t> pids = {daemon.pid()};
  for (const ProcessInfo& info : descendants_of(daemon.pid())) pids.push_back(info.pid);
  std::sort(pids.begin(), pids.end());
  return pids;
}

pid_t group_of(pid_t pid) { return ::getpgid(pid); }

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// How many lines of a file contain `text`.
int count_in_file(const std::string& path, const std::string& text) {
  int count = 0;
  for (const std::string& line : lines_of_file(path)) {
    count += line.find(text) != std::string::npos ? 1 : 0;
  }
  return count;
}

// A command on a terminal of its own, as its session's leader and foreground job.
class OnTerminal {
 public:
  explicit OnTerminal(std::vector<std::string> argv) {
    std::vector<char*> pointers;
    for (std::string& text : argv) pointers.push_back(text.data());
    pointers.push_back(nullptr);
    int master = -1;
    pid_ = ::forkpty(&master, nullptr, nullptr, nullptr);
    if (pid_ == 0) {
      ::execvp(pointers[0], pointers.data());
      ::_exit(127);
    }
    REQUIRE(pid_ > 0);
    master_.reset(master);
    REQUIRE(set_nonblocking(master, true));
  }
  OnTerminal(const OnTerminal&) = delete;
  OnTerminal& operator=(const OnTerminal&) = delete;
  ~OnTerminal() {
    ::kill(-pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }
  const std::string& output() const { return output_; }
  void type(char key) { REQUIRE(::write(master_.get(), &key, 1) == 1); }
  bool wait_for(const std::string& text, std::chrono::milliseconds deadline = kSoon) {
    return eventually(deadline, [&] {
      char buffer[4096];
      ssize_t n = 0;
      while ((n = ::read(master_.get(), buffer, sizeof buffer)) > 0) {
        output_.append(buffer, static_cast<std::size_t>(n));
      }
      return output_.find(text) != std::string::npos;
    });
  }

 private:
  pid_t pid_ = -1;
  UniqueFd master_;
  std::string output_;
};

// What systemd would be told.
class NotifySocket {
 public:
  NotifySocket() : path_(dir_.file("notify")) {
    socket_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    REQUIRE(path_.size() < sizeof address.sun_path);
    path_.copy(address.sun_path, path_.size());
    REQUIRE(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  }
  const std::string& path() const { return path_; }

  // The first message, from the last one found, with this line in it.
  bool wait_for(const std::regex& line, std::chrono::milliseconds deadline = kSoon) {
    return eventually(deadline, [&] {
      char buffer[4096];
      ssize_t n = 0;
      while ((n = ::recv(socket_.get(), buffer, sizeof buffer, 0)) > 0) {
        const std::string message(buffer, static_cast<std::size_t>(n));
        all_ += "[" + message + "]";
        for (const std::string& each : lines_of(message)) {
          if (std::regex_match(each, line)) return true;
        }
      }
      return false;
    });
  }
  const std::string& all() const { return all_; }

 private:
  const TempDir dir_;
  const std::string path_;
  UniqueFd socket_;
  std::string all_;
};

}  // namespace

// ---- The process group

TEST_CASE("started in somebody else's group it leads one of its own", "[process][supervisor]") {
  const TempDir dir;
  const std::string config = dir.write("lope.yaml", config_text(one_group()));
  // The shell leads the group that lope finds itself in.
  Process shell(
      {"/bin/sh", "-c", "\"$0\" run --config \"$1\"; echo exit=$?", LOPE_BIN_DIR "/lope", config});
  REQUIRE(shell.wait_for_line("worker ready", kSoon));
  const std::vector<pid_t> supervisors = descendants_named(shell.pid(), "lope");
  REQUIRE(supervisors.size() == 1);
  const pid_t supervisor = supervisors[0];
  CHECK(group_of(supervisor) == supervisor);
  CHECK(group_of(shell.pid()) == shell.pid());
  CHECK(processes_of_group(supervisor).size() == 3);  // consumer and worker are in it
  REQUIRE(::kill(-supervisor, SIGTERM) == 0);
  CHECK(shell.wait_for_line("exit=0", kQuickly));
}

TEST_CASE("on a terminal it stays in the foreground job, and Ctrl-C stops all of it",
          "[process][supervisor]") {
  const TempDir dir;
  const std::string config = dir.write("lope.yaml", config_text(one_group()));
  OnTerminal shell({"/bin/sh", "-c", "trap : INT; \"$0\" run --config \"$1\"; echo exit=$?",
                    LOPE_BIN_DIR "/lope", config});
  REQUIRE(shell.wait_for("worker ready"));
  const std::vector<pid_t> supervisors = descendants_named(shell.pid(), "lope");
  REQUIRE(supervisors.size() == 1);
  for (const ProcessInfo& info : descendants_of(shell.pid())) {
    INFO(info.command);
    CHECK(info.group == shell.pid());
  }
  shell.type(3);
  const bool ended = shell.wait_for("exit=0", kQuickly);
  INFO(shell.output());
  CHECK(ended);
  CHECK(eventually(kQuickly, [&] { return descendants_of(shell.pid()).empty(); }));
}

TEST_CASE("in the background of a terminal it leads a group of its own", "[process][supervisor]") {
  const TempDir dir;
  const std::string config = dir.write("lope.yaml", config_text(one_group()));
  // setpgid() by way of a second shell with job control: its job is a group in the background.
  OnTerminal shell({"/bin/sh", "-c",
                    "set -m; /bin/sh -c '\"$0\" run --config \"$1\"; echo exit=$?' \"$0\" \"$1\" & "
                    "wait",
                    LOPE_BIN_DIR "/lope", config});
  REQUIRE(shell.wait_for("worker ready"));
  const std::vector<pid_t> supervisors = descendants_named(shell.pid(), "lope");
  REQUIRE(supervisors.size() == 1);
  CHECK(group_of(supervisors[0]) == supervisors[0]);
  REQUIRE(::kill(-supervisors[0], SIGTERM) == 0);
  CHECK(shell.wait_for("exit=0", kQuickly));
}

// ---- Stopping

TEST_CASE("without a broker it ends quickly and with 0, however it is told",
          "[process][supervisor]") {
  struct Row {
    int signal;
    bool group;
  };
  const auto row = GENERATE(values<Row>({{SIGTERM, false},
                                         {SIGTERM, true},
                                         {SIGINT, false},
                                         {SIGINT, true},
                                         {SIGQUIT, false},
                                         {SIGQUIT, true}}));
  LopeOptions options = one_group();
  options.groups += "  h: { handler: scripted, workers: 2, threads: 3 }\n";
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 3));
  REQUIRE(wait_for_log(daemon, "cannot connect"));
  if (row.group) {
    daemon.process().signal_group(row.signal);
  } else {
    daemon.process().signal(row.signal);
  }
  const auto status = daemon.process().wait_exit(kQuickly);
  INFO("signal " << row.signal << (row.group ? " to the group\n" : "\n") << daemon.log());
  CHECK(status == exited(kExitOk));
  CHECK(daemon.all_gone(0s));
  CHECK_THAT(daemon.log(), Contains("ledger finished=0 handed_back=0 killed=0 exit=0"));
}

TEST_CASE("a signal to the group while its processes are starting ends it with 0",
          "[process][supervisor]") {
  const int signal = GENERATE(SIGTERM, SIGINT);
  for (int i = 0; i < 20; ++i) {
    LopeOptions options = one_group();
    options.groups += "  h: { handler: scripted, workers: 4 }\n";
    Lope daemon(options);
    // At another moment of the start each time.
    const std::size_t processes = static_cast<std::size_t>(i) % 6 + 1;
    REQUIRE(eventually(kSoon, [&] { return descendants_of(daemon.pid()).size() >= processes; }));
    daemon.process().signal_group(signal);
    const auto status = daemon.process().wait_exit(kSoon);
    INFO("with " << processes << " processes\n" << daemon.log());
    CHECK(status == exited(kExitOk));
    CHECK(daemon.all_gone(0s));
  }
}

TEST_CASE("a broker that says nothing, hangs up or talks nonsense does not hold up the end",
          "[process][supervisor]") {
  const int kind = GENERATE(0, 1, 2);
  std::unique_ptr<TcpServer> server;
  if (kind == 0) server = std::make_unique<TcpServer>(TcpServer::Behaviour::silent);
  if (kind == 1) server = std::make_unique<TcpServer>(TcpServer::Behaviour::reset);
  if (kind == 2) server = std::make_unique<TcpServer>("HTTP/1.1 400 Bad Request\r\n\r\n");
  LopeOptions options = one_group();
  options.broker = "{ url: \"" + server->url() + "\", connect_timeout: 1s }";
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 1));
  CHECK(wait_for_log(daemon, "cannot connect"));
  const int accepted = server->accepted();
  CHECK(eventually(kSoon, [&] { return server->accepted() > accepted; }));  // it tries again
  const auto status = daemon.stop(kQuickly);
  INFO("kind " << kind << '\n' << daemon.log());
  CHECK(status == exited(kExitOk));
  CHECK(daemon.all_gone(0s));
}

TEST_CASE("a worker that cannot end is killed at shutdown_timeout, and the exit code says so",
          "[process][supervisor]") {
  LopeOptions options = one_group("create_hangs");
  options.top = "shutdown_timeout: 1s\n";
  Lope daemon(options);
  REQUIRE(eventually(kSoon, [&] { return !daemon.workers().empty(); }));
  const auto start = std::chrono::steady_clock::now();
  const auto status = daemon.stop();
  const auto took = std::chrono::steady_clock::now() - start;
  INFO(daemon.log());
  CHECK(status == exited(kExitFailed));
  CHECK(took >= 1s);
  CHECK(took < 2s);
  CHECK(daemon.all_gone(0s));
  CHECK_THAT(daemon.log(), Contains("killed at the end of shutdown_timeout"));
}

TEST_CASE("a second TERM leaves a second more", "[process][supervisor]") {
  const bool group = GENERATE(false, true);
  Lope daemon(one_group("create_hangs"));
  REQUIRE(eventually(kSoon, [&] { return !daemon.workers().empty(); }));
  const auto tell = [&] {
    group ? daemon.process().signal_group(SIGTERM) : daemon.process().signal(SIGTERM);
  };
  tell();
  REQUIRE(wait_for_log(daemon, "draining"));
  CHECK_FALSE(daemon.process().wait_exit(1500ms));  // far from its shutdown_timeout of 30 s
  const auto start = std::chrono::steady_clock::now();
  tell();
  const auto status = daemon.process().wait_exit(kSoon);
  const auto took = std::chrono::steady_clock::now() - start;
  INFO(daemon.log());
  CHECK(status == exited(kExitFailed));
  CHECK(took < 2500ms);
  CHECK_THAT(daemon.log(), Contains("told a second time"));
  CHECK(daemon.all_gone(0s));
}

TEST_CASE("QUIT waits for nobody", "[process][supervisor]") {
  Lope daemon(one_group("create_hangs"));
  REQUIRE(eventually(kSoon, [&] { return !daemon.workers().empty(); }));
  daemon.process().signal(SIGTERM);
  REQUIRE(wait_for_log(daemon, "draining"));
  daemon.process().signal(SIGQUIT);
  CHECK(daemon.process().wait_exit(1500ms));
  CHECK(daemon.all_gone(0s));
}

TEST_CASE("a consumer that does not end is killed, and the exit code says so",
          "[process][supervisor]") {
  LopeOptions options = one_group();
  options.top = "shutdown_timeout: 500ms\n";
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 1));
  const std::vector<pid_t> consumers = daemon.consumers();
  REQUIRE(consumers.size() == 1);
  REQUIRE(::kill(consumers[0], SIGSTOP) == 0);
  daemon.process().signal(SIGTERM);
  const auto status = daemon.process().wait_exit(kQuickly);
  INFO(daemon.log());
  CHECK(status == exited(kExitFailed));
  CHECK_THAT(daemon.log(), Contains("killing a consumer that did not end"));
  CHECK(daemon.all_gone(2s));
}

TEST_CASE("HUP, USR1 and USR2 to the group harm nobody", "[process][supervisor]") {
  LopeOptions options = one_group();
  options.groups += "  h: { handler: scripted, workers: 2 }\n";
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 3));
  const std::vector<pid_t> before = everybody(daemon);
  REQUIRE(before.size() == 6);
  for (const int signal : {SIGHUP, SIGUSR1, SIGUSR2, SIGHUP}) daemon.process().signal_group(signal);
  // The supervisor has taken the second HUP: the others have had theirs.
  CHECK(eventually(kSoon, [&] { return daemon.process().count_lines("reloaded") >= 1; }));
  CHECK_THAT(daemon.log(), Contains("2 of 2 groups unchanged"));
  // Who reads the configuration is there only for a moment.
  CHECK(eventually(kSoon, [&] { return everybody(daemon) == before; }));
  CHECK(daemon.stop(kQuickly) == exited(kExitOk));
  INFO(daemon.log());
  CHECK(daemon.process().count_lines("consumer started") == 2);
  CHECK(daemon.process().count_lines("worker ready") == 3);
}

TEST_CASE("signals to the group during the start harm nobody", "[process][supervisor]") {
  const int signal = GENERATE(SIGHUP, SIGUSR1, SIGUSR2);
  LopeOptions options;
  for (int i = 0; i < 4; ++i) {
    options.groups += "  g" + std::to_string(i) + ": { handler: scripted, workers: 2 }\n";
  }
  Lope daemon(options);
  REQUIRE(eventually(kSoon, [&] { return !daemon.consumers().empty(); }));
  CHECK(eventually(kSoon, [&] {
    daemon.process().signal_group(signal);
    return daemon.process().count_lines("worker ready") == 8;
  }));
  CHECK(daemon.stop(kSoon) == exited(kExitOk));
  INFO(daemon.log());
  CHECK(daemon.process().count_lines("consumer started") == 4);
  CHECK(daemon.process().count_lines("worker ready") == 8);
}

// ---- Refusals

TEST_CASE("with every group refused it ends with 78", "[process][supervisor]") {
  LopeOptions options;
  options.groups = "  a: { handler: no_symbol }\n  b: { handler: nowhere }\n";
  Lope daemon(options);
  const auto status = daemon.process().wait_exit(kSoon);
  INFO(daemon.log());
  CHECK(status == exited(kExitRefused));
  CHECK(daemon.all_gone(0s));
  CHECK(daemon.process().count_lines("group will not be started again") == 1);
  CHECK(daemon.process().count_lines("group waits for its handler") == 1);
  CHECK_THAT(daemon.log(), Contains("every group is refused"));
}

TEST_CASE("one refused group leaves the others alone", "[process][supervisor]") {
  LopeOptions options;
  options.groups = "  bad: { handler: no_symbol }\n  good: { handler: scripted }\n";
  Lope daemon(options);
  REQUIRE(eventually(kSoon, [&] {
    return daemon.process().count_lines("group will not be started again") == 1 &&
           daemon.process().count_lines("worker ready group=good") == 1 &&
           daemon.process().count_lines("cannot connect") == 1;
  }));
  CHECK(daemon.consumers().size() == 1);
  CHECK(daemon.stop(kQuickly) == exited(kExitOk));
}

TEST_CASE("a configuration that is refused is not run", "[process][supervisor]") {
  LopeOptions options;
  options.groups = "  g: { handler: scripted, worker: 2 }\n";
  Lope daemon(options);
  CHECK(daemon.process().wait_exit(kSoon) == exited(kExitRefused));
  CHECK_THAT(daemon.log(), Contains("lope.yaml:") && Contains("worker"));
}

TEST_CASE("a log file that cannot be opened is refused", "[process][supervisor]") {
  LopeOptions options = one_group();
  options.top = "log: { file: /nowhere/lope.log }\n";
  Lope daemon(options);
  CHECK(daemon.process().wait_exit(kSoon) == exited(kExitRefused));
  CHECK_THAT(daemon.log(), Contains("/nowhere/lope.log"));
}

// ---- Logs

TEST_CASE("USR1 opens the log file again, in the supervisor and in the consumers",
          "[process][supervisor]") {
  const TempDir logs;
  const std::string path = logs.file("lope.log");
  const std::string rotated = logs.file("lope.log.1");
  LopeOptions options = one_group();
  options.groups += "  h: { handler: scripted }\n";
  options.top = "log: { level: debug, file: " + path + " }\n";
  Lope daemon(options);
  REQUIRE(eventually(kSoon, [&] { return count_in_file(path, "worker ready") == 2; }));
  CHECK(count_in_file(path, " lope[") > 0);
  CHECK(count_in_file(path, " lope-consumer[") > 0);
  CHECK(daemon.log().empty());  // nothing beside the file

  fs::rename(path, rotated);
  daemon.process().signal(SIGUSR1);
  REQUIRE(eventually(kSoon, [&] { return fs::exists(path); }));
  // Each consumer has something to say when its worker dies.
  CHECK(eventually(kSoon, [&] {
    for (const pid_t worker : daemon.workers()) ::kill(worker, SIGKILL);
    return count_in_file(path, "worker ended group=g") > 0 &&
           count_in_file(path, "worker ended group=h") > 0;
  }));
  const auto size = fs::file_size(rotated);
  CHECK(daemon.stop(kQuickly) == exited(kExitOk));
  CHECK(count_in_file(path, "drained group=g") == 1);
  CHECK(count_in_file(path, "drained group=h") == 1);
  CHECK(count_in_file(path, "ledger") == 1);
  CHECK(fs::file_size(rotated) == size);
}

TEST_CASE("a log file that cannot be opened again stays the old one", "[process][supervisor]") {
  const TempDir logs;
  fs::create_directory(logs.path() / "sub");
  const std::string path = logs.file("sub/lope.log");
  LopeOptions options = one_group();
  options.top = "log: { level: debug, file: " + path + " }\n";
  Lope daemon(options);
  REQUIRE(eventually(kSoon, [&] { return count_in_file(path, "worker ready") == 1; }));
  fs::rename(logs.path() / "sub", logs.path() / "moved");
  daemon.process().signal(SIGUSR1);
  const std::string moved = logs.file("moved/lope.log");
  CHECK(eventually(kSoon,
                   [&] { return count_in_file(moved, "cannot open the log file again") == 2; }));
  CHECK(daemon.stop(kQuickly) == exited(kExitOk));
  CHECK(count_in_file(moved, "ledger") == 1);
}

TEST_CASE("lines of many processes never mix, in text and in JSON", "[process][supervisor]") {
  const std::string format = GENERATE(as<std::string>(), "text", "json");
  const bool to_file = GENERATE(true, false);
  const TempDir logs;
  const std::string path = logs.file("lope.log");
  LopeOptions options;
  options.handlers_dir = LOPE_TEST_HANDLERS_DIR;
  options.top = "log: { level: debug, format: " + format +
                (to_file ? ", file: " + path : std::string()) + " }\n";
  constexpr int kGroups = 6;
  constexpr int kLines = 500;
  for (int i = 0; i < kGroups; ++i) {
    options.groups += "  g" + std::to_string(i) +
                      ": { handler: at_start, options: { do: \"print:" + std::to_string(kLines) +
                      "\" } }\n";
  }
  Lope daemon(options);
  const auto log = [&] { return to_file ? read_file(path) : daemon.log(); };
  REQUIRE(eventually(30s, [&] {
    std::size_t found = 0;
    const std::string text = log();
    for (std::size_t at = 0; (at = text.find("worker ready", at)) != std::string::npos; ++at)
      ++found;
    return found == kGroups;
  }));
  CHECK(daemon.stop(kSoon) == exited(kExitOk));

  const std::string text = log();
  REQUIRE(!text.empty());
  CHECK(text.back() == '\n');
  if (format == "text") {
    const std::regex shape(
        R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info|warn|error) +(lope|lope-consumer)\[\d+\] [^\x00-\x1f]+)");
    int printed = 0;
    for (const std::string& line : lines_of(text)) {
      INFO(line);
      CHECK(std::regex_match(line, shape));
      CHECK(line.find("Z ", 25) == std::string::npos);  // no second line inside
      printed += line.find("handler printed") != std::string::npos ? 1 : 0;
    }
    CHECK(printed == kGroups * kLines);
  } else {
    const std::string copy = to_file ? path : logs.write("copy.log", text);
    const RunResult read =
        run({"python3", "-c",
             "import json, sys\n"
             "printed = 0\n"
             "for line in open(sys.argv[1]):\n"
             "    entry = json.loads(line)\n"
             "    assert isinstance(entry['pid'], int), line\n"
             "    assert entry['program'] in ('lope', 'lope-consumer'), line\n"
             "    assert entry['level'] in ('debug', 'info', 'warn', 'error'), line\n"
             "    assert entry['time'].endswith('Z') and entry['event'], line\n"
             "    printed += entry['event'] == 'handler printed'\n"
             "print(printed)\n",
             copy});
    INFO(read.output);
    CHECK(read.status == exited(0));
    CHECK(read.output == std::to_string(kGroups * kLines) + "\n");
  }
}

// ---- The service manager

TEST_CASE("systemd hears what runs and what is missing", "[process][supervisor]") {
  NotifySocket notify;
  LopeOptions options = one_group();
  options.groups += "  h: { handler: scripted, workers: 2 }\n";
  options.top = "ready_timeout: 700ms\n";
  options.env = {{"NOTIFY_SOCKET", notify.path()}};
  Lope daemon(options);
  const auto start = std::chrono::steady_clock::now();
  // READY=1 although the broker is down, with the reason in the same message.
  const bool ready = notify.wait_for(std::regex("READY=1"));
  INFO(notify.all() << '\n' << daemon.log());
  REQUIRE(ready);
  CHECK(std::chrono::steady_clock::now() - start >= 600ms);
  CHECK(wait_for_log(daemon, "not ready in time, going on"));
  // Later messages keep to what is so then.
  CHECK(eventually(kSoon, [&] { return daemon.process().count_lines("worker ready") == 3; }));
  CHECK(std::regex_search(
      notify.all(),
      std::regex(
          R"(READY=1\nSTATUS=0 of 2 groups consuming, \d of 3 workers ready; g: [^;\n]+; h: )")));
  daemon.process().signal(SIGTERM);
  CHECK(notify.wait_for(std::regex("STOPPING=1")));
  CHECK(daemon.process().wait_exit(kQuickly) == exited(kExitOk));
}

TEST_CASE("the status line follows the workers", "[process][supervisor]") {
  NotifySocket notify;
  LopeOptions options = one_group();
  options.groups += "  bad: { handler: no_symbol }\n";
  options.env = {{"NOTIFY_SOCKET", notify.path()}};
  Lope daemon(options);
  const bool told = notify.wait_for(std::regex(
      R"(STATUS=0 of 2 groups consuming, 1 of 2 workers ready; g: .*; bad: refused: .*no_symbol\.so.*)"));
  INFO(notify.all() << '\n' << daemon.log());
  CHECK(told);
  CHECK(notify.all().find("READY=1") == std::string::npos);
}

TEST_CASE("the watchdog is answered from the main loop", "[process][supervisor]") {
  NotifySocket notify;
  LopeOptions options = one_group();
  options.env = {{"NOTIFY_SOCKET", notify.path()}, {"WATCHDOG_USEC", "400000"}};
  Lope daemon(options);
  for (int i = 0; i < 4; ++i) CHECK(notify.wait_for(std::regex("WATCHDOG=1"), 5s));
  // A supervisor that stands still does not.
  REQUIRE(::kill(daemon.pid(), SIGSTOP) == 0);
  notify.wait_for(std::regex("nothing"), 300ms);  // what was on its way
  CHECK_FALSE(notify.wait_for(std::regex("WATCHDOG=1"), 1s));
  REQUIRE(::kill(daemon.pid(), SIGCONT) == 0);
  CHECK(notify.wait_for(std::regex("WATCHDOG=1"), 5s));
}

TEST_CASE("neither the password's variable nor systemd's reach consumers and workers",
          "[process][supervisor]") {
  NotifySocket notify;
  LopeOptions options = one_group();
  options.broker = "{ url: \"amqp://app@127.0.0.1:1\", password: { env: LOPE_TEST_SECRET } }";
  options.env = {{"NOTIFY_SOCKET", notify.path()},
                 {"WATCHDOG_USEC", "60000000"},
                 {"LOPE_TEST_SECRET", "the-password-itself"},
                 {"LOPE_TEST_OPEN", "for-everybody"}};
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 1));
  REQUIRE(wait_for_log(daemon, "cannot connect"));
  const auto environment = [](pid_t pid) {
    return read_file("/proc/" + std::to_string(pid) + "/environ");
  };
  std::vector<pid_t> looked_at = daemon.workers();
  REQUIRE(looked_at.size() == 1);
  const std::vector<pid_t> consumers = daemon.consumers();
  REQUIRE(consumers.size() == 1);
  if (::geteuid() == 0) {
    looked_at.push_back(consumers[0]);
  } else {
    // It holds the password in its memory, which is closed to others of the same user.
    CHECK(environment(consumers[0]).empty());
    CHECK(environment(daemon.pid()).empty());
  }
  for (const pid_t pid : looked_at) {
    const std::string found = environment(pid);
    CHECK_THAT(found, Contains("LOPE_TEST_OPEN=for-everybody"));
    CHECK_THAT(found, !Contains("LOPE_TEST_SECRET") && !Contains("the-password-itself"));
    CHECK_THAT(found, !Contains("NOTIFY_SOCKET") && !Contains("WATCHDOG_USEC"));
  }
  for (const ProcessInfo& info : processes_of_group(daemon.pid())) {
    CHECK_THAT(info.command, !Contains("the-password-itself"));
  }
  CHECK(daemon.stop(kQuickly) == exited(kExitOk));
  CHECK_THAT(daemon.log(), !Contains("the-password-itself"));
}

TEST_CASE("a descriptor that its parent left open goes no further", "[process][supervisor]") {
  const TempDir dir;
  const std::string config = dir.write("lope.yaml", config_text(one_group()));
  const std::string left_open = dir.write("left-open", "");
  Process shell({"/bin/sh", "-c", "exec 9>\"$2\"; exec \"$0\" run --config \"$1\"",
                 LOPE_BIN_DIR "/lope", config, left_open});
  REQUIRE(shell.wait_for_line("worker ready", kSoon));
  const std::vector<pid_t> workers = descendants_named(shell.pid(), "lope-worker");
  REQUIRE(workers.size() == 1);
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(workers[0]) + "/fd")) {
    std::error_code error;
    CHECK(fs::read_symlink(entry.path(), error) != left_open);
  }
  shell.signal(SIGTERM);
  CHECK(shell.wait_exit(kQuickly) == exited(kExitOk));
}
