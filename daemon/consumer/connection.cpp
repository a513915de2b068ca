#include "consumer/connection.h"

#include <amqp.h>
#include <amqp_framing.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <deque>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/fd.h"
#include "common/text.h"
#include "consumer/tls.h"
#include "consumer/transport.h"

namespace lope::consumer {

namespace {

constexpr int kFrameMax = 131072;  // the broker's own limit; never less: a header cannot be split
// A socket that poll calls writable has a third of its buffer free: room for so many small frames.
constexpr int kSureWrites = 16;
constexpr std::size_t kFrameOverhead = 8;   // type, channel, size, end
constexpr std::size_t kMaxShortText = 255;  // AMQP's short strings
// A larger buffer for output is given back once it is empty.
constexpr std::size_t kKeptOutput = 1 << 20;

amqp_bytes_t bytes(std::string_view text) { return {text.size(), const_cast<char*>(text.data())}; }

std::string_view view(amqp_bytes_t text) {
  return {static_cast<const char*>(text.bytes), text.len};
}

// RabbitMQ cuts no headers in two, and adds to them: x-death with each level of a delay ladder, an
// x-delivery-count. What was published with headers of nearly a frame comes back with more than
// one.
constexpr std::size_t kBeyondFrameMax = 64 * 1024;

// How long what was sent may stay unacknowledged; 0: as long as the kernel tries.
bool set_user_timeout(int fd, std::chrono::seconds timeout) {
  const auto ms = static_cast<unsigned int>(timeout.count() * 1000);
  return ::setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms) == 0;
}

std::string status_text(int status) { return amqp_error_string2(status); }

// An AMQP table whose entries it owns; the texts are views of its source.
class TableBuilder {
 public:
  explicit TableBuilder(const AmqpTable& source) : table_(build(source)) {}
  amqp_table_t table() const { return table_; }

 private:
  amqp_table_t build(const AmqpTable& source) {
    std::vector<amqp_table_entry_t>& entries = tables_.emplace_back();
    entries.reserve(source.size());
    for (const auto& [key, value] : source) {
      amqp_table_entry_t entry;
      entry.key = bytes(key);
      entry.value = build(value);
      entries.push_back(entry);
    }
    return {static_cast<int>(entries.size()), entries.data()};
  }

  amqp_field_value_t build(const AmqpValue& source) {
    amqp_field_value_t field;
    std::memset(&field, 0, sizeof field);
    if (const auto* flag = std::get_if<bool>(&source.value)) {
      field.kind = AMQP_FIELD_KIND_BOOLEAN;
      field.value.boolean = *flag ? 1 : 0;
    } else if (const auto* integer = std::get_if<std::int64_t>(&source.value)) {
      field.kind = AMQP_FIELD_KIND_I64;
      field.value.i64 = *integer;
    } else if (const auto* real = std::get_if<double>(&source.value)) {
      field.kind = AMQP_FIELD_KIND_F64;
      field.value.f64 = *real;
    } else if (const auto* text = std::get_if<std::string>(&source.value)) {
      field.kind = AMQP_FIELD_KIND_UTF8;
      field.value.bytes = bytes(*text);
    } else if (const auto* list = std::get_if<AmqpArray>(&source.value)) {
      std::vector<amqp_field_value_t>& entries = arrays_.emplace_back();
      entries.reserve(list->size());
      for (const AmqpValue& each : *list) entries.push_back(build(each));
      field.kind = AMQP_FIELD_KIND_ARRAY;
      field.value.array = {static_cast<int>(entries.size()), entries.data()};
    } else if (const auto* table = std::get_if<AmqpTable>(&source.value)) {
      field.kind = AMQP_FIELD_KIND_TABLE;
      field.value.table = build(*table);
    }
    return field;
  }

  std::deque<std::vector<amqp_table_entry_t>> tables_;  // deques: entries are pointed to
  std::deque<std::vector<amqp_field_value_t>> arrays_;
  amqp_table_t table_;
};

// A time goes as a number, to be made one on the wire.
AmqpValue offset_argument(const StreamOffset& offset) {
  switch (offset.from) {
    case StreamOffset::From::next: return {"next"};
    case StreamOffset::From::first: return {"first"};
    case StreamOffset::From::last: return {"last"};
    case StreamOffset::From::number:
    case StreamOffset::From::time: break;
  }
  return {offset.value};
}

void add_header(HeaderWriter& writer, std::string_view name, const amqp_field_value_t& field) {
  const auto scalar = [&](HeaderKind kind, std::uint64_t bits) {
    writer.add_scalar(name, kind, bits);
  };
  const auto integer = [&](std::int64_t value) {
    scalar(HeaderKind::int64, static_cast<std::uint64_t>(value));
  };
  switch (field.kind) {
    case AMQP_FIELD_KIND_BOOLEAN:
      scalar(HeaderKind::boolean, field.value.boolean != 0 ? 1 : 0);
      break;
    case AMQP_FIELD_KIND_I8: integer(field.value.i8); break;
    case AMQP_FIELD_KIND_I16: integer(field.value.i16); break;
    case AMQP_FIELD_KIND_I32: integer(field.value.i32); break;
    case AMQP_FIELD_KIND_I64: integer(field.value.i64); break;
    case AMQP_FIELD_KIND_U8: scalar(HeaderKind::uint64, field.value.u8); break;
    case AMQP_FIELD_KIND_U16: scalar(HeaderKind::uint64, field.value.u16); break;
    case AMQP_FIELD_KIND_U32: scalar(HeaderKind::uint64, field.value.u32); break;
    case AMQP_FIELD_KIND_U64: scalar(HeaderKind::uint64, field.value.u64); break;
    case AMQP_FIELD_KIND_F32:
      scalar(HeaderKind::real, std::bit_cast<std::uint64_t>(static_cast<double>(field.value.f32)));
      break;
    case AMQP_FIELD_KIND_F64:
      scalar(HeaderKind::real, std::bit_cast<std::uint64_t>(field.value.f64));
      break;
    case AMQP_FIELD_KIND_TIMESTAMP: scalar(HeaderKind::timestamp, field.value.u64); break;
    case AMQP_FIELD_KIND_VOID: scalar(HeaderKind::null, 0); break;
    case AMQP_FIELD_KIND_UTF8:
      writer.add_text(name, HeaderKind::text, view(field.value.bytes));
      break;
    case AMQP_FIELD_KIND_BYTES:
      writer.add_text(name, HeaderKind::bytes, view(field.value.bytes));
      break;
    default: scalar(HeaderKind::other, 0); break;  // tables, arrays, decimals
  }
}

struct AddressList {
  ~AddressList() {
    if (first != nullptr) ::freeaddrinfo(first);
  }
  addrinfo* first = nullptr;
};

// Not the library's own, which does not tell why it failed. As there: non-blocking, no delay.
Result<UniqueFd> connect_to(const addrinfo& address, TimePoint deadline) {
  const auto text = [](int error) { return Error{std::strerror(error)}; };
  UniqueFd fd(::socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return text(errno);
  const int on = 1;
  if (::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
      ::setsockopt(fd.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) < 0) {
    return text(errno);
  }
  if (::connect(fd.get(), address.ai_addr, address.ai_addrlen) == 0) return fd;
  if (errno != EINPROGRESS) return text(errno);
  const auto connected = wait_for(fd.get(), POLLOUT, deadline);
  if (!connected) return Error{connected.error()};
  if (!*connected) return text(ETIMEDOUT);
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) < 0) return text(errno);
  if (error != 0) return text(error);
  return fd;
}

