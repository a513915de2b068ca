// The control socket: what `lope status` and `lope stop` say to a running daemon, and what others
// may send to it. Without a broker: the workers are ready and the consumers keep trying.
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/exit_code.h"
#include "common/fd.h"
#include "common/status.h"
#include "support/ledger.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

LopeOptions two_groups() {
  LopeOptions options;
  options.groups =
      "  one: { handler: scripted, workers: 2 }\n"
      "  two: { handler: scripted, queue: other }\n";
  return options;
}

bool wait_for_workers(Lope& daemon, int count) {
  return eventually(10s, [&] { return daemon.process().count_lines("worker ready") >= count; });
}

// A client that says what it likes.
class Client {
 public:
  explicit Client(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    socket_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    connected_ =
        ::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    const timeval limit{10, 0};
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  }
  bool connected() const { return connected_; }
  // With so many descriptors.
  bool say_with(const std::string& bytes, std::size_t descriptors) {
    std::vector<int> fds(descriptors, STDIN_FILENO);
    std::vector<char> ancillary(CMSG_SPACE(descriptors * sizeof(int)));
    iovec part{const_cast<char*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = ancillary.data();
    message.msg_controllen = ancillary.size();
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors * sizeof(int));
    std::memcpy(CMSG_DATA(rights), fds.data(), descriptors * sizeof(int));
    return ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  // False: the daemon has closed the connection, or does not read.
  bool say(const std::string& bytes) {
    return ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  void end_of_file() { ::shutdown(socket_.get(), SHUT_WR); }
  // The next line; empty at the end of the connection, or when none came within 10 s.
  std::string line() {
    while (true) {
      if (const auto end = input_.find('\n'); end != std::string::npos) {
        const std::string line = input_.substr(0, end);
        input_.erase(0, end + 1);
        return line;
      }
      char bytes[65536];
      const ssize_t n = ::recv(socket_.get(), bytes, sizeof bytes, 0);
      if (n <= 0) return {};
      input_.append(bytes, static_cast<std::size_t>(n));
    }
  }
  std::string ask(const std::string& request) { return say(request + "\n") ? line() : ""; }

 private:
  UniqueFd socket_;
  bool connected_ = false;
  std::string input_;
};

std::size_t open_descriptors(pid_t pid) {
  const fs::directory_iterator all("/proc/" + std::to_string(pid) + "/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

}  // namespace

TEST_CASE("status tells of every group and worker", "[process][control]") {
  Lope daemon(two_groups());
  REQUIRE(wait_for_workers(daemon, 3));
  const RunResult text = run_lope({"status"}, with_socket(daemon));
  CHECK(text.status == exited(kExitOk));
  CHECK_THAT(text.output, Contains("running, pid " + std::to_string(daemon.pid()) + ", up "));
  CHECK_THAT(text.output, Contains(daemon.config_path()));
  CHECK_THAT(text.output, Contains("one    connecting  scripted 1.0.0  2/2"));
  CHECK_THAT(text.output, Contains("two    connecting  scripted 1.0.0  1/1"));
  CHECK_THAT(text.output, Contains("one: connecting: broker 127.0.0.1:1: connect: "));
  CHECK(text.output.find('\033') == std::string::npos);  // no terminal, no colours

  const RunResult json = run_lope({"status", "--json"}, with_socket(daemon));
  CHECK(json.status == exited(kExitOk));
  const Json status = Json::parse(json.output);
  CHECK(status["version"] == LOPE_VERSION);
  CHECK(status["pid"] == daemon.pid());
  CHECK(status["state"] == "running");
  REQUIRE(status["groups"].size() == 2);
  const Json& one = status["groups"][0];
  CHECK(one["name"] == "one");
  CHECK(one["queues"] == Json::array({"one"}));
  CHECK(one["handler_file"] == std::string(LOPE_TEST_HANDLERS_DIR) + "/scripted.so");
  CHECK(one["consumer_pid"] == daemon.consumers()[0]);
  REQUIRE(one["workers"].size() == 2);
  std::vector<pid_t> workers;
  for (const Json& worker : one["workers"]) {
    CHECK(worker["state"] == "ready");
    CHECK(worker["rss_bytes"] > 1'000'000);
    workers.push_back(worker["pid"]);
  }
  for (const Json& worker : status["groups"][1]["workers"]) workers.push_back(worker["pid"]);
  std::sort(workers.begin(), workers.end());
  CHECK(workers == daemon.workers());
  CHECK(status["groups"][1]["queues"] == Json::array({"other"}));
  CHECK(status["relay"].empty());
}

TEST_CASE("status shows a refused group and its reason, and a worker that died",
          "[process][control]") {
  LopeOptions options;
  options.groups =
      "  good: { handler: scripted }\n"
      "  bad: { handler: create_throws }\n";
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 1));
  const auto status = [&] { return run_lope({"status"}, with_socket(daemon)).output; };
  CHECK(eventually(10s, [&] {
    const std::string text = status();
    return text.find("bad: ") != std::string::npos &&
           text.find("bad: last failure, ") != std::string::npos;
  }));
  ::kill(daemon.workers().front(), SIGKILL);
  CHECK(eventually(10s, [&] {
    return status().find("good: last failure, 0s ago: worker 0 ended by SIGKILL while ready") !=
           std::string::npos;
  }));
}

TEST_CASE("stop drains and returns when the daemon has ended", "[process][control]") {
  Lope daemon(two_groups());
  REQUIRE(wait_for_workers(daemon, 3));
  SECTION("in good order") {
    const RunResult stopped = run_lope({"stop"}, with_socket(daemon));
    CHECK(stopped.status == exited(kExitOk));
    CHECK_THAT(stopped.output, Contains("stopping within 30000 ms\nstopped\n"));
  }
  SECTION("at once") {
    const RunResult stopped = run_lope({"stop", "--now"}, with_socket(daemon));
    CHECK(stopped.status == exited(kExitOk));
    CHECK_THAT(stopped.output, Contains("stopping now: unfinished messages go back\nstopped\n"));
  }
  CHECK(daemon.process().wait_exit(5s) == exited(kExitOk));
  CHECK(daemon.all_gone());
  CHECK(::access(daemon.control_socket().c_str(), F_OK) != 0);
  const RunResult nobody = run_lope({"status"}, with_socket(daemon));
  CHECK(nobody.status == exited(kExitTemporary));
  CHECK_THAT(nobody.output, Contains("no daemon answers: connect '" + daemon.control_socket()));
}

TEST_CASE("a second daemon on the same socket is refused, one after a crash takes it over",
          "[process][control]") {
  Lope daemon(two_groups());
  REQUIRE(wait_for_workers(daemon, 3));
  LopeOptions again = two_groups();
  again.top = "control: { socket: " + daemon.control_socket() + " }\n";
  {
    Lope second(again);
    CHECK(second.process().wait_exit(10s) == exited(kExitRefused));
    CHECK_THAT(second.log(), Contains("another lope, with pid " + std::to_string(daemon.pid())));
  }
  CHECK(run_lope({"status"}, with_socket(daemon)).status == exited(kExitOk));

  daemon.process().signal(SIGKILL);
  REQUIRE(daemon.process().wait_exit(5s) == killed_by(SIGKILL));
  CHECK(::access(daemon.control_socket().c_str(), F_OK) == 0);
  Lope third(again);
  REQUIRE(wait_for_workers(third, 3));
  const RunResult status = run_lope({"status"}, with_socket(daemon));
  CHECK(status.status == exited(kExitOk));
  CHECK_THAT(status.output, Contains("pid " + std::to_string(third.pid())));
}

TEST_CASE("a socket that cannot be made refuses the start where it was chosen, and only there",
          "[process][control]") {
  LopeOptions options = two_groups();
  SECTION("chosen") {
    options.top = "control: { socket: /proc/nowhere/control.sock }\n";
    Lope daemon(options);
    CHECK(daemon.process().wait_exit(10s) == exited(kExitRefused));
    CHECK_THAT(daemon.log(), Contains("control socket: open /proc/nowhere/control.sock.lock"));
  }
  SECTION("a file that is none") {
    const TempDir dir;
    dir.write("file", "of somebody\n");
    options.top = "control: { socket: " + dir.file("file") + " }\n";
    Lope daemon(options);
    CHECK(daemon.process().wait_exit(10s) == exited(kExitRefused));
    CHECK_THAT(daemon.log(), Contains("expected a socket, found another file"));
    CHECK(lines_of_file(dir.file("file")) == std::vector<std::string>{"of somebody"});
  }
  SECTION("a socket that somebody else serves") {
    const TempDir dir;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = dir.file("theirs");
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    const UniqueFd theirs(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::bind(theirs.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(theirs.get(), 1) == 0);
    options.top = "control: { socket: " + path + " }\n";
    Lope daemon(options);
    CHECK(daemon.process().wait_exit(10s) == exited(kExitRefused));
    CHECK_THAT(daemon.log(), Contains("found one that is not Lope's"));
    CHECK(Client(path).connected());
  }
  SECTION("by default") {
    options.top = "control: {}\n";
    options.env = {{"LOPE_SOCKET", "/proc/nowhere/control.sock"}};
    Lope daemon(options);
    CHECK(wait_for_workers(daemon, 3));
    CHECK(daemon.wait_for_line("no control socket"));
    CHECK(daemon.stop() == exited(kExitOk));
  }
}

TEST_CASE("requests: one line each way, and errors say what was expected", "[process][control]") {
  Lope daemon(two_groups());
  REQUIRE(wait_for_workers(daemon, 3));
  struct stat info {};
  REQUIRE(::stat(daemon.control_socket().c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0660);

  Client client(daemon.control_socket());
  REQUIRE(client.connected());
  const auto error = [&](const std::string& request) {
    return Json::parse(client.ask(request))["error"].get<std::string>();
  };
  CHECK(error("") == "control: expected a JSON object on one line, found ''");
  CHECK(error("[1]") == "control: expected a JSON object on one line, found '[1]'");
  CHECK(error("\xff\x01") == "control: expected a JSON object on one line, found '\\xFF\\x01'");
  CHECK(error("{}") == "control: expected \"command\", found none");
  CHECK(error(R"({"command": 1})") == "control: \"command\": expected a text, found '1'");
  CHECK(error(R"({"command": "stop", "now": "yes"})") ==
        "control: \"now\": expected true or false, found '\\\"yes\\\"'");
  CHECK(error(R"({"comand": "stop"})") ==
        "control: expected command, group, now, workers, wait, level or count, found \"comand\"");
  CHECK(error(R"({"command": "sttus"})") == "unknown command 'sttus': did you mean 'status'?");
  // Several in one go are answered in their order; the last one's end of file is no hurry.
  REQUIRE(client.say("{\"command\":\"a\"}\n{\"command\":\"status\"}\n{\"command\":\"b\"}\n"));
  client.end_of_file();
  CHECK(client.line() == R"({"error":"unknown command 'a'"})");
  CHECK(Json::parse(client.line())["status"]["pid"] == daemon.pid());
  CHECK(client.line() == R"({"error":"unknown command 'b'"})");
  CHECK(client.line().empty());
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("who is neither root nor the daemon's user may look and not act", "[process][control]") {
  if (::geteuid() != 0) {
    WARN("left out: only root can become another user");
    return;
  }
  Lope daemon(two_groups());
  REQUIRE(wait_for_workers(daemon, 3));
  // The socket's mode keeps others out: this one is let in by its owner.
  REQUIRE(::chmod(daemon.control_socket().c_str(), 0666) == 0);
  ::chmod(daemon.dir().path().c_str(), 0755);
  const auto as_nobody = [&](const std::string& command) {
    return run({"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", LOPE_BIN_DIR "/lope",
                command},
               with_socket(daemon));
  };
  const RunResult looked = as_nobody("status");
  if (looked.output.find("failed to execute") != std::string::npos) {
    WARN("left out: another user cannot reach " LOPE_BIN_DIR);
    return;
  }
  INFO(looked.output);
  CHECK(looked.status == exited(kExitOk));
  const RunResult acted = as_nobody("stop");
  CHECK(acted.status == exited(kExitFailed));
  CHECK_THAT(acted.output, Contains("expected root or the daemon's own user, found user id 65534"));
  CHECK(run_lope({"status"}, with_socket(daemon)).status == exited(kExitOk));
}

TEST_CASE("a thousand clients, endless lines and garbage do not disturb it", "[process][control]") {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  REQUIRE(limit.rlim_max >= 2000);
  limit.rlim_cur = 1000;  // what the daemon is started with
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  Lope daemon(two_groups());
  limit.rlim_cur = limit.rlim_max;  // our own
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  REQUIRE(wait_for_workers(daemon, 3));
  const std::vector<pid_t> workers = daemon.workers();

  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 1000; ++i) {
    clients.push_back(std::make_unique<Client>(daemon.control_socket()));
    REQUIRE(clients.back()->connected());
    // Half a request, or none; or one whose answer is never read.
    if (i % 3 == 0) clients.back()->say("{\"command\":");
    if (i % 3 == 1) clients.back()->say("{\"command\":\"status\"}\n");
  }
  CHECK(run_lope({"status"}, with_socket(daemon)).status == exited(kExitOk));
  {
    Client endless(daemon.control_socket());
    const std::string part(4096, 'x');
    std::size_t said = 0;
    while (said < (std::size_t{1} << 22) && endless.say(part)) said += part.size();
    CHECK(said < (std::size_t{1} << 22));  // it is cut off…
    CHECK_THAT(endless.line(), Contains("expected a line of at most 65536 bytes"));  // … and told
  }
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    Client garbage(daemon.control_socket());
    std::string bytes(random() % 300, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    if (i % 2 == 0) bytes += '\n';
    garbage.say(bytes);
  }
  // One that was there from the beginning is served still.
  CHECK_THAT(clients[2]->ask("{\"command\":\"status\"}"), Contains("\"status\""));
  CHECK(clients[0]->ask("\"status\"}").find("\"status\"") != std::string::npos);
  CHECK(daemon.workers() == workers);
  // Its own limit is high; what it starts has the usual one.
  const auto soft_limit = [](pid_t pid) {
    rlimit of_it{};
    REQUIRE(::prlimit(pid, RLIMIT_NOFILE, nullptr, &of_it) == 0);
    return of_it.rlim_cur;
  };
  CHECK(soft_limit(daemon.pid()) == limit.rlim_max);
  CHECK(soft_limit(daemon.consumers().front()) == 1000);
  CHECK(soft_limit(workers.front()) == 1000);
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("who has closed his side while he waits gets his answer, and costs nothing meanwhile",
          "[process][control]") {
  LopeOptions options = two_groups();
  options.top = "ready_timeout: 2s\n";
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 3));
  options.groups += "  three: { handler: scripted, queue: third }\n";
  daemon.dir().write("lope.yaml", config_text(options));
  Client waiting(daemon.control_socket());
  Client gone(daemon.control_socket());
  REQUIRE(waiting.say("{\"command\": \"reload\", \"wait\": true}\n"));
  waiting.end_of_file();
  const double before = cpu_seconds(daemon.pid());
  REQUIRE(gone.say("{\"command\": \"reload\", \"wait\": true}\n" + std::string(10000, 'x')));
  gone = Client("");
  const std::string answer = waiting.line();
  CHECK_THAT(answer, Contains("reloaded, but not all of it works within ready_timeout: three: "));
  CHECK(cpu_seconds(daemon.pid()) - before < 0.5);
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("descriptors that nobody asked for are not kept", "[process][control]") {
  Lope daemon(two_groups());
  REQUIRE(wait_for_workers(daemon, 3));
  Client client(daemon.control_socket());
  REQUIRE(!client.ask("{\"command\": \"status\"}").empty());
  const std::size_t before = open_descriptors(daemon.pid());
  for (int i = 0; i < 50; ++i) {
    REQUIRE(client.say_with("{\"command\": \"status\"}\n", 1 + static_cast<std::size_t>(i) % 5));
    CHECK(!client.line().empty());
  }
  CHECK(open_descriptors(daemon.pid()) == before);
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("a consumer that does not read what it is told is replaced, and nobody waits for it",
          "[process][control]") {
  Lope daemon(two_groups());
  REQUIRE(wait_for_workers(daemon, 3));
  Client client(daemon.control_socket());
  const Json before = Json::parse(client.ask("{\"command\": \"status\"}"))["status"]["groups"];
  REQUIRE(::kill(before[0]["consumer_pid"].get<pid_t>(), SIGSTOP) == 0);
  for (int i = 0; i < 1000; ++i) {
    const std::string workers = std::to_string(1 + i % 3);
    REQUIRE_THAT(
        client.ask("{\"command\": \"scale\", \"group\": \"one\", \"workers\": " + workers + "}"),
        Contains("group 'one': "));
  }
  CHECK(daemon.wait_for_line("killing a consumer that does not read what it is told group=one"));
  CHECK(eventually(10s, [&] {
    const Json after = Json::parse(client.ask("{\"command\": \"status\"}"))["status"]["groups"];
    return after[0]["consumer_pid"] != before[0]["consumer_pid"] &&
           after[0]["workers_ready"] == 1 && after[1]["consumer_pid"] == before[1]["consumer_pid"];
  }));
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("what was told holds until the file says something else", "[process][control]") {
  LopeOptions options = two_groups();
  options.top = "log: { level: info }\n";
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 3));
  const auto group = [&](std::size_t index) { return status_of(daemon)["groups"][index]; };
  told(daemon, {"log-level", "debug"});
  told(daemon, {"scale", "one", "5"});
  told(daemon, {"pause", "two"});
  const std::string before = options.groups;
  options.groups =
      "  one: { handler: scripted, workers: 2, timeout: 9s }\n"
      "  two: { handler: scripted, queue: other, prefetch: 7 }\n"
      "  three: { handler: scripted, queue: third }\n";
  daemon.dir().write("lope.yaml", config_text(options));
  told(daemon, {"reload"});
  CHECK(eventually(10s, [&] {
    return group(0)["workers_ready"] == 5 && group(1)["state"] == "paused" &&
           group(2)["workers_ready"] == 1;
  }));
  // A level of the file's own, and another number of workers, count from now on.
  options.top = "log: { level: warn }\n";
  options.groups =
      "  one: { handler: scripted, workers: {min: 2, max: 3} }\n"
      "  two: { handler: scripted, queue: other, prefetch: 7 }\n";
  daemon.dir().write("lope.yaml", config_text(options));
  told(daemon, {"reload"});
  CHECK(eventually(10s, [&] { return group(0)["workers_ready"] == 3; }));
  CHECK(group(0)["workers_max"] == 3);
  CHECK(group(1)["state"] == "paused");
  CHECK(daemon.stop() == exited(kExitOk));
}
