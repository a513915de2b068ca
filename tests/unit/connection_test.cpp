// What a Connection makes of a publication, byte for byte, and how it hands on what arrives. The
// broker is a script.
#include "consumer/connection.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/broker_url.h"
#include "support/amqp_properties.h"
#include "support/eventually.h"
#include "support/loopback.h"
#include "support/tcp_server.h"

namespace lope::consumer {

using namespace lope::test;

namespace {

constexpr ChannelNumber kChannel = 1;

std::unique_ptr<Connection> connect(const TcpServer& broker) {
  const auto url = parse_broker_url(broker.url());
  REQUIRE(url.ok());
  auto connection = Connection::open(url->address, {10s, 10s}, std::chrono::seconds(0), "test");
  REQUIRE(connection.ok());
  return std::move(*connection);
}

// What is to be on the wire.
std::string published(std::string_view exchange, std::string_view key,
                      const std::string& properties, std::string_view body = "body",
                      bool mandatory = true) {
  std::string frames =
      method(kChannel, 60, 40,
             number(0, 2) + short_text(exchange) + short_text(key) + number(mandatory ? 1 : 0, 1)) +
      frame(2, kChannel, number(60, 2) + number(0, 2) + number(body.size(), 8) + properties);
  constexpr std::size_t kRoom = kFrameMax - 8;
  for (; !body.empty(); body.remove_prefix(std::min(body.size(), kRoom))) {
    frames += frame(3, kChannel, std::string(body.substr(0, kRoom)));
  }
  return frames;
}

Result<void> send(Connection& connection, const Publication& publication) {
  if (auto put = connection.publish(kChannel, publication); !put) return put;
  const bool written =
      eventually(10s, [&] { return !connection.write().ok() || connection.unwritten() == 0; });
  REQUIRE(written);
  return {};
}

bool arrives(const TcpServer& broker, const std::string& bytes) {
  return eventually(10s, [&] { return broker.has_received(bytes); });
}

Publication copy(std::string_view properties) {
  Publication publication;
  publication.exchange = "x";
  publication.routing_key = "k";
  publication.copied = properties;
  publication.body = "body";
  return publication;
}

// Everything that is to be in a copy.
Properties full() {
  Properties properties;
  properties.content_type = "application/json";
  properties.content_encoding = "gzip";
  properties.headers = fields_of_every_kind();
  properties.delivery_mode = 2;
  properties.priority = 7;
  properties.correlation_id = "c-1";
  properties.reply_to = "replies";
  properties.message_id = "m-1";
  properties.timestamp = 1'700'000'000;
  properties.type = "order";
  properties.app_id = "shop";
  properties.cluster_id = "of old";
  return properties;
}

class Recorder final : public ConnectionEvents {
 public:
  void on_ok(ChannelNumber, Reply reply, std::string_view) override {
    closed = closed || reply == Reply::connection_close;
  }
  char* on_delivery(const IncomingDelivery& delivery) override {
    properties = delivery.properties;
    body.assign(delivery.body_size, '?');
    return body.data();
  }
  void on_body(ChannelNumber) override { complete = true; }
  void on_cancelled(ChannelNumber, std::string_view) override {}
  void on_channel_closed(ChannelNumber, int, std::string_view) override {}
  void on_returned(const ReturnedPublication&) override {}
  void on_confirmed(ChannelNumber, std::uint64_t, bool, bool) override {}
  void on_blocked(std::string_view) override {}
  void on_unblocked() override {}

