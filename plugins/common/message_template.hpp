// Texts with places for what a message carries: "orders.{routing_key}", "{header.user|nobody}".
// Shared by the handlers that come with Lope.
#pragma once

#include <charconv>
#include <cstdint>
#include <lope/handler.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lope::plugins {

// A header's value as text: integers in decimal, booleans as true and false, times in seconds since
// 1970. Nothing for null, and for tables and arrays, whose content no handler sees.
inline std::optional<std::string> text_of(const Value& value) {
  if (const auto text = value.as_text()) return std::string(*text);
  if (const auto truth = value.as_bool()) return std::string(*truth ? "true" : "false");
  if (const auto number = value.as_int()) return std::to_string(*number);
  if (const auto number = value.as_unsigned()) return std::to_string(*number);
  if (const auto number = value.as_double()) {
    char buffer[32];
    const auto written = std::to_chars(buffer, buffer + sizeof buffer, *number);
    return std::string(buffer, written.ptr);
  }
  if (value.kind() == LOPE_TIMESTAMP) return std::to_string(value.raw().as.u);
  return std::nullopt;
}

// What a message carries by that name.
struct MessageField {
  const char* name;
  std::string (*get)(const Message&);  // empty: it does not carry it
};

// Every property that a template can name, and that a handler passes on by name.
inline constexpr MessageField kMessageFields[] = {
    {"queue", [](const Message& m) { return std::string(m.queue()); }},
    {"exchange", [](const Message& m) { return std::string(m.exchange()); }},
    {"routing_key", [](const Message& m) { return std::string(m.routing_key()); }},
    {"consumer_tag", [](const Message& m) { return std::string(m.consumer_tag()); }},
    {"content_type", [](const Message& m) { return std::string(m.content_type()); }},
    {"content_encoding", [](const Message& m) { return std::string(m.content_encoding()); }},
    {"correlation_id", [](const Message& m) { return std::string(m.correlation_id()); }},
    {"reply_to", [](const Message& m) { return std::string(m.reply_to()); }},
    {"message_id", [](const Message& m) { return std::string(m.message_id()); }},
    {"parent_id", [](const Message& m) { return std::string(m.parent_id()); }},
    {"type", [](const Message& m) { return std::string(m.type()); }},
    {"app_id", [](const Message& m) { return std::string(m.app_id()); }},
    {"user_id", [](const Message& m) { return std::string(m.user_id()); }},
    {"expiration", [](const Message& m) { return std::string(m.expiration()); }},
    {"timestamp",
     [](const Message& m) {
       return m.raw()->timestamp == 0 ? std::string() : std::to_string(m.raw()->timestamp);
     }},
    {"priority", [](const Message& m) { return std::to_string(m.priority()); }},
    {"delivery_tag", [](const Message& m) { return std::to_string(m.delivery_tag()); }},
    {"attempt", [](const Message& m) { return std::to_string(m.attempt()); }},
    {"crashes", [](const Message& m) { return std::to_string(m.crashes()); }},
    {"redelivered",
     [](const Message& m) { return std::string(m.redelivered() ? "true" : "false"); }},
};

class MessageTemplate {
 public:
  MessageTemplate() = default;

  // `{name}` is a property of the message, `{body}` its body, `{header.name}` a header;
  // `{name|text}` is `text` where the message has none; `{{` and `}}` are braces. `option`: whose
  // text it is. Throws InvalidConfiguration.
  static MessageTemplate parse(std::string_view option, std::string_view text) {
    MessageTemplate made;
    made.option_ = option;
    std::string literal;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const char c = text[i];
      const bool twice = i + 1 < text.size() && text[i + 1] == c;
      if ((c == '{' || c == '}') && twice) {
        literal += c;
        ++i;
      } else if (c == '}') {
        throw made.wrong("a '}' that ends something, or '}}'", "one alone");
      } else if (c == '{') {
        const std::size_t end = text.find('}', i);
        if (end == std::string_view::npos) throw made.wrong("a '}' for each '{'", "one '{' alone");
        Part part = made.field(text.substr(i + 1, end - i - 1));
        part.before = std::exchange(literal, {});
        made.parts_.push_back(std::move(part));
        i = end;
      } else {
        literal += c;
      }
    }
    made.after_ = std::move(literal);
    return made;
  }

  // The text for one message; `escape` is applied to what comes from the message, and to what
  // stands in for it. Throws Reject when the message lacks something that has no `|text`.
  template <typename Escape>
  std::string expand(const Message& message, Escape escape) const {
    std::string text;
    for (const Part& part : parts_) {
      text += part.before;
      text += escape(value_of(part, message));
    }
    return text + after_;
  }
  std::string expand(const Message& message) const {
    return expand(message, [](std::string value) { return value; });
  }

  bool is_constant() const { return parts_.empty(); }
  // Of a constant one.
  const std::string& text() const { return after_; }
  bool empty() const { return parts_.empty() && after_.empty(); }

 private:
  struct Part {
    std::string before;  // the text in front of it
    std::string name;    // as written, for messages
    const MessageField* field = nullptr;
    std::string header;  // of this name, unless it is a field; neither: the body
    std::optional<std::string> otherwise;
  };

  Part field(std::string_view text) const {
    Part part;
    if (const std::size_t bar = text.find('|'); bar != std::string_view::npos) {
      part.otherwise = text.substr(bar + 1);
      text = text.substr(0, bar);
    }
    part.name = text;
    constexpr std::string_view kHeader = "header.";
    if (text.substr(0, kHeader.size()) == kHeader && text.size() > kHeader.size()) {
      part.header = text.substr(kHeader.size());
      return part;
    }
    if (text == "body") return part;
    for (const MessageField& each : kMessageFields) {
      if (text == each.name) part.field = &each;
    }
    if (part.field == nullptr) {
      std::string known = "'body', 'header.NAME'";
      for (const MessageField& each : kMessageFields) known += std::string(", '") + each.name + "'";
      throw wrong("one of " + known + " between braces", "'" + std::string(text) + "'");
    }
    return part;
  }

  std::string value_of(const Part& part, const Message& message) const {
    std::string value;
    if (part.field != nullptr) {
      value = part.field->get(message);
    } else if (part.header.empty()) {
      value = message.body_text();
    } else if (const auto header = message.header(part.header)) {
      value = text_of(*header).value_or("");
    }
    if (!value.empty()) return value;
    if (part.otherwise) return *part.otherwise;
    throw Reject("option '" + option_ + "': expected a message with '" + part.name +
                 "', found none; '{" + part.name + "|}' does without");
  }

  InvalidConfiguration wrong(const std::string& expected, const std::string& found) const {
    return InvalidConfiguration("option '" + option_ + "': expected " + expected + ", found " +
                                found);
  }

  std::string option_;
  std::vector<Part> parts_;
  std::string after_;
};

// As a part of a URL: everything but letters, digits and "-._~" in percent signs (RFC 3986).
inline std::string url_escape(std::string_view text) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::string escaped;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_' || c == '~';
    if (plain) {
      escaped += c;
    } else {
      escaped += {'%', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return escaped;
}

}  // namespace lope::plugins
