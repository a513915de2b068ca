// A Redis server of the test's own, on a free port of 127.0.0.1. Keeps nothing over its end.
#pragma once

#include <arpa/inet.h>
#include <signal.h>
#include <sys/socket.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "support/process.h"

namespace lope::test {

class Redis {
 public:
  explicit Redis(std::string password = {}) : password_(std::move(password)), port_(free_port()) {}

  std::string url() const {
    return "redis://" + (password_.empty() ? "" : ":" + password_ + "@") + address() + "/2";
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  // Returns when it serves.
  void start() {
    server_.reset();
    server_ = std::make_unique<Process>(std::vector<std::string>{
        "redis-server", "--port", std::to_string(port_), "--bind", "127.0.0.1", "--save", "",
        "--appendonly", "no", "--requirepass", password_});
    if (!server_->wait_for_line("Ready to accept connections", 20s)) {
      throw std::runtime_error("redis-server does not start: " + server_->output());
    }
  }
  void kill() { server_.reset(); }
  void signal(int number) const { server_->signal(number); }

 private:
  static int free_port() {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      throw std::runtime_error("no free port");
    }
    return ntohs(address.sin_port);
  }

  const std::string password_;
  const int port_;
  std::unique_ptr<Process> server_;
};

}  // namespace lope::test
