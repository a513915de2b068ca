#include "consumer/copies.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <functional>
#include <system_error>

#include "common/clock.h"
#include "consumer/delay_ladder.h"

namespace lope::consumer {

namespace {

// What Outbound::need begins with; the rest is a name, or a level.
constexpr std::string_view kExchangeThere = "exchange ";
constexpr std::string_view kLadder = "ladder ";
constexpr std::string_view kDeadLetters = "dead letters";  // declared, if that is to be
constexpr std::string_view kDeadLettersThere = "dead letters there";
constexpr std::string_view kParking = "parking ";
constexpr std::string_view kQueueThere = "queue ";

// With a trace that begins here no state of another goes along.
constexpr auto kOfATripAndState = header::joined(header::kOfATrip, std::array{kTraceState});
constexpr auto kOfTheLivingAndState = header::joined(header::kOfTheLiving, std::array{kTraceState});

std::int64_t to_signed(std::uint64_t value) { return static_cast<std::int64_t>(value); }

void add(AmqpTable& headers, std::string_view name, AmqpValue value) {
  headers.emplace_back(std::string(name), std::move(value));
}

// The body and the properties of a delivery, which may be settled before this is confirmed.
std::unique_ptr<Outbound> copy_of(const Delivery& delivery, DeliveryView& view) {
  auto outbound = std::make_unique<Outbound>();
  if (auto decoded = decode_delivery(delivery.frame.bytes())) view = *decoded;
  outbound->message_id = view[TextProperty::message_id];
  const std::string_view body = body_of(delivery, view);
  const std::string_view properties(delivery.properties.data(), delivery.properties.size());
  outbound->storage.reserve(properties.size() + body.size());
  outbound->storage.append(properties).append(body);
  outbound->publication.copied = std::string_view(outbound->storage).substr(0, properties.size());
  outbound->publication.body = std::string_view(outbound->storage).substr(properties.size());
  return outbound;
}

// The history that its headers tell, and what has been tried since.
AmqpTable known_history(const Delivery& delivery, std::string_view properties) {
  AmqpTable known = decode_headers(properties, header::kHistory);
  for (const Attempt& attempt : delivery.earlier) {
    known = {AmqpEntry(std::string(header::kHistory), {history(known, attempt)})};
  }
  return known;
}

void send_to(Outbound& outbound, std::string exchange, std::string routing_key) {
  outbound.exchange = std::move(exchange);
  outbound.routing_key = std::move(routing_key);
  outbound.publication.exchange = outbound.exchange;
  outbound.publication.routing_key = outbound.routing_key;
}

void send_to_parking(Outbound& outbound, const std::string& queue) {
  outbound.kind = static_cast<int>(CopyKind::parking);
  outbound.need = kParking;
  outbound.need += parking_queue(queue);
  send_to(outbound, {}, parking_queue(queue));
}

// What Lope has given the delivery, the next attempt and the dead letter have too: the id that a
// message without one goes by, and the trace that it has begun.
void keep_given(AmqpTable& headers, const Delivery& delivery, const DeliveryView& view) {
  const bool unnamed = view[TextProperty::message_id].empty();
  if (!unnamed && !delivery.trace.began) return;
  std::string_view left = view.headers;
  while (const auto header = next_header(left)) {
    if (header->kind != HeaderKind::text) continue;
    if ((unnamed && header->name == header::kId) ||
        (delivery.trace.began && header->name == kTraceParent)) {
      add(headers, header->name, {std::string(header->value)});
    }
  }
}

void send_by_ladder(Outbound& outbound, const DelaySettings& delays,
                    std::chrono::milliseconds delay, const Trip& trip) {
  add_trip(outbound.publication.headers, trip);
  LadderEntry entry = ladder_entry(delays.prefix, delay);
  outbound.delay = delay;
  outbound.need = kLadder;
  outbound.need += std::to_string(entry.level);
  send_to(outbound, std::move(entry.exchange), std::move(entry.routing_key));
  outbound.publication.mandatory = true;
  outbound.publication.persistent = true;
}

// Without what can be done without, one after the other. What was received fits a frame, so it does
// in the end.
bool make_smaller(AmqpTable& headers, CopyKind kind) {
  const auto history = std::find_if(headers.begin(), headers.end(), [](const AmqpEntry& entry) {
    return entry.first == header::kHistory && !std::get<AmqpArray>(entry.second.value).empty();
  });
  if (history != headers.end()) {
    history->second = {AmqpArray{}};
    return true;
  }
  if (kind == CopyKind::again || kind == CopyKind::undeliverable) {
    return std::erase_if(headers,
                         [](const AmqpEntry& entry) { return entry.first == header::kReason; }) > 0;
  }
  const bool is_dead = kind == CopyKind::dead_letter || kind == CopyKind::parking;
  if (!is_dead || headers.empty()) return false;
  const auto is_code = [](const AmqpEntry& entry) { return entry.first == header::kDeadCode; };
  if (headers.size() == 1) {
    headers.clear();
  } else {
    std::erase_if(headers, std::not_fn(is_code));
  }
  return true;
}

// Which attempt it is, and what else it takes along to it.
AmqpTable travel_headers(const Delivery& delivery, const DeliveryView& view, std::uint32_t attempt,
                         std::uint32_t crashes) {
  AmqpTable headers;
  add(headers, header::kAttempt, {std::int64_t{attempt}});
  add(headers, header::kCrashes, {std::int64_t{crashes}});
  add(headers, header::kFirstSeen, {to_signed(delivery.first_seen_ms)});
  add(headers, header::kExchange, {std::string(view[TextProperty::exchange])});
  add(headers, header::kRoutingKey, {std::string(view[TextProperty::routing_key])});
  if (delivery.expires_ms != 0) {
    add(headers, header::kExpires, {to_signed(delivery.expires_ms)});
  }
  return headers;
}

}  // namespace

std::string_view kind_name(const Outbound& outbound) {
  switch (static_cast<CopyKind>(outbound.kind)) {
    case CopyKind::publication:
    case CopyKind::due: return "publication";
    case CopyKind::retry:
    case CopyKind::again: return "retry";
    case CopyKind::waiting: return "waiting";
    case CopyKind::dead_letter:
    case CopyKind::parking:
    case CopyKind::undeliverable: return "dead_letter";
  }
  std::abort();
}

Destination destination_of(const Outbound& outbound) {
  Destination to{outbound.publication.exchange, outbound.publication.routing_key};
  if (outbound.delay.count() <= 0) return to;
  for (const AmqpEntry& entry : outbound.publication.headers) {
    const auto* const text = std::get_if<std::string>(&entry.second.value);
    if (text != nullptr && entry.first == header::kToExchange) to.exchange = *text;
    if (text != nullptr && entry.first == header::kToKey) to.routing_key = *text;
  }
  return to;
}

Result<std::unique_ptr<Outbound>> publication_for(const DelaySettings& delays,
                                                  std::string payload) {
  auto outbound = std::make_unique<Outbound>();
  outbound->kind = static_cast<int>(CopyKind::publication);
  outbound->storage = std::move(payload);
  const auto decoded = decode_publication(outbound->storage);
  if (!decoded) return Error{decoded.error()};
  const PublicationView& view = *decoded;
  Publication& publication = outbound->publication;
  publication.exchange = view[TextProperty::exchange];
  publication.routing_key = view[TextProperty::routing_key];
  publication.content_type = view[TextProperty::content_type];
  publication.content_encoding = view[TextProperty::content_encoding];
  publication.correlation_id = view[TextProperty::correlation_id];
  publication.reply_to = view[TextProperty::reply_to];
  publication.message_id = outbound->message_id = view[TextProperty::message_id];
  publication.type = view[TextProperty::type];
  publication.timestamp = view.timestamp;
  publication.priority = view.priority == 0 ? -1 : static_cast<int>(view.priority);
  publication.packed_headers = view.headers;
  publication.body = view.body;
  publication.persistent = (view.flags & kPublicationTransient) == 0;
  publication.mandatory = (view.flags & kPublicationMayBeUnroutable) == 0;
  const std::uint64_t now = unix_ms();
  if (view.due_unix_ms > now) {
    const std::uint64_t due =
        std::min(view.due_unix_ms, now + static_cast<std::uint64_t>(kLongestDelay.count()));
    send_by_ladder(*outbound, delays, std::chrono::milliseconds(to_signed(due - now)),
                   {due, view[TextProperty::exchange], view[TextProperty::routing_key],
                    !publication.persistent, !publication.mandatory, view.expiration_ms});
    return outbound;
  }
  if (view.expiration_ms > 0) {
    outbound->expiration = std::to_string(view.expiration_ms);
    publication.expiration = outbound->expiration;
  }
  if (!publication.exchange.empty()) {
    outbound->need = kExchangeThere;
    outbound->need += publication.exchange;
  }
  return outbound;
}

std::uint64_t take_travel(DeliveryView& view, Delivery& delivery) {
  delivery.attempt = 1;
  delivery.crashes = 0;
  delivery.expires_ms = 0;
  delivery.first_seen_ms = view.received_unix_ns / 1'000'000;
  if (const std::string_view text = view[TextProperty::expiration]; !text.empty()) {
    // When it was published is not known: it counts from when it was seen first.
    std::uint64_t lifetime_ms = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), lifetime_ms);
    if (error == std::errc() && lifetime_ms > 0) {
      delivery.expires_ms = delivery.first_seen_ms + lifetime_ms;
    }
  }
  static constexpr Travel kNone;
  if (view.header_count == 0) return in_queue_since_ms(kNone, view.timestamp);
  const Travel travel = travel_of(view.headers);
  if (travel.has_origin) {
    view[TextProperty::exchange] = travel.exchange;
    view[TextProperty::routing_key] = travel.routing_key;
  }
  if (travel.has_died) return 0;  // a dead letter that is handled begins anew
  delivery.attempt = travel.attempt;
  delivery.crashes = travel.crashes;
  if (travel.first_seen_ms != 0) delivery.first_seen_ms = travel.first_seen_ms;
  if (travel.expires_ms != 0) delivery.expires_ms = travel.expires_ms;
  view.attempt = travel.attempt;
  view.crashes = travel.crashes;
  return in_queue_since_ms(travel, view.timestamp);
}

