// The C++ face of <lope/handler.h>: header-only, C++17 or later. A handler is a class that derives
// from lope::Handler, made known with LOPE_HANDLER. Nothing here adds to the ABI; what a handler
// built with it exports is the plain C table.
//
// Statuses: no function here returns one. A question answers with an optional or a bool ("is there
// such a header?", "was it still to be settled?"). An order that the host did not carry out throws
// lope::Error, which holds the status.
//
// Exceptions: none leaves the handler, and what() is handed to the host as the explanation.
// - From handle() and handle_batch(): lope::Reject becomes LOPE_REJECT; lope::Retry, and everything
//   else, becomes LOPE_RETRY.
// - From flush(): LOPE_E_FAILED, and a line in the log.
// - From the constructor: lope::InvalidConfiguration becomes LOPE_E_INVALID, everything else
//   LOPE_E_FAILED.
//
// Threads: [handler], [in-call] and [any-thread] mean what they mean in handler.h.
#ifndef LOPE_HANDLER_HPP
#define LOPE_HANDLER_HPP

#include <lope/handler.h>

#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace lope {

// ---- Words ---------------------------------------------------------------------------------

// The handler's word on a message. Outcome{} is no outcome: a retry, logged as the handler's fault.
enum class Outcome : lope_outcome {
  ack = LOPE_ACK,        // done
  retry = LOPE_RETRY,    // could succeed later
  reject = LOPE_REJECT,  // never will: dead-letter it
  hold = LOPE_HOLD       // kept, and valid, until Host::settle() is called with its id
};

enum class FlushReason : std::uint32_t {
  interval = LOPE_FLUSH_INTERVAL,        // the group's flush_interval is up
  window_full = LOPE_FLUSH_WINDOW_FULL,  // nothing more can arrive until something is settled
  drain = LOPE_FLUSH_DRAIN               // the last call
};

enum class Level : std::int32_t {
  debug = LOPE_LOG_DEBUG,
  info = LOPE_LOG_INFO,
  warn = LOPE_LOG_WARN,
  error = LOPE_LOG_ERROR
};

// ---- Exceptions ----------------------------------------------------------------------------

// The host did not do what it was told to. Left uncaught in handle() it makes a retry.
class Error : public std::runtime_error {
 public:
  Error(lope_status status, const std::string& text) : std::runtime_error(text), status_(status) {}
  lope_status status() const noexcept { return status_; }  // LOPE_E_…

 private:
  lope_status status_;
};

// The message can never be handled: it is dead-lettered.
class Reject : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The message could be handled later: after `delay`, or when the group's retry policy says.
class Retry : public std::runtime_error {
 public:
  explicit Retry(const std::string& why) : std::runtime_error(why) {}
  Retry(const std::string& why, std::chrono::milliseconds delay)
      : std::runtime_error(why), delay_(delay) {}
  std::optional<std::chrono::milliseconds> delay() const noexcept { return delay_; }

 private:
  std::optional<std::chrono::milliseconds> delay_;
};

// Thrown from a handler's constructor: the daemon does not start the group again until somebody has
// changed its configuration.
class InvalidConfiguration : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// ---- Options a handler takes ---------------------------------------------------------------

// For the table given to LOPE_HANDLER_WITH:
//   constexpr lope_option kOptions[] = {
//       lope::required("dsn", "where to write"),
//       lope::defaulted("width", "640", "pixels", LOPE_INT64),
//       lope::defaulted("tags.*", "", "a list: see Host::option_list()"),
//       lope::kEndOfOptions};
// All text is static. Kinds: LOPE_TEXT, LOPE_INT64, LOPE_UINT64, LOPE_DOUBLE, LOPE_BOOL.
constexpr lope_option required(const char* name, const char* help, std::int32_t kind = LOPE_TEXT) {
  return lope_option{name, nullptr, help, kind, 0, {nullptr, nullptr}};
}

constexpr lope_option defaulted(const char* name, const char* default_value, const char* help,
                                std::int32_t kind = LOPE_TEXT) {
  return lope_option{name, default_value, help, kind, 0, {nullptr, nullptr}};
}

// The same option, its value never shown by status, logs or inspect.
constexpr lope_option secret(lope_option option) {
  option.flags |= LOPE_OPTION_SECRET;
  return option;
}

inline constexpr lope_option kEndOfOptions{nullptr, nullptr, nullptr, 0, 0, {nullptr, nullptr}};

// ---- Details -------------------------------------------------------------------------------

