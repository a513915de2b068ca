#include "cli/message_json.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "common/json.h"
#include "common/text.h"
#include "consumer/travel.h"

namespace lope::cli {

namespace {

using Json = nlohmann::ordered_json;

struct TextMember {
  std::string_view name;
  std::string Received::*target;
  bool short_string = true;  // at most 255 bytes, as AMQP has it
};
constexpr TextMember kTextMembers[] = {
    {"exchange", &Received::exchange},
    {"routing_key", &Received::routing_key},
    {"content_type", &Received::content_type},
    {"content_encoding", &Received::content_encoding},
    {"correlation_id", &Received::correlation_id},
    {"reply_to", &Received::reply_to},
    {"message_id", &Received::message_id},
    {"type", &Received::type},
    {"app_id", &Received::app_id},
    {"user_id", &Received::user_id},
    {"expiration", &Received::expiration},
};
constexpr std::string_view kBodies[] = {"body", "body_base64", "body_json"};
constexpr std::string_view kOtherMembers[] = {"headers", "priority", "timestamp", "persistent",
                                              "redelivered"};
constexpr std::size_t kMaxShortString = 255;
constexpr int kMaxPriority = 255;

Error wrong(const std::string& member, const std::string& expected, const Json& found) {
  return Error{"'" + member + "': expected " + expected + ", found " +
               escape(found.dump(-1, ' ', false, Json::error_handler_t::replace), 80)};
}

// Nothing for what AMQP has no type for.
std::optional<AmqpValue> amqp_value(const Json& json) {
  if (json.is_null()) return std::nullopt;
  if (json.is_boolean()) return AmqpValue{json.get<bool>()};
  if (json.is_number_unsigned() &&
      json.get<std::uint64_t>() > std::uint64_t(std::numeric_limits<std::int64_t>::max())) {
    return std::nullopt;
  }
  if (json.is_number_integer()) return AmqpValue{json.get<std::int64_t>()};
  if (json.is_number()) return AmqpValue{json.get<double>()};
  if (json.is_string()) return AmqpValue{json.get<std::string>()};
  if (json.is_array()) {
    AmqpArray array;
    for (const Json& each : json) {
      auto value = amqp_value(each);
      if (!value) return std::nullopt;
      array.push_back(std::move(*value));
    }
    return AmqpValue{std::move(array)};
  }
  AmqpTable table;
  for (const auto& [name, each] : json.items()) {
    auto value = amqp_value(each);
    if (!value) return std::nullopt;
    table.emplace_back(name, std::move(*value));
  }
  return AmqpValue{std::move(table)};
}

Result<void> take_headers(const Json& json, AmqpTable& headers) {
  if (!json.is_object()) return wrong("headers", "an object", json);
  for (const auto& [name, each] : json.items()) {
    if (name.size() > kMaxShortString) return wrong("headers", "names of at most 255 bytes", name);
    auto value = amqp_value(each);
    if (!value)
      return wrong("headers." + name,
                   "a text, a number of at most 63 bits, true, false, a list or a map", each);
    headers.emplace_back(name, std::move(*value));
  }
  return {};
}

Result<void> take_number(const std::string& name, const Json& json, std::uint64_t most,
                         std::uint64_t& target) {
  if (!json.is_number_unsigned() || json.get<std::uint64_t>() > most) {
    return wrong(name, "a number from 0 to " + std::to_string(most), json);
  }
  target = json.get<std::uint64_t>();
  return {};
}

Result<void> take_member(const std::string& name, const Json& json, Received& message) {
  for (const TextMember& member : kTextMembers) {
    if (name != member.name) continue;
    if (!json.is_string()) return wrong(name, "a text", json);
    message.*member.target = json.get<std::string>();
    if ((message.*member.target).size() > kMaxShortString) {
      return wrong(name, "at most 255 bytes", json);
    }
    return {};
  }
  std::uint64_t number = 0;
  if (name == "headers") return take_headers(json, message.headers);
  if (name == "priority") {
    auto taken = take_number(name, json, kMaxPriority, number);
    message.priority = static_cast<std::uint32_t>(number);
    return taken;
  }
  if (name == "timestamp") {
    return take_number(name, json, std::numeric_limits<std::int64_t>::max(), message.timestamp);
  }
  if (name == "persistent" || name == "redelivered") {
    if (!json.is_boolean()) return wrong(name, "true or false", json);
    (name == "persistent" ? message.persistent : message.redelivered) = json.get<bool>();
    return {};
  }
  std::vector<std::string_view> known;
  for (const TextMember& member : kTextMembers) known.push_back(member.name);
  known.insert(known.end(), std::begin(kBodies), std::end(kBodies));
  known.insert(known.end(), std::begin(kOtherMembers), std::end(kOtherMembers));
  const std::string near = nearest(name, known);
  return Error{"'" + escape(name, 80) + "': no such member of a message" +
               (near.empty() ? "" : ": did you mean '" + near + "'?")};
}

// `byte`: from 1, or 0 before the first.
std::string place_of(std::string_view text, std::size_t byte) {
  const std::string_view before = text.substr(0, byte > 0 ? byte - 1 : 0);
  const auto line = std::ranges::count(before, '\n') + 1;
  const std::size_t start = before.rfind('\n');
  const std::size_t column = before.size() - (start == std::string_view::npos ? 0 : start + 1) + 1;
  return "line " + std::to_string(line) + ", column " + std::to_string(column);
}

Result<void> take_body(const Json& json, Received& message) {
  int bodies = 0;
  if (const auto body = json.find("body"); body != json.end()) {
    if (!body->is_string()) return wrong("body", "a text (or 'body_json' for JSON)", *body);
    message.body = body->get<std::string>();
    ++bodies;
  }
  if (const auto body = json.find("body_base64"); body != json.end()) {
    auto bytes = body->is_string() ? base64_decode(body->get<std::string>())
                                   : Result<std::string>(Error{""});
    if (!bytes) return wrong("body_base64", "base64", *body);
    message.body = std::move(*bytes);
    ++bodies;
  }
  if (const auto body = json.find("body_json"); body != json.end()) {
    message.body = body->dump();
    if (message.content_type.empty()) message.content_type = "application/json";
    ++bodies;
  }
  if (bodies > 1) return Error{"expected one of 'body', 'body_base64' and 'body_json', found more"};
  message.body_size = message.body.size();
  return {};
}

}  // namespace

Result<Received> message_from_json(std::string_view text) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::parse_error& error) {
    return Error{"expected JSON, found none at " + place_of(text, error.byte)};
  } catch (const Json::exception& error) {
    return Error{std::string("expected JSON: ") + error.what()};
  }
  if (!json.is_object()) return Error{"expected a JSON object, found something else"};
  Received message;
  message.persistent = true;
  // As printed: of the rest only the body is the message's own.
  const auto properties = json.find("properties");
  const Json& members = properties != json.end() ? *properties : json;
  if (!members.is_object()) return wrong("properties", "an object", members);
  for (const auto& [name, value] : members.items()) {
    if (&members == &json && std::ranges::find(kBodies, name) != std::end(kBodies)) continue;
    if (auto taken = take_member(name, value, message); !taken) return Error{taken.error()};
  }
  if (auto taken = take_body(json, message); !taken) return Error{taken.error()};
  return message;
}