AmqpTable retry_headers(const Delivery& delivery, const DeliveryView& view, const AmqpTable& known,
                        std::uint32_t crashes, const Attempt& attempt) {
  AmqpTable headers = travel_headers(delivery, view, delivery.attempt + 1, crashes);
  add(headers, header::kHistory, {history(known, attempt)});
  keep_given(headers, delivery, view);
  return headers;
}

std::unique_ptr<Outbound> retry_copy(const DelaySettings& delays, const Delivery& delivery,
                                     const std::string& queue, std::chrono::milliseconds delay,
                                     std::uint32_t crashes, const Attempt& attempt) {
  DeliveryView view;
  auto outbound = copy_of(delivery, view);
  outbound->kind = static_cast<int>(CopyKind::retry);
  Publication& publication = outbound->publication;
  publication.headers =
      retry_headers(delivery, view, known_history(delivery, publication.copied), crashes, attempt);
  publication.without = header::kOfATrip;
  if (delivery.trace.began) publication.without = kOfATripAndState;
  if (delay.count() <= 0) {
    send_to(*outbound, {}, queue);
  } else {
    const std::uint64_t due = unix_ms() + static_cast<std::uint64_t>(delay.count());
    send_by_ladder(*outbound, delays, delay, {due, {}, queue});
  }
  return outbound;
}

