// What is asked of a running daemon, and what it is told.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "cli/commands.h"
#include "cli/daemon_client.h"
#include "cli/status_text.h"
#include "common/exit_code.h"
#include "common/fd.h"

namespace lope::cli {

namespace {

constexpr std::chrono::hours kLongestStop{1};
constexpr std::chrono::hours kLongestReload{1};
constexpr const char* kClearScreen = "\033[H\033[J";

int fail(const char* command, const std::string& reason, int code) {
  std::fprintf(stderr, "lope %s: %s\n", command, reason.c_str());
  return code;
}

// Prints what was done.
int tell(DaemonClient& client, const ControlRequest& request,
         std::chrono::seconds limit = DaemonClient::kAnswer) {
  const auto answer = client.ask(request, limit);
  if (!answer) return fail(request.command.c_str(), answer.error(), kExitFailed);
  std::printf("%s\n", answer->text.c_str());
  std::fflush(stdout);
  return kExitOk;
}

bool on_terminal() { return ::isatty(STDOUT_FILENO) == 1; }
bool in_colour() { return on_terminal() && std::getenv("NO_COLOR") == nullptr; }

}  // namespace

int status_command(const StatusOptions& options) {
  while (true) {
    auto client = DaemonClient::connect(options.socket);
    if (!client) return fail("status", client.error(), kExitTemporary);
    const auto answer = client->ask({.command = "status"});
    if (!answer) return fail("status", answer.error(), kExitFailed);
    if (options.json) {
      std::printf("%s\n", answer->status.c_str());
    } else {
      const auto status = daemon_status_from_json(answer->status);
      if (!status) {
        return fail("status", status.error() + ": the daemon is of another version", kExitFailed);
      }
      const std::string text = status_text(*status, in_colour());
      std::printf("%s%s", options.watch && on_terminal() ? kClearScreen : "", text.c_str());
    }
    if (std::fflush(stdout) != 0) return fail("status", "cannot write its output", kExitFailed);
    if (!options.watch) return kExitOk;
    std::this_thread::sleep_for(*options.watch);
  }
}

int group_command(const std::string& socket, const ControlRequest& request) {
  auto client = DaemonClient::connect(socket);
  if (!client) return fail(request.command.c_str(), client.error(), kExitTemporary);
  return tell(*client, request);
}

int reload_command(const std::string& socket, bool wait) {
  auto client = DaemonClient::connect(socket);
  if (!client) return fail("reload", client.error(), kExitTemporary);
  return tell(*client, {.command = "reload", .wait = wait}, kLongestReload);
}

int log_level_command(const std::string& socket, const std::string& level) {
  auto client = DaemonClient::connect(socket);
  if (!client) return fail("log-level", client.error(), kExitTemporary);
  return tell(*client, {.command = "log-level", .level = level});
}

int watch_command(const WatchOptions& options) {
  auto client = DaemonClient::connect(options.socket);
  if (!client) return fail("watch", client.error(), kExitTemporary);
  auto pipe = make_pipe();
  if (!pipe) return fail("watch", pipe.error(), kExitFailed);
  const auto answer =
      client->ask({.command = "watch", .group = options.group, .count = options.messages},
                  DaemonClient::kAnswer, pipe->second.get());
  if (!answer) return fail("watch", answer.error(), kExitFailed);
  pipe->second.reset();
  std::fprintf(stderr, "%s\n", answer->text.c_str());
  std::string text;
  int seen = 0;
  char bytes[16 * 1024];
  while (true) {
    const ssize_t n = ::read(pipe->first.get(), bytes, sizeof bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text.append(bytes, static_cast<std::size_t>(n));
    for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n')) {
      const std::string line = text.substr(0, end);
      text.erase(0, end + 1);
      ++seen;
      std::printf("%s\n", options.json ? line.c_str() : trace_text(line).c_str());
    }
    std::fflush(stdout);
  }
  if (seen == options.messages) return kExitOk;
  return fail("watch",
              "the group's consumer has ended, or another watch has begun: saw " +
                  std::to_string(seen) + " of " + std::to_string(options.messages) + " messages",
              kExitFailed);
}

int stop_command(const StopOptions& options) {
  auto client = DaemonClient::connect(options.socket);
  if (!client) return fail("stop", client.error(), kExitTemporary);
  const int told = tell(*client, {.command = "stop", .now = options.now});
  if (told != kExitOk || !options.wait) return told;
  if (!client->wait_end(kLongestStop)) {
    return fail("stop", "the daemon has not ended within an hour", kExitTemporary);
  }
  std::printf("stopped\n");
  return kExitOk;
}

}  // namespace lope::cli
