// Stands between a client and the broker and notes when each delivery tag is acknowledged.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/fd.h"
#include "support/loopback.h"

namespace lope::bench {

class AckProxy {
 public:
  // Serves one connection, to a broker on this loopback port.
  explicit AckProxy(int broker_port);
  AckProxy(const AckProxy&) = delete;
  AckProxy& operator=(const AckProxy&) = delete;
  ~AckProxy();

  int port() const { return listener_.port; }
  // CLOCK_MONOTONIC ns at which the tag was seen to be acknowledged, by itself or by a later one
  // with `multiple`; 0: not seen.
  std::uint64_t acked_at(std::uint64_t tag) const;
  std::uint64_t highest_acked() const;

 private:
  void serve(int broker_port);
  void look_at(const char* bytes, std::size_t size, std::uint64_t now);

  test::Listener listener_;
  UniqueFd stop_;
  std::string buffer_;        // the thread's: what came from the client and is not parsed
  bool past_header_ = false;  // "AMQP0091"
  mutable std::mutex mutex_;  // guards acks_
  std::map<std::uint64_t, std::uint64_t> acks_;  // tag of each ack method to when it passed
  std::thread thread_;
};

}  // namespace lope::bench