std::unique_ptr<Outbound> waiting_copy(const DelaySettings& delays, const Delivery& delivery,
                                       const std::string& queue, std::chrono::milliseconds delay) {
  DeliveryView view;
  auto outbound = copy_of(delivery, view);
  outbound->kind = static_cast<int>(CopyKind::waiting);
  AmqpTable& headers = outbound->publication.headers;
  headers = travel_headers(delivery, view, delivery.attempt, delivery.crashes);
  // Its history goes on only as long as the rest of it does.
  const AmqpTable known = decode_headers(outbound->publication.copied, header::kHistory);
  if (!known.empty()) headers.push_back(known.front());
  keep_given(headers, delivery, view);
  outbound->publication.without = header::kOfATrip;
  if (delivery.trace.began) outbound->publication.without = kOfATripAndState;
  const std::uint64_t due = unix_ms() + static_cast<std::uint64_t>(delay.count());
  send_by_ladder(*outbound, delays, delay, {due, {}, queue});
  return outbound;
}

std::string_view code_of(Refusal refusal) {
  switch (refusal) {
    case Refusal::encoding: break;
    case Refusal::too_large: return dead_code::kTooLarge;
    case Refusal::charset: return dead_code::kCharset;
    case Refusal::schema: return dead_code::kSchema;
  }
  return dead_code::kEncoding;
}

