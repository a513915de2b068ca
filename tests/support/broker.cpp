#include "support/broker.h"

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <sstream>
#include <stdexcept>

#include "support/process.h"

namespace lope::test {
namespace {

constexpr amqp_channel_t kChannel = 1;

// The result points into `text`.
amqp_bytes_t bytes(const std::string& text) {
  return {text.size(), const_cast<char*>(text.data())};
}

std::string text_of(amqp_bytes_t value) {
  return {static_cast<const char*>(value.bytes), value.len};
}

timeval to_timeval(std::chrono::milliseconds duration) {
  return {duration.count() / 1000, duration.count() % 1000 * 1000};
}

amqp_table_entry_t text_entry(const std::string& key, const std::string& value) {
  amqp_table_entry_t entry{};
  entry.key = bytes(key);
  entry.value.kind = AMQP_FIELD_KIND_UTF8;
  entry.value.value.bytes = bytes(value);
  return entry;
}

amqp_table_t table_of(std::vector<amqp_table_entry_t>& entries) {
  return {static_cast<int>(entries.size()), entries.data()};
}

// An array's element is put into `elements`, which is not to move it.
amqp_table_entry_t typed_entry(const TypedHeader& header,
                               std::deque<amqp_field_value_t>& elements) {
  amqp_table_entry_t entry{};
  entry.key = bytes(header.name);
  amqp_field_value_t& field = entry.value;
  field.kind = static_cast<std::uint8_t>(header.kind);
  switch (header.kind) {
    case 't': field.value.boolean = header.number != 0; break;
    case 'b': field.value.i8 = static_cast<std::int8_t>(header.number); break;
    case 'B': field.value.u8 = static_cast<std::uint8_t>(header.number); break;
    case 's': field.value.i16 = static_cast<std::int16_t>(header.number); break;
    case 'u': field.value.u16 = static_cast<std::uint16_t>(header.number); break;
    case 'I': field.value.i32 = static_cast<std::int32_t>(header.number); break;
    case 'i': field.value.u32 = static_cast<std::uint32_t>(header.number); break;
    case 'l': field.value.i64 = header.number; break;
    case 'T':
    case 'L': field.value.u64 = static_cast<std::uint64_t>(header.number); break;
    case 'f': field.value.f32 = static_cast<float>(header.real); break;
    case 'd': field.value.f64 = header.real; break;
    case 'S':
    case 'x': field.value.bytes = bytes(header.text); break;
    case 'D': field.value.decimal = {2, static_cast<std::uint32_t>(header.number)}; break;
    case 'A':
      if (!header.text.empty()) {
        amqp_field_value_t& element = elements.emplace_back();
        element.kind = AMQP_FIELD_KIND_UTF8;
        element.value.bytes = bytes(header.text);
        field.value.array = {1, &element};
      }
      break;
    default: break;  // nothing, or empty
  }
  return entry;
}

std::string close_reason(const amqp_method_t& method) {
  if (method.id == AMQP_CHANNEL_CLOSE_METHOD) {
    const auto* close = static_cast<const amqp_channel_close_t*>(method.decoded);
    return std::to_string(close->reply_code) + " " + text_of(close->reply_text);
  }
  if (method.id == AMQP_CONNECTION_CLOSE_METHOD) {
    const auto* close = static_cast<const amqp_connection_close_t*>(method.decoded);
    return std::to_string(close->reply_code) + " " + text_of(close->reply_text);
  }
  return amqp_method_name(method.id);
}

}  // namespace

class AmqpConnection {
 public:
  explicit AmqpConnection(const std::string& url) : state_(amqp_new_connection()) {
    std::string parsed = url;
    amqp_connection_info info{};
    amqp_default_connection_info(&info);
    if (amqp_parse_url(parsed.data(), &info) != AMQP_STATUS_OK) {
      throw std::runtime_error("not an AMQP URL: " + url);
    }
    const timeval timeout{10, 0};
    amqp_socket_t* socket = amqp_tcp_socket_new(state_.get());
    check(amqp_socket_open_noblock(socket, info.host, info.port, &timeout), "connect to " + url);
    amqp_set_rpc_timeout(state_.get(), &timeout);
    const std::string key = "connection_name";
    const std::string name = "lope-tests";
    std::vector<amqp_table_entry_t> properties = {text_entry(key, name)};
    const amqp_table_t table = table_of(properties);
    check(amqp_login_with_properties(state_.get(), info.vhost, 0, 131072, 0, &table,
                                     AMQP_SASL_METHOD_PLAIN, info.user, info.password),
          "login at " + url);
    amqp_channel_open(state_.get(), kChannel);
    check_rpc("channel.open");
  }

