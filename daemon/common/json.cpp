// The only place that knows nlohmann-json.
#include "common/json.h"

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <variant>

#include "common/status.h"
#include "common/text.h"

namespace lope {

namespace {

// Ordered: AMQP tables keep the order of the file.
using Json = nlohmann::ordered_json;

// Not valid UTF-8 (a handler's own texts, a path) becomes U+FFFD rather than an exception.
std::string dump(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string shown(std::string_view text) { return "'" + escape(text, 80) + "'"; }

std::string build_id() {
  char text[24];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(LOPE_BUILD_ID));
  return text;
}

// ---- AMQP tables ---------------------------------------------------------------------------

Json table_json(const AmqpTable& table);

Json value_json(const AmqpValue& value) {
  return std::visit(
      [](const auto& held) -> Json {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, AmqpTable>) {
          return table_json(held);
        } else if constexpr (std::is_same_v<Held, AmqpArray>) {
          Json array = Json::array();
          for (const AmqpValue& entry : held) array.push_back(value_json(entry));
          return array;
        } else {
          return held;
        }
      },
      value.value);
}

Json table_json(const AmqpTable& table) {
  Json object = Json::object();
  for (const auto& [name, value] : table) object[name] = value_json(value);
  return object;
}

AmqpTable table_from(const Json& json);

AmqpValue value_from(const Json& json) {
  if (json.is_boolean()) return {json.get<bool>()};
  if (json.is_number_integer()) return {json.get<std::int64_t>()};
  if (json.is_number_float()) return {json.get<double>()};
  if (json.is_string()) return {json.get<std::string>()};
  if (json.is_array()) {
    AmqpArray array;
    for (const Json& entry : json) array.push_back(value_from(entry));
    return {std::move(array)};
  }
  return {table_from(json)};
}

AmqpTable table_from(const Json& json) {
  if (!json.is_object()) throw std::invalid_argument("a table");
  AmqpTable table;
  for (const auto& [name, value] : json.items()) table.emplace_back(name, value_from(value));
  return table;
}

// ---- Settings ------------------------------------------------------------------------------
//
// Each struct has one function that names its members, for both directions: `io` is a Writer or a
// Reader.

template <typename Io, typename T>
void members(Io& io, T& settings);

class Writer {
 public:
  template <typename T>
  void operator()(const char* name, const T& value) {
    json_[name] = convert(value);
  }
  Json take() { return std::move(json_); }

  template <typename T>
  static Json convert(const T& value) {
    if constexpr (std::is_enum_v<T>) {
      return static_cast<int>(value);
    } else if constexpr (std::is_same_v<T, AmqpTable>) {
      return table_json(value);
    } else if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
      return value;
    } else if constexpr (requires { value.count(); }) {
      return value.count();
    } else if constexpr (requires { value.first; }) {
      return Json::array({value.first, value.second});
    } else if constexpr (requires { value.begin(); }) {
      Json array = Json::array();
      for (const auto& entry : value) array.push_back(convert(entry));
      return array;
    } else {
      Writer writer;
      members(writer, value);
      return writer.take();
    }
  }

 private:
  Json json_ = Json::object();
};

class Reader {
 public:
  explicit Reader(const Json& json) : json_(json) {}

  template <typename T>
  void operator()(const char* name, T& value) {
    convert(json_.at(name), value);
  }

  template <typename T>
  static void convert(const Json& json, T& value) {
    if constexpr (std::is_enum_v<T>) {
      value = static_cast<T>(json.get<int>());
    } else if constexpr (std::is_same_v<T, AmqpTable>) {
      value = table_from(json);
    } else if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
      value = json.get<T>();
    } else if constexpr (requires { value.count(); }) {
      value = T(json.get<std::int64_t>());
    } else if constexpr (requires { value.first; }) {
      convert(json.at(0), value.first);
      convert(json.at(1), value.second);
    } else if constexpr (requires { value.begin(); }) {
      if (!json.is_array()) throw std::invalid_argument("a list");
      value.clear();
      for (const Json& entry : json) convert(entry, value.emplace_back());
    } else {
      Reader reader(json);
      members(reader, value);
    }
  }

 private:
  const Json& json_;
};

