#include "cli/received.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <variant>

#include "common/json.h"
#include "common/text.h"

namespace lope::cli {

Received received(const consumer::IncomingDelivery& delivery) {
  const DeliveryView& view = delivery.view;
  const auto text = [&view](TextProperty property) { return std::string(view[property]); };
  Received message;
  message.tag = view.delivery_tag;
  message.redelivered = (view.flags & kDeliveryRedelivered) != 0;
  message.persistent = (view.flags & kDeliveryPersistent) != 0;
  message.priority = view.priority;
  message.timestamp = view.timestamp;
  message.exchange = text(TextProperty::exchange);
  message.routing_key = text(TextProperty::routing_key);
  message.content_type = text(TextProperty::content_type);
  message.content_encoding = text(TextProperty::content_encoding);
  message.correlation_id = text(TextProperty::correlation_id);
  message.reply_to = text(TextProperty::reply_to);
  message.message_id = text(TextProperty::message_id);
  message.type = text(TextProperty::type);
  message.app_id = text(TextProperty::app_id);
  message.user_id = text(TextProperty::user_id);
  message.expiration = text(TextProperty::expiration);
  message.headers = consumer::decode_headers(delivery.properties, "");
  message.body_size = delivery.body_size;
  message.properties = delivery.properties;
  return message;
}

std::string text_of(const AmqpTable& table, std::string_view name) {
  const AmqpValue* value = find(table, name);
  const auto* text = value != nullptr ? std::get_if<std::string>(&value->value) : nullptr;
  return text != nullptr ? *text : std::string();
}

std::optional<std::int64_t> number_of(const AmqpTable& table, std::string_view name) {
  const AmqpValue* value = find(table, name);
  const auto* number = value != nullptr ? std::get_if<std::int64_t>(&value->value) : nullptr;
  return number != nullptr ? std::optional(*number) : std::nullopt;
}

std::string to_json(const AmqpValue& value) {
  struct Convert {
    std::string operator()(bool flag) const { return flag ? "true" : "false"; }
    std::string operator()(std::int64_t number) const { return std::to_string(number); }
    std::string operator()(double number) const {
      if (!std::isfinite(number)) return "null";
      char text[40];
      std::snprintf(text, sizeof text, "%.17g", number);
      return text;
    }
    std::string operator()(const std::string& text) const { return json_quote(text); }
    std::string operator()(const AmqpArray& array) const {
      std::string text = "[";
      for (const AmqpValue& each : array) text += (text.size() > 1 ? "," : "") + to_json(each);
      return text + "]";
    }
    std::string operator()(const AmqpTable& table) const { return to_json(table); }
  };
  return std::visit(Convert{}, value.value);
}

std::string to_json(const AmqpTable& table) {
  std::string text = "{";
  for (const auto& [name, value] : table) {
    text += (text.size() > 1 ? "," : "") + json_quote(name) + ":" + to_json(value);
  }
  return text + "}";
}

std::string properties_json(const Received& message) {
  std::string json = "{\"exchange\":" + json_quote(message.exchange) +
                     ",\"routing_key\":" + json_quote(message.routing_key);
  const auto add = [&json](const char* name, const std::string& value) {
    if (!value.empty()) json += ",\"" + std::string(name) + "\":" + json_quote(value);
  };
  add("message_id", message.message_id);
  add("content_type", message.content_type);
  add("content_encoding", message.content_encoding);
  add("correlation_id", message.correlation_id);
  add("reply_to", message.reply_to);
  add("type", message.type);
  add("app_id", message.app_id);
  add("user_id", message.user_id);
  add("expiration", message.expiration);
  if (message.priority > 0) json += ",\"priority\":" + std::to_string(message.priority);
  if (message.timestamp > 0) json += ",\"timestamp\":" + std::to_string(message.timestamp);
  json += std::string(",\"persistent\":") + (message.persistent ? "true" : "false");
  json += std::string(",\"redelivered\":") + (message.redelivered ? "true" : "false");
  return json + ",\"headers\":" + to_json(message.headers) + "}";
}

std::string body_json(std::string_view body) {
  if (first_invalid_utf8(body) == std::string_view::npos) return "\"body\":" + json_quote(body);
  return "\"body_base64\":\"" + base64(body) + "\"";
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t j = 0; j < 3; ++j) {
      const auto byte = i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0u;
      group = group << 8 | byte;
    }
    const std::size_t digits = std::min<std::size_t>(bytes.size() - i, 3) + 1;
    for (std::size_t j = 0; j < 4; ++j) {
      text += j < digits ? kDigits[group >> (18 - 6 * j) & 63] : '=';
    }
  }
  return text;
}

}  // namespace lope::cli
