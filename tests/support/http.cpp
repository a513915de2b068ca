#include "support/http.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <stdexcept>

#include "support/loopback.h"

namespace lope::test {

HttpClient::HttpClient(int port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  const sockaddr_in address = loopback(port);
  if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
    throw std::runtime_error("connect to port " + std::to_string(port) + ": " +
                             std::to_string(errno));
  }
}

bool HttpClient::say(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

// False: the end of the connection, or of the time.
bool HttpClient::receive(std::chrono::steady_clock::time_point end) {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
  pollfd waiting{socket_.get(), POLLIN, 0};
  if (::poll(&waiting, 1, std::max(0, static_cast<int>(left.count()))) <= 0) return false;
  char bytes[65536];
  const ssize_t n = ::recv(socket_.get(), bytes, sizeof bytes, 0);
  if (n <= 0) return false;
  input_.append(bytes, static_cast<std::size_t>(n));
  return true;
}

HttpReply HttpClient::hear(bool has_body, std::chrono::milliseconds deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  std::size_t head = 0;
  while ((head = input_.find("\r\n\r\n")) == std::string::npos) {
    if (!receive(end)) return {};
  }
  head += 4;
  HttpReply reply;
  reply.head = input_.substr(0, head);
  reply.status = std::atoi(reply.head.c_str() + sizeof "HTTP/1.1");
  const std::size_t length = reply.head.find("Content-Length: ");
  const std::size_t size =
      length == std::string::npos || !has_body
          ? 0
          : std::strtoul(reply.head.c_str() + length + sizeof "Content-Length:", nullptr, 10);
  while (input_.size() < head + size) {
    if (!receive(end)) return {};
  }
  reply.body = input_.substr(head, size);
  input_.erase(0, head + size);
  return reply;
}

bool HttpClient::ended(std::chrono::milliseconds deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  while (receive(end)) input_.clear();
  return std::chrono::steady_clock::now() < end;
}

HttpReply http_get(int port, const std::string& path, const std::string& headers) {
  try {
    HttpClient client(port);
    client.say("GET " + path + " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n" + headers +
               "\r\n");
    return client.hear();
  } catch (const std::runtime_error&) {
    return {};
  }
}

}  // namespace lope::test