// T is the struct, const or not.
template <typename T, typename Struct>
concept Is = std::is_same_v<std::remove_const_t<T>, Struct>;

template <typename Io, typename T>
void members(Io& io, T& settings) {
  if constexpr (Is<T, BrokerAddress>) {
    io("host", settings.host);
    io("port", settings.port);
    io("vhost", settings.vhost);
    io("user", settings.user);
    io("password", settings.password);
    io("tls", settings.tls);
  } else if constexpr (Is<T, TlsSettings>) {
    io("ca_file", settings.ca_file);
    io("certificate_file", settings.certificate_file);
    io("key_file", settings.key_file);
    io("server_name", settings.server_name);
    io("insecure", settings.insecure);
  } else if constexpr (Is<T, BrokerSettings>) {
    io("addresses", settings.addresses);
    io("heartbeat", settings.heartbeat);
    io("connect_timeout", settings.connect_timeout);
    io("consumer_timeout", settings.consumer_timeout);
    io("max_message_bytes", settings.max_message_bytes);
    io("tls", settings.tls);
    io("login", settings.login);
  } else if constexpr (Is<T, ExchangeSettings>) {
    io("name", settings.name);
    io("type", settings.type);
    io("durable", settings.durable);
    io("auto_delete", settings.auto_delete);
    io("internal", settings.internal);
    io("arguments", settings.arguments);
  } else if constexpr (Is<T, BindingSettings>) {
    io("exchange", settings.exchange);
    io("key", settings.key);
    io("arguments", settings.arguments);
  } else if constexpr (Is<T, DeclareSettings>) {
    io("type", settings.type);
    io("durable", settings.durable);
    io("exclusive", settings.exclusive);
    io("auto_delete", settings.auto_delete);
    io("arguments", settings.arguments);
    io("exchanges", settings.exchanges);
    io("bindings", settings.bindings);
  } else if constexpr (Is<T, QueueSettings>) {
    io("name", settings.name);
    io("prefetch", settings.prefetch);
    io("consumer_tag", settings.consumer_tag);
    io("consumer_arguments", settings.consumer_arguments);
    io("declare", settings.declare);
    io("declaration", settings.declaration);
    io("stream", settings.stream);
    io("offset", settings.offset);
    io("retry_queue", settings.retry_queue);
  } else if constexpr (Is<T, StreamOffset>) {
    io("from", settings.from);
    io("value", settings.value);
  } else if constexpr (Is<T, GroupSettings>) {
    io("name", settings.name);
    io("handler", settings.handler);
    io("handler_hash", settings.handler_hash);
    io("handler_copy", settings.handler_copy);
    io("handler_missing", settings.handler_missing);
    io("options_json", settings.options_json);
    io("options", settings.options);
    io("queues", settings.queues);
    io("workers", settings.workers);
    io("workers_max", settings.workers_max);
    io("threads", settings.threads);
    io("batch_size", settings.batch_size);
    io("batch_wait", settings.batch_wait);
    io("flush_interval", settings.flush_interval);
    io("auto_ack", settings.auto_ack);
    io("max_body_bytes", settings.max_body_bytes);
    io("start_timeout", settings.start_timeout);
    io("timeout", settings.timeout);
    io("retry", settings.retry);
    io("crashes", settings.crashes);
    io("dead_letter", settings.dead_letter);
    io("breaker", settings.breaker);
    io("recycle", settings.recycle);
    io("dedup", settings.dedup);
    io("order", settings.order);
    io("rate", settings.rate);
    io("content", settings.content);
    io("journal", settings.journal);
  } else if constexpr (Is<T, DedupSettings>) {
    io("key", settings.key);
    io("header", settings.header);
    io("window", settings.window);
    io("store", settings.store);
    io("redis_url", settings.redis_url);
    io("on_store_failure", settings.on_store_failure);
    io("min_interval", settings.min_interval);
    io("too_soon", settings.too_soon);
  } else if constexpr (Is<T, OrderSettings>) {
    io("by", settings.by);
    io("header", settings.header);
  } else if constexpr (Is<T, RateSettings>) {
    io("per_second", settings.per_second);
    io("burst", settings.burst);
  } else if constexpr (Is<T, ContentSettings>) {
    io("accept", settings.accept);
    io("decode", settings.decode);
    io("max_decoded_bytes", settings.max_decoded_bytes);
    io("schema", settings.schema);
    io("schema_file", settings.schema_file);
    io("to_utf8", settings.to_utf8);
    io("compress", settings.compress);
    io("compress_min_bytes", settings.compress_min_bytes);
  } else if constexpr (Is<T, JournalSettings>) {
    io("on", settings.on);
    io("exchange", settings.exchange);
    io("routing_key", settings.routing_key);
    io("confirmed", settings.confirmed);
    io("bodies", settings.bodies);
    io("max_body_bytes", settings.max_body_bytes);
    io("headers", settings.headers);
    io("secret_headers", settings.secret_headers);
  } else if constexpr (Is<T, TelemetrySettings>) {
    io("endpoint", settings.endpoint);
    io("sample", settings.sample);
    io("service_name", settings.service_name);
    io("headers", settings.headers);
    io("timeout", settings.timeout);
  } else if constexpr (Is<T, RetrySettings>) {
    io("attempts", settings.attempts);
    io("delay", settings.delay);
    io("backoff", settings.backoff);
    io("max_delay", settings.max_delay);
    io("jitter", settings.jitter);
  } else if constexpr (Is<T, DeadLetterSettings>) {
    io("to", settings.to);
    io("exchange", settings.exchange);
    io("routing_key", settings.routing_key);
    io("declare", settings.declare);
    io("exchange_type", settings.exchange_type);
  } else if constexpr (Is<T, BreakerSettings>) {
    io("on", settings.on);
    io("failures", settings.failures);
    io("outcomes", settings.outcomes);
    io("period", settings.period);
    io("pause", settings.pause);
    io("max_pause", settings.max_pause);
  } else if constexpr (Is<T, RecycleSettings>) {
    io("messages", settings.messages);
    io("memory_bytes", settings.memory_bytes);
    io("age", settings.age);
  } else if constexpr (Is<T, DelaySettings>) {
    io("prefix", settings.prefix);
    io("relay", settings.relay);
    io("retry", settings.retry);
    io("give_up", settings.give_up);
  } else if constexpr (Is<T, LogSettings>) {
    io("level", settings.level);
    io("format", settings.format);
    io("file", settings.file);
  } else if constexpr (Is<T, ConsumerSettings>) {
    io("relay", settings.relay);
    io("broker", settings.broker);
    io("handlers_dir", settings.handlers_dir);
    io("shutdown_timeout", settings.shutdown_timeout);
    io("log", settings.log);
    io("delays", settings.delays);
    io("telemetry", settings.telemetry);
    io("state_dir", settings.state_dir);
    io("group", settings.group);
    io("paused", settings.paused);
    io("generation", settings.generation);
  } else if constexpr (Is<T, Settings>) {
    io("broker", settings.broker);
    io("handlers_dir", settings.handlers_dir);
    io("shutdown_timeout", settings.shutdown_timeout);
    io("ready_timeout", settings.ready_timeout);
    io("log", settings.log);
    io("delays", settings.delays);
    io("telemetry", settings.telemetry);
    io("state_dir", settings.state_dir);
    io("control_socket", settings.control_socket);
    io("watch", settings.watch);
    io("monitor_journal", settings.monitor_journal);
    io("groups", settings.groups);
    io("secret_env", settings.secret_env);
  } else if constexpr (Is<T, LoadReport>) {
    io("errors", settings.errors);
    io("warnings", settings.warnings);
    io("settings", settings.settings);
  } else if constexpr (Is<T, WorkerSettings>) {
    io("group", settings.group);
    io("worker_index", settings.worker_index);
    io("threads", settings.threads);
    io("handlers_dir", settings.handlers_dir);
    io("handler", settings.handler);
    io("handler_copy", settings.handler_copy);
    io("options_json", settings.options_json);
    io("options", settings.options);
    io("batch", settings.batch);
    io("flush_interval", settings.flush_interval);
    io("measures_memory", settings.measures_memory);
    io("max_message_bytes", settings.max_message_bytes);
    io("content", settings.content);
  } else if constexpr (Is<T, MonitorSettings>) {
    io("log", settings.log);
    io("journal", settings.journal);
  } else if constexpr (Is<T, PluginDescription::Option>) {
    io("name", settings.name);
    io("kind", settings.kind);
    io("required", settings.required);
    io("default", settings.default_value);
    io("secret", settings.secret);
    io("help", settings.help);
  } else if constexpr (Is<T, TraceStep>) {
    io("us", settings.us);
    io("what", settings.what);
  } else if constexpr (Is<T, MessageTrace>) {
    io("message_id", settings.message_id);
    io("queue", settings.queue);
    io("delivery_tag", settings.delivery_tag);
    io("attempt", settings.attempt);
    io("redelivered", settings.redelivered);
    io("body_bytes", settings.body_bytes);
    io("came_unix_ms", settings.came_unix_ms);
    io("steps", settings.steps);
  } else if constexpr (Is<T, WorkerStatus>) {
    io("index", settings.index);
    io("pid", settings.pid);
    io("state", settings.state);
    io("uptime_s", settings.uptime_s);
    io("given", settings.given);
    io("rss_bytes", settings.rss_bytes);
  } else if constexpr (Is<T, StreamStatus>) {
    io("queue", settings.queue);
    io("next_offset", settings.next_offset);
  } else if constexpr (Is<T, GroupStatus>) {
    io("name", settings.name);
    io("state", settings.state);
    io("reason", settings.reason);
    io("queues", settings.queues);
    io("streams", settings.streams);
    io("handler", settings.handler);
    io("handler_name", settings.handler_name);
    io("handler_version", settings.handler_version);
    io("handler_file", settings.handler_file);
    io("broker", settings.broker);
    io("cluster", settings.cluster);
    io("publish_broker", settings.publish_broker);
    io("publish_cluster", settings.publish_cluster);
    io("consumer_pid", settings.consumer_pid);
    io("uptime_s", settings.uptime_s);
    io("note", settings.note);
    io("workers_wanted", settings.workers_wanted);
    io("workers_min", settings.workers_min);
    io("workers_max", settings.workers_max);
    io("workers_ready", settings.workers_ready);
    io("workers", settings.workers);
    io("running", settings.running);
    io("held", settings.held);
    io("waiting", settings.waiting);
    io("unconfirmed", settings.unconfirmed);
    io("behind", settings.behind);
    io("at_rate", settings.at_rate);
    io("rate_limit", settings.rate_limit);
    io("rate_in", settings.rate_in);
    io("rate_out", settings.rate_out);
    io("handling_p50_ms", settings.handling_p50_ms);
    io("handling_p99_ms", settings.handling_p99_ms);
    io("delivered", settings.delivered);
    io("acked", settings.acked);
    io("retried", settings.retried);
    io("rejected", settings.rejected);
    io("dead_lettered", settings.dead_lettered);
    io("refused", settings.refused);
    io("published", settings.published);
    io("crashes", settings.crashes);
    io("timeouts", settings.timeouts);
    io("worker_deaths", settings.worker_deaths);
    io("recycled", settings.recycled);
    io("pauses", settings.pauses);
    io("doubles", settings.doubles);
    io("too_soon", settings.too_soon);
    io("delayed", settings.delayed);
    io("unchecked", settings.unchecked);
    io("handed_back", settings.handed_back);
    io("undeliverable", settings.undeliverable);
    io("connections", settings.connections);
    io("journal_sent", settings.journal_sent);
    io("journal_confirmed", settings.journal_confirmed);
    io("journal_dropped", settings.journal_dropped);
    io("spans_sent", settings.spans_sent);
    io("spans_dropped", settings.spans_dropped);
    io("positions_not_kept", settings.positions_not_kept);
    io("last_failure", settings.last_failure);
    io("last_failure_s", settings.last_failure_s);
  } else if constexpr (Is<T, MonitorStatus>) {
    io("address", settings.address);
    io("state", settings.state);
    io("reason", settings.reason);
    io("pid", settings.pid);
  } else if constexpr (Is<T, HistogramCounts>) {
    io("counts", settings.counts);
    io("sum_s", settings.sum_s);
  } else if constexpr (Is<T, GroupMetrics>) {
    io("handling", settings.handling);
    io("queued", settings.queued);
    io("handler", settings.handler);
  } else if constexpr (Is<T, HandlerMetricStatus>) {
    io("name", settings.name);
    io("kind", settings.kind);
    io("help", settings.help);
    io("value", settings.value);
    io("durations", settings.durations);
  } else if constexpr (Is<T, DaemonMetrics>) {
    io("status", settings.status);
    io("groups", settings.groups);
  } else if constexpr (Is<T, DaemonStatus>) {
    io("version", settings.version);
    io("pid", settings.pid);
    io("state", settings.state);
    io("uptime_s", settings.uptime_s);
    io("config", settings.config);
    io("last_reload", settings.last_reload);
    io("last_reload_s", settings.last_reload_s);
    io("groups", settings.groups);
    io("relay", settings.relay);
    io("monitor", settings.monitor);
  } else {
    static_assert(Is<T, PluginDescription>);
    io("name", settings.name);
    io("version", settings.version);
    io("description", settings.description);
    io("path", settings.path);
    io("abi_major", settings.abi_major);
    io("abi_minor", settings.abi_minor);
    io("has_batch", settings.has_batch);
    io("has_flush", settings.has_flush);
    io("takes_any_option", settings.takes_any_option);
    io("options", settings.options);
  }
}

