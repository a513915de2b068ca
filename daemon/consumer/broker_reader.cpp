#include "consumer/broker_reader.h"

#include <amqp.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string>

namespace lope::consumer {

namespace {

// type, channel, size of the payload; and the octet behind it
constexpr std::size_t kHead = 7;
constexpr std::size_t kFooter = 1;
// class and method; class, weight, body size and flags
constexpr std::size_t kMethodId = 4;
constexpr std::size_t kHeaderFields = 14;
// So much of a body or more is read right to its place, and so much of what follows it with it:
// the next message's method and header, and little of its body.
constexpr std::size_t kLarge = 16 * 1024;
constexpr std::size_t kReadAhead = 4 * 1024;

std::uint32_t big_endian(const char* at, int bytes) {
  std::uint32_t value = 0;
  for (int i = 0; i < bytes; ++i) value = value << 8 | static_cast<unsigned char>(at[i]);
  return value;
}

}  // namespace

BrokerReader::BrokerReader(amqp_connection_state_t_* connection, Transport& transport)
    : connection_(connection),
      transport_(transport),
      frame_max_(static_cast<std::size_t>(amqp_get_frame_max(connection))),
      capacity_(frame_max_ + kReadAhead),
      input_(std::make_unique_for_overwrite<char[]>(capacity_)) {}

Result<BrokerReader::Pumped> BrokerReader::pump(Sink& sink, int max_frames,
                                                std::size_t max_body_bytes) {
  body_bytes_ = 0;
  bool all_read = false;
  for (int frames = 0; frames < max_frames && body_bytes_ < max_body_bytes;) {
    const auto taken = take_frame(sink);
    if (!taken) return Error{taken.error()};
    if (*taken) {
      ++frames;
      continue;
    }
    // To read again only to hear that there is nothing costs a system call; the event loop tells
    // if there is more.
    if (!all_read) {
      const auto got = read(sink);
      if (!got) return Error{got.error()};
      all_read = *got != Read::all_asked_for;
      if (*got != Read::nothing) continue;
    }
    return Pumped::dry;
  }
  return Pumped::more;
}

// False: it needs more bytes.
Result<bool> BrokerReader::take_frame(Sink& sink) {
  if (in_body_) return take_body(sink);
  const std::size_t there = end_ - begin_;
  if (there < kHead) return false;
  char* const at = input_.get() + begin_;
  const auto channel = static_cast<ChannelNumber>(big_endian(at + 1, 2));
  const std::size_t payload = big_endian(at + 3, 4);
  const std::size_t size = kHead + payload + kFooter;
  if (size > frame_max_) {
    return Error{"a frame of " + std::to_string(size) + " bytes, where at most " +
                 std::to_string(frame_max_) + " are taken"};
  }
  const int channel_max = amqp_get_channel_max(connection_);
  if (channel_max > 0 && channel > channel_max) {
    return Error{"a frame of channel " + std::to_string(channel) + ", where at most " +
                 std::to_string(channel_max) + " were agreed on"};
  }
  // The library does not look.
  if ((at[0] == AMQP_FRAME_METHOD && payload < kMethodId) ||
      (at[0] == AMQP_FRAME_HEADER && payload < kHeaderFields)) {
    return Error{"a frame too short for its type"};
  }
  if (at[0] == AMQP_FRAME_BODY) {
    const std::uint64_t left = sink.body(channel).left;
    if (left > 0 && payload > left) return Error{"a body is longer than its header said"};
    in_body_ = true;
    body_expected_ = left > 0;
    body_channel_ = channel;
    body_frame_left_ = payload;
    begin_ += kHead;
    return take_body(sink);
  }
  if (there < size) return false;
  amqp_frame_t frame;
  const int used = amqp_handle_input(connection_, {size, at}, &frame);
  if (used < 0) return Error{amqp_error_string2(used)};
  begin_ += size;
  // One of a type that is not known is ignored.
  if (frame.frame_type != 0) {
    if (auto handled = sink.on_frame(frame); !handled) return Error{handled.error()};
  }
  if (frame.frame_type == AMQP_FRAME_HEADER) {
    body_channel_ = channel;
    large_ = sink.body(channel).left >= kLarge;
  }
  // Everything of the frame has been copied: its memory is used again for the next.
  amqp_maybe_release_buffers_on_channel(connection_, channel);
  return true;
}

Result<bool> BrokerReader::take_body(Sink& sink) {
  Body& body = sink.body(body_channel_);
  const std::size_t count = std::min(body_frame_left_, end_ - begin_);
  if (body_expected_ && body.to != nullptr) std::memcpy(body.to, input_.get() + begin_, count);
  advance(body, count);
  begin_ += count;
  if (body_frame_left_ > 0 || begin_ == end_) return false;
  if (static_cast<unsigned char>(input_[begin_]) != AMQP_FRAME_END) {
    return Error{amqp_error_string2(AMQP_STATUS_BAD_AMQP_DATA)};
  }
  ++begin_;
  in_body_ = false;
  if (body_expected_ && body.left == 0) sink.on_body(body_channel_);
  return true;
}

// So much of the body frame has been read.
void BrokerReader::advance(Body& body, std::size_t count) {
  if (body_expected_) {
    if (body.to != nullptr) body.to += count;
    body.left -= count;
  }
  body_frame_left_ -= count;
  body_bytes_ += count;
}

Result<BrokerReader::Read> BrokerReader::read(Sink& sink) {
  if (begin_ > 0) {
    std::memmove(input_.get(), input_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  std::array<iovec, 2> parts;
  std::size_t count = 0;
  Body* const body = in_body_ ? &sink.body(body_channel_) : nullptr;
  std::size_t direct = 0;
  if (body != nullptr && body->to != nullptr && body_expected_ && body_frame_left_ >= kLarge) {
    direct = body_frame_left_;
    parts[count++] = {body->to, direct};
  }
  std::size_t room = capacity_ - end_;
  if (direct > 0) {
    room = std::min(room, kReadAhead);
  } else if (large_) {
    room = std::min(room, (in_body_ ? body_frame_left_ : 0) + kReadAhead);
  }
  parts[count++] = {input_.get() + end_, room};
  const auto read = transport_.read(std::span(parts).first(count));
  if (!read) return Error{read.error()};
  const std::size_t got = *read;
  if (got == 0) return Read::nothing;
  last_received_ = Clock::now();
  received_ += got;
  const std::size_t placed = std::min(got, direct);
  if (placed > 0) advance(*body, placed);
  end_ += got - placed;
  return got == direct + room ? Read::all_asked_for : Read::part;
}

}  // namespace lope::consumer
