#include "consumer/transport.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "common/text.h"
#include "consumer/tls.h"

namespace lope::consumer {

namespace {

// A wait that is for more would let the socket's buffer run full.
constexpr std::size_t kHighestLowWater = 1024 * 1024;

}  // namespace

Transport::Transport(UniqueFd socket) : socket_(std::move(socket)) {}
Transport::~Transport() = default;

Result<void> Transport::begin_tls(const TlsSettings& settings, const std::string& host,
                                  TimePoint deadline) {
  auto begun = Tls::connect(fd(), settings, host, deadline);
  if (!begun) return Error{begun.error()};
  tls_ = std::move(*begun);
  return {};
}

Result<std::size_t> Transport::read(std::span<iovec> parts) {
  if (tls_ != nullptr) return tls_->read(parts);
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  const ssize_t n = ::recvmsg(fd(), &message, MSG_DONTWAIT);
  if (n > 0) return static_cast<std::size_t>(n);
  if (n == 0) return Error{"the broker has closed the connection"};
  if (errno == EAGAIN || errno == EINTR) return std::size_t{0};
  return Error{errno_text("recvmsg", errno)};
}

Result<std::size_t> Transport::write(std::string_view bytes) {
  if (tls_ != nullptr) return tls_->write(bytes);
  while (true) {
    const ssize_t n = ::send(fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno == EAGAIN) return std::size_t{0};
    if (errno != EINTR) return Error{errno_text("send", errno)};
  }
}

std::size_t Transport::read_ahead() const { return tls_ != nullptr ? Tls::kReadAhead : 0; }

bool Transport::reading_needs_room() const { return tls_ != nullptr && tls_->reading_needs_room(); }

void Transport::set_low_water(std::size_t bytes) {
  const int wanted = static_cast<int>(std::clamp<std::size_t>(bytes, 1, kHighestLowWater));
  if (wanted == low_water_) return;
  // One that cannot be set is asked for again the next time.
  if (::setsockopt(fd(), SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof wanted) == 0) low_water_ = wanted;
}

Result<bool> wait_for(int fd, short events, TimePoint deadline) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd socket{fd, events, 0};
    const int ready = ::poll(&socket, 1, static_cast<int>(std::max<std::int64_t>(left, 0)));
    if (ready >= 0) return ready > 0;
    if (errno != EINTR) return Error{errno_text("poll", errno)};
  }
}

}  // namespace lope::consumer
