// A host for tests of handlers: header-only, C++17 or later, for any test framework. What a handler
// is given and what becomes of its calls is as in a worker; nothing of Lope need be installed but
// the headers, and there is no broker.
//
//   lope::testing::FakeHost host;
//   host.options = {{"greeting", "Hello"}};
//   lope::testing::Driver greet(host);  // of the handler that is linked into the test
//   const lope::testing::Result result = greet.handle("World");
//   assert(result.outcome == lope::Outcome::ack && result.logged("Hello, World!"));
//
// As a worker does, it refuses options that the handler's table does not have, calls on the wrong
// thread or outside of a call, and publications that are not valid. A message's memory is freed as
// soon as its life is over, so that a sanitizer finds who still reads it.
//
// Threads: a Driver is used by the thread that made it. A handler may use any.
#ifndef LOPE_TESTING_HPP
#define LOPE_TESTING_HPP

#include <dlfcn.h>
#include <lope/handler.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace lope::testing {

// ---- What goes in, and what comes out -------------------------------------------------------

// A header with its own memory.
struct OwnHeader {
  OwnHeader(std::string name_, const lope_value& from) : name(std::move(name_)), value(from) {
    if (is_text()) text = detail::to_view(from.as.s);
  }

  bool is_text() const { return value.kind == LOPE_TEXT || value.kind == LOPE_BYTES; }
  // A view, which lives as long as this one stays where it is.
  lope_header raw() const {
    lope_header header{detail::to_str(name), value};
    if (is_text()) header.value.as.s = detail::to_str(text);
    return header;
  }

  std::string name;
  lope_value value;  // as.s is not used: that is
  std::string text;
};

// A message for the handler. Everything that is left alone has a sensible value.
struct Delivery {
  Delivery() = default;
  Delivery(const char* body_) : body(body_) {}
  Delivery(std::string body_) : body(std::move(body_)) {}

  // Adds one header, of any kind that Publication::header() takes. There may be several of a name.
  template <typename T>
  Delivery& header(const std::string& name, const T& value) {
    Publication with_it;
    with_it.header(name, value);
    with_it.with_raw([&](const lope_publication& raw) { add(name, raw.headers[0].value); });
    return *this;
  }
  // A table or an array, which a handler cannot look into.
  Delivery& opaque_header(const std::string& name) {
    lope_value value{};
    value.kind = LOPE_OTHER;
    add(name, value);
    return *this;
  }

  std::string body;
  std::string queue = "test";
  std::string exchange;
  std::string routing_key = "test";
  std::string consumer_tag = "test";
  std::string content_type;
  std::string content_encoding;
  std::string correlation_id;
  std::string reply_to;
  std::string message_id;
  std::string parent_id;
  std::string type;
  std::string app_id;
  std::string user_id;
  std::string expiration;
  std::uint64_t timestamp = 0;  // seconds since 1970
  std::uint32_t priority = 0;
  std::uint32_t attempt = 1;
  std::uint32_t crashes = 0;
  bool redelivered = false;
  bool persistent = true;
  std::vector<OwnHeader> headers;

 private:
  void add(const std::string& name, const lope_value& value) { headers.emplace_back(name, value); }
};

// What a handler has published, or replied. Of the headers those are missing that a worker leaves
// out, and those that it adds.
struct Sent {
  // The first of that name. The view lives as long as this one does.
  std::optional<Value> header(std::string_view name) const {
    for (const OwnHeader& header : headers)
      if (header.name == name) return Value(header.raw().value);
    return std::nullopt;
  }
  std::optional<std::string_view> header_text(std::string_view name) const {
    const std::optional<Value> value = header(name);
    return value ? value->as_text() : std::nullopt;
  }

  std::string body;
  std::string exchange;
  std::string routing_key;  // of a reply: the request's reply_to
  std::string content_type;
  std::string content_encoding;
  std::string correlation_id;
  std::string reply_to;
  std::string message_id;  // empty: the worker would make one
  std::string type;
  bool persistent = true;
  bool may_be_unroutable = false;
  std::chrono::milliseconds delay{0};
  std::uint64_t due_unix_ms = 0;
  std::chrono::milliseconds expiration{0};
  std::uint32_t priority = 0;
  std::vector<OwnHeader> headers;
};

struct LogLine {
  Level level;
  std::string text;
};