  amqp_connection_state_t get() const { return state_.get(); }

  void check_rpc(const std::string& what) const { check(amqp_get_rpc_reply(state_.get()), what); }

  static void check(int status, const std::string& what) {
    if (status != AMQP_STATUS_OK)
      throw std::runtime_error(what + ": " + amqp_error_string2(status));
  }

  static void check(const amqp_rpc_reply_t& reply, const std::string& what) {
    switch (reply.reply_type) {
      case AMQP_RESPONSE_NORMAL: return;
      case AMQP_RESPONSE_LIBRARY_EXCEPTION:
        throw std::runtime_error(what + ": " + amqp_error_string2(reply.library_error));
      case AMQP_RESPONSE_SERVER_EXCEPTION:
        throw std::runtime_error(what + ": " + close_reason(reply.reply));
      case AMQP_RESPONSE_NONE: break;
    }
    throw std::runtime_error(what + ": no reply");
  }

 private:
  // Without a closing handshake: a dead peer would make it wait.
  struct Destroy {
    void operator()(amqp_connection_state_t state) const { amqp_destroy_connection(state); }
  };
  std::unique_ptr<amqp_connection_state_t_, Destroy> state_;
};

// ---- Publisher

Publisher::Publisher(const std::string& url) : connection_(std::make_unique<AmqpConnection>(url)) {
  amqp_confirm_select(connection_->get(), kChannel);
  connection_->check_rpc("confirm.select");
}

Publisher::Publisher(Publisher&&) noexcept = default;
Publisher::~Publisher() = default;

void Publisher::send(const Publication& publication) {
  amqp_basic_properties_t properties{};
  const auto set = [&](amqp_flags_t flag, amqp_bytes_t& member, const std::string& value) {
    if (value.empty()) return;
    properties._flags |= flag;
    member = bytes(value);
  };
  set(AMQP_BASIC_MESSAGE_ID_FLAG, properties.message_id, publication.message_id);
  set(AMQP_BASIC_CONTENT_TYPE_FLAG, properties.content_type, publication.content_type);
  set(AMQP_BASIC_CORRELATION_ID_FLAG, properties.correlation_id, publication.correlation_id);
  set(AMQP_BASIC_REPLY_TO_FLAG, properties.reply_to, publication.reply_to);
  set(AMQP_BASIC_CONTENT_ENCODING_FLAG, properties.content_encoding, publication.content_encoding);
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
  properties._flags |= AMQP_BASIC_DELIVERY_MODE_FLAG;
  properties.delivery_mode = publication.persistent ? 2 : 1;
  std::vector<amqp_table_entry_t> headers;
  std::deque<amqp_field_value_t> elements;
  for (const auto& [key, value] : publication.headers) headers.push_back(text_entry(key, value));
  for (const TypedHeader& header : publication.typed_headers)
    headers.push_back(typed_entry(header, elements));
  if (!headers.empty()) {
    properties._flags |= AMQP_BASIC_HEADERS_FLAG;
    properties.headers = table_of(headers);
  }
  const int status = amqp_basic_publish(
      connection_->get(), kChannel, bytes(publication.exchange), bytes(publication.routing_key),
      /*mandatory=*/1, /*immediate=*/0, &properties, bytes(publication.body));
  // Numbered even when the send failed: how much of it the broker has seen is unknown.
  pending_.emplace_hint(pending_.end(), next_tag_++, publication.message_id);
  AmqpConnection::check(status, "basic.publish");
}

void Publisher::pump(std::chrono::milliseconds timeout) {
  const auto end = std::chrono::steady_clock::now() + timeout;
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    const timeval wait = to_timeval(std::max(left, 0ms));
    amqp_frame_t frame{};
    const int status = amqp_simple_wait_frame_noblock(connection_->get(), &frame, &wait);
    if (status == AMQP_STATUS_TIMEOUT) return;
    AmqpConnection::check(status, "waiting for confirms");
    if (frame.frame_type == AMQP_FRAME_METHOD) {
      const amqp_method_t& method = frame.payload.method;
      if (method.id == AMQP_BASIC_ACK_METHOD) {
        const auto* ack = static_cast<const amqp_basic_ack_t*>(method.decoded);
        settle(ack->delivery_tag, ack->multiple != 0, true);
      } else if (method.id == AMQP_BASIC_NACK_METHOD) {
        const auto* nack = static_cast<const amqp_basic_nack_t*>(method.decoded);
        settle(nack->delivery_tag, nack->multiple != 0, false);
      } else if (method.id == AMQP_BASIC_RETURN_METHOD) {
        const auto* returned = static_cast<const amqp_basic_return_t*>(method.decoded);
        throw std::runtime_error("message returned: " + text_of(returned->reply_text) +
                                 ", exchange '" + text_of(returned->exchange) + "', key '" +
                                 text_of(returned->routing_key) + "'");
      } else {
        throw std::runtime_error("publisher: " + close_reason(method));
      }
    }
    amqp_maybe_release_buffers(connection_->get());
    if (pending_.empty()) return;
  }
}

