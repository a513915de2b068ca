// An HTTP server that answers every request with 204, on connections that are kept: what a handler
// is measured against. One thread, epoll; prints its port. It reads no more of a request than what
// says where it ends.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <unordered_map>

namespace {

constexpr std::string_view kAnswer = "HTTP/1.1 204 No Content\r\n\r\n";

[[noreturn]] void fail(const char* call) {
  std::perror(call);
  std::exit(1);
}

// The length of the first request in `input`; 0 when it is not all there.
std::size_t request_length(std::string_view input) {
  constexpr std::string_view kLength = "\r\nContent-Length: ";
  const std::size_t end = input.find("\r\n\r\n");
  if (end == std::string_view::npos) return 0;
  std::size_t body = 0;
  if (const std::size_t at = input.substr(0, end).find(kLength); at != std::string_view::npos) {
    std::from_chars(input.data() + at + kLength.size(), input.data() + end, body);
  }
  const std::size_t length = end + 4 + body;
  return input.size() < length ? 0 : length;
}

// False: the connection is over.
bool serve(int fd, std::string& input) {
  char buffer[64 * 1024];
  const ssize_t n = ::read(fd, buffer, sizeof buffer);
  if (n <= 0) return n < 0 && errno == EAGAIN;
  input.append(buffer, static_cast<std::size_t>(n));
  while (const std::size_t length = request_length(input)) {
    input.erase(0, length);
    // So short that there is room for it.
    if (::send(fd, kAnswer.data(), kAnswer.size(), MSG_NOSIGNAL) < 0) return false;
  }
  return true;
}

}  // namespace

int main() {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  if (listener < 0 || ::bind(listener, any, size) != 0 || ::listen(listener, 1024) != 0 ||
      ::getsockname(listener, any, &size) != 0) {
    fail("listen");
  }
  const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  const auto watch = [epoll](int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) fail("epoll_ctl");
  };
  watch(listener);
  std::printf("port %d\n", ntohs(address.sin_port));
  std::fflush(stdout);
  std::unordered_map<int, std::string> connections;
  while (true) {
    epoll_event events[256];
    const int count = ::epoll_wait(epoll, events, std::size(events), -1);
    if (count < 0 && errno != EINTR) fail("epoll_wait");
    for (int i = 0; i < count; ++i) {
      const int fd = events[i].data.fd;
      if (fd == listener) {
        const int accepted = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (accepted < 0) fail("accept4");
        const int one = 1;
        ::setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connections[accepted].clear();
        watch(accepted);
      } else if (!serve(fd, connections[fd])) {
        connections.erase(fd);
        ::close(fd);
      }
    }
  }
}