// What became of a message.
struct Result {
  // Is there such a line? `part` of its text will do.
  bool logged(std::string_view part) const {
    return std::any_of(logs.begin(), logs.end(), [part](const LogLine& line) {
      return line.text.find(part) != std::string::npos;
    });
  }

  std::uint64_t id = 0;                                  // the message's
  Outcome outcome{};                                     // Outcome{}: none
  std::string reason;                                    // why it is no ack
  std::optional<std::chrono::milliseconds> retry_after;  // of a retry
  std::vector<Sent> publications;                        // sent with an ack only
  std::vector<Sent> replies;                             // the same
  int keep_alives = 0;
  std::vector<LogLine> logs;  // of the call; none in the result of a settled one
};

struct MetricState {
  std::int32_t kind;       // LOPE_COUNTER, LOPE_GAUGE, LOPE_DURATION
  std::int64_t value = 0;  // a counter's sum, a gauge's last, a duration's sum in nanoseconds
  int records = 0;
};

// ---- The host -------------------------------------------------------------------------------

class Driver;

// One for each Driver. The members without an underscore are set before that is made, but for the
// statuses, which any thread may set at any time.
class FakeHost {
 public:
  explicit FakeHost(std::string group_ = "test") : group(std::move(group_)) { fill_table(); }
  FakeHost(const FakeHost&) = delete;
  FakeHost& operator=(const FakeHost&) = delete;

  std::string group;
  std::uint32_t worker_index = 0;
  std::uint32_t thread_index = 0;
  std::map<std::string, std::string, std::less<>> options;  // nested keys joined with '.'
  std::string options_json = "{}";
  std::uint64_t max_message_bytes = 128 * 1024 * 1024;

  // Returned in place of doing it, when not LOPE_OK.
  std::atomic<lope_status> publish_status{LOPE_OK};  // of reply() too
  std::atomic<lope_status> settle_status{LOPE_OK};
  std::atomic<lope_status> retry_after_status{LOPE_OK};
  std::atomic<lope_status> keep_alive_status{LOPE_OK};

  // [any-thread] Clocks that stand still but for this. They begin at one second and at the
  // beginning of 2026.
  void advance(std::chrono::nanoseconds time) {
    const std::lock_guard<std::mutex> lock(mutex_);
    passed_ns_ += static_cast<std::uint64_t>(time.count());
  }
  // [any-thread] What stopping() says.
  void set_stopping(bool stopping) {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = stopping;
  }
  // [any-thread] Lines below it are dropped.
  void set_log_level(Level lowest) {
    const std::lock_guard<std::mutex> lock(mutex_);
    log_level_ = lowest;
  }