struct DescribeRequest {
  std::string operator()(const ChannelOpen&) const { return "open channel"; }
  std::string operator()(const ExchangeDeclare& r) const {
    return (r.passive ? "look for exchange '" : "declare exchange '") + r.exchange.name + "'";
  }
  std::string operator()(const ExchangeBind& r) const {
    return "bind exchange '" + r.destination + "' to exchange '" + r.source + "'";
  }
  std::string operator()(const QueueDeclare& r) const {
    return (r.passive ? "look for queue '" : "declare queue '") + r.queue + "'";
  }
  std::string operator()(const QueueBind& r) const {
    return "bind queue '" + r.queue + "' to exchange '" + r.binding.exchange + "'";
  }
  std::string operator()(const Unbind& r) const {
    return "unbind " + std::string(r.from_queue ? "queue '" : "exchange '") + r.destination +
           "' from exchange '" + r.binding.exchange + "'";
  }
  std::string operator()(const Qos&) const { return "set prefetch"; }
  std::string operator()(const Consume& r) const { return "consume from queue '" + r.queue + "'"; }
  std::string operator()(const Cancel&) const { return "cancel"; }
  std::string operator()(const ConfirmSelect&) const { return "ask for confirms"; }
};

}  // namespace

std::string describe(const Request& request) { return std::visit(DescribeRequest{}, request); }

struct Connection::Impl final : BrokerReader::Sink {
  // Where each channel is between a content method and the last byte of its body.
  struct Assembly {
    bool header_is_next = false;
    int return_code = 0;  // of a returned publication; 0: a delivery
    std::string return_text;
    std::uint64_t tag = 0;
    bool redelivered = false;
    std::string consumer_tag, exchange, routing_key;  // copied: the frame's memory is let go
    BrokerReader::Body body;
  };

  ~Impl() override {
    if (state != nullptr) amqp_destroy_connection(state);
  }

  Assembly& assembly(ChannelNumber channel) {
    if (assemblies.size() <= channel) assemblies.resize(channel + 1u);
    return assemblies[channel];
  }

  Impl() = default;
  // Ready to decode; `connected` is a socket.
  bool begin(UniqueFd connected);
  // The login, on a connection that is new. `refused`: it was the broker that said no.
  Result<void> log_in(const BrokerAddress& address, Login login, const std::string& name,
                      TimePoint deadline, bool& refused);
  Result<void> keep_alive(bool dry);
  bool can_write();
  Result<void> on_frame(const amqp_frame_t& frame) override;
  BrokerReader::Body& body(ChannelNumber channel) override { return assembly(channel).body; }
  void on_body(ChannelNumber channel) override;
  Result<void> on_method(ChannelNumber channel, const amqp_method_t& method);
  Result<void> on_header(const amqp_frame_t& frame);

  // A small frame goes out at once, unless others wait before it.
  Result<void> send_method(ChannelNumber channel, amqp_method_number_t id, void* method) {
    const bool at_once = unwritten() == 0;
    if (auto appended = append_method(channel, id, method); !appended) return appended;
    return at_once ? write_small() : Result<void>();
  }
  Result<void> write_small() {
    const int sure = sure_writes > 0 ? sure_writes - 1 : 0;
    auto written = write();
    sure_writes = sure;
    return written;
  }

  // The output buffer: frames as they go over the wire. What is written from it never blocks, which
  // the library's own writing may.
  std::size_t unwritten() const { return output.size() - output_written; }
  Result<void> append_method(ChannelNumber channel, amqp_method_number_t id, void* method);
  void append_frame(char type, ChannelNumber channel, std::string_view payload);
  Result<void> write();
  amqp_connection_state_t state = nullptr;  // decodes, and holds what was agreed on
  std::optional<Transport> transport;
  std::optional<BrokerReader> reader;
  ConnectionEvents* events = nullptr;  // during pump()
  std::chrono::milliseconds heartbeat{0};
  std::size_t frame_max = kFrameMax;  // as agreed on; what is read may be larger
  std::string broker_version, cluster_name;
  std::chrono::seconds patience{0};  // TCP_USER_TIMEOUT, as a rule
  TimePoint next_heartbeat{};
  bool close_sent = false;
  int sure_writes = 0;  // small frames that fit the socket's buffer without asking
  ByteBuffer output;
  std::size_t output_written = 0;
  ByteBuffer payload;                       // scratch of append_…()
  std::vector<amqp_table_entry_t> entries;  // scratch of publish()
  std::vector<Assembly> assemblies;
  ByteBuffer headers;
};

