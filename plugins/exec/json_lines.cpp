#include "json_lines.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "../common/message_template.hpp"

namespace lope::plugins {

namespace {

using nlohmann::json;

constexpr std::string_view kBase64 =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// How much of the beginning goes into a JSON string as it is.
std::size_t plain_length(std::string_view text) {
  static const auto plain = [] {
    std::array<bool, 256> made{};
    for (std::size_t c = 0x20; c < 0x80; ++c) made[c] = c != '"' && c != '\\';
    return made;
  }();
  const auto end = std::find_if(text.begin(), text.end(),
                                [](char c) { return !plain[static_cast<unsigned char>(c)]; });
  return static_cast<std::size_t>(end - text.begin());
}

// False, with `line` as it was, when the text is not UTF-8.
bool append_text(std::string& line, std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  const std::size_t before = line.size();
  line += '"';
  while (true) {
    const std::size_t plain = plain_length(text);
    line += text.substr(0, plain);
    text.remove_prefix(plain);
    if (text.empty()) break;
    const std::size_t length = detail::utf8_length(text);
    const char c = text[0];
    if (length == 0) {
      line.resize(before);
      return false;
    }
    if (length > 1 || c == 0x7F) {
      line += text.substr(0, length);
    } else if (c == '\n') {
      line += "\\n";
    } else if (c == '"' || c == '\\') {
      line += {'\\', c};
    } else {
      line += {'\\', 'u', '0', '0', kHex[c >> 4], kHex[c & 15]};
    }
    text.remove_prefix(length);
  }
  line += '"';
  return true;
}

void append_any_text(std::string& line, std::string_view text) {
  if (!append_text(line, text)) line += detail::json_string(text);
}

void append_base64(std::string& line, std::string_view bytes) {
  line.reserve(line.size() + bytes.size() / 3 * 4 + 8);
  line += '"';
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t three = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      three = three << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0);
    }
    const std::size_t there = bytes.size() - i;
    line += kBase64[three >> 18];
    line += kBase64[three >> 12 & 63];
    line += there > 1 ? kBase64[three >> 6 & 63] : '=';
    line += there > 2 ? kBase64[three & 63] : '=';
  }
  line += '"';
}

std::string from_base64(const std::string& name, std::string_view text) {
  static const auto values = [] {
    std::array<int, 256> made;
    made.fill(-1);
    for (std::size_t i = 0; i < kBase64.size(); ++i) {
      made[static_cast<unsigned char>(kBase64[i])] = static_cast<int>(i);
    }
    return made;
  }();
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  std::string bytes;
  std::uint32_t collected = 0;
  int bits = 0;
  for (const char c : text) {
    const int value = values[static_cast<unsigned char>(c)];
    if (value < 0)
      throw std::runtime_error("'" + name + "': expected base64, found something else");
    collected = collected << 6 | static_cast<std::uint32_t>(value);
    bits += 6;
    if (bits >= 8) bytes += static_cast<char>(collected >> (bits -= 8) & 255);
  }
  return bytes;
}

void append_value(std::string& line, const Value& value) {
  if (const auto real = value.as_double(); real && !std::isfinite(*real)) {
    line += "null";
  } else if (const auto text = value.as_text()) {
    append_any_text(line, *text);
  } else {
    line += text_of(value).value_or("null");  // a number, a truth, nothing
  }
}

std::string text_in(const std::string& name, const json& value) {
  if (!value.is_string()) throw std::runtime_error("'" + name + "': expected a text");
  return value.get<std::string>();
}

std::chrono::milliseconds time_in(const std::string& name, const json& value) {
  // Within a year: no sum of it overflows.
  if (value.is_number_unsigned() && value.get<std::uint64_t>() <= 366ull * 24 * 3600 * 1000) {
    return std::chrono::milliseconds(value.get<std::int64_t>());
  }
  throw std::runtime_error("'" + name + "': expected milliseconds, up to 366 days");
}

bool truth_in(const std::string& name, const json& value) {
  if (!value.is_boolean()) throw std::runtime_error("'" + name + "': expected true or false");
  return value.get<bool>();
}

void set_headers(Publication& to, const json& headers) {
  if (!headers.is_object()) throw std::runtime_error("'headers': expected an object");
  for (const auto& [name, value] : headers.items()) {
    if (value.is_string()) {
      to.header(name, value.get<std::string>());
    } else if (value.is_boolean()) {
      to.header(name, value.get<bool>());
    } else if (value.is_number_float()) {
      to.header(name, value.get<double>());
    } else if (value.is_number_unsigned()) {
      to.header(name, value.get<std::uint64_t>());
    } else if (value.is_number_integer()) {
      to.header(name, value.get<std::int64_t>());
    } else if (value.is_null()) {
      to.header(name, Value::null());
    } else {
      throw std::runtime_error("'headers." + name + "': expected a text, a number or a truth");
    }
  }
}

