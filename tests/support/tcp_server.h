// A server that is no broker: it accepts on a free loopback port and then does one thing.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/fd.h"

namespace lope::test {

class TcpServer {
 public:
  enum class Behaviour { silent, reset };

  // Each connection is kept and never answered, or reset at once.
  // `host`: a loopback address, in host byte order; port 0: a free one.
  explicit TcpServer(Behaviour behaviour, std::uint32_t host = 0x7F000001, int port = 0);
  // Each connection is sent `answer`, and kept.
  explicit TcpServer(std::string answer);
  TcpServer(const TcpServer&) = delete;
  TcpServer& operator=(const TcpServer&) = delete;
  ~TcpServer();

  std::string url() const { return "amqp://127.0.0.1:" + std::to_string(port_); }
  int accepted() const { return accepted_; }

 private:
  TcpServer(Behaviour behaviour, std::string answer, std::uint32_t host, int port);
  void serve();

  const Behaviour behaviour_;
  const std::string answer_;
  UniqueFd listener_;
  UniqueFd stop_;
  int port_ = 0;
  std::atomic<int> accepted_ = 0;
  std::vector<UniqueFd> connections_;  // the thread's
  std::thread thread_;
};

}  // namespace lope::test
