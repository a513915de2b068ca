#include "worker/host.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>

#include "common/clock.h"
#include "worker/publications.h"

namespace lope::worker {

namespace {

static_assert(static_cast<int>(HeaderKind::int64) == LOPE_INT64);
static_assert(static_cast<int>(HeaderKind::uint64) == LOPE_UINT64);
static_assert(static_cast<int>(HeaderKind::real) == LOPE_DOUBLE);
static_assert(static_cast<int>(HeaderKind::boolean) == LOPE_BOOL);
static_assert(static_cast<int>(HeaderKind::text) == LOPE_TEXT);
static_assert(static_cast<int>(HeaderKind::bytes) == LOPE_BYTES);
static_assert(static_cast<int>(HeaderKind::timestamp) == LOPE_TIMESTAMP);
static_assert(static_cast<int>(HeaderKind::null) == LOPE_NULL);
static_assert(static_cast<int>(HeaderKind::other) == LOPE_OTHER);
static_assert(static_cast<int>(FlushReason::interval) == LOPE_FLUSH_INTERVAL);
static_assert(static_cast<int>(FlushReason::window_full) == LOPE_FLUSH_WINDOW_FULL);
static_assert(static_cast<int>(FlushReason::drain) == LOPE_FLUSH_DRAIN);

static_assert(static_cast<int>(MetricKind::counter) == LOPE_COUNTER);
static_assert(static_cast<int>(MetricKind::gauge) == LOPE_GAUGE);
static_assert(static_cast<int>(MetricKind::duration) == LOPE_DURATION);

constexpr std::uint64_t kMaxRetryAfter = 366ull * 24 * 3600 * 1000;  // ms

std::string_view view(lope_str text) {
  return text.data == nullptr ? std::string_view() : std::string_view(text.data, text.size);
}

lope_status to_status(MetricAnswer answer) {
  switch (answer) {
    case MetricAnswer::ok: return LOPE_OK;
    case MetricAnswer::invalid: return LOPE_E_INVALID;
    case MetricAnswer::too_many: return LOPE_E_TOO_LARGE;
    case MetricAnswer::unknown: return LOPE_E_NOT_FOUND;
  }
  return LOPE_E_FAILED;
}

lope_str str(std::string_view text) { return {text.data(), text.size()}; }

lope_value to_value(const HeaderView& header) {
  lope_value value{};
  value.kind = static_cast<std::int32_t>(header.kind);
  switch (value.kind) {
    case LOPE_INT64:
    case LOPE_BOOL: value.as.i = static_cast<std::int64_t>(header.bits); break;
    case LOPE_UINT64:
    case LOPE_TIMESTAMP: value.as.u = header.bits; break;
    case LOPE_DOUBLE: value.as.d = std::bit_cast<double>(header.bits); break;
    case LOPE_TEXT:
    case LOPE_BYTES: value.as.s = str(header.value); break;
    default: break;  // null, other: nothing to show
  }
  return value;
}

}  // namespace

MessageRecord* Host::find_current(const lope_message* message) const {
  if (!on_own_thread()) return nullptr;
  for (const auto& record : current_) {
    if (&record->message == message) return record.get();
  }
  return nullptr;
}

template <typename F>
bool Host::with_record(const lope_message* message, F f) const {
  if (message == nullptr) return false;
  if (MessageRecord* const record = find_current(message); record != nullptr) {
    f(*record);
    return true;
  }
  return held_.with(message, f);
}

struct Host::Calls {
  static Host& self(const lope_host* host) { return *static_cast<Host*>(host->host_data); }

  static void log(const lope_host* host, int32_t level, lope_str text) noexcept {
    if (log_enabled(host, level) == 0) return;
    const int known = std::clamp<int>(level, LOPE_LOG_DEBUG, LOPE_LOG_ERROR);
    self(host).link_.send_log(static_cast<LogLevel>(known), view(text));
  }

  static int32_t log_enabled(const lope_host* host, int32_t level) noexcept {
    const auto lowest = self(host).board_.log_level.load(std::memory_order_relaxed);
    return level >= static_cast<int32_t>(lowest) ? 1 : 0;
  }