namespace detail {

inline lope_str to_str(std::string_view text) { return lope_str{text.data(), text.size()}; }

inline std::string_view to_view(lope_str text) {
  return text.size == 0 ? std::string_view{} : std::string_view{text.data, text.size};
}

inline const char* status_text(lope_status status) {
  switch (status) {
    case LOPE_OK: return "no error";
    case LOPE_E_FAILED: return "it failed";
    case LOPE_E_INVALID: return "an argument is not valid";
    case LOPE_E_NOT_FOUND: return "there is no such thing";
    case LOPE_E_TOO_LARGE: return "it is over a limit";
    case LOPE_E_WRONG_THREAD: return "not allowed on this thread, or not at this moment";
    case LOPE_E_STOPPING: return "the daemon is stopping";
    case LOPE_E_UNSUPPORTED: return "this version of Lope does not support it";
    case LOPE_E_STALE: return "the message is settled already, or was handed back";
    default: return "an unknown status";
  }
}

// Is `key` declared by that name, which may end in ".*"?
inline bool is_option(std::string_view declared, std::string_view key) {
  if (declared == key) return true;
  if (declared.size() < 2 || declared.substr(declared.size() - 2) != ".*") return false;
  declared.remove_suffix(1);
  return key.size() > declared.size() && key.substr(0, declared.size()) == declared;
}

inline void require(lope_status status, const char* what) {
  if (status != LOPE_OK) throw Error(status, std::string(what) + ": " + status_text(status));
}

// The length of the UTF-8 sequence that `text`, which is not empty, begins with; 0 when it is none.
inline std::size_t utf8_length(std::string_view text) {
  const auto byte = [text](std::size_t at) -> unsigned {
    return at < text.size() ? static_cast<unsigned char>(text[at]) : 0;
  };
  const auto continues = [byte](std::size_t at) { return (byte(at) & 0xC0) == 0x80; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return continues(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const bool too_long = first == 0xE0 && byte(1) < 0xA0;
    const bool surrogate = first == 0xED && byte(1) >= 0xA0;
    return continues(1) && continues(2) && !too_long && !surrogate ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool too_long = first == 0xF0 && byte(1) < 0x90;
    const bool too_high = first == 0xF4 && byte(1) >= 0x90;
    return continues(1) && continues(2) && continues(3) && !too_long && !too_high ? 4 : 0;
  }
  return 0;
}

// As a JSON string, quotes included. A byte that is no UTF-8 becomes U+FFFD.
inline std::string json_string(std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string json = "\"";
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const auto first = static_cast<unsigned char>(text[0]);
    if (length == 0) {
      json += "\xEF\xBF\xBD";
    } else if (first == '"' || first == '\\') {
      json += '\\';
      json += text[0];
    } else if (first < 0x20) {
      json += "\\u00";
      json += kHex[first >> 4];
      json += kHex[first & 0x0F];
    } else {
      json += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return json + "\"";
}

template <typename T>
inline constexpr bool kIsInteger =
    std::is_integral_v<T> && !std::is_same_v<T, bool> && !std::is_same_v<T, char>;

template <typename T>
std::optional<T> parse_option(std::string_view text) {
  if constexpr (std::is_same_v<T, std::string>) {
    return std::string(text);
  } else if constexpr (std::is_same_v<T, bool>) {
    // As YAML writes them; text, so not yet made one.
    for (const std::string_view word : {"true", "True", "TRUE", "yes", "on"})
      if (text == word) return true;
    for (const std::string_view word : {"false", "False", "FALSE", "no", "off"})
      if (text == word) return false;
    return std::nullopt;
  } else {
    static_assert(kIsInteger<T> || std::is_floating_point_v<T>,
                  "an option is a std::string, a bool, an integer or a floating-point number");
    T value{};
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc{} || stop != end) return std::nullopt;
    return value;
  }
}

template <typename T>
std::string expected_option() {
  if constexpr (std::is_same_v<T, std::string>) return "text";
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_floating_point_v<T>) return "a number";
  if constexpr (kIsInteger<T>)
    return "an integer from " + std::to_string(std::numeric_limits<T>::min()) + " to " +
           std::to_string(std::numeric_limits<T>::max());
  return {};
}

}  // namespace detail

// ---- Metrics -------------------------------------------------------------------------------

// One metric of the handler, made by Host::counter(), gauge() or duration().
class Metric {
 public:
  Metric(const lope_host* host, std::uint32_t id) : host_(host), id_(id) {}

  // [any-thread] Adds to a counter, sets a gauge.
  void record(std::int64_t value) const {
    detail::require(host_->metric_record(host_, id_, value), "metric_record");
  }
  // [any-thread] For a duration.
  void record(std::chrono::nanoseconds value) const {
    record(static_cast<std::int64_t>(value.count()));
  }

 private:
  const lope_host* host_;
  std::uint32_t id_;
};

// ---- The host ------------------------------------------------------------------------------

// What a handler may ask of the daemon. Given to the constructor; copy and keep it at will. Valid
// until the handler's destructor has returned.
class Host {
 public:
  explicit Host(const lope_host* host, const lope_option* options = nullptr)
      : host_(host), options_(options) {}

