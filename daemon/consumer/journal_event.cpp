#include "consumer/journal_event.h"

#include <algorithm>
#include <bit>
#include <cctype>
#include <charconv>
#include <cmath>
#include <utility>

#include "common/text.h"
#include "consumer/travel.h"

namespace lope::consumer {

namespace {

constexpr std::size_t kReason = 2000;  // longer ones are cut

template <typename Number>
void append_number(std::string& out, Number number) {
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, number).ptr;
  out.append(digits, end);
}

// One line: members that are empty are left out.
class Line {
 public:
  Line(std::string& out, const EventHead& head, std::string_view event) : out_(out) {
    out_ += "{\"event\":\"";
    out_ += event;
    out_ += "\",";
    out_ += head.origin;
    number("n", head.number);
    number("time_us", head.time_us);
    text("message_id", head.ids.message);
    if (head.ids.parent != head.ids.message) text("parent_id", head.ids.parent);
    text("trace_id", head.ids.trace);
    number("attempt", head.attempt);
  }
  ~Line() { out_ += "}\n"; }
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;

  void text(std::string_view name, std::string_view value) {
    if (value.empty()) return;
    key(name);
    append_json_text(out_, value);
  }
  template <typename Number>
  void number(std::string_view name, Number value) {
    key(name);
    append_number(out_, value);
  }
  void truth(std::string_view name, bool value) {
    if (!value) return;
    key(name);
    out_ += "true";
  }
  std::string& value_of(std::string_view name) {
    key(name);
    return out_;
  }

 private:
  void key(std::string_view name) {
    out_ += ",\"";
    out_ += name;
    out_ += "\":";
  }
  std::string& out_;
};

bool is_secret(std::string_view name, std::span<const std::string> secret) {
  const auto same = [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) ==
           std::tolower(static_cast<unsigned char>(b));
  };
  return std::ranges::any_of(secret, [&](const std::string& part) {
    return !std::ranges::search(name, part, same).empty();
  });
}

void append_header_value(std::string& out, const HeaderView& header) {
  switch (header.kind) {
    case HeaderKind::int64: return append_number(out, static_cast<std::int64_t>(header.bits));
    case HeaderKind::uint64:
    case HeaderKind::timestamp: return append_number(out, header.bits);
    case HeaderKind::boolean: out += header.bits != 0 ? "true" : "false"; return;
    case HeaderKind::text:
    case HeaderKind::bytes: return append_json_text(out, header.value);
    case HeaderKind::real: {
      const auto value = std::bit_cast<double>(header.bits);
      if (std::isfinite(value)) return append_number(out, value);
      break;
    }
    case HeaderKind::null:
    case HeaderKind::other: break;
  }
  out += "null";
}

void append_headers(std::string& out, std::string_view headers,
                    std::span<const std::string> secret) {
  out += '{';
  bool first = true;
  while (const auto header = next_header(headers)) {
    if (!std::exchange(first, false)) out += ',';
    append_json_text(out, header->name);
    out += ':';
    if (is_secret(header->name, secret)) {
      out += "\"***\"";
    } else {
      append_header_value(out, *header);
    }
  }
  out += '}';
}

void append_base64(std::string& out, std::string_view bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  out += '"';
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t left = bytes.size() - i;
    const auto byte = [&](std::size_t at) {
      return at < left ? static_cast<unsigned>(static_cast<unsigned char>(bytes[i + at])) : 0u;
    };
    const unsigned group = byte(0) << 16 | byte(1) << 8 | byte(2);
    out += kDigits[group >> 18];
    out += kDigits[group >> 12 & 63];
    out += left > 1 ? kDigits[group >> 6 & 63] : '=';
    out += left > 2 ? kDigits[group & 63] : '=';
  }
  out += '"';
}