  static uint64_t monotonic(const lope_host*) noexcept { return monotonic_ns(); }
  static uint64_t unix_time(const lope_host*) noexcept { return unix_ns(); }

  static int32_t stopping(const lope_host* host) noexcept {
    return self(host).board_.stopping.load(std::memory_order_relaxed) != 0 ? 1 : 0;
  }

  static lope_status option(const lope_host* host, lope_str key, lope_str* value) noexcept {
    const Host& me = self(host);
    if (value == nullptr) return LOPE_E_INVALID;
    for (const auto& [name, text] : me.settings_.options) {
      if (name == view(key)) {
        *value = str(text);
        return LOPE_OK;
      }
    }
    for (const lope_option* option = me.plugin_.table->options;
         option != nullptr && option->name != nullptr; ++option) {
      if (option->name == view(key) && option->default_value != nullptr) {
        *value = str(option->default_value);
        return LOPE_OK;
      }
    }
    *value = {};
    return LOPE_E_NOT_FOUND;
  }

  static lope_str options_json(const lope_host* host) noexcept {
    return str(self(host).settings_.options_json);
  }

  static lope_status header_get(const lope_host* host, const lope_message* message, lope_str name,
                                lope_value* value) noexcept {
    if (value == nullptr) return LOPE_E_INVALID;
    *value = {};
    std::string_view headers;
    if (!self(host).headers_of(message, headers)) return LOPE_E_WRONG_THREAD;
    while (const auto header = next_header(headers)) {
      if (header->name != view(name)) continue;
      *value = to_value(*header);
      return LOPE_OK;
    }
    return LOPE_E_NOT_FOUND;
  }

  static lope_status header_at(const lope_host* host, const lope_message* message, uint32_t index,
                               lope_header* header) noexcept {
    if (header == nullptr) return LOPE_E_INVALID;
    *header = {};
    std::string_view headers;
    if (!self(host).headers_of(message, headers)) return LOPE_E_WRONG_THREAD;
    for (uint32_t i = 0; const auto found = next_header(headers); ++i) {
      if (i != index) continue;
      header->name = str(found->name);
      header->value = to_value(*found);
      return LOPE_OK;
    }
    return LOPE_E_NOT_FOUND;
  }

  static lope_status explain(const lope_host* host, const lope_message* message,
                             lope_str reason) noexcept {
    Host& me = self(host);
    const std::string_view text = view(reason).substr(0, kMaxExplanation);
    if (message == nullptr) {
      if (!me.on_own_thread()) return LOPE_E_WRONG_THREAD;
      me.create_explanation_ = text;
      return LOPE_OK;
    }
    const bool known =
        me.with_record(message, [text](MessageRecord& record) { record.explanation = text; });
    return known ? LOPE_OK : LOPE_E_WRONG_THREAD;
  }

  static lope_status settle(const lope_host* host, uint64_t id, lope_outcome outcome) noexcept {
    return self(host).held_.settle(id, outcome);
  }

  static lope_status publish(const lope_host* host, const lope_message* cause,
                             const lope_publication* publication) noexcept {
    const Host& me = self(host);
    if (me.settings_.content.compress.empty()) {
      return me.publish(add_publication, cause, publication);
    }
    try {
      Compressed smaller;  // made before the message is locked
      return me.publish(add_publication, cause,
                        compressed(publication, me.settings_.content, smaller));
    } catch (const std::bad_alloc&) {
      return LOPE_E_FAILED;
    }
  }
  static lope_status reply(const lope_host* host, const lope_message* request,
                           const lope_publication* publication) noexcept {
    return self(host).publish(add_reply, request, publication);
  }

  static lope_status retry_after(const lope_host* host, const lope_message* message,
                                 uint64_t ms) noexcept {
    const bool known = self(host).with_record(message, [ms](MessageRecord& record) {
      record.retry_after_ms = std::min(ms, kMaxRetryAfter);
    });
    return known ? LOPE_OK : LOPE_E_WRONG_THREAD;
  }