template <typename T>
std::string settings_text(const T& settings) {
  Json json = Writer::convert(settings);
  json["build_id"] = build_id();
  return dump(json);
}

// The library's own texts quote what they read, and a password is in there: they are not passed on.
template <typename T>
Result<T> settings_from(std::string_view text, const char* subject) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return Error{std::string(subject) + ": expected a JSON object"};
  const auto id = json.find("build_id");
  if (id == json.end() || *id != build_id()) {
    const std::string found =
        id != json.end() && id->is_string() ? escape(id->get<std::string>(), 32) : "none";
    return Error{std::string(subject) + ": expected build id " + build_id() + ", found " + found +
                 ": the programs are not of one build"};
  }
  try {
    T settings;
    Reader::convert(json, settings);
    return settings;
  } catch (const std::exception&) {
    return Error{std::string(subject) + ": a member is missing or of another type"};
  }
}

template <typename T>
Result<T> object_from(const Json& json, const char* subject) {
  if (!json.is_object()) return Error{std::string(subject) + ": expected a JSON object"};
  try {
    T object;
    Reader::convert(json, object);
    return object;
  } catch (const std::exception& exception) {
    return Error{std::string(subject) + ": " + escape(exception.what(), 256)};
  }
}

}  // namespace

std::string to_json(const ConsumerSettings& settings) { return settings_text(settings); }

