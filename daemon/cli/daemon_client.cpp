#include "cli/daemon_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "common/clock.h"
#include "common/control_path.h"
#include "common/text.h"

namespace lope::cli {

namespace {

constexpr std::size_t kMaxAnswer = 64 << 20;

Result<UniqueFd> connect_to(const std::string& path) {
  const auto address = unix_address(path);
  if (!address) return Error{address.error()};
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return Error{errno_text("socket", errno)};
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) == 0) {
    return socket;
  }
  const int error = errno;
  std::string text = errno_text("connect '" + path + "'", error);
  if (error == EACCES) text += ": only root, the daemon's user and its group may";
  return Error{text};
}

// False: not before `end`.
bool readable(int fd, TimePoint end) {
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    if (left.count() < 0) return false;
    pollfd poll{fd, POLLIN, 0};
    const int ready = ::poll(&poll, 1, static_cast<int>(left.count()) + 1);
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

}  // namespace

DaemonClient::DaemonClient(UniqueFd socket) : socket_(std::move(socket)) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(socket_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0) {
    daemon_.reset(static_cast<int>(::syscall(SYS_pidfd_open, peer.pid, 0)));
  }
}

Result<DaemonClient> DaemonClient::connect(const std::string& socket) {
  const std::vector<std::string> places =
      socket.empty() ? likely_control_sockets() : std::vector<std::string>{socket};
  std::string tried;
  for (const std::string& place : places) {
    auto connected = connect_to(place);
    if (connected) return DaemonClient(std::move(*connected));
    tried += (tried.empty() ? "" : "; ") + connected.error();
  }
  return Error{"no daemon answers: " + tried +
               ". Is it running? --socket says where its control socket is"};
}

Result<ControlAnswer> DaemonClient::ask(const ControlRequest& request, std::chrono::seconds limit,
                                        int attached) {
  const std::string line = to_json(request) + "\n";
  std::size_t sent = 0;
  while (sent < line.size()) {
    const ssize_t n = send_with_fd(socket_.get(), line.data() + sent, line.size() - sent,
                                   sent == 0 ? attached : -1);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error{errno_text("control socket: send", errno)};
    sent += static_cast<std::size_t>(n);
  }
  const TimePoint end = Clock::now() + limit;
  std::size_t newline = input_.find('\n');
  while (newline == std::string::npos) {
    if (!readable(socket_.get(), end)) {
      return Error{"the daemon has not answered within " + std::to_string(limit.count()) +
                   " s: it hangs, or is stopped"};
    }
    char bytes[65536];
    const ssize_t n = ::recv(socket_.get(), bytes, sizeof bytes, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error{errno_text("control socket: recv", errno)};
    if (n == 0) return Error{"the daemon closed the connection without an answer: it ends"};
    const std::size_t before = input_.size();
    input_.append(bytes, static_cast<std::size_t>(n));
    newline = input_.find('\n', before);
    if (input_.size() > kMaxAnswer) return Error{"control socket: the answer has no end"};
  }
  const std::string line_back = input_.substr(0, newline);
  input_.erase(0, newline + 1);
  auto answer = control_answer_from_json(line_back);
  if (!answer) return Error{"control socket: " + answer.error()};
  if (!answer->error.empty()) return Error{answer->error};
  return answer;
}

bool DaemonClient::wait_end(std::chrono::milliseconds limit) const {
  // Without a process to watch: it is gone already.
  return !daemon_.valid() || readable(daemon_.get(), Clock::now() + limit);
}

}  // namespace lope::cli