  static lope_status keep_alive(const lope_host* host, const lope_message* message) noexcept {
    return self(host).keep_alive(message);
  }

  static lope_status metric_record(const lope_host* host, uint32_t id, int64_t value) noexcept {
    return to_status(record_metric(self(host).board_.metrics, id, value));
  }

  static lope_status metric_register(const lope_host* host, int32_t kind, lope_str name,
                                     lope_str help, uint32_t* id) noexcept {
    static std::mutex registering;  // the instances of a worker are made at the same time
    const Host& me = self(host);
    if (id == nullptr) return LOPE_E_INVALID;
    if (!me.on_own_thread() || !me.creating_) return LOPE_E_WRONG_THREAD;
    try {
      const std::lock_guard lock(registering);
      return to_status(register_metric(me.board_.metrics, static_cast<std::uint32_t>(kind),
                                       view(name), view(help), *id));
    } catch (const std::exception&) {
      return LOPE_E_FAILED;
    }
  }

  // Not carried out by this version.
  static const void* extension(const lope_host*, const char*) noexcept { return nullptr; }
  static lope_status spare() noexcept { return LOPE_E_UNSUPPORTED; }
};

Host::Host(const WorkerSettings& settings, const Plugin& plugin, std::uint32_t thread_index,
           WorkerBoard& board, LinkWriter& link, HeldMessages& held)
    : settings_(settings),
      plugin_(plugin),
      board_(board),
      slot_(board.slots[thread_index]),
      link_(link),
      held_(held) {
  lope_host& table = padded_.table;
  table.struct_size = sizeof(lope_host);
  table.abi_minor = LOPE_ABI_MINOR;
  table.host_data = this;
  table.group = str(settings.group);
  table.worker_index = static_cast<std::uint32_t>(settings.worker_index);
  table.thread_index = thread_index;
  table.log = Calls::log;
  table.log_enabled = Calls::log_enabled;
  table.monotonic_ns = Calls::monotonic;
  table.unix_ns = Calls::unix_time;
  table.stopping = Calls::stopping;
  table.metric_record = Calls::metric_record;
  table.settle = Calls::settle;
  table.option = Calls::option;
  table.options_json = Calls::options_json;
  table.metric_register = Calls::metric_register;
  table.header_get = Calls::header_get;
  table.header_at = Calls::header_at;
  table.publish = Calls::publish;
  table.reply = Calls::reply;
  table.explain = Calls::explain;
  table.retry_after = Calls::retry_after;
  table.keep_alive = Calls::keep_alive;
  table.extension = Calls::extension;
  for (auto& spare : padded_.spare) spare = Calls::spare;
}

bool Host::headers_of(const lope_message* message, std::string_view& headers) const {
  return with_record(message,
                     [&headers](const MessageRecord& record) { headers = record.view.headers; });
}

lope_status Host::publish(Add add, const lope_message* cause,
                          const lope_publication* publication) const {
  lope_status status = LOPE_E_WRONG_THREAD;
  try {
    with_record(cause, [&](MessageRecord& record) {
      status = add(publication, settings_.max_message_bytes, record);
    });
  } catch (const std::bad_alloc&) {
    return LOPE_E_FAILED;
  }
  return status;
}

lope_status Host::keep_alive(const lope_message* message) {
  if (message == nullptr) return LOPE_E_WRONG_THREAD;
  if (find_current(message) != nullptr) {
    slot_.alive_ns.store(monotonic_ns(), std::memory_order_relaxed);
    return LOPE_OK;
  }
  const lope_status status = held_.keep_alive(message);
  // What flush() is busy with is held.
  const bool flushing =
      on_own_thread() && current_.empty() && slot_.started_ns.load(std::memory_order_relaxed) != 0;
  if (status == LOPE_OK && flushing) {
    slot_.alive_ns.store(monotonic_ns(), std::memory_order_relaxed);
  }
  return status;
}

}  // namespace lope::worker
