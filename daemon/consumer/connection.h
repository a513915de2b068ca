// One AMQP connection: frames in, methods out. With broker_reader the only one that knows
// rabbitmq-c. Knows nothing of groups, workers or policies. Used by one thread at a time: opened on
// one, then handed over.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "common/link.h"
#include "common/result.h"
#include "common/settings.h"
#include "consumer/broker_reader.h"

namespace lope::consumer {

// ---- What can be asked of the broker. Each is answered by an on_ok() of the same kind, or by
// on_channel_closed() with the broker's reason.
struct ChannelOpen {};
struct ExchangeDeclare {
  ExchangeSettings exchange;
  bool passive = false;  // only: is it there?
};
struct ExchangeBind {
  std::string destination, source, key;
};
struct QueueDeclare {
  std::string queue;
  DeclareSettings declaration;
  bool passive = false;
};
struct QueueBind {
  std::string queue;
  BindingSettings binding;
};
struct Unbind {
  bool from_queue = true;  // false: the destination is an exchange
  std::string destination;
  BindingSettings binding;
};
struct Qos {
  std::uint16_t prefetch = 0;
};
struct Consume {
  std::string queue;
  std::string consumer_tag;
  AmqpTable arguments;
  bool no_ack = false;                      // a delivery counts as settled once it is sent
  std::optional<StreamOffset> offset = {};  // of a stream: where to begin
};
struct Cancel {
  std::string consumer_tag;
};
struct ConfirmSelect {};
using Request = std::variant<ChannelOpen, ExchangeDeclare, ExchangeBind, QueueDeclare, QueueBind,
                             Unbind, Qos, Consume, Cancel, ConfirmSelect>;

// "declare queue 'orders'", for logs.
std::string describe(const Request& request);

enum class Reply {
  channel_open,
  exchange_declare,
  exchange_bind,
  queue_declare,
  queue_bind,
  unbind,
  qos,
  consume,
  cancel,
  confirm_select,
  get_empty,
  connection_close,
};

// A delivery whose properties are known and whose body is to come.
struct IncomingDelivery {
  ChannelNumber channel = 0;
  DeliveryView view;            // all but queue and body; valid during the call
  std::string_view properties;  // all of them, as they came; valid during the call
  std::uint64_t body_size = 0;
  std::int64_t stream_offset = -1;  // where it is in its stream, by its headers; -1: in none
};

// A publication that no queue takes. Its confirm follows.
struct ReturnedPublication {
  ChannelNumber channel = 0;
  int code = 0;
  std::string_view text, exchange, routing_key, message_id;
};

// What the broker says. Called from pump().
class ConnectionEvents {
 public:
  virtual ~ConnectionEvents() = default;
  // `text`: the consumer tag of a consume or cancel, the queue's name of a queue_declare.
  virtual void on_ok(ChannelNumber channel, Reply reply, std::string_view text) = 0;
  // Before the on_ok() of a queue_declare: what the queue holds that is ready.
  virtual void on_queue_size(ChannelNumber /*channel*/, std::uint32_t /*messages*/,
                             std::uint32_t /*consumers*/) {}
  // Where the body goes, `body_size` bytes; nullptr: it is read and dropped.
  virtual char* on_delivery(const IncomingDelivery& delivery) = 0;
  // The body is there. Not called for a dropped one or one of size 0: on_delivery was all.
  virtual void on_body(ChannelNumber channel) = 0;
  // The broker cancelled the consumer: its queue was deleted, or its node is gone.
  virtual void on_cancelled(ChannelNumber channel, std::string_view consumer_tag) = 0;
  // The broker closed the channel; close-ok is on its way. All its tags are void.
  virtual void on_channel_closed(ChannelNumber channel, int code, std::string_view text) = 0;
  // Its body is dropped.
  virtual void on_returned(const ReturnedPublication& publication) = 0;
  virtual void on_confirmed(ChannelNumber channel, std::uint64_t tag, bool multiple, bool ack) = 0;
  // A resource alarm: the broker reads nothing from a publishing connection until it is over.
  virtual void on_blocked(std::string_view reason) = 0;
  virtual void on_unblocked() = 0;
};

// A message to publish. Views are read during the call.
struct Publication {
  std::string_view exchange, routing_key;
  bool mandatory = true;
  bool persistent = true;
  std::string_view content_type, content_encoding, correlation_id, reply_to, message_id, type,
      app_id, user_id, expiration;
  int priority = -1;            // none
  std::uint64_t timestamp = 0;  // none
  AmqpTable headers;
  std::string_view packed_headers;  // and these, made by HeaderWriter
  // IncomingDelivery::properties of a message that this is a copy of: what is not given above is as
  // it was there, but for what belonged to that delivery (expiration, user id, and the headers that
  // brokers make of a message's way, which would be held against the copy).
  std::string_view copied;
  std::span<const std::string_view> without = {};  // names of headers that the copy does not get
  std::string_view body;
};

// The headers among these properties (of IncomingDelivery) whose names begin with `prefix`; values
// of a kind that AmqpValue does not know are left out, and lists and tables within 32 others; times
// are numbers (of seconds since 1970).
AmqpTable decode_headers(std::string_view properties, std::string_view prefix);

// For one of a host's addresses.
struct ConnectTimes {
  std::chrono::milliseconds all;            // login included
  std::chrono::milliseconds reached = all;  // until it takes the connection
};

class Connection {
 public:
  // Resolves, connects and logs in, at the first of the host's addresses that answers: blocks, but
  // (name resolution aside) never longer than `times` says for each. An error names the step and
  // the broker's own words, never the password.
  static Result<std::unique_ptr<Connection>> open(const BrokerAddress& address, ConnectTimes times,
                                                  std::chrono::seconds heartbeat,
                                                  const std::string& name,
                                                  const TlsSettings& tls = {},
                                                  Login login = Login::plain);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  int fd() const;
  // "127.0.0.1:5672"
  const std::string& peer() const { return peer_; }
  // "TLSv1.3"; empty in plain text.
  std::string tls_version() const;

