#include "ack_proxy.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <stdexcept>
#include <system_error>

#include "common/clock.h"

namespace lope::bench {

namespace {

constexpr std::uint32_t kBasicAck = (60u << 16) | 80u;

[[noreturn]] void fail(const std::string& call) {
  throw std::runtime_error("proxy: " + call + ": " + std::generic_category().message(errno));
}

std::uint64_t big_endian(const char* bytes, int size) {
  std::uint64_t value = 0;
  for (int i = 0; i < size; ++i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

bool send_all(int fd, const char* bytes, std::size_t size) {
  while (size > 0) {
    const ssize_t n = ::send(fd, bytes, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

}  // namespace

AckProxy::AckProxy(int broker_port) : listener_(test::listen_on_loopback(1)) {
  auto stop = make_eventfd();
  if (!stop) throw std::runtime_error(stop.error());
  stop_ = std::move(*stop);
  thread_ = std::thread([this, broker_port] { serve(broker_port); });
}

AckProxy::~AckProxy() {
  const std::uint64_t one = 1;
  if (::write(stop_.get(), &one, sizeof one) < 0) std::abort();
  thread_.join();
}

void AckProxy::serve(int broker_port) {
  pollfd waiting[3] = {{stop_.get(), POLLIN, 0}, {listener_.fd.get(), POLLIN, 0}, {-1, POLLIN, 0}};
  if (::poll(waiting, 2, -1) < 0 || waiting[0].revents != 0) return;
  const UniqueFd client(::accept4(listener_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
  const UniqueFd broker(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = test::loopback(broker_port);
  if (!client.valid() || !broker.valid() ||
      ::connect(broker.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
    return;
  }
  const int on = 1;
  ::setsockopt(client.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(broker.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  waiting[1].fd = client.get();
  waiting[2].fd = broker.get();
  std::vector<char> bytes(256 * 1024);
  while (::poll(waiting, 3, -1) >= 0 && waiting[0].revents == 0) {
    for (int side = 1; side <= 2; ++side) {
      if (waiting[side].revents == 0) continue;
      const ssize_t n = ::recv(waiting[side].fd, bytes.data(), bytes.size(), 0);
      if (n <= 0) return;
      const auto size = static_cast<std::size_t>(n);
      if (side == 1) look_at(bytes.data(), size, monotonic_ns());
      if (!send_all(waiting[3 - side].fd, bytes.data(), size)) return;
    }
  }
}

void AckProxy::look_at(const char* bytes, std::size_t size, std::uint64_t now) {
  buffer_.append(bytes, size);
  std::size_t at = 0;
  if (!past_header_ && buffer_.size() >= 8) {
    at = 8;
    past_header_ = true;
  }
  while (past_header_ && buffer_.size() - at >= 7) {
    const char* const frame = buffer_.data() + at;
    const std::size_t whole = 7 + big_endian(frame + 3, 4) + 1;
    if (buffer_.size() - at < whole) break;
    if (frame[0] == 1 && whole >= 20 && big_endian(frame + 7, 4) == kBasicAck) {
      const std::lock_guard<std::mutex> lock(mutex_);
      acks_.emplace(big_endian(frame + 11, 8), now);
    }
    at += whole;
  }
  buffer_.erase(0, at);
}

std::uint64_t AckProxy::acked_at(std::uint64_t tag) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = acks_.lower_bound(tag);
  return found == acks_.end() ? 0 : found->second;
}

std::uint64_t AckProxy::highest_acked() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return acks_.empty() ? 0 : acks_.rbegin()->first;
}

}  // namespace lope::bench
