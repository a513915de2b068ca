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
  friend bool operator==(const BrokerAddress&, const BrokerAddress&) = default;
};

struct BrokerSettings {
  std::vector<BrokerAddress> addresses = {BrokerAddress{}};
  std::chrono::seconds heartbeat{30};               // 0: none; otherwise at least 5 s
  std::chrono::milliseconds connect_timeout{5000};  // for one address, login included
  // The broker's own settings, which it does not tell: what it would answer with a closed channel.
  std::chrono::milliseconds consumer_timeout{1'800'000};  // 0: it has none
  std::int64_t max_message_bytes = 128 * 1024 * 1024;
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
  std::string type = "classic";  // or "quorum"
  bool durable = true;
  bool exclusive = false;
  bool auto_delete = false;
  AmqpTable arguments;
  std::vector<ExchangeSettings> exchanges;
  std::vector<BindingSettings> bindings;
  friend bool operator==(const DeclareSettings&, const DeclareSettings&) = default;
};

struct QueueSettings {
  std::string name;
  int prefetch = 30;         // 1 to 65535
  std::string consumer_tag;  // empty: made by the broker
  AmqpTable consumer_arguments;
  bool declare = false;
  DeclareSettings declaration;  // meaningful when declare
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
  std::string control_socket;            // empty: default_control_socket()
  bool watch = false;                    // the folder of handlers, for new and replaced files
  std::optional<ListenAddress> monitor;  // nothing: there is none
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
};

// What lope-monitor gets.
struct MonitorSettings {
  LogSettings log;
};

}  // namespace lope