std::string to_json(const WorkerSettings& settings) { return settings_text(settings); }

std::string to_json(const Settings& settings) { return settings_text(settings); }

Result<Settings> settings_from_json(std::string_view text) {
  return settings_from<Settings>(text, "settings");
}

std::string to_json(const MonitorSettings& settings) { return settings_text(settings); }

Result<ConsumerSettings> consumer_settings_from_json(std::string_view text) {
  return settings_from<ConsumerSettings>(text, "consumer settings");
}

Result<WorkerSettings> worker_settings_from_json(std::string_view text) {
  return settings_from<WorkerSettings>(text, "worker settings");
}

std::string to_json(const LoadReport& report) { return settings_text(report); }

Result<LoadReport> load_report_from_json(std::string_view text) {
  return settings_from<LoadReport>(text, "report about the configuration");
}

Result<MonitorSettings> monitor_settings_from_json(std::string_view text) {
  return settings_from<MonitorSettings>(text, "monitor settings");
}

std::string to_json(const PluginDescription& description, int indent) {
  return dump(Writer::convert(description), indent);
}

std::string error_json(std::string_view text) { return dump(Json{{"error", std::string(text)}}); }

Result<PluginDescription> plugin_description_from_json(std::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return Error{"description of a handler: expected a JSON object"};
  if (const auto error = json.find("error"); error != json.end() && error->is_string()) {
    return Error{error->get<std::string>()};
  }
  try {
    PluginDescription description;
    Reader::convert(json, description);
    return description;
  } catch (const std::exception& exception) {
    return Error{"description of a handler: " + escape(exception.what(), 256)};
  }
}