void Publisher::settle(std::uint64_t tag, bool multiple, bool acked) {
  const auto end = pending_.upper_bound(tag);
  const auto begin = multiple ? pending_.begin() : pending_.find(tag);
  for (auto it = begin; it != end; ++it) {
    if (acked) confirmed_.push_back(std::move(it->second));
  }
  pending_.erase(begin, end);
  if (!acked) throw std::runtime_error("the broker refused a publication (basic.nack)");
}

void Publisher::wait_confirmed(std::chrono::milliseconds deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  while (!pending_.empty()) {
    if (std::chrono::steady_clock::now() >= end) {
      throw std::runtime_error(std::to_string(pending_.size()) +
                               " publications are not confirmed in time");
    }
    pump(100ms);
  }
}

void Publisher::publish(const std::string& queue, const std::string& body,
                        const std::string& message_id) {
  Publication publication;
  publication.routing_key = queue;
  publication.body = body;
  publication.message_id = message_id;
  publish(publication);
}

void Publisher::publish(const Publication& publication) {
  send(publication);
  wait_confirmed();
}

void Publisher::publish_many(int count, const std::function<Publication(int)>& make, int window) {
  const auto limit = static_cast<std::size_t>(window);
  for (int i = 0; i < count; ++i) {
    send(make(i));
    while (pending_.size() >= limit) pump(100ms);
  }
  wait_confirmed();
}

std::vector<std::string> Publisher::unconfirmed() const {
  std::vector<std::string> result;
  for (const auto& [tag, id] : pending_) result.push_back(id);
  return result;
}

// ---- RatePublisher

RatePublisher::RatePublisher(std::string url, int per_second, std::chrono::seconds duration,
                             std::function<Publication(int)> make)
    : url_(std::move(url)),
      per_second_(per_second),
      total_(per_second * static_cast<int>(duration.count())),
      make_(std::move(make)),
      thread_([this] {
        try {
          run();
        } catch (const std::exception& error) {
          failure_ = error.what();
        }
        done_ = true;
      }) {}

RatePublisher::~RatePublisher() {
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
}

void RatePublisher::join() {
  if (thread_.joinable()) thread_.join();
  if (!failure_.empty()) throw std::runtime_error("publisher: " + failure_);
}