void add_body(Line& line, std::string_view body, std::size_t max) {
  const bool cut = body.size() > max;
  std::string_view shown = body.substr(0, max);
  std::size_t valid = first_invalid_utf8(shown);
  // A character that was cut in two goes as a whole.
  constexpr std::size_t kLongestSequence = 4;
  if (cut && valid != std::string_view::npos && shown.size() - valid < kLongestSequence &&
      utf8_sequence_length(body.substr(valid)) > shown.size() - valid) {
    shown = shown.substr(0, valid);
    valid = std::string_view::npos;
  }
  // Databases do not take a zero in a text.
  const bool is_text =
      valid == std::string_view::npos && shown.find('\0') == std::string_view::npos;
  std::string& out = line.value_of("body");
  if (is_text) {
    append_json_text(out, shown);
  } else {
    append_base64(out, shown);
    line.text("body_encoding", "base64");
  }
  line.truth("body_cut", cut);
}

// A header may be of any length, and no database has an index for that.
MessageIds cut(MessageIds ids) {
  for (std::string_view* const id : {&ids.message, &ids.parent, &ids.trace}) {
    *id = first_bytes(*id, kMostOfId);
  }
  return ids;
}

}  // namespace

MessageIds ids_of(const DeliveryView& view) {
  MessageIds ids{view[TextProperty::message_id], view[TextProperty::parent_id], {}};
  std::string_view left = view.headers;
  while (const auto header = next_header(left)) {
    if (header->kind != HeaderKind::text) continue;
    if (header->name == header::kTraceId) ids.trace = header->value;
    if (header->name == header::kId && ids.message.empty()) ids.message = header->value;
  }
  if (ids.trace.empty()) ids.trace = ids.message;
  return cut(ids);
}

MessageIds ids_of(std::string_view message_id, std::string_view headers) {
  MessageIds ids{message_id, {}, {}};
  while (const auto header = next_header(headers)) {
    if (header->kind != HeaderKind::text) continue;
    if (header->name == header::kTraceId) ids.trace = header->value;
    if (header->name == header::kParentId) ids.parent = header->value;
  }
  if (ids.trace.empty()) ids.trace = ids.message;
  return cut(ids);
}

std::string event_origin(std::string_view source, std::string_view host, std::string_view group,
                         std::string_view queue) {
  std::string json = "\"source\":";
  append_json_text(json, source);
  json += ",\"host\":";
  append_json_text(json, host);
  json += ",\"group\":";
  append_json_text(json, group);
  json += ",\"queue\":";
  append_json_text(json, queue);
  return json;
}

void append_event(std::string& out, const EventHead& head, const ReceivedEvent& event) {
  Line line(out, head, "received");
  const DeliveryView& view = event.view;
  line.text("exchange", view[TextProperty::exchange]);
  line.text("routing_key", view[TextProperty::routing_key]);
  line.number("size", event.size);
  line.truth("redelivered", (view.flags & kDeliveryRedelivered) != 0);
  line.text("content_type", view[TextProperty::content_type]);
  line.text("type", view[TextProperty::type]);
  line.text("app_id", view[TextProperty::app_id]);
  if (view.timestamp != 0) line.number("timestamp", view.timestamp);
  if (event.headers && view.header_count > 0) {
    append_headers(line.value_of("headers"), view.headers, event.secret_headers);
  }
  if (event.body) add_body(line, event.bytes, event.max_body);
}

void append_event(std::string& out, const EventHead& head, const HandledEvent& event) {
  Line line(out, head, "handled");
  line.text("outcome", event.outcome);
  line.text("reason", event.reason.substr(0, kReason));
  line.text("code", event.code);
  if (event.waited_us >= 0) line.number("waited_us", event.waited_us);
  if (event.ran_us >= 0) line.number("ran_us", event.ran_us);
  line.text("worker", event.worker);
  line.text("handler", event.handler);
  line.text("handler_version", event.handler_version);
  if (event.crashes > 0) line.number("crashes", event.crashes);
  if (event.delay_ms > 0) line.number("delay_ms", event.delay_ms);
}

void append_event(std::string& out, const EventHead& head, const PublishedEvent& event) {
  Line line(out, head, "published");
  line.text("kind", event.kind);
  line.text("exchange", event.exchange);
  line.text("routing_key", event.routing_key);
  line.number("size", event.size);
  if (event.delay_ms > 0) line.number("delay_ms", event.delay_ms);
  line.text("fate", event.fate);
}

}  // namespace lope::consumer
