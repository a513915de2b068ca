#include "consumer/broker_reader.h"

#include <amqp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/fd.h"
#include "support/amqp_frames.h"
#include "support/loopback.h"

using namespace lope;
using namespace lope::consumer;
using namespace lope::test;

namespace {

constexpr int kChannelMax = 2047;
constexpr int kBodyFrame = 3;
constexpr std::size_t kLargestPayload = kFrameMax - 8;

std::string pattern(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 31 + i / 251);
  return text;
}

// A body as the broker cuts it.
std::string body_frames(int channel, const std::string& body) {
  std::string frames;
  for (std::size_t at = 0; at < body.size(); at += kLargestPayload) {
    frames += frame(kBodyFrame, channel, body.substr(at, kLargestPayload));
  }
  return frames;
}

std::string message(int channel, const std::string& body) {
  return deliver(channel, 1, body.size()) + body_frames(channel, body);
}

// Keeps every body but those of the channel `dropped`.
class Recorder final : public BrokerReader::Sink {
 public:
  Result<void> on_frame(const amqp_frame_t& frame) override {
    ++frames;
    if (frame.frame_type != AMQP_FRAME_HEADER) return {};
    std::string& text = assembling[frame.channel];
    text.assign(frame.payload.properties.body_size, '?');
    BrokerReader::Body& to = body(frame.channel);
    to = {frame.channel == dropped ? nullptr : text.data(), text.size()};
    return {};
  }
  BrokerReader::Body& body(amqp_channel_t channel) override { return bodies[channel]; }
  void on_body(amqp_channel_t channel) override { finished.push_back(assembling[channel]); }

  int frames = 0;
  amqp_channel_t dropped = 0;
  std::vector<std::string> finished;
  std::map<amqp_channel_t, std::string> assembling;
  std::map<amqp_channel_t, BrokerReader::Body> bodies;
};