  std::string properties, body;
  bool complete = false;
  bool closed = false;
};

}  // namespace

TEST_CASE("a login that fails says why", "[unit][connection]") {
  const auto start = [](const std::string& mechanisms) {
    return method(
        0, 10, 10,
        number(0, 1) + number(9, 1) + long_text("") + long_text(mechanisms) + long_text("en_US"));
  };
  struct Row {
    std::string answer, expected;
  };
  const auto row = GENERATE_COPY(values<Row>({
      {"", "no answer in time"},
      {start("PLAIN"), "no answer in time"},
      {std::string("\x15\x03\x01\0\x02\x02\n", 7),
       "the port is one for TLS: expected a URL that starts with amqps://"},
      {std::string("AMQP\x01\x01\0\x09", 8), "the peer speaks another AMQP: expected 0-9-1"},
      {"HTTP/1.1 400 Bad Request\r\n\r\n", "the peer speaks HTTP: expected AMQP 0-9-1"},
      {start("AMQPLAIN X-PLAIN PLAINER"),
       "the broker does not offer SASL PLAIN: found 'AMQPLAIN X-PLAIN PLAINER'"},
      {start("AMQPLAIN PLAIN") + method(0, 10, 30, number(0, 2) + number(100, 4) + number(0, 2)),
       "the broker wants frames of at most 100 bytes: expected 4096 or more"},
      {start("PLAIN AMQPLAIN") +
           method(0, 10, 50, number(403, 2) + short_text("GO\naway") + number(0, 4)),
       "403 GO\\naway"},
      {deliver(1, 1, 0), "the broker sends what nobody asked for"},
      {start("PLAIN") + start("PLAIN"), "unexpected method AMQP_CONNECTION_START_METHOD"},
      {method(0, 10, 41, short_text("")), "unexpected method AMQP_CONNECTION_OPEN_OK_METHOD"},
      {start("PLAIN") + method(0, 10, 41, short_text("")),
       "unexpected method AMQP_CONNECTION_OPEN_OK_METHOD"},
  }));
  CAPTURE(row.expected);
  const TcpServer broker(row.answer);
  const auto url = parse_broker_url(broker.url());
  const auto opened =
      Connection::open(url->address, {500ms, 500ms}, std::chrono::seconds(0), "test");
  REQUIRE_FALSE(opened);
  CHECK(opened.error() ==
        "broker " + broker.url().substr(7) + ": log in as 'guest' to vhost '/': " + row.expected);
}

TEST_CASE("a machine that takes no connection is left earlier than one that does not answer",
          "[unit][connection]") {
  // Once its backlog is full, a listening socket drops what else wants to connect.
  const Listener listener = listen_on_loopback(0);
  const sockaddr_in address = loopback(listener.port);
  const UniqueFd first(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::connect(first.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);

  const auto url = parse_broker_url("amqp://127.0.0.1:" + std::to_string(listener.port));
  const auto begun = Clock::now();
  const auto opened = Connection::open(url->address, {60s, 200ms}, std::chrono::seconds(0), "test");
  REQUIRE_FALSE(opened);
  CHECK(opened.error().ends_with(": connect: Connection timed out"));
  CHECK(Clock::now() - begun < 30s);
}

TEST_CASE("how many channels there may be is what the broker says", "[unit][connection]") {
  const TcpServer broker(login());
  CHECK(connect(broker)->channel_max() == 2047);
}

TEST_CASE("a close-ok that nobody asked for is the end of the connection", "[unit][connection]") {
  const std::string close_ok = method(0, 10, 51, "");
  const TcpServer broker(login() + close_ok);
  const auto connection = connect(broker);
  Recorder events;
  REQUIRE(eventually(10s, [&] { return !connection->pump(events, 100).ok(); }));
  CHECK_FALSE(events.closed);
}

TEST_CASE("a close is answered", "[unit][connection]") {
  const TcpServer broker(login(), {{std::string("\0\x0a\0\x32", 4), method(0, 10, 51, "")}});
  const auto connection = connect(broker);
  REQUIRE(connection->send_close().ok());
  Recorder events;
  CHECK(eventually(10s, [&] { return !connection->pump(events, 100).ok() || events.closed; }));
  CHECK(events.closed);
}

TEST_CASE("a copy has all properties of its original, and headers of every kind byte for byte",
          "[unit][connection]") {
  const TcpServer broker(login());
  const auto connection = connect(broker);
  const std::string original = full().encode();
  REQUIRE(send(*connection, copy(original)).ok());
  CHECK(arrives(broker, published("x", "k", original)));
}

TEST_CASE("a copy of a message without properties has none but its delivery mode",
          "[unit][connection]") {
  const TcpServer broker(login());
  const auto connection = connect(broker);
  Properties expected;
  expected.delivery_mode = GENERATE(1, 2);
  const std::string original = Properties().encode();
  Publication publication = copy(original);
  publication.persistent = expected.delivery_mode == 2;
  publication.mandatory = false;
  publication.body = {};
  REQUIRE(send(*connection, publication).ok());
  CHECK(arrives(broker, published("x", "k", expected.encode(), "", false)));
}

TEST_CASE("what belonged to the original's delivery is not in a copy", "[unit][connection]") {
  const TcpServer broker(login());
  const auto connection = connect(broker);
  const std::string death =
      field("x-death", 'A',
            long_text('F' + long_text(text_field("queue", "q") + number_field("count", 3))));
  const std::array gone = {death,
                           text_field("x-first-death-queue", "q"),
                           text_field("x-first-death-reason", "expired"),
                           text_field("x-first-death-exchange", ""),
                           text_field("x-last-death-queue", "q"),
                           text_field("x-last-death-reason", "rejected"),
                           text_field("x-last-death-exchange", "x"),
                           number_field("x-delivery-count", 2),
                           number_field("x-stream-offset", 5),
                           field("CC", 'A', long_text('S' + long_text("other"))),
                           field("BCC", 'A', long_text('S' + long_text("another")))};
  // Names that only look like those.
  const std::array kept = {text_field("x-deaths", "a"), text_field("x-first-deat", "b"),
                           text_field("cc", "c"), text_field("x-delivery-counted", "d"),
                           text_field("CC2", "e")};
  Properties original = full();
  original.expiration = "60000";
  original.user_id = "guest";
  Properties expected = full();
  original.headers.emplace();
  expected.headers.emplace();
  for (std::size_t i = 0; i < gone.size(); ++i) {
    *original.headers += gone[i];
    if (i < kept.size()) {
      *original.headers += kept[i];
      *expected.headers += kept[i];
    }
  }
  const std::string encoded = original.encode();
  REQUIRE(send(*connection, copy(encoded)).ok());
  CHECK(arrives(broker, published("x", "k", expected.encode())));
}

TEST_CASE("headers that are not wanted are left out of a copy", "[unit][connection]") {
  const TcpServer broker(login());
  const auto connection = connect(broker);
  Properties original, expected;
  original.headers = text_field("a", "1") + text_field("b", "2") + number_field("c", 3) +
                     text_field("a", "again") + text_field("ab", "4");
  expected.headers = text_field("b", "2") + text_field("ab", "4");
  expected.delivery_mode = 2;
  const std::string encoded = original.encode();
  Publication publication = copy(encoded);
  constexpr std::array<std::string_view, 3> kWithout = {"a", "c", "not there"};
  publication.without = kWithout;
  REQUIRE(send(*connection, publication).ok());
  CHECK(arrives(broker, published("x", "k", expected.encode())));
}

TEST_CASE("a copy that has lost its last header has no headers", "[unit][connection]") {
  const TcpServer broker(login());
  const auto connection = connect(broker);
  Properties original, expected;
  original.headers = text_field("a", "1");
  original.type = expected.type = "t";
  expected.delivery_mode = 2;
  const std::string encoded = original.encode();
  Publication publication = copy(encoded);
  constexpr std::array<std::string_view, 1> kWithout = {"a"};
  publication.without = kWithout;
  REQUIRE(send(*connection, publication).ok());
  CHECK(arrives(broker, published("x", "k", expected.encode())));
}

TEST_CASE("what is given takes the place of what is copied", "[unit][connection]") {
  const TcpServer broker(login());
  const auto connection = connect(broker);
  Properties original = full();
  original.expiration = "60000";
  original.user_id = "guest";
  original.headers = text_field("a", "old") + text_field("b", "kept") + text_field("c", "old") +
                     number_field("gone", 1) + text_field("x-death", "x");
  Publication publication;
  const std::string encoded = original.encode();
  publication = copy(encoded);
  publication.persistent = false;
  publication.content_type = "text/plain";
  publication.content_encoding = "identity";
  publication.priority = 0;
  publication.correlation_id = "c-2";
  publication.reply_to = "r-2";
  publication.expiration = "5";
  publication.message_id = "m-2";
  publication.timestamp = 2;
  publication.type = "t-2";
  publication.user_id = "someone";
  publication.app_id = "a-2";
  publication.headers = {{"a", {std::int64_t{1}}},
                         {"list", {AmqpArray{{AmqpTable{{"k", {true}}}}, {2.5}}}}};
  ByteBuffer packed;
  HeaderWriter writer(packed);
  writer.add_text("c", HeaderKind::bytes, "new");
  writer.add_scalar("time", HeaderKind::timestamp, 9);
  publication.packed_headers = {packed.data(), packed.size()};
  // Given and not wanted: it is given.
  constexpr std::array<std::string_view, 2> kWithout = {"gone", "a"};
  publication.without = kWithout;

  Properties expected;
  expected.content_type = "text/plain";
  expected.content_encoding = "identity";
  expected.headers = number_field("a", 1) +
                     field("list", 'A',
                           long_text('F' + long_text(flag_field("k", true)) + 'd' +
                                     number(std::bit_cast<std::uint64_t>(2.5), 8))) +
                     field("c", 'x', long_text("new")) + field("time", 'T', number(9, 8)) +
                     text_field("b", "kept");
  expected.delivery_mode = 1;
  expected.priority = 0;
  expected.correlation_id = "c-2";
  expected.reply_to = "r-2";
  expected.expiration = "5";
  expected.message_id = "m-2";
  expected.timestamp = 2;
  expected.type = "t-2";
  expected.user_id = "someone";
  expected.app_id = "a-2";
  expected.cluster_id = "of old";
  REQUIRE(send(*connection, publication).ok());
  CHECK(arrives(broker, published("x", "k", expected.encode())));
}

TEST_CASE("a large body is cut into frames that the broker takes", "[unit][connection]") {
  const std::size_t size = GENERATE(std::size_t{kFrameMax - 9}, std::size_t{kFrameMax - 8},
                                    std::size_t{kFrameMax - 7}, std::size_t{3 * kFrameMax});
  const TcpServer broker(login());
  const auto connection = connect(broker);
  Properties expected;
  expected.delivery_mode = 2;
  std::string body(size, '\0');
  for (std::size_t i = 0; i < size; ++i) body[i] = static_cast<char>(i * 31 + i / 251);
  Publication publication;
  publication.routing_key = "k";
  publication.body = body;
  REQUIRE(send(*connection, publication).ok());
  CHECK(arrives(broker, published("", "k", expected.encode(), body)));
}

TEST_CASE("of what cannot be sent nothing is, and the next goes well", "[unit][connection]") {
  struct Row {
    const char* what;
    std::string properties;
    std::string key;
    std::string_view expected;
  };
  Properties large;
  large.headers = text_field("large", std::string(kFrameMax, 'x'));
  const std::string whole = full().encode();
  const Row rows[] = {
      {"cut properties", whole.substr(0, whole.size() - 1), "k", "cannot be decoded"},
      {"a field of no kind", Properties{.headers = field("a", '?', "")}.encode(), "k",
       "cannot be decoded"},
      {"headers larger than a frame", large.encode(), "k", "larger than a frame"},
      {"a long key", Properties().encode(), std::string(256, 'k'), "longer than 255 bytes"},
  };
  const TcpServer broker(login());
  const auto connection = connect(broker);
  for (const Row& row : rows) {
    CAPTURE(row.what);
    Publication publication = copy(row.properties);
    publication.routing_key = row.key;
    const auto put = connection->publish(kChannel, publication);
    REQUIRE_FALSE(put.ok());
    CHECK_THAT(put.error(), Catch::Contains(std::string(row.expected)));
    CHECK(connection->unwritten() == 0);
  }
  const std::string original = full().encode();
  REQUIRE(send(*connection, copy(original)).ok());
  CHECK(arrives(broker, published("x", "k", original)));
}

TEST_CASE("the largest headers that fit a frame are copied", "[unit][connection]") {
  const TcpServer broker(login());
  const auto connection = connect(broker);
  Properties original;
  original.delivery_mode = 2;
  original.headers = "";
  // The whole frame's payload: class, weight, size of the body, and then these.
  const std::size_t room = kFrameMax - 8 - 12 - original.encode().size();
  original.headers = text_field("a", std::string(room - text_field("a", "").size(), 'x'));
  const std::string fits = original.encode();
  REQUIRE(send(*connection, copy(fits)).ok());
  CHECK(arrives(broker, published("x", "k", fits)));

  original.headers = text_field("a", std::string(room - text_field("a", "").size() + 1, 'x'));
  const std::string too_large = original.encode();
  CHECK_FALSE(connection->publish(kChannel, copy(too_large)).ok());
}

TEST_CASE("a delivery's properties are handed on as they came, and make the same copy",
          "[unit][connection]") {
  const std::string original = full().encode();
  const std::string open = method(kChannel, 20, 10, short_text(""));
  const std::string delivery =
      method(kChannel, 60, 60,
             short_text("tag") + number(1, 8) + number(0, 1) + short_text("x") + short_text("k")) +
      frame(2, kChannel, number(60, 2) + number(0, 2) + number(4, 8) + original) +
      frame(3, kChannel, "body");
  const TcpServer broker(login(), {{open, method(kChannel, 20, 11, long_text("")) + delivery}});
  const auto connection = connect(broker);
  Recorder events;
  const auto pump = [&] { return connection->pump(events, 100).ok(); };
  REQUIRE(pump());  // what is left of the login
  REQUIRE(connection->send(kChannel, ChannelOpen{}).ok());
  REQUIRE(eventually(10s, [&] { return !pump() || events.complete; }));
  REQUIRE(events.complete);
  CHECK((events.properties == original));
  CHECK(events.body == "body");
  REQUIRE(send(*connection, copy(events.properties)).ok());
  CHECK(arrives(broker, published("x", "k", original)));
}

// From 4.3 on a broker counts a reject towards the delivery limit of a quorum queue, and a nack
// not.
TEST_CASE("a failed attempt is told as basic.reject, what is handed back as basic.nack",
          "[unit][connection]") {
  const TcpServer broker(login());
  const auto connection = connect(broker);
  struct Row {
    const char* what;
    Result<void> (*tell)(Connection&, std::uint64_t tag);
    int id;
    int flags;  // of nack: multiple, then requeue
  };
  const Row rows[] = {
      {"rejected",
       [](Connection& to, std::uint64_t tag) { return to.reject(kChannel, tag, false); }, 90, 0},
      {"rejected, to come again",
       [](Connection& to, std::uint64_t tag) { return to.reject(kChannel, tag, true); }, 90, 1},
      {"handed back",
       [](Connection& to, std::uint64_t tag) { return to.nack_requeue(kChannel, tag); }, 120, 2},
      {"handed back, and all before it",
       [](Connection& to, std::uint64_t tag) { return to.nack_requeue(kChannel, tag, true); }, 120,
       3},
  };
  std::uint64_t tag = 7;
  for (const Row& row : rows) {
    CAPTURE(row.what);
    REQUIRE(row.tell(*connection, ++tag).ok());
    const auto frame_of = [&](int id) {
      return method(kChannel, 60, id,
                    number(tag, 8) + number(static_cast<std::uint64_t>(row.flags), 1));
    };
    CHECK(arrives(broker, frame_of(row.id)));
    CHECK_FALSE(broker.has_received(frame_of(row.id == 90 ? 120 : 90)));
  }
}

TEST_CASE("headers are decoded by the beginning of their names", "[unit][connection]") {
  Properties properties;
  properties.headers =
      fields_of_every_kind() + text_field("x-lope-a", "1") + number_field("x-lope-b", -2) +
      field("x-lope-c", 'A',
            long_text('F' + long_text(flag_field("k", true) + field("t", 'T', number(1, 8))) + 'V' +
                      'I' + number(3, 4))) +
      field("x-lope-d", 'T', number(5, 8)) + text_field("X-LOPE-E", "6");
  const AmqpTable expected = {
      {"x-lope-a", {std::string("1")}},
      {"x-lope-b", {std::int64_t{-2}}},
      {"x-lope-c",
       {AmqpArray{{AmqpTable{{"k", {true}}, {"t", {std::int64_t{1}}}}}, {std::int64_t{3}}}}},
      {"x-lope-d", {std::int64_t{5}}}};
  CHECK(decode_headers(properties.encode(), "x-lope-") == expected);
  CHECK(decode_headers(properties.encode(), "x-lope-b").size() == 1);
  CHECK(decode_headers(properties.encode(), "none").empty());
  CHECK(decode_headers(Properties().encode(), "").empty());
  CHECK(decode_headers("", "").empty());
  CHECK(decode_headers("\xff", "").empty());
  CHECK(decode_headers("\xff\xff garbage", "").empty());
}

TEST_CASE("headers that are nested as deep as a frame allows do no harm", "[unit][connection]") {
  constexpr std::size_t kDepth = 26'000;
  const auto deep_list = [](std::size_t depth) {
    std::string list;
    for (; depth > 0; --depth) list += 'A' + number(5 * (depth - 1), 4);
    return list;
  };
  const auto list_of = [](AmqpTable headers) {
    REQUIRE(headers.size() == 1);
    return headers.front().second;
  };
  Properties properties;
  properties.headers = short_text("x-lope-history") + deep_list(kDepth);
  const std::string encoded = properties.encode();
  REQUIRE(encoded.size() < kFrameMax - 1000);
  properties.headers = short_text("x-lope-history") + deep_list(32);
  const std::string cut = properties.encode();
  CHECK(list_of(decode_headers(encoded, "x-lope-history")) == list_of(decode_headers(cut, "")));

  Properties table;
  std::string fields;
  for (int depth = 0; depth < 2'000; ++depth) fields = field("d", 'F', long_text(fields));
  table.headers = fields;
  CHECK(decode_headers(table.encode(), "d").size() == 1);

  const TcpServer broker(login());
  const auto connection = connect(broker);
  REQUIRE(send(*connection, copy(encoded)).ok());
  CHECK(arrives(broker, deep_list(kDepth)));
}

}  // namespace lope::consumer
