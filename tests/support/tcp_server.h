// A server that is no broker: it accepts on a free loopback port and then does one thing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
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
  struct Step {
    std::string prompt, answer;
  };
  // Each connection is sent `answer`, and kept; then one step after another: when its prompt has
  // been received behind the one before, its answer.
  explicit TcpServer(std::string answer, std::vector<Step> steps = {});
  TcpServer(const TcpServer&) = delete;
  TcpServer& operator=(const TcpServer&) = delete;
  ~TcpServer();

  std::string url() const { return "amqp://127.0.0.1:" + std::to_string(port_); }
  int accepted() const { return accepted_; }
  // Has any connection sent these bytes?
  bool has_received(std::string_view bytes) const;

 private:
  TcpServer(Behaviour behaviour, std::string answer, std::vector<Step> steps, std::uint32_t host,
            int port);
  void serve();
  void accept();

  struct Connection {
    UniqueFd fd;
    std::string received;
    std::size_t steps = 0;  // taken
    std::size_t from = 0;   // where the next prompt is looked for
  };
  // False: it is over.
  bool receive(Connection& connection);

  const Behaviour behaviour_;
  const std::string answer_;
  const std::vector<Step> steps_;
  UniqueFd listener_;
  UniqueFd stop_;
  int port_ = 0;
  std::atomic<int> accepted_ = 0;
  mutable std::mutex mutex_;
  std::vector<Connection> connections_;
  std::thread thread_;
};

}  // namespace lope::test