  // [any-thread] The group's name in the configuration.
  std::string_view group() const { return detail::to_view(host_->group); }
  // [any-thread] From 0; a replacement of a worker gets its predecessor's.
  std::uint32_t worker_index() const { return host_->worker_index; }
  // [any-thread] From 0 within the worker.
  std::uint32_t thread_index() const { return host_->thread_index; }

  // [handler] One option as text; the table's default stands in for a key that is not configured.
  // Nested keys are joined with '.'. The view lives as long as the handler. Nothing if neither is
  // there.
  std::optional<std::string_view> option(std::string_view key) const {
    lope_str value{};
    const lope_status status = host_->option(host_, detail::to_str(key), &value);
    if (status == LOPE_E_NOT_FOUND) return std::nullopt;
    detail::require(status, "option");
    return detail::to_view(value);
  }

  // [handler] The same as a T: std::string, bool, an integer or a floating-point type. Throws
  // InvalidConfiguration when there is none, or when it is no T.
  template <typename T>
  T option_as(std::string_view key) const {
    const std::optional<std::string_view> text = option(key);
    if (!text)
      throw InvalidConfiguration("option '" + std::string(key) + "': expected a value, found none");
    return parse<T>(key, *text);
  }

  // [handler] The same; `fallback` when there is none. Throws InvalidConfiguration when it is no T.
  template <typename T>
  T option_or(std::string_view key, T fallback) const {
    const std::optional<std::string_view> text = option(key);
    return text ? parse<T>(key, *text) : std::move(fallback);
  }
  std::string option_or(std::string_view key, const char* fallback) const {
    return option_or<std::string>(key, fallback);
  }

  // [handler] The texts of a list, in its order; declared with ".*" behind its name. Empty if there
  // is none.
  std::vector<std::string> option_list(std::string_view key) const {
    std::vector<std::string> list;
    while (true) {
      const std::string name = std::string(key) + "." + std::to_string(list.size());
      const std::optional<std::string_view> text = option(name);
      if (!text) return list;
      list.emplace_back(*text);
    }
  }

  // [handler] The whole `options:` map as JSON, without defaults. The view lives as long as the
  // handler.
  std::string_view options_json() const { return detail::to_view(host_->options_json(host_)); }

  // [any-thread] One line in the daemon's log.
  void log(Level level, std::string_view text) const noexcept {
    host_->log(host_, static_cast<std::int32_t>(level), detail::to_str(text));
  }
  void debug(std::string_view text) const noexcept { log(Level::debug, text); }
  void info(std::string_view text) const noexcept { log(Level::info, text); }
  void warn(std::string_view text) const noexcept { log(Level::warn, text); }
  void error(std::string_view text) const noexcept { log(Level::error, text); }
  // [any-thread] Whether a line of that level would be written: spares making its text.
  bool log_enabled(Level level) const noexcept {
    return host_->log_enabled(host_, static_cast<std::int32_t>(level)) != 0;
  }

  // [any-thread] Whether the daemon is draining: finish soon.
  bool stopping() const noexcept { return host_->stopping(host_) != 0; }

  // [any-thread] CLOCK_MONOTONIC.
  std::chrono::nanoseconds monotonic() const noexcept {
    return std::chrono::nanoseconds(static_cast<std::int64_t>(host_->monotonic_ns(host_)));
  }
  // [any-thread] The wall clock.
  std::chrono::system_clock::time_point now() const noexcept {
    return std::chrono::system_clock::time_point(
        std::chrono::duration_cast<std::chrono::system_clock::duration>(
            std::chrono::nanoseconds(static_cast<std::int64_t>(host_->unix_ns(host_)))));
  }

  // [handler] Only in the constructor. Throws Error when the host refuses the name, or has no
  // metrics.
  Metric counter(std::string_view name, std::string_view help) const {
    return metric(LOPE_COUNTER, name, help);
  }
  Metric gauge(std::string_view name, std::string_view help) const {
    return metric(LOPE_GAUGE, name, help);
  }
  Metric duration(std::string_view name, std::string_view help) const {
    return metric(LOPE_DURATION, name, help);
  }

  // [any-thread] Ends a held message's life: it may not be touched afterwards. False when it was
  // settled already, was never held, or was handed back; harmless.
  bool settle(std::uint64_t message_id, Outcome outcome) const {
    const lope_status status = host_->settle(host_, message_id, static_cast<lope_outcome>(outcome));
    if (status == LOPE_E_STALE) return false;
    detail::require(status, "settle");
    return true;
  }

  // [any-thread] A draft interface by name; nullptr when the host has none such.
  const void* extension(const char* id) const noexcept { return host_->extension(host_, id); }

  const lope_host* raw() const noexcept { return host_; }

 private:
  template <typename T>
  T parse(std::string_view key, std::string_view text) const {
    if (std::optional<T> value = detail::parse_option<T>(text)) return *std::move(value);
    throw InvalidConfiguration("option '" + std::string(key) + "': expected " +
                               detail::expected_option<T>() + ", found " +
                               (is_secret(key) ? "something else" : "'" + std::string(text) + "'"));
  }

