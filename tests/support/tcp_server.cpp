#include "support/tcp_server.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

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
    : TcpServer(behaviour, "", host, port) {}

TcpServer::TcpServer(std::string answer)
    : TcpServer(Behaviour::silent, std::move(answer), INADDR_LOOPBACK, 0) {}

TcpServer::TcpServer(Behaviour behaviour, std::string answer, std::uint32_t host, int port)
    : behaviour_(behaviour), answer_(std::move(answer)) {
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

void TcpServer::serve() {
  pollfd waiting[2] = {{listener_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  while (true) {
    if (::poll(waiting, 2, -1) < 0 && errno != EINTR) return;
    if (waiting[1].revents != 0) return;
    if (waiting[0].revents == 0) continue;
    UniqueFd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!connection.valid()) continue;
    if (behaviour_ == Behaviour::reset) {
      const linger at_once{1, 0};
      ::setsockopt(connection.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
      connection.reset();
    } else {
      if (!answer_.empty()) {
        (void)!::send(connection.get(), answer_.data(), answer_.size(), MSG_NOSIGNAL);
      }
      connections_.push_back(std::move(connection));
    }
    ++accepted_;
  }
}

}  // namespace lope::test