  // [any-thread] Every line so far, the host's own warnings among them.
  std::vector<LogLine> logs() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return logs_;
  }
  // [any-thread] Nothing when it was not registered.
  std::optional<MetricState> metric(std::string_view name) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [registered, state] : metrics_)
      if (registered == name) return state;
    return std::nullopt;
  }
  // [any-thread] How many messages the handler keeps.
  std::size_t held() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return static_cast<std::size_t>(std::count_if(
        records_.begin(), records_.end(),
        [](const auto& entry) { return entry.second->held && !entry.second->handed_back; }));
  }
  // [any-thread] Takes a held message away, as the timeout does: settle() and keep_alive() then say
  // LOPE_E_STALE. False when it is not held.
  bool take_back(std::uint64_t id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = records_.find(id);
    if (found == records_.end() || !found->second->held || found->second->handed_back) return false;
    found->second->handed_back = true;
    return true;
  }

  const lope_host* raw() const { return &padded_.table; }

 private:
  friend class Driver;

  static constexpr std::size_t kMaxExplanation = 1024;
  static constexpr std::size_t kMaxShortText = 255;
  static constexpr std::size_t kMaxPropertyBytes = 127 * 1024;
  static constexpr std::size_t kMaxPublishedBytes = 128 * 1024 * 1024;
  static constexpr std::size_t kMaxMetrics = 64;
  static constexpr std::uint64_t kMaxRetryAfter = 366ull * 24 * 3600 * 1000;  // ms
  static constexpr std::uint64_t kUnixBegin = 1'767'225'600'000'000'000;      // ns

  // What a handler did for a message.
  struct Effects {
    std::string reason;
    std::optional<std::chrono::milliseconds> retry_after;
    std::vector<Sent> publications;
    std::vector<Sent> replies;
    std::size_t published_bytes = 0;
    int keep_alives = 0;

    bool any() const {
      return !reason.empty() || retry_after || !publications.empty() || !replies.empty();
    }
    void add(Effects&& from) {
      if (!from.reason.empty()) reason = std::move(from.reason);
      if (from.retry_after) retry_after = from.retry_after;
      for (Sent& sent : from.publications) publications.push_back(std::move(sent));
      for (Sent& sent : from.replies) replies.push_back(std::move(sent));
      published_bytes += from.published_bytes;
      keep_alives += from.keep_alives;
    }
  };

  // A message whose life is not over.
  struct Record {
    Delivery delivery;
    lope_message message{};
    Effects effects;
    // By other threads, before the handler has returned.
    Effects early;
    std::optional<Outcome> early_outcome;
    bool held = false;
    bool handed_back = false;
  };

  struct PaddedTable {
    lope_host table;
    lope_status (*spare[32])() noexcept;  // where a newer handler would look for functions
  };

  static FakeHost& self(const lope_host* host) { return *static_cast<FakeHost*>(host->host_data); }
  static std::string_view view(lope_str text) { return detail::to_view(text); }

  // One of the functions below, as the table has them.
  template <auto kFunction, typename Type = decltype(kFunction)>
  struct Call;
  template <auto kFunction, typename Answer, typename... Arguments>
  struct Call<kFunction, Answer (FakeHost::*)(Arguments...)> {
    static Answer call(const lope_host* host, Arguments... arguments) noexcept {
      return (self(host).*kFunction)(arguments...);
    }
  };
  template <auto kFunction, typename Answer, typename... Arguments>
  struct Call<kFunction, Answer (FakeHost::*)(Arguments...) const> {
    static Answer call(const lope_host* host, Arguments... arguments) noexcept {
      return (self(host).*kFunction)(arguments...);
    }
  };

  void fill_table() {
    lope_host& table = padded_.table;
    table.struct_size = sizeof(lope_host);
    table.abi_minor = LOPE_ABI_MINOR;
    table.host_data = this;
    table.log = Call<&FakeHost::log>::call;
    table.log_enabled = Call<&FakeHost::log_enabled>::call;
    table.monotonic_ns = Call<&FakeHost::monotonic_ns>::call;
    table.unix_ns = Call<&FakeHost::unix_ns>::call;
    table.stopping = Call<&FakeHost::stopping>::call;
    table.metric_record = Call<&FakeHost::metric_record>::call;
    table.settle = Call<&FakeHost::settle>::call;
    table.option = Call<&FakeHost::option>::call;
    table.options_json = Call<&FakeHost::whole_options>::call;
    table.metric_register = Call<&FakeHost::metric_register>::call;
    table.header_get = Call<&FakeHost::header_get>::call;
    table.header_at = Call<&FakeHost::header_at>::call;
    table.publish = Call<&FakeHost::publish>::call;
    table.reply = Call<&FakeHost::reply>::call;
    table.explain = Call<&FakeHost::explain>::call;
    table.retry_after = Call<&FakeHost::retry_after>::call;
    table.keep_alive = Call<&FakeHost::keep_alive>::call;
    table.extension = [](const lope_host*, const char*) noexcept -> const void* { return nullptr; };
    for (auto& spare : padded_.spare)
      spare = []() noexcept -> lope_status { return LOPE_E_UNSUPPORTED; };
  }

  // ---- The functions of the table.

  void log(std::int32_t level, lope_str text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    write_line(static_cast<Level>(level), std::string(view(text)));
  }
  std::int32_t log_enabled(std::int32_t level) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return static_cast<Level>(level) >= log_level_ ? 1 : 0;
  }
  std::uint64_t monotonic_ns() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return 1'000'000'000 + passed_ns_;
  }
  std::uint64_t unix_ns() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return kUnixBegin + passed_ns_;
  }
  std::int32_t stopping() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return stopping_ ? 1 : 0;
  }

  lope_status option(lope_str key, lope_str* value) const {
    *value = {};
    if (!on_own_thread()) return LOPE_E_WRONG_THREAD;
    if (const auto found = options.find(view(key)); found != options.end()) {
      *value = detail::to_str(found->second);
      return LOPE_OK;
    }
    for (const lope_option* option = declared_; option && option->name; ++option) {
      if (option->name != view(key) || option->default_value == nullptr) continue;
      *value = detail::to_str(option->default_value);
      return LOPE_OK;
    }
    return LOPE_E_NOT_FOUND;
  }
  lope_str whole_options() const { return detail::to_str(options_json); }

  lope_status metric_register(std::int32_t kind, lope_str name, lope_str, std::uint32_t* id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!on_own_thread() || !creating_) return LOPE_E_WRONG_THREAD;
    if (kind < LOPE_COUNTER || kind > LOPE_DURATION || !is_metric_name(kind, view(name)))
      return LOPE_E_INVALID;
    for (std::size_t i = 0; i < metrics_.size(); ++i) {
      if (metrics_[i].first != view(name)) continue;
      *id = static_cast<std::uint32_t>(i + 1);
      return metrics_[i].second.kind == kind ? LOPE_OK : LOPE_E_INVALID;
    }
    if (metrics_.size() == kMaxMetrics) return LOPE_E_TOO_LARGE;
    metrics_.emplace_back(view(name), MetricState{kind});
    *id = static_cast<std::uint32_t>(metrics_.size());
    return LOPE_OK;
  }
  lope_status metric_record(std::uint32_t id, std::int64_t value) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (id == 0 || id > metrics_.size()) return LOPE_E_NOT_FOUND;
    MetricState& metric = metrics_[id - 1].second;
    if (metric.kind != LOPE_GAUGE && value < 0) return LOPE_E_INVALID;
    metric.value = metric.kind == LOPE_GAUGE ? value : metric.value + value;
    ++metric.records;
    return LOPE_OK;
  }

  lope_status header_get(const lope_message* message, lope_str name, lope_value* value) const {
    *value = {};
    const std::lock_guard<std::mutex> lock(mutex_);
    const Record* const record = find(message);
    if (record == nullptr) return LOPE_E_WRONG_THREAD;
    for (const OwnHeader& header : record->delivery.headers) {
      if (header.name != view(name)) continue;
      *value = header.raw().value;
      return LOPE_OK;
    }
    return LOPE_E_NOT_FOUND;
  }
  lope_status header_at(const lope_message* message, std::uint32_t index,
                        lope_header* header) const {
    *header = {};
    const std::lock_guard<std::mutex> lock(mutex_);
    const Record* const record = find(message);
    if (record == nullptr) return LOPE_E_WRONG_THREAD;
    if (index >= record->delivery.headers.size()) return LOPE_E_NOT_FOUND;
    *header = record->delivery.headers[index].raw();
    return LOPE_OK;
  }

  lope_status publish(const lope_message* cause, const lope_publication* publication) {
    return keep(cause, publication, false);
  }
  lope_status reply(const lope_message* request, const lope_publication* publication) {
    return keep(request, publication, true);
  }

  lope_status explain(const lope_message* message, lope_str reason) {
    const std::string_view text = view(reason).substr(0, kMaxExplanation);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (message == nullptr) {
      if (!on_own_thread()) return LOPE_E_WRONG_THREAD;
      create_explanation_ = text;
      return LOPE_OK;
    }
    Effects* const effects = effects_of(message);
    if (effects == nullptr) return LOPE_E_WRONG_THREAD;
    effects->reason = text;
    return LOPE_OK;
  }
  lope_status retry_after(const lope_message* message, std::uint64_t ms) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Effects* const effects = effects_of(message);
    if (effects == nullptr) return LOPE_E_WRONG_THREAD;
    if (const lope_status status = retry_after_status; status != LOPE_OK) return status;
    effects->retry_after = std::chrono::milliseconds(std::min(ms, kMaxRetryAfter));
    return LOPE_OK;
  }
  lope_status keep_alive(const lope_message* message) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Record* const record = find(message);
    if (record == nullptr) return LOPE_E_WRONG_THREAD;
    if (const lope_status status = keep_alive_status; status != LOPE_OK) return status;
    if (record->handed_back) return LOPE_E_STALE;
    ++effects_of(message)->keep_alives;
    return LOPE_OK;
  }

  lope_status settle(std::uint64_t id, lope_outcome raw_outcome) {
    if (raw_outcome < LOPE_ACK || raw_outcome > LOPE_REJECT) return LOPE_E_INVALID;
    const auto outcome = static_cast<Outcome>(raw_outcome);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const lope_status status = settle_status; status != LOPE_OK) return status;
    const auto found = records_.find(id);
    Record* const record = found == records_.end() ? nullptr : found->second.get();
    if (record != nullptr && record->held) {
      const bool current = !record->handed_back;
      if (current) finish(*record, outcome);
      records_.erase(found);
      if (current) return LOPE_OK;
    } else if (record != nullptr && !record->early_outcome) {
      record->early_outcome = outcome;
      return LOPE_OK;
    }
    warn("settle() of message " + std::to_string(id) +
         ", which is settled already, was never kept, or was handed back");
    return LOPE_E_STALE;
  }

  // ---- What stands behind them. With the mutex held, but for on_own_thread().

  bool on_own_thread() const { return std::this_thread::get_id() == thread_; }

  void write_line(Level level, std::string text) {
    if (level >= log_level_) logs_.push_back({level, std::move(text)});
  }
  void warn(std::string text) { write_line(Level::warn, std::move(text)); }

  // What looks like a message may be none any more: it is not read before it is found. On other
  // threads a message of the running call is there until one of them has settled it.
  Record* find(const lope_message* message) const {
    for (const auto& [id, record] : records_) {
      if (&record->message != message) continue;
      const bool over = !record->held && !on_own_thread() && record->early_outcome;
      return over ? nullptr : record.get();
    }
    return nullptr;
  }
  Effects* effects_of(const lope_message* message) {
    Record* const record = find(message);
    if (record == nullptr) return nullptr;
    return record->held || on_own_thread() ? &record->effects : &record->early;
  }

  static bool is_metric_name(std::int32_t kind, std::string_view name) {
    const auto ends_with = [&name](std::string_view end) {
      return name.size() >= end.size() && name.substr(name.size() - end.size()) == end;
    };
    const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    });
    if (!plain || name.empty() || name.size() > 63 || name[0] < 'a') return false;
    if (kind == LOPE_COUNTER && ends_with("_total")) name.remove_suffix(6);
    for (const std::string_view end : {"_total", "_count", "_sum", "_bucket", "_info", "_created"})
      if (ends_with(end)) return false;
    return !name.empty();
  }

  static bool starts_with(std::string_view text, std::string_view start) {
    return text.substr(0, start.size()) == start;
  }
  static bool is_bookkeeping(std::string_view name) {
    return starts_with(name, "x-lope-") || starts_with(name, "x-first-death-") ||
           starts_with(name, "x-last-death-") || name == "x-death" || name == "x-delivery-count";
  }
  static bool can_be_sent(const lope_value& value) {
    if (value.kind == LOPE_UINT64) return value.as.u <= INT64_MAX;
    return value.kind >= LOPE_INT64 && value.kind < LOPE_OTHER;
  }

  // Takes over the headers, and adds up what they and the texts weigh.
  static lope_status read_headers(const lope_publication& from, Sent& sent, std::size_t& size) {
    for (std::size_t i = 0; i < from.header_count; ++i) {
      const lope_header& header = from.headers[i];
      const std::string_view name = view(header.name);
      if (name.empty() || name.size() > kMaxShortText) return LOPE_E_INVALID;
      if (is_bookkeeping(name)) continue;
      if (name == "CC" || name == "BCC" || !can_be_sent(header.value)) return LOPE_E_INVALID;
      sent.headers.emplace_back(std::string(name), header.value);
      size += name.size() + 2 + (sent.headers.back().is_text() ? 4 + header.value.as.s.size : 8);
    }
    return size > kMaxPropertyBytes ? LOPE_E_TOO_LARGE : LOPE_OK;
  }

  lope_status read(const lope_publication& from, Sent& sent, std::size_t& size) const {
    constexpr std::uint32_t kFlags = LOPE_PUB_TRANSIENT | LOPE_PUB_MAY_BE_UNROUTABLE;
    if (from.struct_size < sizeof from) return LOPE_E_INVALID;
    const auto* const bytes = reinterpret_cast<const unsigned char*>(&from);
    const bool newer = std::any_of(bytes + sizeof from, bytes + from.struct_size,
                                   [](unsigned char byte) { return byte != 0; });
    if (newer || (from.flags & ~kFlags) != 0) return LOPE_E_UNSUPPORTED;
    const std::pair<lope_str, std::string*> texts[] = {
        {from.exchange, &sent.exchange},
        {from.routing_key, &sent.routing_key},
        {from.content_type, &sent.content_type},
        {from.content_encoding, &sent.content_encoding},
        {from.correlation_id, &sent.correlation_id},
        {from.reply_to, &sent.reply_to},
        {from.message_id, &sent.message_id},
        {from.type, &sent.type}};
    for (const auto& [text, member] : texts) {
      if (text.size > kMaxShortText) return LOPE_E_INVALID;
      *member = view(text);
      size += text.size;
    }
    if (from.priority > 255) return LOPE_E_INVALID;
    if (from.body.size > max_message_bytes) return LOPE_E_TOO_LARGE;
    if (from.body.size > 0)
      sent.body.assign(static_cast<const char*>(from.body.data), from.body.size);
    sent.persistent = (from.flags & LOPE_PUB_TRANSIENT) == 0;
    sent.may_be_unroutable = (from.flags & LOPE_PUB_MAY_BE_UNROUTABLE) != 0;
    sent.delay = std::chrono::milliseconds(from.delay_ms);
    sent.due_unix_ms = from.due_unix_ms;
    sent.expiration = std::chrono::milliseconds(from.expiration_ms);
    sent.priority = from.priority;
    return read_headers(from, sent, size);
  }

  lope_status keep(const lope_message* cause, const lope_publication* publication, bool is_reply) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Record* const record = find(cause);
    if (record == nullptr) return LOPE_E_WRONG_THREAD;
    if (const lope_status status = publish_status; status != LOPE_OK) return status;
    Sent sent;
    std::size_t size = 0;
    if (const lope_status status = read(*publication, sent, size); status != LOPE_OK) return status;
    if (is_reply) {
      const Delivery& request = record->delivery;
      if (request.reply_to.empty() || !sent.exchange.empty() || !sent.routing_key.empty())
        return LOPE_E_INVALID;
      sent.routing_key = request.reply_to;
      if (sent.correlation_id.empty()) sent.correlation_id = request.correlation_id;
      sent.may_be_unroutable = true;
    }
    Effects& effects = *effects_of(cause);
    size += sent.body.size() + effects.published_bytes;
    if (size > kMaxPublishedBytes && effects.published_bytes > 0) return LOPE_E_TOO_LARGE;
    effects.published_bytes = size;
    (is_reply ? effects.replies : effects.publications).push_back(std::move(sent));
    return LOPE_OK;
  }

  static Result result_of(const Record& record, Outcome outcome) {
    Result result;
    result.id = record.message.id;
    result.outcome = outcome;
    result.keep_alives = record.effects.keep_alives;
    if (outcome == Outcome::ack) {
      result.publications = record.effects.publications;
      result.replies = record.effects.replies;
    } else {
      result.reason = record.effects.reason;
      result.retry_after = record.effects.retry_after;
    }
    return result;
  }
  void finish(const Record& record, Outcome outcome) {
    settled_.insert_or_assign(record.message.id, result_of(record, outcome));
    settled_changed_.notify_all();
  }

  // ---- For the Driver, on its thread.

  void open(const lope_plugin& plugin) {
    thread_ = std::this_thread::get_id();
    declared_ = plugin.options;
    create_explanation_.clear();
    padded_.table.group = detail::to_str(group);
    padded_.table.worker_index = worker_index;
    padded_.table.thread_index = thread_index;
    check_options();
  }

  static std::string expected_instead(std::int32_t kind, std::string_view text) {
    if (kind == LOPE_INT64 && !detail::parse_option<std::int64_t>(text)) return "an integer";
    if (kind == LOPE_UINT64 && !detail::parse_option<std::uint64_t>(text))
      return "an integer of at least 0";
    if (kind == LOPE_DOUBLE && !detail::parse_option<double>(text)) return "a number";
    if (kind == LOPE_BOOL && !detail::parse_option<bool>(text)) return "true or false";
    return "";
  }
  const lope_option* declaration_of(std::string_view key) const {
    const lope_option* best = nullptr;
    for (const lope_option* option = declared_; option->name != nullptr; ++option) {
      if (option->name == key) return option;
      const bool longer =
          best == nullptr || std::strlen(option->name) > std::string_view(best->name).size();
      if (detail::is_option(option->name, key) && longer) best = option;
    }
    return best;
  }
  void check_options() const {
    if (declared_ == nullptr) return;
    std::string problems;
    const auto problem = [&problems](const std::string& key, const std::string& text) {
      problems += (problems.empty() ? "option '" : "; option '") + key + "': " + text;
    };
    for (const auto& [key, value] : options) {
      const lope_option* const option = declaration_of(key);
      if (option == nullptr) {
        problem(key, "the handler takes no such option");
      } else if (const std::string expected = expected_instead(option->kind, value);
                 !expected.empty()) {
        const bool secret = (option->flags & LOPE_OPTION_SECRET) != 0;
        problem(key, "expected " + expected + ", found " +
                         (secret ? "something else" : "'" + value + "'"));
      }
    }
    for (const lope_option* option = declared_; option->name != nullptr; ++option) {
      const bool configured = std::any_of(
          options.begin(), options.end(),
          [option](const auto& entry) { return detail::is_option(option->name, entry.first); });
      if (!configured && option->default_value == nullptr)
        problem(option->name, "expected a value, found none");
    }
    if (!problems.empty()) throw InvalidConfiguration(problems);
  }

  lope_status create(const lope_plugin& plugin, lope_handler** handler) {
    if (plugin.create == nullptr) return LOPE_OK;
    creating_ = true;
    const lope_status status = plugin.create(raw(), handler);
    creating_ = false;
    return status;
  }

  // The message lives from here on. Its memory stays where it is.
  const lope_message* begin(Delivery delivery) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::uint64_t id = ++last_id_;
    auto& record = *records_.emplace(id, std::make_unique<Record>()).first->second;
    record.delivery = std::move(delivery);
    const Delivery& from = record.delivery;
    lope_message& message = record.message;
    message.struct_size = sizeof message;
    message.flags = (from.redelivered ? std::uint32_t(LOPE_MSG_REDELIVERED) : 0u) |
                    (from.persistent ? std::uint32_t(LOPE_MSG_PERSISTENT) : 0u);
    message.id = message.delivery_tag = id;
    message.received_unix_ns = kUnixBegin + passed_ns_;
    message.timestamp = from.timestamp;
    message.attempt = from.attempt;
    message.crashes = from.crashes;
    message.body = {from.body.data(), from.body.size()};
    message.queue = detail::to_str(from.queue);
    message.exchange = detail::to_str(from.exchange);
    message.routing_key = detail::to_str(from.routing_key);
    message.consumer_tag = detail::to_str(from.consumer_tag);
    message.content_type = detail::to_str(from.content_type);
    message.content_encoding = detail::to_str(from.content_encoding);
    message.correlation_id = detail::to_str(from.correlation_id);
    message.reply_to = detail::to_str(from.reply_to);
    message.message_id = detail::to_str(from.message_id);
    message.parent_id = detail::to_str(from.parent_id);
    message.type = detail::to_str(from.type);
    message.app_id = detail::to_str(from.app_id);
    message.user_id = detail::to_str(from.user_id);
    message.expiration = detail::to_str(from.expiration);
    message.priority = from.priority;
    message.header_count = static_cast<std::uint32_t>(from.headers.size());
    return &message;
  }

  std::size_t log_count() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return logs_.size();
  }

  // Its handler's call has returned.
  Result end(std::uint64_t id, Outcome outcome, std::size_t first_line) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = records_.find(id);
    Record& record = *found->second;
    if (outcome == Outcome::hold) {
      record.effects.add(std::move(record.early));
      record.held = true;
    } else if (!record.early_outcome) {
      record.effects.add(std::move(record.early));
    } else {
      warn("another thread settled message " + std::to_string(id) +
           ", but its handler did not keep it: the outcome that the handler returned counts, and "
           "nothing else");
    }
    Result result = result_of(record, outcome);
    result.logs.assign(logs_.begin() + static_cast<std::ptrdiff_t>(first_line), logs_.end());
    if (outcome == Outcome::hold && record.early_outcome) finish(record, *record.early_outcome);
    if (outcome != Outcome::hold || record.early_outcome) records_.erase(found);
    return result;
  }

  void hand_back() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [id, record] : records_) record->handed_back = true;
  }

  std::optional<Result> wait_settled(std::uint64_t id, std::chrono::milliseconds limit) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto there = [&] { return settled_.count(id) != 0; };
    if (!settled_changed_.wait_for(lock, limit, there)) return std::nullopt;
    return settled_.at(id);
  }

  PaddedTable padded_{};
  std::thread::id thread_ = std::this_thread::get_id();
  const lope_option* declared_ = nullptr;
  bool creating_ = false;
  mutable std::mutex mutex_;  // guards the rest
  std::uint64_t passed_ns_ = 0;
  bool stopping_ = false;
  Level log_level_ = Level::debug;
  std::vector<LogLine> logs_;
  std::string create_explanation_;
  std::vector<std::pair<std::string, MetricState>> metrics_;
  std::uint64_t last_id_ = 0;
  std::map<std::uint64_t, std::unique_ptr<Record>> records_;
  std::map<std::uint64_t, Result> settled_;
  std::condition_variable settled_changed_;
};