  using Pumped = BrokerReader::Pumped;
  // Handles up to `max_frames` frames that have arrived, without blocking; also sends a heartbeat
  // that is due and notices missing ones. `dry`: nothing is left in any buffer of ours; the socket
  // may have more. An error means the connection is gone.
  Result<Pumped> pump(ConnectionEvents& events, int max_frames);

  // As agreed on with the broker; 0: none. pump() is to be called several times in it.
  std::chrono::milliseconds heartbeat() const;
  // Bytes that have come from the broker.
  std::uint64_t received() const;
  // See BrokerReader.
  void set_low_water(std::size_t bytes);
  // What is missing of the large body that is coming, and is still to come over the socket.
  std::uint64_t large_body_left();

  // True when a small frame can be written without blocking, behind everything in the buffer.
  bool writable();

  // The following write one small frame. An error means the connection is gone.
  Result<void> send(ChannelNumber channel, const Request& request);
  // Asks for one message of the queue: answered by on_delivery(), or on_ok(get_empty).
  Result<void> get(ChannelNumber channel, std::string_view queue);
  Result<void> ack(ChannelNumber channel, std::uint64_t tag, bool multiple);
  Result<void> reject(ChannelNumber channel, std::uint64_t tag, bool requeue);
  Result<void> nack_requeue(ChannelNumber channel, std::uint64_t tag, bool multiple = false);
  // Asks for the end of the connection; answered by on_ok(0, connection_close), which comes for no
  // other reason.
  Result<void> send_close();

  // The largest frame, which has to hold all properties of a message.
  std::size_t frame_max() const;
  // The highest number that a channel may have.
  int channel_max() const;
  // "3.10.8"; empty when the broker does not say.
  std::string broker_version() const;
  // What the broker calls its cluster, "rabbit@mq1" if nobody has named it; empty when it does not
  // say.
  std::string cluster_name() const;

  // While a peer is known to take nothing: the connection is not given up for that.
  void set_patient(bool patient);

  // Puts method, header and body into the buffer for write(). An error names what cannot be sent;
  // nothing of it is, and the connection is as good as before.
  Result<void> publish(ChannelNumber channel, const Publication& publication);
  // Writes what the socket takes of the buffer. An error means the connection is gone.
  Result<void> write();
  // What is not written yet, in bytes.
  std::size_t unwritten() const;
  // pump() reads no more until the socket takes something; to be asked where unwritten() is.
  bool reading_needs_room() const;

 private:
  struct Impl;
  explicit Connection(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
  std::string peer_;
};

}  // namespace lope::consumer
