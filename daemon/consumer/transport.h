// The bytes between us and the broker: a socket, in plain text or through TLS. Never blocks, but
// where it says so.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/fd.h"
#include "common/result.h"
#include "common/settings.h"

namespace lope::consumer {

class Tls;

class Transport {
 public:
  // `socket` is connected and non-blocking.
  explicit Transport(UniqueFd socket);
  ~Transport();
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  // Everything from here on goes through TLS with `host`; blocks until the handshake is done, or
  // until `deadline`.
  Result<void> begin_tls(const TlsSettings& settings, const std::string& host, TimePoint deadline);
  // Null in plain text.
  const Tls* tls() const { return tls_.get(); }

  int fd() const { return socket_.get(); }

  // Fills one part after the other; returns how many bytes there were. Fewer than were asked for:
  // poll() tells when there is more. An error, an end of the stream included, means that the
  // connection is gone.
  Result<std::size_t> read(std::span<iovec> parts);
  // What the socket takes. What it has not taken is to be written again, with or without more
  // behind it.
  Result<std::size_t> write(std::string_view bytes);
  // The last read() ended because it has something to write first: poll for POLLOUT too.
  bool reading_needs_room() const;

  // So much, at most, has been taken off the socket and not been read: poll() does not tell of it.
  std::size_t read_ahead() const;

  // See BrokerReader::set_low_water().
  void set_low_water(std::size_t bytes);

 private:
  const UniqueFd socket_;
  std::unique_ptr<Tls> tls_;
  int low_water_ = 1;
};

// Waits for the socket, until `deadline`; false: it has passed.
Result<bool> wait_for(int fd, short events, TimePoint deadline);

}  // namespace lope::consumer
