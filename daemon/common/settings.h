// What the configuration says, as plain values. The supervisor's settings_loader fills
// them from YAML; settings_json carries them to the other processes. No behaviour here.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
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

struct GroupSettings {
  std::string name;
  std::string handler;              // as written; the file is <handlers_dir>/<handler>.so
  std::string options_json = "{}";  // the `options:` map, as JSON
  std::vector<std::pair<std::string, std::string>>
      options;                                     // the same, nested keys joined with '.'
  std::vector<QueueSettings> queues;               // at least one
  int workers = 1;                                 // processes, 1 to 256
  int threads = 1;                                 // handler instances in each, 1 to 256
  int batch_size = 1;                              // messages handed over together, 1 to kMaxBatch
  std::chrono::milliseconds batch_wait{1000};      // a batch is not full: the oldest waits so long
  std::chrono::milliseconds flush_interval{1000};  // of a handler that keeps messages
  bool auto_ack = false;
  std::int64_t max_body_bytes = 128 * 1024 * 1024;
  std::chrono::milliseconds start_timeout{60000};  // a worker not ready by then is killed
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

struct Settings {
  BrokerSettings broker;
  std::string handlers_dir;
  std::chrono::milliseconds shutdown_timeout{30000};
  std::chrono::milliseconds ready_timeout{60000};
  LogSettings log;
  std::vector<GroupSettings> groups;    // in the order of the file; names unique
  std::vector<std::string> secret_env;  // variables that held a password: not handed on to workers
  friend bool operator==(const Settings&, const Settings&) = default;
};

// What one lope-consumer gets.
struct ConsumerSettings {
  BrokerSettings broker;
  std::string handlers_dir;
  std::chrono::milliseconds shutdown_timeout{30000};
  LogSettings log;
  GroupSettings group;
};

// What one lope-worker gets: nothing of the broker.
struct WorkerSettings {
  std::string group;
  int worker_index = 0;
  int threads = 1;
  std::string handlers_dir;
  std::string handler;
  std::string options_json;
  std::vector<std::pair<std::string, std::string>> options;
  bool batch = false;  // handle_batch() for every delivery
  std::chrono::milliseconds flush_interval{1000};
  LogLevel log_level = LogLevel::info;
};

}  // namespace lope
