#include "common/link.h"

#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <random>

#include "common/fd.h"

namespace lope {

namespace {

DeliveryView sample(ByteBuffer& headers) {
  HeaderWriter writer(headers);
  writer.add_text("trace", HeaderKind::text, "abc");
  writer.add_scalar("n", HeaderKind::int64, static_cast<std::uint64_t>(-5));
  writer.add_text("", HeaderKind::bytes, std::string_view("\0x", 2));
  DeliveryView view;
  view.flags = kDeliveryRedelivered | kDeliveryPersistent;
  view.attempt = 3;
  view.crashes = 2;
  view.priority = 9;
  view.delivery_tag = 77;
  view.received_unix_ns = 1'700'000'000'000'000'000ull;
  view.timestamp = 1'700'000'000;
  view[TextProperty::queue] = "orders";
  view[TextProperty::routing_key] = "a.b";
  view[TextProperty::message_id] = "id-1";
  view[TextProperty::expiration] = "60000";
  view.header_count = writer.count();
  view.headers = {headers.data(), headers.size()};
  return view;
}

std::span<const char> whole(const ByteBuffer& frame) { return frame.bytes(); }

}  // namespace

TEST_CASE("a delivery arrives as it was sent", "[unit][link]") {
  const std::size_t size = GENERATE(0u, 1u, 7u, 8u, 131064u, 1048576u);
  ByteBuffer headers, frame;
  const DeliveryView sent = sample(headers);
  const std::string body(size, 'b');
  char* to = encode_delivery(sent, body.size(), frame);
  std::copy(body.begin(), body.end(), to);
  set_sequence(frame, 42);

  FrameHead head;
  std::memcpy(&head, frame.data(), sizeof head);
  CHECK(head.size == frame.size());
  CHECK(head.type == FrameType::delivery);
  CHECK(head.sequence == 42);
  const auto got = decode_delivery(whole(frame));
  REQUIRE(got.ok());
  CHECK(got->flags == sent.flags);
  CHECK(got->attempt == 3);
  CHECK(got->crashes == 2);
  CHECK(got->priority == 9);
  CHECK(got->delivery_tag == 77);
  CHECK(got->received_unix_ns == sent.received_unix_ns);
  CHECK(got->timestamp == sent.timestamp);
  CHECK(got->text == sent.text);
  CHECK(got->headers == sent.headers);
  CHECK(got->header_count == 3);
  CHECK(got->body == body);
}

TEST_CASE("headers are read back in order, whatever they hold", "[unit][link]") {
  ByteBuffer headers;
  (void)sample(headers);
  std::string_view left(headers.data(), headers.size());
  auto header = next_header(left);
  REQUIRE(header);
  CHECK(header->name == "trace");
  CHECK(header->kind == HeaderKind::text);
  CHECK(header->value == "abc");
  header = next_header(left);
  REQUIRE(header);
  CHECK(header->name == "n");
  CHECK(static_cast<std::int64_t>(header->bits) == -5);
  header = next_header(left);
  REQUIRE(header);
  CHECK(header->name.empty());
  CHECK(header->value == std::string_view("\0x", 2));
  CHECK_FALSE(next_header(left));
}

TEST_CASE("a damaged delivery frame is an error, never a read beyond it", "[unit][link]") {
  ByteBuffer headers, frame;
  encode_delivery(sample(headers), 100, frame);
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    std::vector<char> damaged(frame.data(), frame.data() + frame.size());
    for (int k = 0; k < 4; ++k) damaged[random() % damaged.size()] = static_cast<char>(random());
    damaged.resize(random() % (damaged.size() + 1));
    damaged.shrink_to_fit();
    if (const auto got = decode_delivery(damaged); got.ok()) {
      std::string_view left = got->headers;
      std::size_t seen = got->body.size();
      while (const auto header = next_header(left))
        seen += header->name.size() + header->value.size();
      CHECK(seen <= damaged.size());
    }
  }
}

