#include "support/tcp_server.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <stdexcept>
#include <system_error>

namespace lope::test {

namespace {

[[noreturn]] void fail(const std::string& call) {
  throw std::runtime_error(call + ": " + std::generic_category().message(errno));
}

}  // namespace

TcpServer::TcpServer(Behaviour behaviour, std::uint32_t host, int port)
    : TcpServer(behaviour, "", {}, host, port) {}

TcpServer::TcpServer(std::string answer, std::vector<Step> steps)
    : TcpServer(Behaviour::silent, std::move(answer), std::move(steps), INADDR_LOOPBACK, 0) {}

TcpServer::TcpServer(Behaviour behaviour, std::string answer, std::vector<Step> steps,
                     std::uint32_t host, int port)
    : behaviour_(behaviour), answer_(std::move(answer)), steps_(std::move(steps)) {
  listener_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!listener_.valid()) fail("socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(host);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  socklen_t size = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  if (::bind(listener_.get(), generic, size) < 0) fail("bind");
  if (::listen(listener_.get(), 16) < 0) fail("listen");
  if (::getsockname(listener_.get(), generic, &size) < 0) fail("getsockname");
  port_ = ntohs(address.sin_port);
  auto stop = make_eventfd();
  if (!stop) throw std::runtime_error(stop.error());
  stop_ = std::move(*stop);
  thread_ = std::thread([this] { serve(); });
}

TcpServer::~TcpServer() {
  const std::uint64_t one = 1;
  if (::write(stop_.get(), &one, sizeof one) < 0) std::abort();
  thread_.join();
}

bool TcpServer::has_received(std::string_view bytes) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::any_of(connections_.begin(), connections_.end(), [bytes](const Connection& each) {
    return each.received.find(bytes) != std::string::npos;
  });
}

void TcpServer::serve() {
  while (true) {
    std::vector<pollfd> waiting = {{listener_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    for (const Connection& each : connections_) waiting.push_back({each.fd.get(), POLLIN, 0});
    if (::poll(waiting.data(), waiting.size(), -1) < 0 && errno != EINTR) return;
    if (waiting[1].revents != 0) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::size_t i = 2; i < waiting.size(); ++i) {
      Connection& connection = connections_[i - 2];
      // What it has sent is kept; poll() leaves out a descriptor below zero.
      if (waiting[i].revents != 0 && !receive(connection)) connection.fd.reset();
    }
    if (waiting[0].revents != 0) accept();
  }
}

void TcpServer::accept() {
  UniqueFd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection.valid()) return;
  if (behaviour_ == Behaviour::reset) {
    const linger at_once{1, 0};
    ::setsockopt(connection.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    connection.reset();
  } else {
    (void)!::send(connection.get(), answer_.data(), answer_.size(), MSG_NOSIGNAL);
    connections_.push_back({std::move(connection), ""});
  }
  ++accepted_;
}

bool TcpServer::receive(Connection& connection) {
  char bytes[4096];
  const ssize_t n = ::recv(connection.fd.get(), bytes, sizeof bytes, MSG_DONTWAIT);
  if (n <= 0) return false;
  connection.received.append(bytes, static_cast<std::size_t>(n));
  while (connection.steps < steps_.size()) {
    const auto& [prompt, answer] = steps_[connection.steps];
    const std::size_t found = connection.received.find(prompt, connection.from);
    if (found == std::string::npos) break;
    connection.from = found + prompt.size();
    ++connection.steps;
    (void)!::send(connection.fd.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
  }
  return true;
}

}  // namespace lope::test