std::unique_ptr<Outbound> dead_letter_copy(const DeadLetterSettings& settings, bool parking,
                                           const Delivery& delivery, const std::string& queue,
                                           const DeadLetter& letter, const Author& author,
                                           const Attempt& attempt) {
  DeliveryView view;
  auto outbound = copy_of(delivery, view);
  Publication& publication = outbound->publication;
  AmqpTable& headers = publication.headers;
  add(headers, header::kDeadReason, {letter.reason});
  add(headers, header::kDeadCode, {std::string(letter.code)});
  add(headers, header::kDeadTime, {to_signed(unix_ms())});
  add(headers, header::kDeadQueue, {queue});
  add(headers, header::kDeadGroup, {author.group});
  add(headers, header::kDeadHandler, {author.handler});
  add(headers, header::kDeadVersion, {author.version});
  add(headers, header::kDeadFile, {author.file});
  add(headers, header::kDeadHost, {author.host});
  add(headers, header::kDeadAttempts, {std::int64_t{letter.attempts}});
  add(headers, header::kDeadCrashes, {std::int64_t{letter.crashes}});
  add(headers, header::kExchange, {std::string(view[TextProperty::exchange])});
  add(headers, header::kRoutingKey, {std::string(view[TextProperty::routing_key])});
  const AmqpTable known = known_history(delivery, publication.copied);
  if (letter.attempts >= attempt.number) {
    add(headers, header::kHistory, {history(known, attempt)});
  } else if (!known.empty()) {  // this one was not begun
    headers.push_back(known.front());
  }
  keep_given(headers, delivery, view);
  publication.without = header::kOfTheLiving;
  if (delivery.trace.began) publication.without = kOfTheLivingAndState;
  if (parking) {
    send_to_parking(*outbound, queue);
    return outbound;
  }
  outbound->kind = static_cast<int>(CopyKind::dead_letter);
  outbound->need = settings.declare ? kDeadLetters : kDeadLettersThere;
  send_to(*outbound, settings.exchange,
          settings.routing_key.empty() ? std::string(view[TextProperty::routing_key])
                                       : settings.routing_key);
  return outbound;
}

bool next_best(Outbound& copy, Fate fate, const std::string& queue) {
  const auto kind = static_cast<CopyKind>(copy.kind);
  if (fate == Fate::too_large) return make_smaller(copy.publication.headers, kind);
  if (fate == Fate::lost) return false;
  if (kind == CopyKind::dead_letter && copy.need == kDeadLetters) {
    copy.need = kDeadLettersThere;
    return true;
  }
  if (kind == CopyKind::dead_letter) {
    send_to_parking(copy, queue);
    return true;
  }
  if (kind == CopyKind::parking && copy.need.starts_with(kParking)) {
    copy.need = kQueueThere;
    copy.need += parking_queue(queue);
    return true;
  }
  return false;
}

