#include "cli/dead_letter.h"

#include <algorithm>

#include "common/json.h"
#include "common/wall_time.h"
#include "consumer/travel.h"

namespace lope::cli {

namespace {

namespace header = consumer::header;

constexpr std::size_t kMaxName = 255;  // AMQP's

bool has_text(const AmqpTable& table, std::string_view name) {
  const AmqpValue* value = find(table, name);
  return value != nullptr && std::holds_alternative<std::string>(value->value);
}

// What both headers name, when both are there.
std::optional<Address> address_in(const AmqpTable& headers, std::string_view exchange,
                                  std::string_view routing_key) {
  if (!has_text(headers, exchange) || !has_text(headers, routing_key)) return std::nullopt;
  return Address{text_of(headers, exchange), text_of(headers, routing_key)};
}

// The broker's list of deaths: the latest first.
void read_deaths(const AmqpTable& headers, DeadLetter& letter) {
  const AmqpValue* value = find(headers, "x-death");
  const auto* deaths = value != nullptr ? std::get_if<AmqpArray>(&value->value) : nullptr;
  if (deaths == nullptr || deaths->empty()) return;
  const auto* latest = std::get_if<AmqpTable>(&deaths->front().value);
  const auto* first = std::get_if<AmqpTable>(&deaths->back().value);
  if (latest == nullptr || first == nullptr) return;
  if (letter.code.empty()) letter.code = text_of(*latest, "reason");
  if (!letter.since_ms) {
    if (const auto seconds = number_of(*latest, "time")) letter.since_ms = *seconds * 1000;
  }
  if (letter.reason.empty()) {
    letter.reason =
        "the broker: " + text_of(*latest, "reason") + " in queue " + text_of(*latest, "queue");
  }
  if (letter.queue.empty()) letter.queue = text_of(*first, "queue");
  if (letter.origin) return;
  const AmqpValue* keys_value = find(*first, "routing-keys");
  const auto* keys = keys_value != nullptr ? std::get_if<AmqpArray>(&keys_value->value) : nullptr;
  const auto* key =
      keys != nullptr && !keys->empty() ? std::get_if<std::string>(&keys->front().value) : nullptr;
  if (key != nullptr && has_text(*first, "exchange")) {
    letter.origin = Address{text_of(*first, "exchange"), *key};
  }
}

}  // namespace

DeadLetter dead_letter_of(const Received& message) {
  const AmqpTable& headers = message.headers;
  DeadLetter letter;
  letter.message_id = message.message_id;
  letter.attempts = number_of(headers, header::kDeadAttempts);
  if (!letter.attempts) letter.attempts = number_of(headers, header::kAttempt);
  if (const auto destination = address_in(headers, header::kToExchange, header::kToKey)) {
    letter.code = "undeliverable";
    letter.reason = text_of(headers, header::kReason);
    letter.since_ms = number_of(headers, header::kDue);
    if (destination->exchange.empty()) letter.queue = destination->routing_key;
    letter.origin = destination;
    return letter;
  }
  letter.code = text_of(headers, header::kDeadCode);
  letter.reason = text_of(headers, header::kDeadReason);
  letter.since_ms = number_of(headers, header::kDeadTime);
  letter.queue = text_of(headers, header::kDeadQueue);
  letter.origin = address_in(headers, header::kExchange, header::kRoutingKey);
  read_deaths(headers, letter);
  return letter;
}

std::string open_json(const DeadLetter& letter, std::uint64_t number, std::int64_t now_ms) {
  std::string json =
      "{\"number\":" + std::to_string(number) + ",\"message_id\":" + json_quote(letter.message_id);
  if (letter.since_ms) {
    json += ",\"dead_since\":" + json_quote(utc_text(*letter.since_ms)) +
            ",\"age_seconds\":" + std::to_string((now_ms - *letter.since_ms) / 1000);
  }
  json += ",\"code\":" + json_quote(letter.code) + ",\"reason\":" + json_quote(letter.reason);
  if (letter.attempts) json += ",\"attempts\":" + std::to_string(*letter.attempts);
  json += ",\"queue\":" + json_quote(letter.queue);
  if (letter.origin) {
    json += ",\"exchange\":" + json_quote(letter.origin->exchange) +
            ",\"routing_key\":" + json_quote(letter.origin->routing_key);
  }
  return json;
}

bool DeadLetterFilter::empty() const {
  return reason.empty() && code.empty() && id.empty() && !older && !newer;
}

bool DeadLetterFilter::matches(const DeadLetter& letter, std::int64_t now_ms) const {
  if (!reason.empty() && letter.reason.find(reason) == std::string::npos) return false;
  if (!code.empty() && letter.code != code) return false;
  if (!id.empty() && letter.message_id != id) return false;
  if (!older && !newer) return true;
  if (!letter.since_ms) return false;
  const std::chrono::milliseconds age(now_ms - *letter.since_ms);
  return (!older || age >= *older) && (!newer || age <= *newer);
}

Result<Address> replay_address(const DeadLetter& letter, ReplayTo to, const std::string& queue) {
  switch (to) {
    case ReplayTo::named: return Address{"", queue};
    case ReplayTo::queue:
      if (!letter.queue.empty()) return Address{"", letter.queue};
      return Error{"its headers do not name the queue it was in: --queue NAME says one"};
    case ReplayTo::origin: break;
  }
  if (!letter.origin) {
    return Error{"its headers do not say where it came from: --queue NAME says where to"};
  }
  if (std::max(letter.origin->exchange.size(), letter.origin->routing_key.size()) > kMaxName) {
    return Error{
        "its headers name an exchange or a routing key of more than 255 bytes: --queue NAME says "
        "where to"};
  }
  return *letter.origin;
}

}  // namespace lope::cli
