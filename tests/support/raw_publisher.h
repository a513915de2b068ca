// Publishes what no client library would: properties made by hand, byte by byte. One at a time, and
// each is waited for.
#pragma once

#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <stdexcept>
#include <string>
#include <string_view>

#include "common/fd.h"
#include "support/amqp_frames.h"
#include "support/loopback.h"

namespace lope::test {

class RawPublisher {
 public:
  enum class Answer {
    confirmed,
    channel_closed,     // the broker knows better
    connection_closed,  // it cannot even read that
  };

  // At a broker on 127.0.0.1, as guest.
  explicit RawPublisher(int port) : port_(port) { connect(); }

  // `properties`: the header frame's, behind the body's size. Through a fanout exchange.
  Answer publish(const std::string& exchange, const std::string& properties,
                 const std::string& body) {
    std::string bytes =
        method(kChannel, 60, 40,
               number(0, 2) + short_text(exchange) + short_text("k") + number(0, 1)) +
        frame(2, kChannel, number(60, 2) + number(0, 2) + number(body.size(), 8) + properties);
    for (std::size_t at = 0; at < body.size(); at += kMaxBody) {
      bytes += frame(3, kChannel, body.substr(at, kMaxBody));
    }
    send(bytes);
    while (true) {
      const Frame in = receive();
      if (in.type == 0) return connect(), Answer::connection_closed;
      if (in.type != 1) continue;
      if (in.is(60, 80)) return Answer::confirmed;
      if (in.is(20, 40)) {
        send(method(kChannel, 20, 41, ""));
        open_channel();
        return Answer::channel_closed;
      }
      if (in.is(10, 50)) return connect(), Answer::connection_closed;
      if (in.is(60, 120)) throw std::runtime_error("the broker does not take a message");
    }
  }

 private:
  static constexpr int kChannel = 1;
  static constexpr std::size_t kMaxBody = kFrameMax - 8;

  struct Frame {
    int type = 0;  // 0: the connection is over
    std::string payload;
    bool is(int of_class, int id) const {
      return type == 1 && payload.starts_with(number(static_cast<std::uint64_t>(of_class), 2) +
                                              number(static_cast<std::uint64_t>(id), 2));
    }
  };

  void connect() {
    socket_ = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = loopback(port_);
    const int on = 1;
    ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const timeval patience{60, 0};
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
      throw std::runtime_error("cannot connect to the broker");
    }
    using namespace std::string_literals;
    send("AMQP\0\0\x09\x01"s);
    expect(10, 10);
    send(method(
        0, 10, 11,
        long_text("") + short_text("PLAIN") + long_text("\0guest\0guest"s) + short_text("en_US")));
    expect(10, 30);
    send(method(0, 10, 31, number(2047, 2) + number(kFrameMax, 4) + number(0, 2)) +
         method(0, 10, 40, short_text("/") + short_text("") + number(0, 1)));
    expect(10, 41);
    open_channel();
  }

  void open_channel() {
    send(method(kChannel, 20, 10, short_text("")));
    expect(20, 11);
    send(method(kChannel, 85, 10, number(0, 1)));
    expect(85, 11);
  }

  void expect(int of_class, int id) {
    const Frame in = receive();
    if (!in.is(of_class, id)) throw std::runtime_error("the broker says something else");
  }

  void send(const std::string& bytes) {
    for (std::size_t sent = 0; sent < bytes.size();) {
      const ssize_t n =
          ::send(socket_.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) return;  // it shows at the next receive()
      sent += static_cast<std::size_t>(n);
    }
  }

  Frame receive() {
    std::string head;
    if (!read(head, 7)) return {};
    std::size_t size = 0;
    for (int i = 3; i < 7; ++i) {
      size = size * 256 + static_cast<unsigned char>(head[static_cast<std::size_t>(i)]);
    }
    Frame in{static_cast<unsigned char>(head[0]), {}};
    std::string end;
    if (!read(in.payload, size) || !read(end, 1)) return {};
    return in;
  }

  bool read(std::string& into, std::size_t size) {
    into.resize(size);
    for (std::size_t got = 0; got < size;) {
      const ssize_t n = ::recv(socket_.get(), into.data() + got, size - got, 0);
      if (n <= 0) return false;
      got += static_cast<std::size_t>(n);
    }
    return true;
  }

  const int port_;
  UniqueFd socket_;
};

}  // namespace lope::test