Publication publication_in(const std::string& where, const json& object) {
  if (!object.is_object()) throw std::runtime_error("'" + where + "': expected an object");
  constexpr std::pair<std::string_view, std::string Publication::*> kTexts[] = {
      {"body", &Publication::body},
      {"exchange", &Publication::exchange},
      {"routing_key", &Publication::routing_key},
      {"content_type", &Publication::content_type},
      {"content_encoding", &Publication::content_encoding},
      {"correlation_id", &Publication::correlation_id},
      {"reply_to", &Publication::reply_to},
      {"message_id", &Publication::message_id},
      {"type", &Publication::type}};
  Publication made;
  for (const auto& [key, value] : object.items()) {
    const std::string& name = key;
    const auto text = std::find_if(std::begin(kTexts), std::end(kTexts),
                                   [&name](const auto& each) { return each.first == name; });
    if (text != std::end(kTexts)) {
      made.*(text->second) = text_in(name, value);
    } else if (name == "body_base64") {
      made.body = from_base64(name, text_in(name, value));
    } else if (name == "headers") {
      set_headers(made, value);
    } else if (name == "persistent") {
      made.persistent = truth_in(name, value);
    } else if (name == "may_be_unroutable") {
      made.may_be_unroutable = truth_in(name, value);
    } else if (name == "delay_ms") {
      made.delay = time_in(name, value);
    } else if (name == "expiration_ms") {
      made.expiration = time_in(name, value);
    } else if (name == "priority") {
      if (!value.is_number_unsigned() || value.get<std::uint64_t>() > 255) {
        throw std::runtime_error("'priority': expected 0 to 255");
      }
      made.priority = value.get<std::uint32_t>();
    } else {
      throw std::runtime_error("'" + where + "." + name + "': there is no such thing");
    }
  }
  return made;
}

void read_answer(const json& object, Answer& answer) {
  constexpr std::pair<std::string_view, Outcome> kOutcomes[] = {
      {"ack", Outcome::ack}, {"retry", Outcome::retry}, {"reject", Outcome::reject}};
  std::optional<Outcome> outcome;
  for (const auto& [name, value] : object.items()) {
    if (name == "id") continue;
    if (name == "outcome") {
      const std::string word = text_in(name, value);
      for (const auto& [known, means] : kOutcomes) {
        if (word == known) outcome = means;
      }
      if (!outcome) {
        throw std::runtime_error("'outcome': expected ack, retry or reject, found '" + word + "'");
      }
    } else if (name == "reason") {
      answer.reason = text_in(name, value);
    } else if (name == "retry_after_ms") {
      answer.retry_after = time_in(name, value);
    } else if (name == "publish") {
      if (!value.is_array()) throw std::runtime_error("'publish': expected a list");
      for (const json& each : value) answer.publish.push_back(publication_in(name, each));
    } else if (name == "reply") {
      answer.reply = publication_in(name, value);
    } else {
      throw std::runtime_error("'" + name + "': there is no such thing");
    }
  }
  if (!outcome) throw std::runtime_error("'outcome': expected ack, retry or reject, found none");
  answer.outcome = outcome;
}

}  // namespace

std::string head_line(const Message& message) {
  static constexpr std::string_view kNotTexts[] = {"timestamp", "priority", "delivery_tag",
                                                   "attempt",   "crashes",  "redelivered"};
  std::string line = "{\"id\":" + std::to_string(message.id());
  for (const MessageField& field : kMessageFields) {
    const std::string value = field.get(message);
    if (value.empty()) continue;
    line.append(",\"").append(field.name).append("\":");
    const bool is_text =
        std::find(std::begin(kNotTexts), std::end(kNotTexts), field.name) == std::end(kNotTexts);
    if (is_text) {
      append_any_text(line, value);
    } else {
      line += value;
    }
  }
  line += ",\"headers\":{";
  std::vector<std::string_view> names;  // of two headers with one name the first counts
  for (std::size_t i = 0; i < message.header_count(); ++i) {
    const Header header = message.header_at(i);
    if (header.value.kind() == LOPE_OTHER) continue;
    if (std::find(names.begin(), names.end(), header.name) != names.end()) continue;
    names.push_back(header.name);
    if (line.back() != '{') line += ',';
    append_any_text(line, header.name);
    line += ':';
    append_value(line, header.value);
  }
  line += '}';
  return line;
}

void append_body(std::string& line, std::string_view body) {
  const std::size_t before = line.size();
  line += ",\"body\":";
  if (!append_text(line, body)) {
    line.resize(before);
    line += ",\"body_base64\":";
    append_base64(line, body);
  }
  line += "}\n";
}

Answer parse_answer(std::string_view line) {
  const json object = json::parse(line, nullptr, false);
  const auto found = [&line] { return ", found '" + std::string(line.substr(0, 200)) + "'"; };
  if (!object.is_object()) throw std::runtime_error("expected a JSON object a line" + found());
  const auto id = object.find("id");
  if (id == object.end() || !id->is_number_unsigned()) {
    throw std::runtime_error("expected the 'id' of a message" + found());
  }
  Answer answer;
  answer.id = id->get<std::uint64_t>();
  try {
    read_answer(object, answer);
  } catch (const std::runtime_error& error) {
    answer.reason = std::string("its answer: ") + error.what();
  }
  return answer;
}

}  // namespace lope::plugins
