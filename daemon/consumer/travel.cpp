#include "consumer/travel.h"

#include <algorithm>
#include <utility>

namespace lope::consumer {

namespace {

// A header's number, at least `least`; anything else changes nothing.
template <typename T>
void take_number(const HeaderView& header, std::int64_t least, T& into) {
  if (header.kind != HeaderKind::int64 && header.kind != HeaderKind::uint64) return;
  const auto value = static_cast<std::int64_t>(header.bits);
  if (value >= least && value <= INT64_MAX / 2) {
    into = static_cast<T>(std::min<std::int64_t>(value, sizeof(T) == 4 ? INT32_MAX : value));
  }
}

bool take_text(const HeaderView& header, std::string_view& into) {
  if (header.kind != HeaderKind::text && header.kind != HeaderKind::bytes) return false;
  into = header.value;
  return true;
}

void take_flag(const HeaderView& header, bool& into) {
  if (header.kind == HeaderKind::boolean) into = header.bits != 0;
}

}  // namespace

Travel travel_of(std::string_view headers) {
  Travel travel;
  bool has_exchange = false, has_key = false, has_to_exchange = false, has_to_key = false;
  while (const auto each = next_header(headers)) {
    const std::string_view name = each->name;
    if (name == "x-death") travel.has_died = true;
    if (name == header::kTimestampMs) take_number(*each, 0, travel.timestamp_ms);
    if (!name.starts_with("x-lope-")) continue;
    if (name == header::kAttempt) take_number(*each, 1, travel.attempt);
    if (name == header::kCrashes) take_number(*each, 0, travel.crashes);
    if (name == header::kFirstSeen) take_number(*each, 0, travel.first_seen_ms);
    if (name == header::kExpires) take_number(*each, 0, travel.expires_ms);
    if (name == header::kDue) take_number(*each, 0, travel.due_ms);
    if (name == header::kExpiration) take_number(*each, 0, travel.expiration_ms);
    if (name == header::kFailing) take_number(*each, 0, travel.failing_ms);
    if (name == header::kTransient) take_flag(*each, travel.transient);
    if (name == header::kUnroutable) take_flag(*each, travel.may_be_unroutable);
    if (name == header::kExchange) has_exchange = take_text(*each, travel.exchange);
    if (name == header::kRoutingKey) has_key = take_text(*each, travel.routing_key);
    if (name == header::kToExchange) has_to_exchange = take_text(*each, travel.to_exchange);
    if (name == header::kToKey) has_to_key = take_text(*each, travel.to_key);
  }
  travel.has_origin = has_exchange && has_key;
  travel.has_destination = has_to_exchange && has_to_key;
  return travel;
}

std::uint64_t in_queue_since_ms(const Travel& travel, std::uint64_t timestamp) {
  constexpr std::uint64_t kMostSeconds = UINT64_MAX / 1000;
  if (travel.has_died) return 0;
  if (travel.due_ms != 0) return travel.due_ms;
  if (travel.timestamp_ms != 0) return travel.timestamp_ms;
  return timestamp <= kMostSeconds ? timestamp * 1000 : 0;
}

void add_trip(AmqpTable& headers, const Trip& trip) {
  const auto add = [&headers](std::string_view name, AmqpValue value) {
    headers.emplace_back(std::string(name), std::move(value));
  };
  if (trip.transient) add(header::kTransient, {true});
  if (trip.may_be_unroutable) add(header::kUnroutable, {true});
  if (trip.expiration_ms > 0) {
    add(header::kExpiration, {static_cast<std::int64_t>(trip.expiration_ms)});
  }
  add(header::kDue, {static_cast<std::int64_t>(trip.due_ms)});
  add(header::kToExchange, {std::string(trip.exchange)});
  add(header::kToKey, {std::string(trip.routing_key)});
}

AmqpArray history(const AmqpTable& headers, const Attempt& attempt) {
  AmqpArray history;
  for (const auto& [name, value] : headers) {
    const auto* list = std::get_if<AmqpArray>(&value.value);
    if (name == header::kHistory && list != nullptr) history = *list;
  }
  if (history.size() >= kHistoryKept) {
    history.erase(history.begin(), history.end() - (kHistoryKept - 1));
  }
  history.push_back({AmqpTable{{"attempt", {std::int64_t{attempt.number}}},
                               {"time", {static_cast<std::int64_t>(attempt.time_ms)}},
                               {"worker", {attempt.worker}},
                               {"reason", {attempt.reason}}}});
  return history;
}

std::string parking_queue(const std::string& queue) {
  constexpr std::size_t kMaxName = 255;
  const std::string suffix = ".dead";
  return queue.substr(0, kMaxName - suffix.size()) + suffix;
}

}  // namespace lope::consumer
