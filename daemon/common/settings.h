// What the configuration says, as plain values. The supervisor's settings_loader fills
// them from YAML; json carries them to the other processes. No behaviour here.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace lope {

// One AMQP table value. Tables keep the order of the file.
struct AmqpValue;
struct AmqpEntry;
using AmqpTable = std::vector<AmqpEntry>;
using AmqpArray = std::vector<AmqpValue>;
struct AmqpValue {
  std::variant<bool, std::int64_t, double, std::string, AmqpArray, AmqpTable> value;
  friend bool operator==(const AmqpValue&, const AmqpValue&);
};
struct AmqpEntry {
  std::string first;
  AmqpValue second;
  AmqpEntry(std::string key, AmqpValue value) : first(std::move(key)), second(std::move(value)) {}
  friend bool operator==(const AmqpEntry&, const AmqpEntry&) = default;
};
inline bool operator==(const AmqpValue& a, const AmqpValue& b) { return a.value == b.value; }
// The first value of that name; nullptr when there is none.
inline const AmqpValue* find(const AmqpTable& table, std::string_view name) {
  for (const AmqpEntry& entry : table) {
    if (entry.first == name) return &entry.second;
  }
  return nullptr;
}

struct BrokerAddress {
  std::string host = "localhost";
  int port = 5672;
  std::string vhost = "/";
  std::string user = "guest";
  std::string password = "guest";  // never logged, never shown
  bool tls = false;
  friend bool operator==(const BrokerAddress&, const BrokerAddress&) = default;
};

// Of every address with `tls`.
struct TlsSettings {
  std::string ca_file;           // PEM; empty: the system's
  std::string certificate_file;  // the client's own, PEM; empty: none
  std::string key_file;
  std::string server_name;  // that the certificate has to name; empty: the address's host
  bool insecure = false;    // nothing is verified
  friend bool operator==(const TlsSettings&, const TlsSettings&) = default;
};

// How to prove who one is: SASL PLAIN (user and password), or EXTERNAL (the client certificate).
enum class Login { plain, external };

struct BrokerSettings {
  std::vector<BrokerAddress> addresses = {BrokerAddress{}};
  std::chrono::seconds heartbeat{30};               // 0: none; otherwise at least 5 s
  std::chrono::milliseconds connect_timeout{5000};  // for one address, login included
  // The broker's own settings, which it does not tell: what it would answer with a closed channel.
  std::chrono::milliseconds consumer_timeout{1'800'000};  // 0: it has none
  std::int64_t max_message_bytes = 128 * 1024 * 1024;
  TlsSettings tls;
  Login login = Login::plain;
  friend bool operator==(const BrokerSettings&, const BrokerSettings&) = default;
};

struct ExchangeSettings {
  std::string name;
  std::string type = "direct";
  bool durable = true;
  bool auto_delete = false;
  bool internal = false;
  AmqpTable arguments;
  friend bool operator==(const ExchangeSettings&, const ExchangeSettings&) = default;
};

struct BindingSettings {
  std::string exchange;
  std::string key;
  AmqpTable arguments;
  friend bool operator==(const BindingSettings&, const BindingSettings&) = default;
};

// Present: the queue is declared before it is consumed from. Absent: it must be there.
struct DeclareSettings {
  std::string type = "classic";  // "quorum", "stream"
  bool durable = true;
  bool exclusive = false;
  bool auto_delete = false;
  AmqpTable arguments;
  std::vector<ExchangeSettings> exchanges;
  std::vector<BindingSettings> bindings;
  friend bool operator==(const DeclareSettings&, const DeclareSettings&) = default;
};

// Where reading a stream begins when no progress is kept.
struct StreamOffset {
  enum class From { next, first, last, number, time };
  From from = From::next;
  std::int64_t value = 0;  // number: the offset; time: seconds since 1970
  friend bool operator==(const StreamOffset&, const StreamOffset&) = default;
};

struct QueueSettings {
  std::string name;
  int prefetch = 30;         // 1 to 65535
  std::string consumer_tag;  // empty: made by the broker
  AmqpTable consumer_arguments;
  bool declare = false;
  DeclareSettings declaration;  // meaningful when declare
  bool stream = false;          // read by offset; declared or not
  StreamOffset offset;          // of a stream
  // Of a stream: another of the group's queues, where its messages wait for another attempt.
  std::string retry_queue;
  friend bool operator==(const QueueSettings&, const QueueSettings&) = default;
};

inline constexpr int kMaxBatch = 3000;