TEST_CASE("publications arrive as they were sent, one behind the other", "[unit][link]") {
  const std::size_t size = GENERATE(0u, 1u, 131064u, 1048576u);
  ByteBuffer headers, frames;
  const std::string body(size, 'b');
  PublicationView sent;
  sent.flags = kPublicationTransient | kPublicationMayBeUnroutable;
  sent.priority = 9;
  sent.expiration_ms = 60'000;
  sent.timestamp = 1'700'000'000;
  sent.due_unix_ms = 1'700'000'000'123;
  sent.text = sample(headers).text;
  sent.header_count = 3;
  sent.headers = {headers.data(), headers.size()};
  sent.body = body;
  append_publication(sent, 42, frames);
  append_publication(PublicationView{}, 43, frames);

  std::string_view left(frames.data(), frames.size());
  const auto next = [&left](std::uint64_t sequence) {
    FrameHead head;
    REQUIRE(left.size() >= sizeof head);
    std::memcpy(&head, left.data(), sizeof head);
    CHECK(head.type == FrameType::publish);
    CHECK(head.sequence == sequence);
    REQUIRE(head.size <= left.size());
    const auto got = decode_publication(left.substr(sizeof head, head.size - sizeof head));
    left.remove_prefix(head.size);
    REQUIRE(got);
    return *got;
  };
  const PublicationView got = next(42);
  CHECK(got.flags == sent.flags);
  CHECK(got.priority == 9);
  CHECK(got.expiration_ms == 60'000);
  CHECK(got.timestamp == sent.timestamp);
  CHECK(got.due_unix_ms == sent.due_unix_ms);
  CHECK(got.text == sent.text);
  CHECK(got.headers == sent.headers);
  CHECK(got.header_count == 3);
  CHECK((got.body == body));
  const PublicationView empty = next(43);
  CHECK(empty.text == PublicationView{}.text);
  CHECK(empty.headers.empty());
  CHECK(empty.body.empty());
  CHECK(left.empty());
}

TEST_CASE("a damaged publish frame is an error, never a read beyond it", "[unit][link]") {
  ByteBuffer headers, frame;
  PublicationView view;
  view.text = sample(headers).text;
  view.headers = {headers.data(), headers.size()};
  view.body = "a body";
  append_publication(view, 42, frame);
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    std::vector<char> damaged(frame.data() + sizeof(FrameHead), frame.data() + frame.size());
    for (int k = 0; k < 4; ++k) damaged[random() % damaged.size()] = static_cast<char>(random());
    damaged.resize(random() % (damaged.size() + 1));
    damaged.shrink_to_fit();
    const auto got = decode_publication({damaged.data(), damaged.size()});
    if (!got) continue;
    std::string_view left = got->headers;
    std::size_t seen = got->body.size();
    for (const std::string_view text : got->text) seen += text.size();
    while (const auto header = next_header(left)) {
      seen += header->name.size() + header->value.size();
    }
    CHECK(seen <= damaged.size());
  }
}

TEST_CASE("frames are whole however the socket slices them", "[unit][link]") {
  auto pair = make_stream_pair();
  REQUIRE(pair.ok());
  REQUIRE(set_nonblocking(pair->first.get(), true).ok());
  const std::string stream = encode_frame(FrameType::log, 0, "first") +
                             encode_frame(FrameType::explain, 9, std::string(3000, 'x')) +
                             encode_frame(FrameType::ready, 0, "");
  const std::size_t slice = GENERATE(1u, 15u, 17u, 1000u, 100000u);
  FrameReader reader;
  std::vector<std::pair<FrameType, std::size_t>> got;
  for (std::size_t at = 0; at < stream.size(); at += slice) {
    const std::string_view part = std::string_view(stream).substr(at, slice);
    REQUIRE(::send(pair->second.get(), part.data(), part.size(), 0) ==
            static_cast<ssize_t>(part.size()));
    const auto status = reader.read(pair->first.get());
    REQUIRE(status.ok());
    CHECK(*status == FrameReader::Status::data);
    for (;;) {
      const auto frame = reader.next();
      REQUIRE(frame.ok());
      if (!frame->has_value()) break;
      got.emplace_back((*frame)->head.type, (*frame)->payload.size());
    }
  }
  CHECK(got == std::vector<std::pair<FrameType, std::size_t>>{
                   {FrameType::log, 5}, {FrameType::explain, 3000}, {FrameType::ready, 0}});
  auto status = reader.read(pair->first.get());
  REQUIRE(status.ok());
  CHECK(*status == FrameReader::Status::would_block);
  pair->second.reset();
  status = reader.read(pair->first.get());
  REQUIRE(status.ok());
  CHECK(*status == FrameReader::Status::end);
}

TEST_CASE("a worker that sends garbage is found out", "[unit][link]") {
  auto pair = make_stream_pair();
  REQUIRE(pair.ok());
  const std::string garbage = GENERATE(std::string(64, '\xff'), std::string(64, '\0'));
  REQUIRE(::send(pair->second.get(), garbage.data(), garbage.size(), 0) == 64);
  FrameReader reader;
  REQUIRE(reader.read(pair->first.get()).ok());
  CHECK_FALSE(reader.next().ok());
}

}  // namespace lope