void RatePublisher::run() {
  using Clock = std::chrono::steady_clock;
  const auto interval = std::chrono::duration_cast<Clock::duration>(1s) / per_second_;
  std::optional<Publisher> publisher;
  const auto take_results = [&] {
    confirmed_.insert(confirmed_.end(), publisher->confirmed().begin(),
                      publisher->confirmed().end());
    const auto lost = publisher->unconfirmed();
    unknown_.insert(unknown_.end(), lost.begin(), lost.end());
    publisher.reset();
  };
  const auto connect = [&] {
    std::string why;
    const bool connected = eventually(60s, [&] {
      try {
        publisher.emplace(url_);
      } catch (const std::runtime_error& error) {
        why = error.what();
      }
      return publisher.has_value() || stopping_;
    });
    if (!connected) throw std::runtime_error("no connection for 60 s: " + why);
  };

  connect();
  int next = 0;
  auto due = Clock::now();
  std::optional<Clock::time_point> last;  // once stopping: not to wait longer than this
  while (publisher) {
    if (stopping_ && !last) last = Clock::now() + 30s;
    const bool sending = next < total_ && !last;
    if (!sending && publisher->unconfirmed_count() == 0) break;
    if (last && Clock::now() >= *last) break;
    try {
      while (sending && next < total_ && Clock::now() >= due) {
        const Publication publication = make_(next++);
        ++sent_;
        due += interval;
        publisher->send(publication);
      }
      // What is due in the same slice is sent together: to wake for each takes a whole processor.
      const auto now = Clock::now();
      const auto slice = std::clamp<Clock::duration>(due - now, 10ms, 100ms);
      publisher->pump(std::chrono::ceil<std::chrono::milliseconds>(slice));
      std::this_thread::sleep_until(now + slice);  // with nothing unconfirmed it was back at once
    } catch (const std::runtime_error&) {
      take_results();
      ++reconnects_;
      connect();
      due = Clock::now();  // the rate is kept, not the schedule: no burst for the time without a
                           // broker
    }
  }
  if (publisher) take_results();
}

// ---- Broker

AmqpConnection& Broker::connection() {
  if (!connection_) connection_ = std::make_unique<AmqpConnection>(url_);
  return *connection_;
}

// After an error the connection is not used again. One that the broker closed meanwhile, while it
// was down or by request of the test, is replaced and the function called once more.
template <typename Function>
auto Broker::with_connection(Function function) {
  const bool fresh = connection_ == nullptr;
  try {
    return function(connection());
  } catch (const std::runtime_error&) {
    connection_.reset();
    if (fresh) throw;
  }
  try {
    return function(connection());
  } catch (const std::runtime_error&) {
    connection_.reset();
    throw;
  }
}

Broker::Broker() {
  const char* url = std::getenv("LOPE_TEST_AMQP_URL");
  const char* folder = std::getenv("LOPE_TEST_BROKER_DIR");
  if (url == nullptr || folder == nullptr) {
    throw std::runtime_error(
        "LOPE_TEST_AMQP_URL and LOPE_TEST_BROKER_DIR are not set: run this test with ./dev test, "
        "or start a node with ./dev broker start and source build/broker/env");
  }
  url_ = url;
  folder_ = folder;
}

Broker::~Broker() {
  for (const std::string& queue : queues_) {
    try {
      delete_queue(queue);
      delete_queue(queue + ".dead");       // where Lope parks what it gives up
    } catch (const std::runtime_error&) {  // the node may be down: it is removed after the run
    }
  }
  for (const std::string& exchange : exchanges_) {
    try {
      with_connection([&](AmqpConnection& connection) {
        amqp_exchange_delete(connection.get(), kChannel, bytes(exchange), 0);
        connection.check_rpc("exchange.delete '" + exchange + "'");
      });
    } catch (const std::runtime_error&) {
    }
  }
}

int Broker::port() const { return std::stoi(url_.substr(url_.rfind(':') + 1)); }

std::string Broker::unique_queue(const std::string& prefix) {
  static std::atomic<int> number = 0;
  queues_.push_back(prefix + "-" + std::to_string(::getpid()) + "-" + std::to_string(++number));
  return queues_.back();
}

std::string Broker::unique_exchange(const std::string& prefix) {
  static std::atomic<int> number = 0;
  exchanges_.push_back(prefix + "-" + std::to_string(::getpid()) + "-" + std::to_string(++number));
  return exchanges_.back();
}

std::string Broker::make_queue(const std::string& prefix, const QueueOptions& options) {
  const std::string name = unique_queue(prefix);
  declare_queue(name, options);
  return name;
}

void Broker::declare_queue(const std::string& name, const QueueOptions& options) {
  with_connection([&](AmqpConnection& connection) {
    std::vector<amqp_table_entry_t> arguments;
    for (const auto& [key, value] : options.text_arguments)
      arguments.push_back(text_entry(key, value));
    for (const auto& [key, value] : options.number_arguments) {
      amqp_table_entry_t entry{};
      entry.key = bytes(key);
      entry.value.kind = AMQP_FIELD_KIND_I64;
      entry.value.value.i64 = value;
      arguments.push_back(entry);
    }
    amqp_queue_declare(connection.get(), kChannel, bytes(name), 0, options.durable,
                       options.exclusive, options.auto_delete, table_of(arguments));
    connection.check_rpc("queue.declare '" + name + "'");
  });
}

