// Sockets on 127.0.0.1.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <system_error>

#include "common/fd.h"

namespace lope::test {

inline sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<in_port_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

struct Listener {
  UniqueFd fd;
  int port = 0;
};

// On a free port. `receive_buffer`: bytes, for those it accepts; 0 is the kernel's choice. Throws.
inline Listener listen_on_loopback(int backlog, int receive_buffer = 0) {
  const auto checked = [](int result, const char* call) {
    if (result < 0) throw std::system_error(errno, std::generic_category(), call);
  };
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  checked(fd.get(), "socket");
  if (receive_buffer > 0) {
    checked(::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer),
            "setsockopt");
  }
  checked(::bind(fd.get(), generic, size), "bind");
  checked(::listen(fd.get(), backlog), "listen");
  checked(::getsockname(fd.get(), generic, &size), "getsockname");
  return {std::move(fd), ntohs(address.sin_port)};
}

}  // namespace lope::test
