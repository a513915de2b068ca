// A Redis server of the test's own, on a free port of 127.0.0.1. Keeps nothing over its end.
#pragma once

#include <signal.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "support/loopback.h"
#include "support/process.h"

namespace lope::test {

class Redis {
 public:
  explicit Redis(std::string password = {})
      : password_(std::move(password)), port_(listen_on_loopback(1).port) {}

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
  const std::string password_;
  const int port_;
  std::unique_ptr<Process> server_;
};

}  // namespace lope::test