// A loopback connection; what is written to `broker` is what the reader reads.
class Wire {
 public:
  Wire() {
    // Not the smallest buffer: the kernel calls a socket readable, too, when it is nearly full.
    const Listener listener = listen_on_loopback(1, 1 << 20);
    const sockaddr_in address = loopback(listener.port);
    broker = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    ::connect(broker.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    const int ours = ::accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    REQUIRE(ours >= 0);
    transport.emplace(UniqueFd(ours));
    // As after a login, which begins with a protocol header.
    amqp_frame_t header;
    REQUIRE(amqp_handle_input(connection, amqp_cstring_bytes("AMQP1234"), &header) == 8);
    REQUIRE(amqp_tune_connection(connection, kChannelMax, kFrameMax, 0) == AMQP_STATUS_OK);
  }
  ~Wire() { amqp_destroy_connection(connection); }
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  // As much as goes.
  std::size_t send(std::string_view bytes) const {
    const ssize_t n = ::send(broker.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    return n < 0 ? 0 : static_cast<std::size_t>(n);
  }
  bool readable(int timeout_ms) const {
    pollfd socket{transport->fd(), POLLIN, 0};
    return ::poll(&socket, 1, timeout_ms) == 1;
  }

  amqp_connection_state_t connection = amqp_new_connection();
  std::optional<Transport> transport;
  UniqueFd broker;
};

// Everything through the wire, in pieces of at most `piece` bytes.
Result<void> carry(Wire& wire, BrokerReader& reader, Recorder& sink, std::string_view bytes,
                   std::size_t piece) {
  const std::uint64_t all = reader.received() + bytes.size();
  while (reader.received() < all) {
    bytes.remove_prefix(wire.send(bytes.substr(0, piece)));
    if (!wire.readable(10'000)) return Error{"nothing arrives"};
    auto pumped = reader.pump(sink, 1000);
    while (pumped && *pumped == BrokerReader::Pumped::more) pumped = reader.pump(sink, 1000);
    if (!pumped) return Error{pumped.error()};
  }
  return {};
}

}  // namespace

TEST_CASE("messages arrive whole, however the stream is cut", "[unit][broker_reader]") {
  const auto sizes = GENERATE(std::vector<std::size_t>{0, 1, 100, 100},
                              std::vector<std::size_t>{16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 5},
                              std::vector<std::size_t>{40'000, 40'000, 0, 3, 40'000},
                              std::vector<std::size_t>{kLargestPayload, kLargestPayload + 1, 1},
                              std::vector<std::size_t>{300'000, 2, 1 << 20, 300'000});
  const auto piece = GENERATE(1u, 2u, 7u, 8u, 1000u, 5000u, 70'000u, 10'000'000u);
  std::string stream = frame(8, 0, "");  // a heartbeat
  std::vector<std::string> expected;
  for (const std::size_t size : sizes) {
    const std::string body = pattern(size);
    stream += message(1, body);
    if (size > 0) expected.push_back(body);
  }
  if (stream.size() / piece > 20'000) return;  // takes long, shows no more
  CAPTURE(piece, sizes);
  Wire wire;
  BrokerReader reader(wire.connection, *wire.transport);
  Recorder sink;
  REQUIRE(carry(wire, reader, sink, stream, piece));
  CHECK(sink.frames == static_cast<int>(1 + 2 * sizes.size()));
  CHECK((sink.finished == expected));
}

TEST_CASE("bodies of several channels may interleave", "[unit][broker_reader]") {
  const std::string a = pattern(200'000);
  const std::string b = pattern(30'000);
  const std::string stream =
      deliver(1, 1, a.size()) + deliver(2, 1, b.size()) +
      frame(kBodyFrame, 1, a.substr(0, 100'000)) + frame(kBodyFrame, 2, b.substr(0, 20'000)) +
      frame(kBodyFrame, 1, a.substr(100'000)) + frame(kBodyFrame, 2, b.substr(20'000));
  const auto piece = GENERATE(7u, 5000u, 1'000'000u);
  Wire wire;
  BrokerReader reader(wire.connection, *wire.transport);
  Recorder sink;
  REQUIRE(carry(wire, reader, sink, stream, piece));
  CHECK((sink.finished == std::vector<std::string>{a, b}));
}

TEST_CASE("a body that nobody wants, and one of a channel that is closed, are read and dropped",
          "[unit][broker_reader]") {
  Wire wire;
  BrokerReader reader(wire.connection, *wire.transport);
  Recorder sink;
  sink.dropped = 1;
  REQUIRE(carry(
      wire, reader, sink,
      message(1, pattern(100'000)) + frame(kBodyFrame, 3, pattern(50'000)) + message(2, "after it"),
      10'000'000));
  REQUIRE(sink.finished.size() == 2);
  CHECK((sink.finished[0] == std::string(100'000, '?')));
  CHECK(sink.finished[1] == "after it");
}

TEST_CASE("a stream that breaks the protocol or ends is an error", "[unit][broker_reader]") {
  struct Row {
    const char* what;
    std::string stream;
    bool ends;
    const char* expected;
  };
  std::string no_end = message(1, "body");
  no_end.back() = 'x';
  const auto row = GENERATE_COPY(
      Row{"an end", deliver(1, 1, 5), true, "closed"},
      Row{"no end octet of a body", no_end, false, "invalid AMQP data"},
      Row{"no end octet of a method", number(1, 1) + number(1, 2) + number(4, 4) + "12345", false,
          "invalid AMQP data"},
      Row{"an unknown method", method(1, 60, 999, ""), false, "unknown"},
      Row{"a body longer than its header said", deliver(1, 1, 3) + frame(kBodyFrame, 1, "four"),
          false, "a body is longer than its header said"},
      Row{"a second frame that is longer than what is left",
          deliver(1, 1, 5) + frame(kBodyFrame, 1, "four") + frame(kBodyFrame, 1, "45"), false,
          "a body is longer than its header said"},
      Row{"a method without an id", frame(1, 1, "abc"), false, "a frame too short for its type"},
      Row{"a header without its flags", frame(2, 1, number(60, 2) + std::string(10, '\0')), false,
          "a frame too short for its type"},
      Row{"a channel beyond those agreed on", frame(8, kChannelMax + 1, ""), false,
          "a frame of channel 2048, where at most 2047 were agreed on"},
      Row{"the largest size there is", number(1, 1) + number(1, 2) + number(0xFFFFFFFF, 4), false,
          "a frame of 4294967303 bytes"},
      Row{"a frame larger than agreed on", number(3, 1) + number(1, 2) + number(131065, 4), false,
          "a frame of 131073 bytes, where at most 131072 are taken"});
  CAPTURE(row.what);
  Wire wire;
  BrokerReader reader(wire.connection, *wire.transport);
  Recorder sink;
  if (row.ends) {
    REQUIRE(carry(wire, reader, sink, row.stream, 1000));
    wire.broker = UniqueFd();
    REQUIRE(wire.readable(10'000));
    const auto pumped = reader.pump(sink, 1000);
    REQUIRE_FALSE(pumped);
    CHECK(pumped.error().find(row.expected) != std::string::npos);
    return;
  }
  const auto carried = carry(wire, reader, sink, row.stream, 1000);
  REQUIRE_FALSE(carried);
  CHECK(carried.error().find(row.expected) != std::string::npos);
}

TEST_CASE("no more frames are handled at a time than asked for", "[unit][broker_reader]") {
  Wire wire;
  BrokerReader reader(wire.connection, *wire.transport);
  Recorder sink;
  const std::string stream = message(1, "one") + message(1, "two");  // three frames each
  REQUIRE(wire.send(stream) == stream.size());
  REQUIRE(wire.readable(10'000));
  const auto first = reader.pump(sink, 4);
  REQUIRE(first);
  CHECK(*first == BrokerReader::Pumped::more);
  CHECK((sink.finished == std::vector<std::string>{"one"}));
  CHECK(sink.frames == 3);
  const auto second = reader.pump(sink, 4);
  REQUIRE(second);
  CHECK(*second == BrokerReader::Pumped::dry);
  CHECK((sink.finished == std::vector<std::string>{"one", "two"}));
}

TEST_CASE("a body whose channel was closed in its middle is forgotten", "[unit][broker_reader]") {
  Wire wire;
  BrokerReader reader(wire.connection, *wire.transport);
  Recorder sink;
  const std::string body = pattern(50'000);
  const std::string half =
      deliver(1, 1, body.size()) + frame(kBodyFrame, 1, body.substr(0, 20'000));
  REQUIRE(carry(wire, reader, sink, half, 1'000'000));
  sink.bodies[1] = {};
  REQUIRE(carry(wire, reader, sink,
                frame(kBodyFrame, 1, body.substr(20'000)) + frame(9, 1, "of no known type") +
                    message(1, "the next"),
                1'000'000));
  CHECK((sink.finished == std::vector<std::string>{"the next"}));
}

TEST_CASE("large bodies leave others their turn", "[unit][broker_reader]") {
  Wire wire;
  BrokerReader reader(wire.connection, *wire.transport);
  Recorder sink;
  const std::string body = pattern(1 << 20);
  std::string_view left;
  const std::string stream = message(1, body);
  left = stream;
  // Until no more fits the socket.
  for (std::size_t sent = 1; sent > 0; left.remove_prefix(sent)) sent = wire.send(left);
  REQUIRE(wire.readable(10'000));
  const auto pumped = reader.pump(sink, 1000, 100'000);
  REQUIRE(pumped);
  CHECK(*pumped == BrokerReader::Pumped::more);
  CHECK(reader.received() >= 100'000);
  CHECK(reader.received() < 400'000);
}

TEST_CASE("the socket is not called readable before as much is there as is waited for",
          "[unit][broker_reader]") {
  Wire wire;
  BrokerReader reader(wire.connection, *wire.transport);
  Recorder sink;

  SECTION("bytes that are asked for") {
    reader.set_low_water(100);
    const std::string stream = message(1, std::string(200, 'x'));
    REQUIRE(wire.send(stream.substr(0, 99)) == 99);
    CHECK_FALSE(wire.readable(50));
    REQUIRE(wire.send(stream.substr(99, 1)) == 1);
    CHECK(wire.readable(10'000));
  }
  SECTION("the rest of a large body") {
    const std::string stream = message(1, pattern(100'000));
    REQUIRE(carry(wire, reader, sink, stream.substr(0, 20'000), 20'000));
    CHECK(reader.large_body_left(sink) > 80'000);
    reader.set_low_water(reader.large_body_left(sink));
    const std::size_t rest = stream.size() - 20'000;
    REQUIRE(wire.send(stream.substr(20'000, rest - 1000)) == rest - 1000);
    CHECK_FALSE(wire.readable(50));
    REQUIRE(carry(wire, reader, sink, stream.substr(stream.size() - 1000), 1000));
    CHECK(sink.finished.size() == 1);
    CHECK(reader.large_body_left(sink) == 0);
  }
  SECTION("and then anything") {
    reader.set_low_water(100);
    reader.set_low_water(1);
    REQUIRE(wire.send("x") == 1);
    CHECK(wire.readable(10'000));
  }
}
