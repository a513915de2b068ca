// A message as a command got it, with everything of its own, and as JSON.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/settings.h"
#include "consumer/connection.h"

namespace lope::cli {

struct Received {
  std::uint64_t tag = 0;
  bool redelivered = false;
  bool persistent = false;
  std::uint32_t priority = 0;   // 0: none
  std::uint64_t timestamp = 0;  // seconds since 1970; 0: none
  std::string exchange, routing_key;
  std::string content_type, content_encoding, correlation_id, reply_to, message_id, type, app_id,
      user_id, expiration;
  AmqpTable headers;
  std::uint64_t body_size = 0;
  std::string body;        // empty when it was not wanted
  std::string properties;  // as they came, for Publication::copied
};

// All but the body.
Received received(const consumer::IncomingDelivery& delivery);

// The text or the number of that name; nothing when there is none of that kind.
std::string text_of(const AmqpTable& table, std::string_view name);
std::optional<std::int64_t> number_of(const AmqpTable& table, std::string_view name);

std::string to_json(const AmqpValue& value);
std::string to_json(const AmqpTable& table);
// {"exchange":…,"headers":{…}}: the properties that it has.
std::string properties_json(const Received& message);
// "body":"…" or, when it is no UTF-8, "body_base64":"…".
std::string body_json(std::string_view body);

std::string base64(std::string_view bytes);

}  // namespace lope::cli