void Broker::delete_queue(const std::string& name) {
  with_connection([&](AmqpConnection& connection) {
    amqp_queue_delete(connection.get(), kChannel, bytes(name), 0, 0);
    connection.check_rpc("queue.delete '" + name + "'");
  });
}

void Broker::purge_queue(const std::string& name) {
  with_connection([&](AmqpConnection& connection) {
    amqp_queue_purge(connection.get(), kChannel, bytes(name));
    connection.check_rpc("queue.purge '" + name + "'");
  });
}

void Broker::declare_exchange(const std::string& name, const std::string& type,
                              const ExchangeOptions& options) {
  with_connection([&](AmqpConnection& connection) {
    std::vector<amqp_table_entry_t> arguments;
    for (const auto& [key, value] : options.text_arguments)
      arguments.push_back(text_entry(key, value));
    amqp_exchange_declare(connection.get(), kChannel, bytes(name), bytes(type), 0, /*durable=*/1, 0,
                          options.internal, table_of(arguments));
    connection.check_rpc("exchange.declare '" + name + "'");
  });
}

void Broker::bind_queue(const std::string& queue, const std::string& exchange,
                        const std::string& key) {
  with_connection([&](AmqpConnection& connection) {
    amqp_queue_bind(connection.get(), kChannel, bytes(queue), bytes(exchange), bytes(key),
                    amqp_empty_table);
    connection.check_rpc("queue.bind '" + queue + "'");
  });
}

void Broker::bind_exchange(const std::string& to, const std::string& from, const std::string& key) {
  with_connection([&](AmqpConnection& connection) {
    amqp_exchange_bind(connection.get(), kChannel, bytes(to), bytes(from), bytes(key),
                       amqp_empty_table);
    connection.check_rpc("exchange.bind '" + to + "'");
  });
}

std::optional<std::pair<int, int>> Broker::passive_declare(const std::string& queue) {
  try {
    return with_connection([&](AmqpConnection& connection) {
      const auto* ok = amqp_queue_declare(connection.get(), kChannel, bytes(queue), /*passive=*/1,
                                          0, 0, 0, amqp_empty_table);
      connection.check_rpc("queue.declare (passive) '" + queue + "'");
      return std::make_pair(static_cast<int>(ok->message_count),
                            static_cast<int>(ok->consumer_count));
    });
  } catch (const std::runtime_error& error) {
    if (std::string_view(error.what()).find("404") != std::string_view::npos) return std::nullopt;
    throw;
  }
}

bool Broker::queue_exists(const std::string& name) { return passive_declare(name).has_value(); }

std::optional<int> Broker::message_count(const std::string& queue) {
  const auto counts = passive_declare(queue);
  return counts ? std::optional(counts->first) : std::nullopt;
}

std::optional<int> Broker::consumer_count(const std::string& queue) {
  const auto counts = passive_declare(queue);
  return counts ? std::optional(counts->second) : std::nullopt;
}

bool Broker::is_empty(const std::string& queue) {
  for (const auto& row : list({"list_queues", "name", "messages"})) {
    if (row.size() == 2 && row[0] == queue) return row[1] == "0";
  }
  return false;
}