// When a message is handled again, and how often.
struct RetrySettings {
  int attempts = 5;                         // in all, 1 to 1000
  std::chrono::milliseconds delay{10'000};  // before the second; 0: at once
  double backoff = 2.0;                     // each delay is so many times the one before, 1 to 100
  std::chrono::milliseconds max_delay{3'600'000};
  double jitter = 0.1;  // so much of each delay is added at random, at most; 0 to 1
  friend bool operator==(const RetrySettings&, const RetrySettings&) = default;
};

// Where a message goes that is not handled again.
struct DeadLetterSettings {
  enum class To {
    automatic,  // the queue's own dead-letter exchange; <queue>.dead where none is seen
    broker,     // the queue's own dead-letter exchange, which a policy may set
    exchange,
  };
  To to = To::automatic;
  // With To::exchange. Empty: the default exchange, and `routing_key` names a queue.
  std::string exchange;
  std::string routing_key;  // empty: the message's own
  bool declare = false;     // the exchange or the queue is declared when it is missing
  std::string exchange_type = "topic";
  friend bool operator==(const DeadLetterSettings&, const DeadLetterSettings&) = default;
};

// A group whose messages fail slows down.
struct BreakerSettings {
  bool on = true;
  double failures = 0.9;                   // of the latest outcomes; above 0, at most 1
  int outcomes = 20;                       // how many are looked at at least, 1 to 10000
  std::chrono::milliseconds period{2000};  // and for how long
  std::chrono::milliseconds pause{1000};   // the first; each that follows is twice as long
  std::chrono::milliseconds max_pause{60'000};
  friend bool operator==(const BreakerSettings&, const BreakerSettings&) = default;
};

// When a worker is replaced. The limits are the latest: each worker's own is up to a tenth earlier,
// so that they do not leave together.
struct RecycleSettings {
  int messages = 0;                  // that it was given; 0: any number
  std::int64_t memory_bytes = 0;     // resident; 0: any. At this it gets nothing more
  std::chrono::milliseconds age{0};  // 0: any
  friend bool operator==(const RecycleSettings&, const RecycleSettings&) = default;
};

// What tells messages apart that are to be done once.
struct DedupSettings {
  enum class Key { none, message_id, header, body };  // none: there is no dedup
  enum class Store { local, redis };
  enum class OnStoreFailure { run, wait };
  enum class TooSoon { delay, drop };
  Key key = Key::none;
  std::string header;                         // with Key::header
  std::chrono::milliseconds window{600'000};  // a message is known for so long once it is done
  Store store = Store::local;
  std::string redis_url;  // with Store::redis; may hold a password: never logged, never shown
  OnStoreFailure on_store_failure = OnStoreFailure::wait;
  std::chrono::milliseconds min_interval{0};  // between two of one key; 0: none
  TooSoon too_soon = TooSoon::delay;
  friend bool operator==(const DedupSettings&, const DedupSettings&) = default;
};

// Which messages are handled one after another.
struct OrderSettings {
  enum class By { none, routing_key, header, queue };  // queue: all of it, `order: strict`
  By by = By::none;
  std::string header;  // with By::header
  friend bool operator==(const OrderSettings&, const OrderSettings&) = default;
};

// How many messages a group begins, its workers together.
struct RateSettings {
  double per_second = 0;  // 0: any
  double burst = 0;       // so many at once after a pause
  friend bool operator==(const RateSettings&, const RateSettings&) = default;
};

// What a message has to be before its handler sees it, and what is made of it.
struct ContentSettings {
  std::vector<std::string> accept;  // content types, "application/*" too; empty: any
  bool decode = false;              // undo content-encoding
  std::int64_t max_decoded_bytes = 128 * 1024 * 1024;
  std::string schema;                      // JSON Schema, its text; empty: none
  std::string schema_file;                 // where that came from, for messages
  bool to_utf8 = false;                    // from the charset of its content type
  std::string compress;                    // what handlers publish: an encoding; empty: as it is
  std::int64_t compress_min_bytes = 1024;  // smaller bodies stay as they are
  friend bool operator==(const ContentSettings&, const ContentSettings&) = default;
};

// Where a group tells what became of its messages.
struct JournalSettings {
  bool on = false;
  std::string exchange;
  std::string routing_key;
  bool confirmed = false;                   // false: sent and counted
  bool bodies = false;                      // with the messages' bodies,
  std::int64_t max_body_bytes = 64 * 1024;  // as far as this
  bool headers = false;                     // with their headers, but for
  std::vector<std::string> secret_headers = {"authorization", "cookie", "password", "secret",
                                             "token"};  // those whose name holds one of these
  friend bool operator==(const JournalSettings&, const JournalSettings&) = default;
};

// OpenTelemetry spans, over OTLP/HTTP.
struct TelemetrySettings {
  std::string endpoint;  // http://collector:4318; empty: none
  double sample = 1.0;   // of the traces that begin here; 0 to 1
  std::string service_name = "lope";
  std::vector<std::pair<std::string, std::string>> headers;  // of each request; never shown
  std::chrono::milliseconds timeout{10'000};                 // of one request
  friend bool operator==(const TelemetrySettings&, const TelemetrySettings&) = default;
};

inline constexpr std::size_t kMaxDelayPrefix = 100;  // the names made of it are AMQP's too

// The delay ladder, shared by every daemon on the virtual host that names the same prefix.
struct DelaySettings {
  std::string prefix = "lope.delay";
  bool relay = true;  // this daemon forwards what is due
  // What cannot be delivered when it is due is tried again every `retry`, so long.
  std::chrono::milliseconds retry{60'000};
  std::chrono::milliseconds give_up{600'000};
  friend bool operator==(const DelaySettings&, const DelaySettings&) = default;
};

struct GroupSettings {
  std::string name;
  std::string handler;              // as written; the file is <handlers_dir>/<handler>.so
  std::string handler_hash;         // of that file's content; empty: not known
  std::string handler_copy;         // of that file, the one to load; empty: load the file itself
  std::string handler_missing;      // set: why there is none; the group waits for it
  std::string options_json = "{}";  // the `options:` map, as JSON
  std::vector<std::pair<std::string, std::string>>
      options;                                     // the same, nested keys joined with '.'
  std::vector<QueueSettings> queues;               // at least one
  int workers = 1;                                 // processes, 1 to 256
  int workers_max = 0;                             // above `workers`: as many as there is work for
  int threads = 1;                                 // handler instances in each, 1 to 256
  int batch_size = 1;                              // messages handed over together, 1 to kMaxBatch
  std::chrono::milliseconds batch_wait{1000};      // a batch is not full: the oldest waits so long
  std::chrono::milliseconds flush_interval{1000};  // of a handler that keeps messages
  bool auto_ack = false;
  std::int64_t max_body_bytes = 128 * 1024 * 1024;
  std::chrono::milliseconds start_timeout{60000};  // a worker not ready by then is killed
  std::chrono::milliseconds timeout{300'000};      // of one call of the handler; 0: none
  RetrySettings retry;
  int crashes = 3;  // workers that a message may take down, 1 to 100
  DeadLetterSettings dead_letter;
  BreakerSettings breaker;
  RecycleSettings recycle;
  DedupSettings dedup;
  OrderSettings order;
  RateSettings rate;
  ContentSettings content;
  JournalSettings journal;
  friend bool operator==(const GroupSettings&, const GroupSettings&) = default;
};

enum class LogLevel { debug, info, warn, error };
enum class LogFormat { text, json };

struct LogSettings {
  LogLevel level = LogLevel::info;
  LogFormat format = LogFormat::text;
  std::string file;  // empty: standard error
  friend bool operator==(const LogSettings&, const LogSettings&) = default;
};

struct ListenAddress {
  std::string host = "127.0.0.1";  // an IPv4 or IPv6 address
  int port = 0;                    // 0: any free one
  friend bool operator==(const ListenAddress&, const ListenAddress&) = default;
};

struct Settings {
  BrokerSettings broker;
  std::string handlers_dir;
  std::chrono::milliseconds shutdown_timeout{30000};
  std::chrono::milliseconds ready_timeout{60000};
  LogSettings log;
  DelaySettings delays;
  TelemetrySettings telemetry;
  std::string state_dir;                 // what has to outlive the daemon; see default_state_dir()
  std::string control_socket;            // empty: default_control_socket()
  bool watch = false;                    // the folder of handlers, for new and replaced files
  std::optional<ListenAddress> monitor;  // nothing: there is none
  std::string monitor_journal;           // the store that its page searches; empty: none
  std::vector<GroupSettings> groups;     // in the order of the file; names unique
  std::vector<std::string> secret_env;   // variables that held a password: not handed on to workers
  friend bool operator==(const Settings&, const Settings&) = default;
};

// What one lope-consumer gets.
struct ConsumerSettings {
  bool relay = false;  // it has no handler: it forwards what left the delay ladder
  BrokerSettings broker;
  std::string handlers_dir;
  std::chrono::milliseconds shutdown_timeout{30000};
  LogSettings log;
  DelaySettings delays;
  TelemetrySettings telemetry;
  std::string state_dir;
  GroupSettings group;
  bool paused = false;           // from the start
  std::uint64_t generation = 1;  // grows with each change
  friend bool operator==(const ConsumerSettings&, const ConsumerSettings&) = default;
};

// What one lope-worker gets: nothing of the broker.
struct WorkerSettings {
  std::string group;
  int worker_index = 0;
  int threads = 1;
  std::string handlers_dir;
  std::string handler;
  std::string handler_copy;
  std::string options_json;
  std::vector<std::pair<std::string, std::string>> options;
  bool batch = false;  // handle_batch() for every delivery
  std::chrono::milliseconds flush_interval{1000};
  bool measures_memory = false;                        // it says how much it has
  std::int64_t max_message_bytes = 128 * 1024 * 1024;  // of a publication
  ContentSettings content;
};

// What lope-monitor gets.
struct MonitorSettings {
  LogSettings log;
  std::string journal;  // the store that the page searches, a path or a URL; empty: none
};

}  // namespace lope
