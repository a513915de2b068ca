#include "supervisor/listen_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>

#include "common/text.h"

namespace lope::supervisor {

namespace {

constexpr int kBacklog = 256;
constexpr const char* kExpected =
    "expected a port, or an address and a port, as in 9419, 192.0.2.1:9419 or [::1]:9419";

// The same for both families: as the system calls want it.
struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;

  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  in_port_t& port() {
    return storage.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&storage)->sin6_port
                                         : reinterpret_cast<sockaddr_in*>(&storage)->sin_port;
  }
};

// `size` is 0 when it is no address.
SocketAddress socket_address(const ListenAddress& address) {
  SocketAddress result;
  auto* const v4 = reinterpret_cast<sockaddr_in*>(&result.storage);
  auto* const v6 = reinterpret_cast<sockaddr_in6*>(&result.storage);
  if (::inet_pton(AF_INET, address.host.c_str(), &v4->sin_addr) == 1) {
    result.storage.ss_family = AF_INET;
    result.size = sizeof *v4;
  } else if (::inet_pton(AF_INET6, address.host.c_str(), &v6->sin6_addr) == 1) {
    result.storage.ss_family = AF_INET6;
    result.size = sizeof *v6;
  }
  result.port() = htons(static_cast<in_port_t>(address.port));
  return result;
}

}  // namespace

Result<ListenAddress> parse_listen_address(std::string_view text) {
  ListenAddress address;
  const auto found = [&](const char* why) {
    return Error{std::string(kExpected) + why + ", found '" + escape(text, 80) + "'"};
  };
  const std::size_t colon = text.rfind(':');
  const std::string_view port = colon == std::string_view::npos ? text : text.substr(colon + 1);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (error != std::errc() || end != port.data() + port.size() || port.empty() ||
      address.port < 0 || address.port > 65535) {
    return found(" (a port is 0 to 65535)");
  }
  if (colon == std::string_view::npos || colon == 0) return address;
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.starts_with('[') && host.ends_with(']') && host.size() > 2;
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (host == "localhost") return address;
  address.host = host;
  const SocketAddress parsed = socket_address(address);
  if (parsed.size == 0) return found(" (a name is none: write the address itself)");
  if (bracketed != (parsed.storage.ss_family == AF_INET6)) {
    return found(" (an IPv6 address in brackets, no other)");
  }
  return address;
}

bool is_loopback(const ListenAddress& address) {
  return address.host.starts_with("127.") || address.host == "::1";
}

std::string to_string(const ListenAddress& address) {
  const bool v6 = address.host.find(':') != std::string::npos;
  return (v6 ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
}

Result<UniqueFd> listen_on(ListenAddress& address) {
  SocketAddress place = socket_address(address);
  UniqueFd socket(::socket(place.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return Error{errno_text("socket", errno)};
  // Connections that have just ended do not keep us out; another listener does.
  const int on = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(socket.get(), place.get(), place.size) < 0) {
    return Error{errno_text("bind " + to_string(address), errno)};
  }
  if (::listen(socket.get(), kBacklog) < 0) {
    return Error{errno_text("listen on " + to_string(address), errno)};
  }
  if (::getsockname(socket.get(), place.get(), &place.size) < 0) {
    return Error{errno_text("getsockname", errno)};
  }
  address.port = ntohs(place.port());
  return socket;
}

}  // namespace lope::supervisor