// ---- The driver -----------------------------------------------------------------------------

// The table of a handler's .so file, which is never unloaded. Throws std::runtime_error.
inline const lope_plugin& load(const std::string& path) {
  void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error(::dlerror());
  const void* const table = ::dlsym(library, "lope_plugin_v1");
  if (table == nullptr) throw std::runtime_error(path + ": no symbol lope_plugin_v1");
  return *static_cast<const lope_plugin*>(table);
}

// One instance of a handler, on the thread that makes this.
class Driver {
 public:
  // Makes the instance, of the handler that is linked in, or of one that load() gave. Throws
  // InvalidConfiguration when the options are refused, by its table or by itself, and Error when it
  // could not be made otherwise.
  explicit Driver(FakeHost& host, const lope_plugin& plugin = ::lope_plugin_v1)
      : host_(host), plugin_(plugin) {
    host_.open(plugin);
    const lope_status status = host_.create(plugin, &instance_);
    if (status == LOPE_E_INVALID) throw InvalidConfiguration(host_.create_explanation_);
    if (status != LOPE_OK) throw Error(status, host_.create_explanation_);
  }
  // The end as in a worker: a last flush(), unless there was one, and what is still held goes back.
  ~Driver() {
    if (!drained_) flush(FlushReason::drain);
    if (plugin_.destroy != nullptr) plugin_.destroy(instance_);
  }
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  // One message, with handle() or, where there is none, as a batch of one.
  Result handle(Delivery delivery) {
    if (plugin_.handle == nullptr) return handle_batch({std::move(delivery)}).front();
    const std::size_t first_line = host_.log_count();
    const lope_message* const message = host_.begin(std::move(delivery));
    const std::uint64_t id = message->id;
    const lope_outcome outcome = plugin_.handle(instance_, message);
    return host_.end(id, static_cast<Outcome>(outcome), first_line);
  }