std::string to_json(const DaemonStatus& status) { return dump(Writer::convert(status)); }

std::string to_json(const MessageTrace& trace) { return dump(Writer::convert(trace)); }

Result<MessageTrace> message_trace_from_json(std::string_view text) {
  return object_from<MessageTrace>(Json::parse(text, nullptr, false), "trace");
}

Result<DaemonStatus> daemon_status_from_json(std::string_view text) {
  return object_from<DaemonStatus>(Json::parse(text, nullptr, false), "status");
}

std::string to_json(const DaemonMetrics& metrics) { return dump(Writer::convert(metrics)); }

Result<DaemonMetrics> daemon_metrics_from_answer(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("metrics")) {
    return Error{"expected \"metrics\", found " + shown(line)};
  }
  return object_from<DaemonMetrics>(json["metrics"], "metrics");
}

std::string to_json(const ControlRequest& request) {
  Json json = {{"command", request.command}};
  if (!request.group.empty()) json["group"] = request.group;
  if (request.now) json["now"] = true;
  if (request.workers != 0) json["workers"] = request.workers;
  if (request.wait) json["wait"] = true;
  if (!request.level.empty()) json["level"] = request.level;
  if (request.count != 0) json["count"] = request.count;
  return dump(json);
}

Result<ControlRequest> control_request_from_json(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return Error{"expected a JSON object on one line, found " + shown(line)};
  ControlRequest request;
  for (const auto& [name, value] : json.items()) {
    const char* expected = nullptr;
    if (name == "command" || name == "group" || name == "level") {
      if (!value.is_string()) expected = "a text";
    } else if (name == "now" || name == "wait") {
      if (!value.is_boolean()) expected = "true or false";
    } else if (name == "count") {
      if (!value.is_number_integer() || value < 1 || value > 1000) expected = "1 to 1000";
    } else if (name == "workers") {
      if (!value.is_number_integer() || value < 1 || value > 256) expected = "1 to 256";
    } else {
      return Error{"expected command, group, now, workers, wait, level or count, found \"" +
                   escape(name, 64) + '"'};
    }
    if (expected != nullptr) {
      const std::string found = value.is_structured() ? value.type_name() : shown(dump(value));
      return Error{"\"" + name + "\": expected " + expected + ", found " + found};
    }
    if (name == "command") request.command = value.get<std::string>();
    if (name == "group") request.group = value.get<std::string>();
    if (name == "now") request.now = value.get<bool>();
    if (name == "workers") request.workers = value.get<int>();
    if (name == "wait") request.wait = value.get<bool>();
    if (name == "level") request.level = value.get<std::string>();
    if (name == "count") request.count = value.get<int>();
  }
  if (request.command.empty()) return Error{"expected \"command\", found none"};
  return request;
}

std::string to_json(const ControlAnswer& answer) {
  if (!answer.error.empty()) return error_json(answer.error);
  if (!answer.status.empty()) return "{\"status\":" + answer.status + "}";
  if (!answer.metrics.empty()) return "{\"metrics\":" + answer.metrics + "}";
  return dump(Json{{"done", answer.text}});
}

Result<ControlAnswer> control_answer_from_json(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return Error{"expected a JSON object, found " + shown(line)};
  ControlAnswer answer;
  if (const auto error = json.find("error"); error != json.end() && error->is_string()) {
    answer.error = error->get<std::string>();
  } else if (const auto status = json.find("status"); status != json.end()) {
    answer.status = dump(*status);
  } else if (const auto done = json.find("done"); done != json.end() && done->is_string()) {
    answer.text = done->get<std::string>();
  } else {
    return Error{"expected \"error\", \"status\" or \"done\", found " + shown(line)};
  }
  return answer;
}

std::string json_quote(std::string_view text) { return dump(Json(std::string(text))); }

}  // namespace lope
