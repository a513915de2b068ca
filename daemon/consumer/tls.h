// One TLS connection over a socket that is somebody else's: handshake, what is verified, and what
// is said when something is wrong. The only one that knows OpenSSL.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/result.h"
#include "common/settings.h"

namespace lope::consumer {

class Tls {
 public:
  // So much of what has come over the socket may be in a buffer, not yet decrypted.
  static constexpr std::size_t kReadAhead = 64 * 1024;

  // Shakes hands as the client, TLS 1.2 at least; blocks until `deadline`. `host`: what the peer's
  // certificate has to name, a name or an IP address, unless the settings say another. Their files
  // are read anew each time. An error says what is wrong with which file or which certificate.
  static Result<std::unique_ptr<Tls>> connect(int fd, const TlsSettings& settings,
                                              const std::string& host, TimePoint deadline);
  // Tells the peer that it is the end, when there is room for that.
  ~Tls();
  Tls(const Tls&) = delete;
  Tls& operator=(const Tls&) = delete;

  // As Transport's. When read() has filled less than it was asked for, nothing is left in a buffer
  // but the beginning of a record.
  Result<std::size_t> read(std::span<iovec> parts);
  Result<std::size_t> write(std::string_view bytes);
  bool reading_needs_room() const { return reading_needs_room_; }

  // "TLSv1.3"
  std::string version() const;
  // Of our own certificate, "CN=lope"; empty without one.
  std::string own_name() const;

 private:
  struct Impl;
  explicit Tls(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
  bool reading_needs_room_ = false;
};

}  // namespace lope::consumer