Result<void> set_property(Received& message, const std::string& name, const std::string& value) {
  const bool is_text =
      std::ranges::find(kTextMembers, name, &TextMember::name) != std::end(kTextMembers);
  const Json json = is_text ? Json(value) : Json::parse(value, nullptr, false);
  if (name == "headers" || std::ranges::find(kBodies, name) != std::end(kBodies)) {
    return Error{"'" + name + "' is no property"};
  }
  return take_member(name, json.is_discarded() ? Json(value) : json, message);
}

Result<std::string> base64_decode(std::string_view text) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string bytes;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const std::size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) return Error{"expected base64, found another character"};
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count & 0xFF);
  }
  if (count >= 6) return Error{"expected base64, found it cut off"};
  return bytes;
}

DeliveryView delivery_view(const Received& message, ByteBuffer& headers) {
  DeliveryView view;
  view.flags = (message.redelivered ? kDeliveryRedelivered : 0u) |
               (message.persistent ? kDeliveryPersistent : 0u);
  view.priority = message.priority;
  view.delivery_tag = message.tag;
  view.timestamp = message.timestamp;
  view[TextProperty::exchange] = message.exchange;
  view[TextProperty::routing_key] = message.routing_key;
  view[TextProperty::content_type] = message.content_type;
  view[TextProperty::content_encoding] = message.content_encoding;
  view[TextProperty::correlation_id] = message.correlation_id;
  view[TextProperty::reply_to] = message.reply_to;
  view[TextProperty::message_id] = message.message_id;
  view[TextProperty::type] = message.type;
  view[TextProperty::app_id] = message.app_id;
  view[TextProperty::user_id] = message.user_id;
  view[TextProperty::expiration] = message.expiration;
  headers.clear();
  HeaderWriter writer(headers);
  for (const auto& [name, value] : message.headers) {
    if (const auto* flag = std::get_if<bool>(&value.value)) {
      writer.add_scalar(name, HeaderKind::boolean, *flag ? 1 : 0);
    } else if (const auto* number = std::get_if<std::int64_t>(&value.value)) {
      writer.add_scalar(name, HeaderKind::int64, static_cast<std::uint64_t>(*number));
    } else if (const auto* real = std::get_if<double>(&value.value)) {
      writer.add_scalar(name, HeaderKind::real, std::bit_cast<std::uint64_t>(*real));
    } else if (const auto* text = std::get_if<std::string>(&value.value)) {
      writer.add_text(name, HeaderKind::text, *text);
    } else {
      writer.add_scalar(name, HeaderKind::other, 0);
    }
  }
  view.header_count = writer.count();
  view.headers = std::string_view(headers.data(), headers.size());
  std::string_view rest = view.headers;
  while (const auto header = next_header(rest)) {
    if (header->name == consumer::header::kParentId && header->kind == HeaderKind::text) {
      view[TextProperty::parent_id] = header->value;
    }
  }
  return view;
}

}  // namespace lope::cli