Connection::Connection(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Connection::~Connection() = default;

namespace {

// The client properties of the login. Without the capabilities a deleted queue is a consumer that
// hangs silently, and a resource alarm a publisher that does.
AmqpTable client_properties(const std::string& name) {
  const AmqpTable capabilities{{"consumer_cancel_notify", {true}},
                               {"connection.blocked", {true}},
                               {"basic.nack", {true}},
                               {"publisher_confirms", {true}},
                               {"exchange_exchange_bindings", {true}},
                               {"authentication_failure_close", {true}}};
  return {{"product", {std::string("lope")}},
          {"version", {std::string(LOPE_VERSION)}},
          {"platform", {std::string("Linux")}},
          {"connection_name", {name}},
          {"capabilities", {capabilities}}};
}

std::string close_text(const amqp_method_t& method) {
  const auto* close = static_cast<amqp_connection_close_t*>(method.decoded);
  return std::to_string(close->reply_code) + " " + escape(view(close->reply_text));
}

bool has_word(std::string_view words, std::string_view wanted) {
  while (!words.empty()) {
    const std::size_t end = std::min(words.find(' '), words.size());
    if (words.substr(0, end) == wanted) return true;
    words.remove_prefix(std::min(end + 1, words.size()));
  }
  return false;
}

// What the peer is that has begun with these bytes, when it is no broker that speaks AMQP 0-9-1 in
// plain text; empty: nothing is known.
std::string stranger(std::string_view begun) {
  constexpr std::string_view kAlertOfTls = "\x15\x03";
  if (begun.starts_with(kAlertOfTls)) {
    return "the port is one for TLS: expected a URL that starts with amqps://";
  }
  if (begun.starts_with("AMQP")) return "the peer speaks another AMQP: expected 0-9-1";
  if (begun.starts_with("HTTP/")) return "the peer speaks HTTP: expected AMQP 0-9-1";
  return {};
}

// The broker's side of a login, step by step.
class Greeting final : public BrokerReader::Sink {
 public:
  // The broker's next method, to be taken by the one who has asked for it.
  using Handler = std::function<Result<void>(const amqp_method_t&)>;
  explicit Greeting(Handler on_method) : on_method_(std::move(on_method)) {}

  Result<void> on_frame(const amqp_frame_t& frame) override {
    if (frame.frame_type == AMQP_FRAME_HEARTBEAT) return {};
    if (frame.frame_type != AMQP_FRAME_METHOD || frame.channel != 0) {
      return Error{"the broker sends what nobody asked for"};
    }
    return on_method_(frame.payload.method);
  }
  BrokerReader::Body& body(ChannelNumber) override { return none_; }
  void on_body(ChannelNumber) override {}

 private:
  const Handler on_method_;
  BrokerReader::Body none_;
};

}  // namespace

bool Connection::Impl::begin(UniqueFd connected) {
  state = amqp_new_connection();
  if (state == nullptr) return false;
  // The library decodes once it has seen the beginning of a login.
  amqp_frame_t header;
  if (amqp_handle_input(state, amqp_cstring_bytes("AMQP0091"), &header) < 0) return false;
  constexpr int kAnyChannel = 0;
  if (amqp_tune_connection(state, kAnyChannel, kFrameMax + kBeyondFrameMax, /*heartbeat=*/0) !=
      AMQP_STATUS_OK) {
    return false;
  }
  transport.emplace(std::move(connected));
  reader.emplace(state, *transport);
  return true;
}

// Not the library's own, which reads and writes the socket itself, and knows no TLS but its own.
Result<void> Connection::Impl::log_in(const BrokerAddress& address, Login login,
                                      const std::string& name, TimePoint deadline, bool& refused) {
  bool greeted = false, opened = false;
  amqp_method_number_t expected = AMQP_CONNECTION_START_METHOD;
  const auto start = [&](const amqp_connection_start_t& offer) -> Result<void> {
    if (offer.version_major != 0 || offer.version_minor != 9) {
      return Error{"the peer speaks another AMQP: expected 0-9-1"};
    }
    const amqp_table_t& properties = offer.server_properties;
    for (int i = 0; i < properties.num_entries; ++i) {
      const amqp_table_entry_t& entry = properties.entries[i];
      if (entry.value.kind != AMQP_FIELD_KIND_UTF8) continue;
      if (view(entry.key) == "version") broker_version = view(entry.value.value.bytes);
      if (view(entry.key) == "cluster_name") cluster_name = view(entry.value.value.bytes);
    }
    const std::string mechanism = login == Login::external ? "EXTERNAL" : "PLAIN";
    if (!has_word(view(offer.mechanisms), mechanism)) {
      refused = true;
      return Error{"the broker does not offer SASL " + mechanism + ": found '" +
                   escape(view(offer.mechanisms), 200) + "'"};
    }
    std::string response;
    if (login == Login::plain) {
      response = '\0' + address.user + '\0' + address.password;
    }
    const AmqpTable client = client_properties(name);
    const TableBuilder builder(client);
    amqp_connection_start_ok_t method{builder.table(), bytes(mechanism), bytes(response),
                                      amqp_cstring_bytes("en_US")};
    return append_method(0, AMQP_CONNECTION_START_OK_METHOD, &method);
  };
  const auto tune = [&](const amqp_connection_tune_t& offer) -> Result<void> {
    const int channel_max = offer.channel_max != 0 ? offer.channel_max : UINT16_MAX;
    if (offer.frame_max != 0 && offer.frame_max < AMQP_FRAME_MIN_SIZE) {
      return Error{"the broker wants frames of at most " + std::to_string(offer.frame_max) +
                   " bytes: expected " + std::to_string(AMQP_FRAME_MIN_SIZE) + " or more"};
    }
    if (offer.frame_max != 0 && offer.frame_max < frame_max) frame_max = offer.frame_max;
    const std::chrono::seconds offered(offer.heartbeat);
    if (offered.count() != 0 && offered < heartbeat) heartbeat = offered;
    const int status = amqp_tune_connection(state, channel_max, amqp_get_frame_max(state), 0);
    if (status != AMQP_STATUS_OK) return Error{status_text(status)};
    amqp_connection_tune_ok_t tune_ok{
        static_cast<std::uint16_t>(channel_max), static_cast<std::uint32_t>(frame_max),
        static_cast<std::uint16_t>(std::chrono::ceil<std::chrono::seconds>(heartbeat).count())};
    if (auto put = append_method(0, AMQP_CONNECTION_TUNE_OK_METHOD, &tune_ok); !put) return put;
    amqp_connection_open_t open{bytes(address.vhost), amqp_empty_bytes, 1};
    return append_method(0, AMQP_CONNECTION_OPEN_METHOD, &open);
  };
  Greeting greeting([&](const amqp_method_t& method) -> Result<void> {
    greeted = true;
    if (method.id != expected && method.id != AMQP_CONNECTION_CLOSE_METHOD) {
      return Error{"unexpected method " + std::string(amqp_method_name(method.id))};
    }
    switch (method.id) {
      case AMQP_CONNECTION_START_METHOD:
        expected = AMQP_CONNECTION_TUNE_METHOD;
        return start(*static_cast<const amqp_connection_start_t*>(method.decoded));
      case AMQP_CONNECTION_TUNE_METHOD:
        expected = AMQP_CONNECTION_OPEN_OK_METHOD;
        return tune(*static_cast<const amqp_connection_tune_t*>(method.decoded));
      case AMQP_CONNECTION_OPEN_OK_METHOD: opened = true; return {};
      default: refused = true; return Error{close_text(method)};
    }
  });

  const auto failure = [&](const std::string& what) {
    const std::string who = greeted ? "" : stranger(reader->unread());
    return Error{who.empty() ? what : who};
  };

  output.append({"AMQP\0\0\x09\x01", 8});
  while (Clock::now() < deadline) {
    // What the broker has said last tells more than that it takes nothing any more.
    const auto written = write();
    const auto pumped = reader->pump(greeting, 1);
    if (opened) return {};
    if (!pumped) return failure(pumped.error());
    if (*pumped == Pumped::more) continue;
    if (!written) return Error{written.error()};
    const short wanted = unwritten() > 0 ? POLLIN | POLLOUT : POLLIN;
    if (auto ready = wait_for(transport->fd(), wanted, deadline); !ready) {
      return Error{ready.error()};
    }
  }
  return failure("no answer in time");
}

Result<std::unique_ptr<Connection>> Connection::open(const BrokerAddress& address,
                                                     ConnectTimes times,
                                                     std::chrono::seconds heartbeat,
                                                     const std::string& name,
                                                     const TlsSettings& tls, Login login) {
  const std::string port = std::to_string(address.port);
  const std::string peer =
      (address.host.find(':') != std::string::npos ? "[" + address.host + "]" : address.host) +
      ":" + port;
  const auto failure = [&peer](const std::string& step, const std::string& reason) {
    return Error{"broker " + peer + ": " + step + ": " + reason};
  };

  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  AddressList list;
  const int resolved = ::getaddrinfo(address.host.c_str(), port.c_str(), &hints, &list.first);
  if (resolved != 0) return failure("resolve", ::gai_strerror(resolved));

  Error last = failure("connect", "no address");
  bool met = false;  // somebody, of whom `last` tells
  for (const addrinfo* each = list.first; each != nullptr; each = each->ai_next) {
    const TimePoint begins = Clock::now(), deadline = begins + times.all;
    auto connected = connect_to(*each, begins + times.reached);
    if (!connected) {
      if (!met) last = failure("connect", connected.error());
      continue;
    }
    met = true;
    auto impl = std::make_unique<Impl>();
    if (!impl->begin(std::move(*connected))) return failure("connect", "out of memory");
    // A peer that takes nothing, a closed window included, is gone after two heartbeats.
    impl->patience = heartbeat.count() > 0 ? heartbeat * 2 : std::chrono::seconds(60);
    if (!set_user_timeout(impl->transport->fd(), impl->patience)) {
      return failure("connect", errno_text("setsockopt(TCP_USER_TIMEOUT)", errno));
    }
    if (address.tls) {
      if (auto begun = impl->transport->begin_tls(tls, address.host, deadline); !begun) {
        last = failure("TLS", begun.error());
        continue;
      }
    }
    impl->heartbeat = heartbeat;
    bool refused = false;
    if (auto in = impl->log_in(address, login, name, deadline, refused); !in) {
      const Tls* const secured = impl->transport->tls();
      const std::string who = login == Login::external && secured != nullptr
                                  ? "by the certificate of '" + secured->own_name() + "'"
                                  : "as '" + address.user + "'";
      last = failure("log in " + who + " to vhost '" + address.vhost + "'", in.error());
      // A broker that says no is an answer; one that says nothing is as good as not there.
      if (refused) return last;
      continue;
    }
    auto connection = std::unique_ptr<Connection>(new Connection(std::move(impl)));
    connection->peer_ = peer;
    return connection;
  }
  return last;
}

int Connection::fd() const { return impl_->transport->fd(); }

std::string Connection::tls_version() const {
  const Tls* const tls = impl_->transport->tls();
  return tls != nullptr ? tls->version() : "";
}

bool Connection::writable() { return impl_->can_write(); }

bool Connection::Impl::can_write() {
  if (unwritten() > 0 && (!write() || unwritten() > 0)) return false;
  if (sure_writes > 0) return true;
  pollfd poll_fd{transport->fd(), POLLOUT, 0};
  if (::poll(&poll_fd, 1, 0) != 1 || (poll_fd.revents & POLLOUT) == 0) return false;
  sure_writes = kSureWrites;
  return true;
}

Result<Connection::Pumped> Connection::pump(ConnectionEvents& events, int max_frames) {
  const auto failure = [this](const std::string& what) {
    return Error{"broker " + peer_ + ": " + what};
  };
  impl_->events = &events;
  const auto pumped = impl_->reader->pump(*impl_, max_frames);
  if (!pumped) return failure(pumped.error());
  if (auto alive = impl_->keep_alive(*pumped == Pumped::dry); !alive) {
    return failure(alive.error());
  }
  return *pumped;
}

std::chrono::milliseconds Connection::heartbeat() const { return impl_->heartbeat; }

std::uint64_t Connection::received() const { return impl_->reader->received(); }

void Connection::set_low_water(std::size_t bytes) { impl_->reader->set_low_water(bytes); }

std::uint64_t Connection::large_body_left() {
  const std::uint64_t left = impl_->reader->large_body_left(*impl_);
  return left - std::min<std::uint64_t>(left, impl_->transport->read_ahead());
}

// The broker's heartbeats are looked at only when nothing is left to read: we may have been the
// ones who slept. It sends one after each half of the time in which it has sent nothing else, so at
// most that time goes by between two; with half of it to spare.
Result<void> Connection::Impl::keep_alive(bool dry) {
  if (heartbeat.count() == 0) return {};
  const TimePoint now = Clock::now();
  if (dry && now - reader->last_received() > heartbeat * 3 / 2) {
    return Error{status_text(AMQP_STATUS_HEARTBEAT_TIMEOUT)};
  }
  if (now < next_heartbeat || !can_write()) return {};
  next_heartbeat = now + heartbeat / 2;
  append_frame(AMQP_FRAME_HEARTBEAT, 0, {});
  return write_small();  // can_write(): nothing was in our buffer
}

Result<void> Connection::Impl::on_frame(const amqp_frame_t& frame) {
  switch (frame.frame_type) {
    case AMQP_FRAME_METHOD: return on_method(frame.channel, frame.payload.method);
    case AMQP_FRAME_HEADER: return on_header(frame);
    default: return {};  // a heartbeat
  }
}

Result<void> Connection::Impl::on_method(ChannelNumber channel, const amqp_method_t& method) {
  switch (method.id) {
    case AMQP_BASIC_DELIVER_METHOD: {
      const auto* deliver = static_cast<amqp_basic_deliver_t*>(method.decoded);
      Assembly& it = assembly(channel);
      it.header_is_next = true;
      it.return_code = 0;
      it.tag = deliver->delivery_tag;
      it.redelivered = deliver->redelivered != 0;
      it.consumer_tag = view(deliver->consumer_tag);
      it.exchange = view(deliver->exchange);
      it.routing_key = view(deliver->routing_key);
      return {};
    }
    case AMQP_BASIC_GET_OK_METHOD: {
      const auto* got = static_cast<amqp_basic_get_ok_t*>(method.decoded);
      Assembly& it = assembly(channel);
      it.header_is_next = true;
      it.return_code = 0;
      it.tag = got->delivery_tag;
      it.redelivered = got->redelivered != 0;
      it.consumer_tag.clear();
      it.exchange = view(got->exchange);
      it.routing_key = view(got->routing_key);
      return {};
    }
    case AMQP_BASIC_GET_EMPTY_METHOD: events->on_ok(channel, Reply::get_empty, {}); return {};
    case AMQP_BASIC_RETURN_METHOD: {
      const auto* returned = static_cast<amqp_basic_return_t*>(method.decoded);
      Assembly& it = assembly(channel);
      it.header_is_next = true;
      it.return_code = returned->reply_code;
      it.return_text = view(returned->reply_text);
      it.exchange = view(returned->exchange);
      it.routing_key = view(returned->routing_key);
      return {};
    }
    case AMQP_BASIC_ACK_METHOD: {
      const auto* ack = static_cast<amqp_basic_ack_t*>(method.decoded);
      events->on_confirmed(channel, ack->delivery_tag, ack->multiple != 0, true);
      return {};
    }
    case AMQP_BASIC_NACK_METHOD: {
      const auto* nack = static_cast<amqp_basic_nack_t*>(method.decoded);
      events->on_confirmed(channel, nack->delivery_tag, nack->multiple != 0, false);
      return {};
    }
    case AMQP_CHANNEL_OPEN_OK_METHOD: events->on_ok(channel, Reply::channel_open, {}); return {};
    case AMQP_EXCHANGE_DECLARE_OK_METHOD:
      events->on_ok(channel, Reply::exchange_declare, {});
      return {};
    case AMQP_EXCHANGE_BIND_OK_METHOD: events->on_ok(channel, Reply::exchange_bind, {}); return {};
    case AMQP_QUEUE_DECLARE_OK_METHOD: {
      const auto* declared = static_cast<amqp_queue_declare_ok_t*>(method.decoded);
      events->on_queue_size(channel, declared->message_count, declared->consumer_count);
      events->on_ok(channel, Reply::queue_declare, view(declared->queue));
      return {};
    }
    case AMQP_QUEUE_BIND_OK_METHOD: events->on_ok(channel, Reply::queue_bind, {}); return {};
    case AMQP_EXCHANGE_UNBIND_OK_METHOD:
    case AMQP_QUEUE_UNBIND_OK_METHOD: events->on_ok(channel, Reply::unbind, {}); return {};
    case AMQP_BASIC_QOS_OK_METHOD: events->on_ok(channel, Reply::qos, {}); return {};
    case AMQP_BASIC_CONSUME_OK_METHOD: {
      const auto* consume = static_cast<amqp_basic_consume_ok_t*>(method.decoded);
      events->on_ok(channel, Reply::consume, view(consume->consumer_tag));
      return {};
    }
    case AMQP_BASIC_CANCEL_OK_METHOD: {
      const auto* cancel = static_cast<amqp_basic_cancel_ok_t*>(method.decoded);
      events->on_ok(channel, Reply::cancel, view(cancel->consumer_tag));
      return {};
    }
    case AMQP_CONFIRM_SELECT_OK_METHOD:
      events->on_ok(channel, Reply::confirm_select, {});
      return {};
    case AMQP_BASIC_CANCEL_METHOD: {
      const auto* cancel = static_cast<amqp_basic_cancel_t*>(method.decoded);
      events->on_cancelled(channel, view(cancel->consumer_tag));
      return {};
    }
    case AMQP_CHANNEL_CLOSE_METHOD: {
      const auto* close = static_cast<amqp_channel_close_t*>(method.decoded);
      const int code = close->reply_code;
      const std::string text(view(close->reply_text));
      assembly(channel) = Assembly{};
      // Behind what is in our buffer, if there is something.
      if (unwritten() == 0 && !can_write()) return Error{"the broker reads nothing"};
      amqp_channel_close_ok_t close_ok{};
      if (auto sent = send_method(channel, AMQP_CHANNEL_CLOSE_OK_METHOD, &close_ok); !sent) {
        return sent;
      }
      events->on_channel_closed(channel, code, text);
      return {};
    }
    case AMQP_CONNECTION_CLOSE_METHOD: {
      std::string text = "closed by the broker: " + close_text(method);
      amqp_connection_close_ok_t close_ok{};
      // The connection is over either way.
      if (can_write()) (void)send_method(0, AMQP_CONNECTION_CLOSE_OK_METHOD, &close_ok);
      return Error{std::move(text)};
    }
    case AMQP_CONNECTION_CLOSE_OK_METHOD:
      if (!close_sent) return Error{"the broker answers a close that nobody sent"};
      events->on_ok(channel, Reply::connection_close, {});
      return {};
    case AMQP_CONNECTION_BLOCKED_METHOD:
      events->on_blocked(view(static_cast<amqp_connection_blocked_t*>(method.decoded)->reason));
      return {};
    case AMQP_CONNECTION_UNBLOCKED_METHOD: events->on_unblocked(); return {};
    default: return Error{"unexpected method " + std::string(amqp_method_name(method.id))};
  }
}

Result<void> Connection::Impl::on_header(const amqp_frame_t& frame) {
  if (frame.payload.properties.class_id != AMQP_BASIC_CLASS) {
    return Error{"a content header of class " + std::to_string(frame.payload.properties.class_id)};
  }
  Assembly& it = assembly(frame.channel);
  if (!std::exchange(it.header_is_next, false)) return {};  // of a channel that was closed
  it.body = {nullptr, frame.payload.properties.body_size};
  const auto& properties =
      *static_cast<const amqp_basic_properties_t*>(frame.payload.properties.decoded);
  const auto text = [&properties](amqp_flags_t flag, const amqp_bytes_t& value) {
    return (properties._flags & flag) != 0 ? view(value) : std::string_view();
  };
  if (it.return_code != 0) {
    events->on_returned({frame.channel, it.return_code, it.return_text, it.exchange, it.routing_key,
                         text(AMQP_BASIC_MESSAGE_ID_FLAG, properties.message_id)});
    return {};
  }
  IncomingDelivery delivery;
  delivery.channel = frame.channel;
  delivery.properties = view(frame.payload.properties.raw);
  delivery.body_size = it.body.left;
  DeliveryView& out = delivery.view;
  out.delivery_tag = it.tag;
  out.received_unix_ns = unix_ns();
  if (it.redelivered) out.flags |= kDeliveryRedelivered;
  if ((properties._flags & AMQP_BASIC_DELIVERY_MODE_FLAG) != 0 &&
      properties.delivery_mode == AMQP_DELIVERY_PERSISTENT) {
    out.flags |= kDeliveryPersistent;
  }
  if ((properties._flags & AMQP_BASIC_PRIORITY_FLAG) != 0) out.priority = properties.priority;
  if ((properties._flags & AMQP_BASIC_TIMESTAMP_FLAG) != 0) out.timestamp = properties.timestamp;
  out[TextProperty::exchange] = it.exchange;
  out[TextProperty::routing_key] = it.routing_key;
  out[TextProperty::consumer_tag] = it.consumer_tag;
  out[TextProperty::content_type] = text(AMQP_BASIC_CONTENT_TYPE_FLAG, properties.content_type);
  out[TextProperty::content_encoding] =
      text(AMQP_BASIC_CONTENT_ENCODING_FLAG, properties.content_encoding);
  out[TextProperty::correlation_id] =
      text(AMQP_BASIC_CORRELATION_ID_FLAG, properties.correlation_id);
  out[TextProperty::reply_to] = text(AMQP_BASIC_REPLY_TO_FLAG, properties.reply_to);
  out[TextProperty::message_id] = text(AMQP_BASIC_MESSAGE_ID_FLAG, properties.message_id);
  out[TextProperty::type] = text(AMQP_BASIC_TYPE_FLAG, properties.type);
  out[TextProperty::app_id] = text(AMQP_BASIC_APP_ID_FLAG, properties.app_id);
  out[TextProperty::user_id] = text(AMQP_BASIC_USER_ID_FLAG, properties.user_id);
  out[TextProperty::expiration] = text(AMQP_BASIC_EXPIRATION_FLAG, properties.expiration);
  headers.clear();
  if ((properties._flags & AMQP_BASIC_HEADERS_FLAG) != 0) {
    HeaderWriter writer(headers);
    for (int i = 0; i < properties.headers.num_entries; ++i) {
      const amqp_table_entry_t& entry = properties.headers.entries[i];
      const std::string_view name = view(entry.key);
      add_header(writer, name, entry.value);
      if (name == "x-stream-offset" && entry.value.kind == AMQP_FIELD_KIND_I64) {
        delivery.stream_offset = entry.value.value.i64;
      }
      if (name == "x-lope-parent-id" && entry.value.kind == AMQP_FIELD_KIND_UTF8) {
        out[TextProperty::parent_id] = view(entry.value.value.bytes);
      }
    }
    out.header_count = writer.count();
    out.headers = {headers.data(), headers.size()};
  }
  it.body.to = events->on_delivery(delivery);
  return {};
}

void Connection::Impl::on_body(ChannelNumber channel) {
  if (assembly(channel).body.to != nullptr) events->on_body(channel);
}

Result<void> Connection::send(ChannelNumber channel, const Request& request) {
  struct Send {
    Impl& impl;
    ChannelNumber channel;

    Result<void> operator()(const ChannelOpen&) const {
      amqp_channel_open_t method{amqp_empty_bytes};
      return impl.send_method(channel, AMQP_CHANNEL_OPEN_METHOD, &method);
    }
    Result<void> operator()(const ExchangeDeclare& r) const {
      const TableBuilder arguments(r.exchange.arguments);
      amqp_exchange_declare_t method{};
      method.exchange = bytes(r.exchange.name);
      method.type = bytes(r.exchange.type);
      method.durable = r.exchange.durable;
      method.auto_delete = r.exchange.auto_delete;
      method.internal = r.exchange.internal;
      method.passive = r.passive;
      method.arguments = arguments.table();
      return impl.send_method(channel, AMQP_EXCHANGE_DECLARE_METHOD, &method);
    }
    Result<void> operator()(const ExchangeBind& r) const {
      amqp_exchange_bind_t method{};
      method.destination = bytes(r.destination);
      method.source = bytes(r.source);
      method.routing_key = bytes(r.key);
      return impl.send_method(channel, AMQP_EXCHANGE_BIND_METHOD, &method);
    }
    Result<void> operator()(const QueueDeclare& r) const {
      AmqpTable with_type = r.declaration.arguments;
      // Classic is the broker's default; named only when it is not, so that a queue declared by
      // others without the argument is the same queue.
      if (r.declaration.type != "classic") {
        with_type.emplace_back("x-queue-type", AmqpValue{r.declaration.type});
      }
      const TableBuilder arguments(with_type);
      amqp_queue_declare_t method{};
      method.queue = bytes(r.queue);
      method.durable = r.declaration.durable;
      method.exclusive = r.declaration.exclusive;
      method.auto_delete = r.declaration.auto_delete;
      method.passive = r.passive;
      method.arguments = arguments.table();
      return impl.send_method(channel, AMQP_QUEUE_DECLARE_METHOD, &method);
    }
    Result<void> operator()(const QueueBind& r) const {
      const TableBuilder arguments(r.binding.arguments);
      amqp_queue_bind_t method{};
      method.queue = bytes(r.queue);
      method.exchange = bytes(r.binding.exchange);
      method.routing_key = bytes(r.binding.key);
      method.arguments = arguments.table();
      return impl.send_method(channel, AMQP_QUEUE_BIND_METHOD, &method);
    }
    Result<void> operator()(const Unbind& r) const {
      const TableBuilder arguments(r.binding.arguments);
      if (r.from_queue) {
        amqp_queue_unbind_t method{};
        method.queue = bytes(r.destination);
        method.exchange = bytes(r.binding.exchange);
        method.routing_key = bytes(r.binding.key);
        method.arguments = arguments.table();
        return impl.send_method(channel, AMQP_QUEUE_UNBIND_METHOD, &method);
      }
      amqp_exchange_unbind_t method{};
      method.destination = bytes(r.destination);
      method.source = bytes(r.binding.exchange);
      method.routing_key = bytes(r.binding.key);
      method.arguments = arguments.table();
      return impl.send_method(channel, AMQP_EXCHANGE_UNBIND_METHOD, &method);
    }
    Result<void> operator()(const Qos& r) const {
      amqp_basic_qos_t method{0, r.prefetch, 0};
      return impl.send_method(channel, AMQP_BASIC_QOS_METHOD, &method);
    }
    Result<void> operator()(const Consume& r) const {
      AmqpTable table = r.arguments;
      if (r.offset) table.emplace_back("x-stream-offset", offset_argument(*r.offset));
      const TableBuilder arguments(table);
      if (r.offset && r.offset->from == StreamOffset::From::time) {
        amqp_field_value_t& time = arguments.table().entries[table.size() - 1].value;
        time.kind = AMQP_FIELD_KIND_TIMESTAMP;
        time.value.u64 = static_cast<std::uint64_t>(r.offset->value);
      }
      amqp_basic_consume_t method{};
      method.queue = bytes(r.queue);
      method.consumer_tag = bytes(r.consumer_tag);
      method.no_ack = r.no_ack;
      method.arguments = arguments.table();
      return impl.send_method(channel, AMQP_BASIC_CONSUME_METHOD, &method);
    }
    Result<void> operator()(const Cancel& r) const {
      amqp_basic_cancel_t method{};
      method.consumer_tag = bytes(r.consumer_tag);
      return impl.send_method(channel, AMQP_BASIC_CANCEL_METHOD, &method);
    }
    Result<void> operator()(const ConfirmSelect&) const {
      amqp_confirm_select_t method{};
      return impl.send_method(channel, AMQP_CONFIRM_SELECT_METHOD, &method);
    }
  };
  return std::visit(Send{*impl_, channel}, request);
}

Result<void> Connection::get(ChannelNumber channel, std::string_view queue) {
  amqp_basic_get_t method{};
  method.queue = bytes(queue);
  return impl_->send_method(channel, AMQP_BASIC_GET_METHOD, &method);
}

Result<void> Connection::ack(ChannelNumber channel, std::uint64_t tag, bool multiple) {
  amqp_basic_ack_t method{tag, multiple};
  return impl_->send_method(channel, AMQP_BASIC_ACK_METHOD, &method);
}

Result<void> Connection::reject(ChannelNumber channel, std::uint64_t tag, bool requeue) {
  amqp_basic_reject_t method{tag, requeue};
  return impl_->send_method(channel, AMQP_BASIC_REJECT_METHOD, &method);
}

Result<void> Connection::nack_requeue(ChannelNumber channel, std::uint64_t tag, bool multiple) {
  amqp_basic_nack_t method{tag, multiple, 1};
  return impl_->send_method(channel, AMQP_BASIC_NACK_METHOD, &method);
}

Result<void> Connection::send_close() {
  amqp_connection_close_t method{};
  method.reply_code = AMQP_REPLY_SUCCESS;
  method.reply_text = bytes("OK");
  impl_->close_sent = true;
  return impl_->send_method(0, AMQP_CONNECTION_CLOSE_METHOD, &method);
}

// ---- Publishing

namespace {

// Headers that tell of a message's way so far, as brokers write them. A broker that finds them on a
// message which comes the same way again takes it for one that goes round in circles and drops it;
// CC and BCC would deliver the copy to every queue that got the message.
bool is_of_the_way(std::string_view name) {
  return name == "x-death" || name.starts_with("x-first-death-") ||
         name.starts_with("x-last-death-") || name == "x-delivery-count" ||
         name == "x-stream-offset" || name == "CC" || name == "BCC";
}

amqp_field_value_t field_of(const HeaderView& header) {
  amqp_field_value_t field;
  std::memset(&field, 0, sizeof field);
  switch (header.kind) {
    case HeaderKind::int64:
      field.kind = AMQP_FIELD_KIND_I64;
      field.value.i64 = static_cast<std::int64_t>(header.bits);
      break;
    case HeaderKind::uint64:
      // The broker knows no unsigned number of 64 bits.
      field.kind = AMQP_FIELD_KIND_I64;
      field.value.i64 = static_cast<std::int64_t>(header.bits);
      break;
    case HeaderKind::real:
      field.kind = AMQP_FIELD_KIND_F64;
      field.value.f64 = std::bit_cast<double>(header.bits);
      break;
    case HeaderKind::boolean:
      field.kind = AMQP_FIELD_KIND_BOOLEAN;
      field.value.boolean = header.bits != 0 ? 1 : 0;
      break;
    case HeaderKind::timestamp:
      field.kind = AMQP_FIELD_KIND_TIMESTAMP;
      field.value.u64 = header.bits;
      break;
    case HeaderKind::text:
      field.kind = AMQP_FIELD_KIND_UTF8;
      field.value.bytes = bytes(header.value);
      break;
    case HeaderKind::bytes:
      field.kind = AMQP_FIELD_KIND_BYTES;
      field.value.bytes = bytes(header.value);
      break;
    case HeaderKind::null:
    case HeaderKind::other: field.kind = AMQP_FIELD_KIND_VOID; break;
  }
  return field;
}

// A publisher may nest its values as deep as a frame allows, which is deeper than our stack.
constexpr int kDeepest = 32;

std::optional<AmqpValue> value_of(const amqp_field_value_t& field, int depth = 0) {
  switch (field.kind) {
    case AMQP_FIELD_KIND_BOOLEAN: return AmqpValue{field.value.boolean != 0};
    case AMQP_FIELD_KIND_I8: return AmqpValue{std::int64_t{field.value.i8}};
    case AMQP_FIELD_KIND_I16: return AmqpValue{std::int64_t{field.value.i16}};
    case AMQP_FIELD_KIND_I32: return AmqpValue{std::int64_t{field.value.i32}};
    case AMQP_FIELD_KIND_I64: return AmqpValue{field.value.i64};
    case AMQP_FIELD_KIND_U8: return AmqpValue{std::int64_t{field.value.u8}};
    case AMQP_FIELD_KIND_U16: return AmqpValue{std::int64_t{field.value.u16}};
    case AMQP_FIELD_KIND_U32: return AmqpValue{std::int64_t{field.value.u32}};
    case AMQP_FIELD_KIND_U64:
    case AMQP_FIELD_KIND_TIMESTAMP: return AmqpValue{static_cast<std::int64_t>(field.value.u64)};
    case AMQP_FIELD_KIND_F32: return AmqpValue{static_cast<double>(field.value.f32)};
    case AMQP_FIELD_KIND_F64: return AmqpValue{field.value.f64};
    case AMQP_FIELD_KIND_UTF8:
    case AMQP_FIELD_KIND_BYTES: return AmqpValue{std::string(view(field.value.bytes))};
    case AMQP_FIELD_KIND_ARRAY: {
      if (depth == kDeepest) return std::nullopt;
      AmqpArray array;
      for (int i = 0; i < field.value.array.num_entries; ++i) {
        if (auto value = value_of(field.value.array.entries[i], depth + 1)) {
          array.push_back(std::move(*value));
        }
      }
      return AmqpValue{std::move(array)};
    }
    case AMQP_FIELD_KIND_TABLE: {
      if (depth == kDeepest) return std::nullopt;
      AmqpTable table;
      for (int i = 0; i < field.value.table.num_entries; ++i) {
        const amqp_table_entry_t& entry = field.value.table.entries[i];
        if (auto value = value_of(entry.value, depth + 1)) {
          table.emplace_back(std::string(view(entry.key)), std::move(*value));
        }
      }
      return AmqpValue{std::move(table)};
    }
    default: return std::nullopt;
  }
}

// Properties as they came over the wire, decoded; they live as long as it does.
class DecodedProperties {
 public:
  explicit DecodedProperties(std::string_view encoded) {
    init_amqp_pool(&pool_, 4096);
    void* decoded = nullptr;
    if (amqp_decode_properties(AMQP_BASIC_CLASS, &pool_, bytes(encoded), &decoded) ==
        AMQP_STATUS_OK) {
      properties_ = static_cast<const amqp_basic_properties_t*>(decoded);
    }
  }
  DecodedProperties(const DecodedProperties&) = delete;
  DecodedProperties& operator=(const DecodedProperties&) = delete;
  ~DecodedProperties() { empty_amqp_pool(&pool_); }

  const amqp_basic_properties_t* get() const { return properties_; }
  amqp_table_t headers() const {
    const bool any = properties_ != nullptr && (properties_->_flags & AMQP_BASIC_HEADERS_FLAG) != 0;
    return any ? properties_->headers : amqp_empty_table;
  }

 private:
  amqp_pool_t pool_;
  const amqp_basic_properties_t* properties_ = nullptr;
};

void put_big_endian(char* to, std::uint64_t value, int size) {
  for (int i = size - 1; i >= 0; --i) {
    to[i] = static_cast<char>(value & 0xFF);
    value >>= 8;
  }
}

}  // namespace

AmqpTable decode_headers(std::string_view properties, std::string_view prefix) {
  AmqpTable headers;
  if (properties.empty()) return headers;
  const DecodedProperties decoded(properties);
  const amqp_table_t table = decoded.headers();
  for (int i = 0; i < table.num_entries; ++i) {
    const std::string_view name = view(table.entries[i].key);
    if (!name.starts_with(prefix)) continue;
    if (auto value = value_of(table.entries[i].value)) {
      headers.emplace_back(std::string(name), std::move(*value));
    }
  }
  return headers;
}

std::size_t Connection::frame_max() const { return impl_->frame_max; }

int Connection::channel_max() const { return amqp_get_channel_max(impl_->state); }

std::string Connection::broker_version() const { return impl_->broker_version; }

std::string Connection::cluster_name() const { return impl_->cluster_name; }

std::size_t Connection::unwritten() const { return impl_->unwritten(); }

bool Connection::reading_needs_room() const { return impl_->transport->reading_needs_room(); }

Result<void> Connection::write() { return impl_->write(); }

Result<void> Connection::Impl::write() {
  while (unwritten() > 0) {
    const auto taken = transport->write({output.data() + output_written, unwritten()});
    if (!taken) return Error{taken.error()};
    if (*taken == 0) return {};
    sure_writes = 0;
    output_written += *taken;
  }
  output_written = 0;
  if (output.capacity() > kKeptOutput) {
    output.release();
  } else {
    output.clear();
  }
  return {};
}

void Connection::Impl::append_frame(char type, ChannelNumber channel, std::string_view content) {
  char head[7];
  head[0] = type;
  put_big_endian(head + 1, channel, 2);
  put_big_endian(head + 3, content.size(), 4);
  output.append({head, sizeof head});
  output.append(content);
  constexpr char kEnd = static_cast<char>(AMQP_FRAME_END);
  output.append({&kEnd, 1});
}

Result<void> Connection::Impl::append_method(ChannelNumber channel, amqp_method_number_t id,
                                             void* method) {
  const std::size_t room = frame_max - kFrameOverhead;
  payload.reserve(room);
  put_big_endian(payload.data(), id, 4);
  const int size = amqp_encode_method(id, method, {room - 4, payload.data() + 4});
  if (size < 0) return Error{"send: " + status_text(size)};
  append_frame(AMQP_FRAME_METHOD, channel, {payload.data(), static_cast<std::size_t>(size) + 4});
  return {};
}

// The method is appended only when the rest is sure to follow.
void Connection::set_patient(bool patient) {
  const auto timeout = patient ? std::chrono::seconds(0) : impl_->patience;
  (void)set_user_timeout(fd(), timeout);  // the one that was set stays
}

Result<void> Connection::publish(ChannelNumber channel, const Publication& publication) {
  Impl& impl = *impl_;
  amqp_basic_properties_t properties{};
  std::optional<DecodedProperties> original;
  if (!publication.copied.empty()) {
    original.emplace(publication.copied);
    if (original->get() == nullptr) return Error{"its properties cannot be decoded"};
    properties = *original->get();
    properties._flags &= ~static_cast<amqp_flags_t>(
        AMQP_BASIC_EXPIRATION_FLAG | AMQP_BASIC_USER_ID_FLAG | AMQP_BASIC_HEADERS_FLAG);
  }
  const auto set = [&properties](amqp_flags_t flag, amqp_bytes_t& to, std::string_view text) {
    if (text.empty()) return;
    properties._flags |= flag;
    to = bytes(text);
  };
  properties._flags |= AMQP_BASIC_DELIVERY_MODE_FLAG;
  properties.delivery_mode =
      publication.persistent ? AMQP_DELIVERY_PERSISTENT : AMQP_DELIVERY_NONPERSISTENT;
  set(AMQP_BASIC_CONTENT_TYPE_FLAG, properties.content_type, publication.content_type);
  set(AMQP_BASIC_CONTENT_ENCODING_FLAG, properties.content_encoding, publication.content_encoding);
  set(AMQP_BASIC_CORRELATION_ID_FLAG, properties.correlation_id, publication.correlation_id);
  set(AMQP_BASIC_REPLY_TO_FLAG, properties.reply_to, publication.reply_to);
  set(AMQP_BASIC_MESSAGE_ID_FLAG, properties.message_id, publication.message_id);
  set(AMQP_BASIC_TYPE_FLAG, properties.type, publication.type);
  set(AMQP_BASIC_APP_ID_FLAG, properties.app_id, publication.app_id);
  set(AMQP_BASIC_USER_ID_FLAG, properties.user_id, publication.user_id);
  set(AMQP_BASIC_EXPIRATION_FLAG, properties.expiration, publication.expiration);
  if (publication.priority >= 0) {
    properties._flags |= AMQP_BASIC_PRIORITY_FLAG;
    properties.priority = static_cast<std::uint8_t>(publication.priority);
  }
  if (publication.timestamp != 0) {
    properties._flags |= AMQP_BASIC_TIMESTAMP_FLAG;
    properties.timestamp = publication.timestamp;
  }
  const TableBuilder own(publication.headers);
  std::vector<amqp_table_entry_t>& entries = impl.entries;
  entries.assign(own.table().entries, own.table().entries + own.table().num_entries);
  std::string_view packed = publication.packed_headers;
  while (const auto header = next_header(packed)) {
    entries.push_back({bytes(header->name), field_of(*header)});
  }
  if (original) {
    const std::size_t given = entries.size();
    const amqp_table_t table = original->headers();
    for (int i = 0; i < table.num_entries; ++i) {
      const std::string_view name = view(table.entries[i].key);
      const auto is_given = [&] {
        return std::any_of(
            entries.begin(), entries.begin() + static_cast<std::ptrdiff_t>(given),
            [name](const amqp_table_entry_t& entry) { return view(entry.key) == name; });
      };
      const auto is_unwanted = [&] {
        return std::find(publication.without.begin(), publication.without.end(), name) !=
               publication.without.end();
      };
      if (!is_of_the_way(name) && !is_unwanted() && !is_given()) {
        entries.push_back(table.entries[i]);
      }
    }
  }
  if (!entries.empty()) {
    properties._flags |= AMQP_BASIC_HEADERS_FLAG;
    properties.headers = {static_cast<int>(entries.size()), entries.data()};
  }

  const std::size_t room = impl.frame_max - kFrameOverhead;
  constexpr std::size_t kFixed = 12;  // class, weight, size of the body
  impl.payload.reserve(room);
  char* const header = impl.payload.data();
  const int encoded =
      amqp_encode_properties(AMQP_BASIC_CLASS, &properties, {room - kFixed, header + kFixed});
  if (encoded < 0) {
    return Error{"its headers and properties are larger than a frame, " +
                 std::to_string(impl.frame_max) + " bytes"};
  }
  put_big_endian(header, AMQP_BASIC_CLASS, 2);
  put_big_endian(header + 2, 0, 2);
  put_big_endian(header + 4, publication.body.size(), 8);
  const std::size_t header_size = static_cast<std::size_t>(encoded) + kFixed;

  if (publication.exchange.size() > kMaxShortText ||
      publication.routing_key.size() > kMaxShortText) {
    return Error{"the name of its exchange or its routing key is longer than 255 bytes"};
  }
  char method[4 + 2 + 2 * (1 + kMaxShortText) + 1];
  char* to = method;
  put_big_endian(to, AMQP_BASIC_PUBLISH_METHOD, 4);
  put_big_endian(to + 4, 0, 2);
  to += 6;
  for (const std::string_view text : {publication.exchange, publication.routing_key}) {
    *to++ = static_cast<char>(text.size());
    to = std::copy(text.begin(), text.end(), to);
  }
  *to++ = publication.mandatory ? 1 : 0;

  std::string_view body = publication.body;
  impl.output.reserve(impl.output.size() + header_size + body.size() + sizeof method +
                      (3 + body.size() / room) * kFrameOverhead);
  impl.append_frame(AMQP_FRAME_METHOD, channel, {method, static_cast<std::size_t>(to - method)});
  impl.append_frame(AMQP_FRAME_HEADER, channel, {header, header_size});
  while (!body.empty()) {
    impl.append_frame(AMQP_FRAME_BODY, channel, body.substr(0, room));
    body.remove_prefix(std::min(body.size(), room));
  }
  return {};
}

}  // namespace lope::consumer