  bool is_secret(std::string_view key) const {
    for (const lope_option* option = options_; option && option->name; ++option)
      if ((option->flags & LOPE_OPTION_SECRET) != 0 && detail::is_option(option->name, key))
        return true;
    return false;
  }

  Metric metric(std::int32_t kind, std::string_view name, std::string_view help) const {
    std::uint32_t id = 0;
    detail::require(
        host_->metric_register(host_, kind, detail::to_str(name), detail::to_str(help), &id),
        "metric_register");
    return Metric(host_, id);
  }

  const lope_host* host_;
  const lope_option* options_;
};

// ---- Messages ------------------------------------------------------------------------------

// A read-only run of bytes. Converts to std::span<const std::byte> where there is one.
class Bytes {
 public:
  Bytes() = default;
  explicit Bytes(lope_bytes bytes)
      : data_(static_cast<const std::byte*>(bytes.data)), size_(bytes.size) {}

  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const std::byte* begin() const { return data_; }
  const std::byte* end() const { return size_ == 0 ? data_ : data_ + size_; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// A header's value: a view, whose text lives where it came from. Each question answers nothing when
// the value is of another kind.
class Value {
 public:
  explicit Value(const lope_value& value) : value_(value) {}

  // For Publication::header(), of the kinds that it does not make of C++'s own types.
  static Value bytes(std::string_view bytes) {
    lope_value value{};
    value.kind = LOPE_BYTES;
    value.as.s = detail::to_str(bytes);
    return Value(value);
  }
  // To the second; before 1970 it is 1970.
  static Value timestamp(std::chrono::system_clock::time_point time) {
    const auto seconds = std::chrono::floor<std::chrono::seconds>(time.time_since_epoch()).count();
    lope_value value{};
    value.kind = LOPE_TIMESTAMP;
    value.as.u = seconds < 0 ? 0 : static_cast<std::uint64_t>(seconds);
    return Value(value);
  }
  static Value null() {
    lope_value value{};
    value.kind = LOPE_NULL;
    return Value(value);
  }

  std::int32_t kind() const { return value_.kind; }  // LOPE_INT64 …
  std::optional<std::int64_t> as_int() const {
    if (value_.kind == LOPE_INT64) return value_.as.i;
    if (value_.kind == LOPE_UINT64 &&
        value_.as.u <= std::uint64_t(std::numeric_limits<std::int64_t>::max()))
      return static_cast<std::int64_t>(value_.as.u);
    return std::nullopt;
  }
  std::optional<std::uint64_t> as_unsigned() const {
    if (value_.kind == LOPE_UINT64) return value_.as.u;
    if (value_.kind == LOPE_INT64 && value_.as.i >= 0)
      return static_cast<std::uint64_t>(value_.as.i);
    return std::nullopt;
  }
  std::optional<double> as_double() const {
    if (value_.kind == LOPE_DOUBLE) return value_.as.d;
    return std::nullopt;
  }
  std::optional<bool> as_bool() const {
    if (value_.kind == LOPE_BOOL) return value_.as.i != 0;
    return std::nullopt;
  }
  // Text, or bytes.
  std::optional<std::string_view> as_text() const {
    if (value_.kind == LOPE_TEXT || value_.kind == LOPE_BYTES) return detail::to_view(value_.as.s);
    return std::nullopt;
  }
  std::optional<std::chrono::system_clock::time_point> as_timestamp() const {
    if (value_.kind != LOPE_TIMESTAMP) return std::nullopt;
    return std::chrono::system_clock::time_point(
        std::chrono::seconds(static_cast<std::int64_t>(value_.as.u)));
  }
  const lope_value& raw() const { return value_; }

 private:
  lope_value value_;
};

struct Header {
  std::string_view name;
  Value value;
};

class Message;

// What a handler sends. Everything that is left alone has a sensible default.
struct Publication {
  std::string body;
  std::string exchange;  // empty: the default exchange
  std::string routing_key;
  std::string content_type;
  std::string content_encoding;
  std::string correlation_id;
  std::string reply_to;
  std::string message_id;  // empty: the host makes a UUID
  std::string type;
  bool persistent = true;
  bool may_be_unroutable = false;  // false: an unroutable publication has its cause retried
  std::chrono::milliseconds delay{0};
  std::optional<std::chrono::system_clock::time_point> due;  // a past time: now
  std::chrono::milliseconds expiration{0};                   // 0: never
  std::uint32_t priority = 0;

  // Sets one header: another value of that name goes.
  Publication& header(std::string name, std::string value) {
    lope_value raw{};
    raw.kind = LOPE_TEXT;
    return set(std::move(name), raw, std::move(value));
  }
  Publication& header(std::string name, std::string_view value) {
    return header(std::move(name), std::string(value));
  }
  Publication& header(std::string name, const char* value) {
    return header(std::move(name), std::string(value));
  }
  template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
  Publication& header(std::string name, T value) {
    lope_value raw{};
    if constexpr (std::is_same_v<T, bool>) {
      raw.kind = LOPE_BOOL;
      raw.as.i = value ? 1 : 0;
    } else if constexpr (std::is_floating_point_v<T>) {
      raw.kind = LOPE_DOUBLE;
      raw.as.d = static_cast<double>(value);
    } else if constexpr (std::is_signed_v<T>) {
      raw.kind = LOPE_INT64;
      raw.as.i = static_cast<std::int64_t>(value);
    } else {
      raw.kind = LOPE_UINT64;
      raw.as.u = static_cast<std::uint64_t>(value);
    }
    return set(std::move(name), raw);
  }
  // As it is, and copied. The host refuses one of kind LOPE_OTHER.
  Publication& header(std::string name, const Value& value) {
    return set(std::move(name), value.raw(), std::string(value.as_text().value_or("")));
  }
  // Sets those headers of `message` that can be passed on and that are not set yet. Left out are
  // tables, arrays and decimals (LOPE_OTHER), numbers over INT64_MAX, CC and BCC; and by the host,
  // when it is published, those of the broker's bookkeeping and of Lope's. Of several of one name
  // the first counts. Throws Error if the message is not this call's, and not held.
  Publication& copy_headers(const Message& message);

  // Calls `function` with the same as the ABI has it; valid during the call only.
  template <typename Function>
  auto with_raw(Function function) const {
    std::vector<lope_header> raw_headers;
    raw_headers.reserve(headers_.size());
    for (const OwnHeader& header : headers_) {
      raw_headers.push_back({detail::to_str(header.name), header.value});
      if (is_text(header.value)) raw_headers.back().value.as.s = detail::to_str(header.text);
    }

    lope_publication raw{};
    raw.struct_size = sizeof(raw);
    raw.flags = (persistent ? 0u : std::uint32_t(LOPE_PUB_TRANSIENT)) |
                (may_be_unroutable ? std::uint32_t(LOPE_PUB_MAY_BE_UNROUTABLE) : 0u);
    raw.body = lope_bytes{body.data(), body.size()};
    raw.exchange = detail::to_str(exchange);
    raw.routing_key = detail::to_str(routing_key);
    raw.content_type = detail::to_str(content_type);
    raw.content_encoding = detail::to_str(content_encoding);
    raw.correlation_id = detail::to_str(correlation_id);
    raw.reply_to = detail::to_str(reply_to);
    raw.message_id = detail::to_str(message_id);
    raw.type = detail::to_str(type);
    raw.headers = raw_headers.data();
    raw.header_count = raw_headers.size();
    raw.delay_ms = non_negative(delay);
    if (due)
      raw.due_unix_ms = non_negative(
          std::chrono::duration_cast<std::chrono::milliseconds>(due->time_since_epoch()));
    const std::uint64_t limit = std::numeric_limits<std::uint32_t>::max();
    if (non_negative(expiration) > limit)
      throw Error(LOPE_E_INVALID, "publish: expiration is over 49 days");
    raw.expiration_ms = static_cast<std::uint32_t>(non_negative(expiration));
    raw.priority = priority;
    return function(raw);
  }

 private:
  struct OwnHeader {
    std::string name;
    lope_value value;  // as.s is not used: that is
    std::string text;
  };

  static bool is_text(const lope_value& value) {
    return value.kind == LOPE_TEXT || value.kind == LOPE_BYTES;
  }

  OwnHeader* find(std::string_view name) {
    for (OwnHeader& header : headers_)
      if (header.name == name) return &header;
    return nullptr;
  }

  Publication& set(std::string name, const lope_value& value, std::string text = {}) {
    OwnHeader header{std::move(name), value, std::move(text)};
    if (OwnHeader* const present = find(header.name)) {
      *present = std::move(header);
    } else {
      headers_.push_back(std::move(header));
    }
    return *this;
  }

  static std::uint64_t non_negative(std::chrono::milliseconds time) {
    return time.count() < 0 ? 0 : static_cast<std::uint64_t>(time.count());
  }

  std::vector<OwnHeader> headers_;
};

// One message. A view: it, and everything it hands out, is valid until the handle call returns; for
// a held message until it is settled. [in-call]; for a held message [any-thread].
class Message {
 public:
  Message(const lope_host* host, const lope_message* message) : host_(host), message_(message) {}

  // Never used again in this process; what Host::settle() takes.
  std::uint64_t id() const { return message_->id; }
  Bytes body() const { return Bytes(message_->body); }
  std::string_view body_text() const {
    return detail::to_view({static_cast<const char*>(message_->body.data), message_->body.size});
  }

  // Empty when the message does not carry it.
  std::string_view queue() const { return detail::to_view(message_->queue); }
  std::string_view exchange() const { return detail::to_view(message_->exchange); }
  std::string_view routing_key() const { return detail::to_view(message_->routing_key); }
  std::string_view consumer_tag() const { return detail::to_view(message_->consumer_tag); }
  std::string_view content_type() const { return detail::to_view(message_->content_type); }
  std::string_view content_encoding() const { return detail::to_view(message_->content_encoding); }
  std::string_view correlation_id() const { return detail::to_view(message_->correlation_id); }
  std::string_view reply_to() const { return detail::to_view(message_->reply_to); }
  std::string_view message_id() const { return detail::to_view(message_->message_id); }
  std::string_view parent_id() const { return detail::to_view(message_->parent_id); }
  std::string_view type() const { return detail::to_view(message_->type); }
  std::string_view app_id() const { return detail::to_view(message_->app_id); }
  std::string_view user_id() const { return detail::to_view(message_->user_id); }
  std::string_view expiration() const { return detail::to_view(message_->expiration); }

  std::uint32_t priority() const { return message_->priority; }
  std::uint64_t delivery_tag() const { return message_->delivery_tag; }  // the broker's, for logs
  std::uint32_t attempt() const { return message_->attempt; }            // 1 the first time
  std::uint32_t crashes() const { return message_->crashes; }  // workers it has taken down so far
  bool redelivered() const { return (message_->flags & LOPE_MSG_REDELIVERED) != 0; }
  bool persistent() const { return (message_->flags & LOPE_MSG_PERSISTENT) != 0; }

  // When the daemon got it.
  std::chrono::system_clock::time_point received() const {
    return std::chrono::system_clock::time_point(
        std::chrono::duration_cast<std::chrono::system_clock::duration>(
            std::chrono::nanoseconds(static_cast<std::int64_t>(message_->received_unix_ns))));
  }
  // The publisher's, to the second.
  std::optional<std::chrono::system_clock::time_point> timestamp() const {
    if (message_->timestamp == 0) return std::nullopt;
    return std::chrono::system_clock::time_point(
        std::chrono::seconds(static_cast<std::int64_t>(message_->timestamp)));
  }

  // The first header of that name.
  std::optional<Value> header(std::string_view name) const {
    lope_value value{};
    const lope_status status = host_->header_get(host_, message_, detail::to_str(name), &value);
    if (status == LOPE_E_NOT_FOUND) return std::nullopt;
    detail::require(status, "header_get");
    return Value(value);
  }
  // The same; nothing also when it is of another kind.
  std::optional<std::string_view> header_text(std::string_view name) const {
    const std::optional<Value> value = header(name);
    return value ? value->as_text() : std::nullopt;
  }
  std::optional<std::int64_t> header_int(std::string_view name) const {
    const std::optional<Value> value = header(name);
    return value ? value->as_int() : std::nullopt;
  }
  std::size_t header_count() const { return message_->header_count; }
  // By place. Throws Error when index is not below header_count().
  Header header_at(std::size_t index) const {
    lope_header header{};
    if (index >= header_count()) throw Error(LOPE_E_NOT_FOUND, "header_at: beyond the last header");
    detail::require(host_->header_at(host_, message_, static_cast<std::uint32_t>(index), &header),
                    "header_at");
    return Header{detail::to_view(header.name), Value(header.value)};
  }

  // Publishes on behalf of this one. Sent when this one's outcome is an ack, which the broker gets
  // once all that was published for it is confirmed; dropped with any other outcome. Throws Error
  // when the host refuses it: see lope_host::publish().
  void publish(const Publication& publication) const {
    publication.with_raw([&](const lope_publication& raw) {
      detail::require(host_->publish(host_, message_, &raw), "publish");
    });
  }
  // The same, to this one's reply_to with its correlation_id. The answer names no exchange and no
  // routing key. Throws Error also when nobody asked: reply_to() is empty.
  void reply(const Publication& publication) const {
    publication.with_raw([&](const lope_publication& raw) {
      detail::require(host_->reply(host_, message_, &raw), "reply");
    });
  }

  // A reply of the shape {"code":…,"message":…,"body":…}. `text` may be anything: what is no UTF-8
  // becomes U+FFFD. `body_json` is JSON already, and goes in as it is. Throws Error.
  void reply_json(int code, std::string_view text, std::string_view body_json = "null") const {
    Publication answer;
    answer.content_type = "application/json";
    answer.body = "{\"code\":" + std::to_string(code) +
                  ",\"message\":" + detail::json_string(text) +
                  ",\"body\":" + std::string(body_json) + "}";
    reply(answer);
  }

  // Why the outcome is not an ack; for the log and the dead letter. Throws Error.
  void explain(std::string_view reason) const {
    detail::require(host_->explain(host_, message_, detail::to_str(reason)), "explain");
  }
  // The delay of this retry only, in place of the group's retry policy. Throws Error.
  void retry_after(std::chrono::milliseconds delay) const {
    const std::uint64_t ms = delay.count() < 0 ? 0 : static_cast<std::uint64_t>(delay.count());
    detail::require(host_->retry_after(host_, message_, ms), "retry_after");
  }
  // Restarts the timeout of the running call, or of a held message. False when it was held and has
  // timed out already, or was handed back; harmless. Throws Error.
  bool keep_alive() const {
    const lope_status status = host_->keep_alive(host_, message_);
    if (status == LOPE_E_STALE) return false;
    detail::require(status, "keep_alive");
    return true;
  }

  const lope_message* raw() const noexcept { return message_; }

 private:
  const lope_host* host_;
  const lope_message* message_;
};

inline Publication& Publication::copy_headers(const Message& message) {
  for (std::size_t i = 0; i < message.header_count(); ++i) {
    const Header from = message.header_at(i);
    const std::int32_t kind = from.value.kind();
    const bool known = kind >= LOPE_INT64 && kind < LOPE_OTHER;
    const bool can_be_sent = known && (kind != LOPE_UINT64 || from.value.as_int());
    const bool distributes = from.name == "CC" || from.name == "BCC";
    if (!can_be_sent || distributes || from.name.empty() || find(from.name) != nullptr) continue;
    header(std::string(from.name), from.value);
  }
  return *this;
}

// Several messages at once, each of which wants its outcome. Valid until handle_batch() returns.
class Batch {
 public:
  Batch(const lope_host* host, const lope_batch* batch, lope_outcome* outcomes)
      : host_(host), batch_(batch), outcomes_(outcomes) {}

  std::size_t size() const { return batch_->count; }
  // Throws std::out_of_range.
  Message operator[](std::size_t index) const {
    return Message(host_, batch_->messages[checked(index)]);
  }
  // The outcome of one message; the last word counts. Throws std::out_of_range.
  void set(std::size_t index, Outcome outcome) {
    outcomes_[checked(index)] = static_cast<lope_outcome>(outcome);
  }
  void set_all(Outcome outcome) {
    for (std::size_t i = 0; i < size(); ++i) outcomes_[i] = static_cast<lope_outcome>(outcome);
  }

 private:
  std::size_t checked(std::size_t index) const {
    if (index >= size()) throw std::out_of_range("lope::Batch: no message at that place");
    return index;
  }

  const lope_host* host_;
  const lope_batch* batch_;
  lope_outcome* outcomes_;
};

// ---- The handler ---------------------------------------------------------------------------

// Derive from it, override handle() or handle_batch() or both, and say LOPE_HANDLER. The class is
// made once per thread, from a lope::Host or from nothing, and destroyed on a clean end only. Every
// call of one object comes from the thread that made it.
class Handler {
 public:
  Handler() = default;
  Handler(const Handler&) = delete;
  Handler& operator=(const Handler&) = delete;
  virtual ~Handler() = default;

  virtual Outcome handle(const Message&) {
    throw std::logic_error("the handler takes batches only");
  }
  // A message left without an outcome is retried. When it throws, messages that have an outcome by
  // then keep it.
  virtual void handle_batch(Batch&) {
    throw std::logic_error("the handler takes single messages only");
  }
  // Settle what is held. Without an override a window full of held messages waits.
  virtual void flush(FlushReason) {}
};

namespace detail {

// What lope_handler* points to.
template <typename Class>
struct Instance {
  Host host;
  std::unique_ptr<Class> object;
};

template <typename Class>
std::unique_ptr<Class> make_object([[maybe_unused]] Host host) {
  static_assert(std::is_base_of_v<Handler, Class>, "a handler derives publicly from lope::Handler");
  if constexpr (std::is_constructible_v<Class, Host>) {
    return std::make_unique<Class>(host);
  } else {
    static_assert(std::is_default_constructible_v<Class>,
                  "a handler is made from a lope::Host, or from nothing");
    return std::make_unique<Class>();
  }
}

// The message's explanation from the exception in flight, and its outcome. Only in a catch block.
// The host's statuses are of no use here: an explanation that cannot be given changes nothing.
inline lope_outcome outcome_of_exception(const lope_host* host,
                                         const lope_message* message) noexcept {
  const auto explain = [&](std::string_view why) { host->explain(host, message, to_str(why)); };
  try {
    throw;
  } catch (const Reject& reject) {
    explain(reject.what());
    return LOPE_REJECT;
  } catch (const Retry& retry) {
    explain(retry.what());
    if (retry.delay() && retry.delay()->count() >= 0)
      host->retry_after(host, message, static_cast<std::uint64_t>(retry.delay()->count()));
    return LOPE_RETRY;
  } catch (const std::exception& error) {
    explain(error.what());
    return LOPE_RETRY;
  } catch (...) {
    explain("the handler threw something that is no std::exception");
    return LOPE_RETRY;
  }
}

template <typename Class>
lope_status create(const lope_host* host, lope_handler** handler) noexcept {
  const auto explain = [&](std::string_view why) { host->explain(host, nullptr, to_str(why)); };
  try {
    const Host face(host, ::lope_plugin_v1.options);
    auto instance =
        std::make_unique<Instance<Class>>(Instance<Class>{face, make_object<Class>(face)});
    *handler = reinterpret_cast<lope_handler*>(instance.release());
    return LOPE_OK;
  } catch (const InvalidConfiguration& error) {
    explain(error.what());
    return LOPE_E_INVALID;
  } catch (const std::exception& error) {
    explain(error.what());
    return LOPE_E_FAILED;
  } catch (...) {
    explain("the handler's constructor threw something that is no std::exception");
    return LOPE_E_FAILED;
  }
}

template <typename Class>
Instance<Class>& instance_of(lope_handler* handler) noexcept {
  return *reinterpret_cast<Instance<Class>*>(handler);
}

template <typename Class>
void destroy(lope_handler* handler) noexcept {
  delete &instance_of<Class>(handler);
}

template <typename Class>
lope_outcome handle(lope_handler* handler, const lope_message* raw) noexcept {
  Instance<Class>& instance = instance_of<Class>(handler);
  try {
    const Message message(instance.host.raw(), raw);
    return static_cast<lope_outcome>(instance.object->handle(message));
  } catch (...) {
    return outcome_of_exception(instance.host.raw(), raw);
  }
}

template <typename Class>
void handle_batch(lope_handler* handler, const lope_batch* raw, lope_outcome* outcomes) noexcept {
  Instance<Class>& instance = instance_of<Class>(handler);
  try {
    Batch batch(instance.host.raw(), raw, outcomes);
    instance.object->handle_batch(batch);
  } catch (...) {
    for (std::uint32_t i = 0; i < raw->count; ++i)
      if (outcomes[i] == LOPE_NO_OUTCOME)
        outcomes[i] = outcome_of_exception(instance.host.raw(), raw->messages[i]);
  }
}

template <typename Class>
lope_status flush(lope_handler* handler, std::uint32_t reason) noexcept {
  Instance<Class>& instance = instance_of<Class>(handler);
  try {
    instance.object->flush(static_cast<FlushReason>(reason));
    return LOPE_OK;
  } catch (const std::exception& error) {
    instance.host.error(error.what());
    return LOPE_E_FAILED;
  } catch (...) {
    instance.host.error("flush threw something that is no std::exception");
    return LOPE_E_FAILED;
  }
}

template <std::size_t kSize>
constexpr bool has_end(const lope_option (&options)[kSize]) {
  return options[kSize - 1].name == nullptr;
}
constexpr bool has_end(std::nullptr_t) { return true; }

// A member that the class does not override is NULL in the table: the host then knows that it is
// not there.
template <typename Class>
constexpr lope_plugin make_plugin(const char* name, const char* version, const char* description,
                                  const lope_option* options) {
  constexpr bool kHandles = !std::is_same_v<decltype(&Class::handle), decltype(&Handler::handle)>;
  constexpr bool kHandlesBatches =
      !std::is_same_v<decltype(&Class::handle_batch), decltype(&Handler::handle_batch)>;
  constexpr bool kFlushes = !std::is_same_v<decltype(&Class::flush), decltype(&Handler::flush)>;
  static_assert(kHandles || kHandlesBatches, "a handler overrides handle() or handle_batch()");

  lope_plugin plugin{};
  plugin.struct_size = sizeof(lope_plugin);
  plugin.abi_minor = 0;  // this face asks with LOPE_HAS() before it uses anything newer
  plugin.name = name;
  plugin.version = version;
  plugin.description = description;
  plugin.options = options;
  plugin.create = &create<Class>;
  plugin.destroy = &destroy<Class>;
  if constexpr (kHandles) plugin.handle = &handle<Class>;
  if constexpr (kHandlesBatches) plugin.handle_batch = &handle_batch<Class>;
  if constexpr (kFlushes) plugin.flush = &flush<Class>;
  return plugin;
}

}  // namespace detail
}  // namespace lope

// Makes Class the handler of this shared object; it then takes any option. Once, in one source
// file, outside any namespace, without a semicolon.
#define LOPE_HANDLER(Class, name, version) LOPE_HANDLER_WITH(Class, name, version, nullptr, nullptr)

// The same with a description (or nullptr), and the options it takes: an array at namespace scope
// that ends with lope::kEndOfOptions (or nullptr). Options that are not in the table are refused by
// the host.
#define LOPE_HANDLER_WITH(Class, name, version, description, options)          \
  static_assert(::lope::detail::has_end(options),                              \
                "an option table ends with lope::kEndOfOptions");              \
  constexpr lope_plugin lope_plugin_v1 =                                       \
      ::lope::detail::make_plugin<Class>(name, version, description, options); \
  static_assert(&lope_plugin_v1 == &::lope_plugin_v1, "LOPE_HANDLER is not for namespaces");

#endif  // LOPE_HANDLER_HPP