std::vector<Received> Broker::drain(const std::string& queue) {
  // Proves the connection before messages are taken with it: those must not be lost to a second
  // try.
  if (!queue_exists(queue)) throw std::runtime_error("no queue '" + queue + "'");
  std::vector<Received> result;
  amqp_connection_state_t state = connection().get();
  while (true) {
    const amqp_rpc_reply_t reply = amqp_basic_get(state, kChannel, bytes(queue), 0);
    AmqpConnection::check(reply, "basic.get '" + queue + "'");
    if (reply.reply.id == AMQP_BASIC_GET_EMPTY_METHOD) return result;
    const auto* got = static_cast<const amqp_basic_get_ok_t*>(reply.reply.decoded);
    Received received;
    received.exchange = text_of(got->exchange);
    received.routing_key = text_of(got->routing_key);
    received.redelivered = got->redelivered != 0;
    const std::uint64_t tag = got->delivery_tag;
    amqp_message_t message{};
    AmqpConnection::check(amqp_read_message(state, kChannel, &message, 0),
                          "reading a message of '" + queue + "'");
    const amqp_basic_properties_t& properties = message.properties;
    const auto property = [&](amqp_flags_t flag, amqp_bytes_t value) {
      return (properties._flags & flag) != 0 ? text_of(value) : std::string();
    };
    received.body = text_of(message.body);
    received.message_id = property(AMQP_BASIC_MESSAGE_ID_FLAG, properties.message_id);
    received.content_type = property(AMQP_BASIC_CONTENT_TYPE_FLAG, properties.content_type);
    received.content_encoding =
        property(AMQP_BASIC_CONTENT_ENCODING_FLAG, properties.content_encoding);
    received.correlation_id = property(AMQP_BASIC_CORRELATION_ID_FLAG, properties.correlation_id);
    received.reply_to = property(AMQP_BASIC_REPLY_TO_FLAG, properties.reply_to);
    received.expiration = property(AMQP_BASIC_EXPIRATION_FLAG, properties.expiration);
    received.persistent =
        (properties._flags & AMQP_BASIC_DELIVERY_MODE_FLAG) != 0 && properties.delivery_mode == 2;
    if ((properties._flags & AMQP_BASIC_HEADERS_FLAG) != 0) {
      for (int i = 0; i < properties.headers.num_entries; ++i) {
        const amqp_table_entry_t& entry = properties.headers.entries[i];
        received.header_names.push_back(text_of(entry.key));
        if (entry.value.kind == AMQP_FIELD_KIND_UTF8) {
          received.headers.emplace_back(text_of(entry.key), text_of(entry.value.value.bytes));
        } else if (entry.value.kind == AMQP_FIELD_KIND_I64) {
          received.numbers[text_of(entry.key)] = entry.value.value.i64;
        } else if (entry.value.kind == AMQP_FIELD_KIND_I32) {
          received.numbers[text_of(entry.key)] = entry.value.value.i32;
        }
      }
    }
    amqp_destroy_message(&message);
    AmqpConnection::check(amqp_basic_ack(state, kChannel, tag, 0), "basic.ack");
    amqp_maybe_release_buffers(state);
    result.push_back(std::move(received));
  }
}

void Broker::publish(const std::string& queue, const std::string& body,
                     const std::string& message_id) {
  publisher().publish(queue, body, message_id);
}

std::string Broker::script(const std::string& verb, const std::vector<std::string>& arguments) {
  std::vector<std::string> argv = {LOPE_SOURCE_DIR "/tests/support/broker.sh", verb, folder_};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  const RunResult result = run(argv, {}, 120s);
  if (result.status != exited(0)) {
    throw std::runtime_error("broker.sh " + verb + " failed: " + result.output);
  }
  return result.output;
}

std::string Broker::ctl(const std::vector<std::string>& arguments) {
  return script("ctl", arguments);
}

std::vector<std::vector<std::string>> Broker::list(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin() + 1, {"--quiet", "--no-table-headers"});
  std::vector<std::vector<std::string>> rows;
  std::istringstream lines(ctl(arguments));
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) continue;
    std::istringstream columns(line);
    rows.emplace_back();
    for (std::string column; std::getline(columns, column, '\t');) rows.back().push_back(column);
  }
  return rows;
}

std::vector<std::string> Broker::connections_named(std::string_view text) {
  std::vector<std::string> result;
  const std::string key = "\"connection_name\",\"";
  for (const auto& row : list({"list_connections", "pid", "client_properties"})) {
    if (row.size() != 2 || row[1].find(key) == std::string::npos) continue;
    const std::string rest = row[1].substr(row[1].find(key) + key.size());
    if (rest.substr(0, rest.find('"')).find(text) != std::string::npos) result.push_back(row[0]);
  }
  std::sort(result.begin(), result.end());
  return result;
}

void Broker::close_all_connections() {
  ctl({"close_all_connections", "--global", "closed by a test"});
  connection_.reset();
}

void Broker::stop_node() {
  script("stop");
  connection_.reset();
}

void Broker::start_node() { script("start"); }

void Broker::kill_node() {
  script("kill");
  connection_.reset();
}

}  // namespace lope::test