  // Many, with handle_batch() or, where there is none, one by one. A result for each; the lines of
  // the log are in all of them.
  std::vector<Result> handle_batch(std::vector<Delivery> deliveries) {
    std::vector<Result> results;
    if (!has_batch()) {
      for (Delivery& delivery : deliveries) results.push_back(handle(std::move(delivery)));
      return results;
    }
    const std::size_t first_line = host_.log_count();
    std::vector<const lope_message*> messages;
    std::vector<std::uint64_t> ids;
    for (Delivery& delivery : deliveries) {
      messages.push_back(host_.begin(std::move(delivery)));
      ids.push_back(messages.back()->id);
    }
    std::vector<lope_outcome> outcomes(messages.size(), LOPE_NO_OUTCOME);
    const lope_batch batch{sizeof(lope_batch), static_cast<std::uint32_t>(messages.size()),
                           messages.data()};
    plugin_.handle_batch(instance_, &batch, outcomes.data());
    for (std::size_t i = 0; i < ids.size(); ++i)
      results.push_back(host_.end(ids[i], static_cast<Outcome>(outcomes[i]), first_line));
    return results;
  }

  // What flush() returns; LOPE_E_UNSUPPORTED when there is none. After a drain the host has back
  // what is still held.
  lope_status flush(FlushReason reason) {
    const bool there = LOPE_HAS(&plugin_, lope_plugin, flush) && plugin_.flush != nullptr;
    const lope_status status =
        there ? plugin_.flush(instance_, static_cast<std::uint32_t>(reason)) : LOPE_E_UNSUPPORTED;
    if (reason == FlushReason::drain) {
      drained_ = true;
      host_.hand_back();
    }
    return status;
  }

  // What became of a message that was held, as soon as it is settled. Nothing when that is not so
  // within `limit`.
  std::optional<Result> wait_settled(std::uint64_t id,
                                     std::chrono::milliseconds limit = std::chrono::seconds(10)) {
    return host_.wait_settled(id, limit);
  }

 private:
  bool has_batch() const {
    return LOPE_HAS(&plugin_, lope_plugin, handle_batch) && plugin_.handle_batch != nullptr;
  }

  FakeHost& host_;
  const lope_plugin& plugin_;
  lope_handler* instance_ = nullptr;
  bool drained_ = false;
};

}  // namespace lope::testing

#endif  // LOPE_TESTING_HPP