std::unique_ptr<Outbound> due_copy(const Delivery& delivery, std::uint64_t left_ms) {
  DeliveryView view;
  auto outbound = copy_of(delivery, view);
  outbound->kind = static_cast<int>(CopyKind::due);
  const Travel travel = travel_of(view.headers);
  Publication& publication = outbound->publication;
  publication.without = header::kOfTheLadder;
  publication.persistent = !travel.transient;
  publication.mandatory = !travel.may_be_unroutable;
  if (left_ms > 0) {
    outbound->expiration = std::to_string(left_ms);
    publication.expiration = outbound->expiration;
  }
  if (!travel.to_exchange.empty()) {
    outbound->need = kExchangeThere;
    outbound->need += travel.to_exchange;
  }
  send_to(*outbound, std::string(travel.to_exchange), std::string(travel.to_key));
  return outbound;
}

std::unique_ptr<Outbound> again_copy(const DelaySettings& delays, const Delivery& delivery,
                                     const std::string& reason) {
  DeliveryView view;
  auto outbound = copy_of(delivery, view);
  outbound->kind = static_cast<int>(CopyKind::again);
  const Travel travel = travel_of(view.headers);
  add(outbound->publication.headers, header::kReason, {reason});
  add(outbound->publication.headers, header::kFailing,
      {to_signed(travel.failing_ms != 0 ? travel.failing_ms : unix_ms())});
  send_by_ladder(*outbound, delays, delays.retry,
                 {travel.due_ms, travel.to_exchange, travel.to_key});
  return outbound;
}

std::unique_ptr<Outbound> undeliverable_copy(const DelaySettings& delays, const Delivery& delivery,
                                             const std::string& reason) {
  DeliveryView view;
  auto outbound = copy_of(delivery, view);
  outbound->kind = static_cast<int>(CopyKind::undeliverable);
  add(outbound->publication.headers, header::kReason, {reason});
  send_to(*outbound, {}, undeliverable_name(delays.prefix));
  return outbound;
}

std::vector<Request> steps_for(const std::string& need, const DelaySettings& delays,
                               const DeadLetterSettings& dead_letter, bool quorum_parking) {
  const auto behind = [&need](std::string_view word) { return need.substr(word.size()); };
  const auto look_for_exchange = [](std::string name) {
    ExchangeDeclare look;
    look.exchange.name = std::move(name);
    look.passive = true;
    return look;
  };
  if (need.starts_with(kExchangeThere)) return {look_for_exchange(behind(kExchangeThere))};
  if (need.starts_with(kLadder)) return ladder_steps(delays.prefix, std::stoi(behind(kLadder)));
  if (need.starts_with(kParking)) {
    DeclareSettings queue;
    if (quorum_parking) queue.type = "quorum";
    return {QueueDeclare{behind(kParking), queue}};
  }
  if (need.starts_with(kQueueThere)) return {QueueDeclare{behind(kQueueThere), {}, true}};
  if (need == kDeadLetters || need == kDeadLettersThere) {
    const bool declares = dead_letter.declare && need == kDeadLetters;
    if (!dead_letter.exchange.empty()) {
      if (!declares) return {look_for_exchange(dead_letter.exchange)};
      ExchangeDeclare declare;
      declare.exchange.name = dead_letter.exchange;
      declare.exchange.type = dead_letter.exchange_type;
      return {declare};
    }
    if (declares) return {QueueDeclare{dead_letter.routing_key, {}}};
    if (dead_letter.declare) return {QueueDeclare{dead_letter.routing_key, {}, true}};
  }
  return {};
}

}  // namespace lope::consumer
