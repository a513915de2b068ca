// Reads what the broker sends, frame by frame. rabbitmq-c decodes methods and headers; bodies do
// not go through its buffers: the payload of a large one is read from the socket right to its
// place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "common/clock.h"
#include "common/result.h"
#include "consumer/transport.h"

struct amqp_connection_state_t_;
struct amqp_frame_t_;

namespace lope::consumer {

using ChannelNumber = std::uint16_t;

class BrokerReader {
 public:
  // Where the rest of a channel's body goes.
  struct Body {
    char* to = nullptr;      // nullptr: it is dropped
    std::uint64_t left = 0;  // bytes
  };

  class Sink {
   public:
    virtual ~Sink() = default;
    // A method, a header or a heartbeat; what it points to is valid during the call.
    virtual Result<void> on_frame(const amqp_frame_t_& frame) = 0;
    // Body frames that a channel does not expect (left: 0) are dropped, as the rest of a body whose
    // channel was closed meanwhile.
    virtual Body& body(ChannelNumber channel) = 0;
    // Its last byte has been read.
    virtual void on_body(ChannelNumber channel) = 0;
  };

  // Reads from `transport`; what it reads is decoded by `connection`, which holds the limits. Both
  // stay the caller's.
  BrokerReader(amqp_connection_state_t_* connection, Transport& transport);

  // One turn's share: large bodies that stream in must not keep those that are here already from
  // their handlers for long. Less would wake workers, and settle, more often.
  static constexpr std::size_t kBodyBytesPerPump = 2 * 1024 * 1024;

  enum class Pumped { dry, more };
  // Handles what has arrived, up to `max_frames` frames and about so many bytes of bodies, without
  // blocking. `dry`: nothing is left here; the socket may have more. An error, an end of the stream
  // included, means that the connection is gone.
  Result<Pumped> pump(Sink& sink, int max_frames, std::size_t max_body_bytes = kBodyBytesPerPump);

  // Before a wait for the socket: poll() is to call it readable when about so many bytes are there,
  // not before; at most 1 MiB. What is there already, or a bound on the wait, is the caller's
  // care.
  void set_low_water(std::size_t bytes) { transport_.set_low_water(bytes); }
  // What is missing of the large body that is coming; 0: none is.
  std::uint64_t large_body_left(Sink& sink) const {
    return large_ ? sink.body(body_channel_).left : 0;
  }

  std::uint64_t received() const { return received_; }  // bytes

  // What has been read and is not a whole frame, or none.
  std::string_view unread() const { return {input_.get() + begin_, end_ - begin_}; }

  // When something last came from the broker.
  TimePoint last_received() const { return last_received_; }

 private:
  enum class Read { nothing, part, all_asked_for };

  Result<bool> take_frame(Sink& sink);
  Result<bool> take_body(Sink& sink);
  Result<Read> read(Sink& sink);
  void advance(Body& body, std::size_t count);

  amqp_connection_state_t_* const connection_;
  Transport& transport_;
  const std::size_t frame_max_;
  const std::size_t capacity_;
  const std::unique_ptr<char[]> input_;
  std::size_t begin_ = 0, end_ = 0;  // what has been read and not yet handled

  ChannelNumber body_channel_ = 0;  // of the last header or body frame
  bool in_body_ = false;            // inside a body frame; then:
  bool body_expected_ = false;
  std::size_t body_frame_left_ = 0;
  // The last header was of a large body: it should not be read into our buffer, nor the next, which
  // will be as large.
  bool large_ = false;
  std::size_t body_bytes_ = 0;  // read by this pump()
  std::uint64_t received_ = 0;
  TimePoint last_received_ = Clock::now();
};

}  // namespace lope::consumer
