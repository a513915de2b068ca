#include "consumer/copies.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/clock.h"
#include "consumer/delay_ladder.h"
#include "support/amqp_properties.h"

namespace lope::consumer {

using namespace std::chrono_literals;
using namespace lope::test;

namespace {

using Value = std::variant<bool, std::int64_t, std::string>;
struct Header {
  std::string_view name;
  Value value;
};

// A delivery as the consumer keeps it.
struct Sample {
  std::vector<Header> headers = {};
  std::string other_fields = {};  // of its headers, as they go over the wire
  std::string body = "the body";
  bool shared = false;  // the body is in a segment of shared memory
  std::string exchange = "orders";
  std::string routing_key = "new.eu";
  std::uint32_t attempt = 1;
  std::uint32_t crashes = 0;
  std::uint64_t first_seen_ms = 1'700'000'000'000;
  std::uint64_t expires_ms = 0;
};

class Kept {
 public:
  explicit Kept(const Sample& sample) : headers_(pack(sample.headers)) {
    DeliveryView view;
    view[TextProperty::exchange] = sample.exchange;
    view[TextProperty::routing_key] = sample.routing_key;
    view.header_count = static_cast<std::uint32_t>(sample.headers.size());
    view.headers = {headers_.data(), headers_.size()};
    if (sample.shared) {
      delivery.body = bodies_.take(sample.body.size());
      REQUIRE(delivery.body != nullptr);
      view.segment = delivery.body->id;
      encode_delivery(view, sample.body.size(), delivery.frame);
      std::copy(sample.body.begin(), sample.body.end(), delivery.body->data);
    } else {
      char* const to = encode_delivery(view, sample.body.size(), delivery.frame);
      std::copy(sample.body.begin(), sample.body.end(), to);
    }
    Properties properties;
    properties.message_id = "m-1";
    properties.headers = sample.other_fields;
    for (const auto& [name, value] : sample.headers) *properties.headers += encode(name, value);
    encoded = properties.encode();
    delivery.properties.append(encoded);
    delivery.attempt = sample.attempt;
    delivery.crashes = sample.crashes;
    delivery.first_seen_ms = sample.first_seen_ms;
    delivery.expires_ms = sample.expires_ms;
  }

  Delivery delivery;
  std::string encoded;  // its properties

 private:
  static ByteBuffer pack(const std::vector<Header>& headers) {
    ByteBuffer buffer;
    HeaderWriter writer(buffer);
    for (const auto& [name, value] : headers) {
      if (const auto* text = std::get_if<std::string>(&value)) {
        writer.add_text(name, HeaderKind::text, *text);
      } else if (const auto* number = std::get_if<std::int64_t>(&value)) {
        writer.add_scalar(name, HeaderKind::int64, static_cast<std::uint64_t>(*number));
      } else {
        writer.add_scalar(name, HeaderKind::boolean, std::get<bool>(value) ? 1 : 0);
      }
    }
    return buffer;
  }
  static std::string encode(std::string_view name, const Value& value) {
    if (const auto* text = std::get_if<std::string>(&value)) return text_field(name, *text);
    if (const auto* number = std::get_if<std::int64_t>(&value)) return number_field(name, *number);
    return flag_field(name, std::get<bool>(value));
  }

  ByteBuffer headers_;
  BodyStore bodies_;
};

const AmqpValue* find(const Publication& publication, std::string_view name) {
  const AmqpTable& headers = publication.headers;
  const auto found = std::find_if(headers.begin(), headers.end(),
                                  [name](const AmqpEntry& entry) { return entry.first == name; });
  return found == headers.end() ? nullptr : &found->second;
}
template <typename T>
T get(const Publication& publication, std::string_view name) {
  CAPTURE(name);
  const AmqpValue* const value = find(publication, name);
  REQUIRE(value != nullptr);
  REQUIRE(std::holds_alternative<T>(value->value));
  return std::get<T>(value->value);
}
std::int64_t number_of(const Publication& publication, std::string_view name) {
  return get<std::int64_t>(publication, name);
}
std::string text_of(const Publication& publication, std::string_view name) {
  return get<std::string>(publication, name);
}

bool is_without(const Publication& publication, std::string_view name) {
  return std::find(publication.without.begin(), publication.without.end(), name) !=
         publication.without.end();
}
// Neither given nor copied.
bool has_not(const Publication& publication, std::string_view name) {
  return find(publication, name) == nullptr && is_without(publication, name);
}

// The original's body and properties are all there, and live as long as the copy.
void check_whole(const Outbound& copy, const Sample& sample, const std::string& properties) {
  CHECK((copy.publication.copied == properties));
  CHECK((copy.publication.body == sample.body));
  const std::string& storage = copy.storage;
  for (const std::string_view view : {copy.publication.copied, copy.publication.body}) {
    CHECK(view.data() >= storage.data());
    CHECK(view.data() + view.size() <= storage.data() + storage.size());
  }
  CHECK(copy.publication.exchange.data() == copy.exchange.data());
  CHECK(copy.publication.routing_key.data() == copy.routing_key.data());
  CHECK(copy.publication.packed_headers.empty());
  // No header twice.
  for (const AmqpEntry& each : copy.publication.headers) {
    CAPTURE(each.first);
    CHECK(std::count_if(copy.publication.headers.begin(), copy.publication.headers.end(),
                        [&](const AmqpEntry& other) { return other.first == each.first; }) == 1);
  }
}

CopyKind kind_of(const Outbound& copy) { return static_cast<CopyKind>(copy.kind); }
std::int64_t now_ms() { return static_cast<std::int64_t>(unix_ns() / 1'000'000); }

const DelaySettings kDelays;
const Author kAuthor{"group", "handler", "1.2", "/h/handler.so", "host7"};
const Attempt kAttempt{2, 1'700'000'000'123, "group/1 on host7", "it failed"};

// Of a message that has been round before: all that our own headers can be.
std::vector<Header> all_headers() {
  return {{header::kAttempt, std::int64_t{4}},
          {header::kCrashes, std::int64_t{2}},
          {header::kFirstSeen, std::int64_t{1'600'000'000'000}},
          {header::kExchange, "orders"},
          {header::kRoutingKey, "new.eu"},
          {header::kExpires, std::int64_t{1'900'000'000'000}},
          {header::kDue, std::int64_t{1'700'000'000'000}},
          {header::kToExchange, "target"},
          {header::kToKey, "to.key"},
          {header::kTransient, true},
          {header::kUnroutable, true},
          {header::kExpiration, std::int64_t{60'000}},
          {header::kReason, "returned"},
          {header::kDeadReason, "an earlier death"}};
}

std::string history_field(std::size_t reason_size) {
  return field(header::kHistory, 'A',
               long_text('F' + long_text(number_field("attempt", 1) +
                                         text_field("reason", std::string(reason_size, 'r')))));
}

std::string publish_payload(const PublicationView& view) {
  ByteBuffer buffer;
  append_publication(view, 1, buffer);
  return std::string(buffer.data() + sizeof(FrameHead), buffer.size() - sizeof(FrameHead));
}

std::vector<std::string> texts(const std::vector<Request>& steps) {
  std::vector<std::string> result;
  for (const Request& step : steps) result.push_back(describe(step));
  return result;
}

}  // namespace

TEST_CASE("a copy for another attempt waits in the ladder and comes back to its queue",
          "[unit][copies]") {
  Sample sample;
  sample.attempt = 2;
  sample.expires_ms = 1'900'000'000'000;
  sample.shared = GENERATE(false, true);
  sample.body = GENERATE(std::string(), std::string("the body"), std::string(100'000, 'b'));
  if (sample.shared && sample.body.empty()) return;
  sample.headers = GENERATE(std::vector<Header>(), all_headers());
  const Kept kept(sample);
  const std::int64_t before = now_ms();
  const auto copy = retry_copy(kDelays, kept.delivery, "the queue", 10s, 1, kAttempt);
  const std::int64_t after = now_ms();
  const Publication& publication = copy->publication;

  CHECK(kind_of(*copy) == CopyKind::retry);
  check_whole(*copy, sample, kept.encoded);
  const LadderEntry entry = ladder_entry(kDelays.prefix, 10s);
  CHECK(publication.exchange == entry.exchange);
  CHECK(publication.routing_key == entry.routing_key);
  CHECK(texts(steps_for(copy->need, kDelays, {}, false)) ==
        texts(ladder_steps(kDelays.prefix, entry.level)));
  CHECK(publication.mandatory);
  CHECK(publication.persistent);

  CHECK(number_of(publication, header::kAttempt) == 3);
  CHECK(number_of(publication, header::kCrashes) == 1);
  CHECK(number_of(publication, header::kFirstSeen) == 1'700'000'000'000);
  CHECK(text_of(publication, header::kExchange) == "orders");
  CHECK(text_of(publication, header::kRoutingKey) == "new.eu");
  CHECK(number_of(publication, header::kExpires) == 1'900'000'000'000);
  CHECK(text_of(publication, header::kToExchange).empty());
  CHECK(text_of(publication, header::kToKey) == "the queue");
  CHECK(number_of(publication, header::kDue) >= before + 10'000);
  CHECK(number_of(publication, header::kDue) <= after + 10'000);
  CHECK(get<AmqpArray>(publication, header::kHistory) == history({}, kAttempt));
  // Of an earlier trip.
  for (const auto name :
       {header::kTransient, header::kUnroutable, header::kExpiration, header::kReason}) {
    CAPTURE(name);
    CHECK(has_not(publication, name));
  }
}

TEST_CASE("a copy keeps the id and the trace that its message was given here", "[unit][copies]") {
  Sample sample;
  sample.headers = {{std::string_view("x-lope-id"), std::string("given")},
                    {std::string_view("traceparent"), std::string("begun here")},
                    {std::string_view("tracestate"), std::string("another's")}};
  Kept kept(sample);
  const bool began = GENERATE(false, true);
  kept.delivery.trace.began = began;
  const DeadLetter letter{"rejected", "why", 1, 0};
  for (const auto& copy :
       {retry_copy(kDelays, kept.delivery, "the queue", 0ms, 0, kAttempt),
        dead_letter_copy({}, true, kept.delivery, "the queue", letter, {}, kAttempt)}) {
    const Publication& publication = copy->publication;
    CHECK(text_of(publication, "x-lope-id") == "given");
    CHECK((find(publication, "traceparent") != nullptr) == began);
    if (began) CHECK(text_of(publication, "traceparent") == "begun here");
    CHECK((std::ranges::find(publication.without, "tracestate") != publication.without.end()) ==
          began);
  }
}

TEST_CASE("a copy for another attempt at once goes straight to its queue", "[unit][copies]") {
  Sample sample;
  sample.headers = all_headers();
  const Kept kept(sample);
  const auto delay = GENERATE(0ms, -5ms);
  const auto copy = retry_copy(kDelays, kept.delivery, "the queue", delay, 0, kAttempt);
  check_whole(*copy, sample, kept.encoded);
  CHECK(kind_of(*copy) == CopyKind::retry);
  CHECK(copy->need.empty());
  CHECK(copy->publication.exchange.empty());
  CHECK(copy->publication.routing_key == "the queue");
  CHECK(copy->publication.mandatory);
  CHECK(copy->publication.persistent);
  CHECK(number_of(copy->publication, header::kAttempt) == 2);
  CHECK(find(copy->publication, header::kExpires) == nullptr);
  for (const auto name :
       {header::kToExchange, header::kToKey, header::kTransient, header::kUnroutable,
        header::kExpiration, header::kReason, header::kDue}) {
    CAPTURE(name);
    CHECK(has_not(copy->publication, name));
  }
}

TEST_CASE("a copy that waits is for the attempt that the message came with", "[unit][copies]") {
  Sample sample;
  sample.attempt = 2;
  sample.headers = all_headers();
  const Kept kept(sample);
  const auto copy = waiting_copy(kDelays, kept.delivery, "the queue", 10s);
  check_whole(*copy, sample, kept.encoded);
  CHECK(kind_of(*copy) == CopyKind::waiting);
  CHECK(kind_name(*copy) == "waiting");
  const LadderEntry entry = ladder_entry(kDelays.prefix, 10s);
  CHECK(copy->publication.exchange == entry.exchange);
  CHECK(copy->publication.mandatory);
  CHECK(copy->publication.persistent);
  CHECK(number_of(copy->publication, header::kAttempt) == 2);
  CHECK(number_of(copy->publication, header::kFirstSeen) == 1'700'000'000'000);
  CHECK(text_of(copy->publication, header::kExchange) == "orders");
  CHECK(text_of(copy->publication, header::kToKey) == "the queue");
  CHECK(find(copy->publication, header::kHistory) == nullptr);
}

TEST_CASE("a history goes on in the next copy", "[unit][copies]") {
  Sample sample;
  sample.other_fields = history_field(3);
  const Kept kept(sample);
  const AmqpArray expected = history(decode_headers(kept.encoded, header::kHistory), kAttempt);
  REQUIRE(expected.size() == 2);
  const auto again = retry_copy(kDelays, kept.delivery, "q", 1s, 0, kAttempt);
  CHECK(get<AmqpArray>(again->publication, header::kHistory) == expected);
  const auto dead = dead_letter_copy({}, true, kept.delivery, "q",
                                     {dead_code::kAttempts, "r", 2, 0}, kAuthor, kAttempt);
  CHECK(get<AmqpArray>(dead->publication, header::kHistory) == expected);
}

TEST_CASE("a dead letter says why it is one, and is no message on its way any more",
          "[unit][copies]") {
  Sample sample;
  sample.headers = all_headers();
  sample.shared = GENERATE(false, true);
  const bool parking = GENERATE(false, true);
  const Kept kept(sample);
  DeadLetterSettings settings;
  settings.to = DeadLetterSettings::To::exchange;
  settings.exchange = "dead";
  const std::int64_t before = now_ms();
  const auto copy =
      dead_letter_copy(settings, parking, kept.delivery, "the queue",
                       {dead_code::kCrashes, "its worker died", 4, 3}, kAuthor, kAttempt);
  const Publication& publication = copy->publication;
  check_whole(*copy, sample, kept.encoded);
  CHECK(publication.mandatory);
  CHECK(publication.persistent);
  CHECK(text_of(publication, header::kDeadReason) == "its worker died");
  CHECK(text_of(publication, header::kDeadCode) == "crashes");
  CHECK(number_of(publication, header::kDeadTime) >= before);
  CHECK(number_of(publication, header::kDeadTime) <= now_ms());
  CHECK(text_of(publication, header::kDeadQueue) == "the queue");
  CHECK(text_of(publication, header::kDeadGroup) == "group");
  CHECK(text_of(publication, header::kDeadHandler) == "handler");
  CHECK(text_of(publication, header::kDeadVersion) == "1.2");
  CHECK(text_of(publication, header::kDeadFile) == "/h/handler.so");
  CHECK(text_of(publication, header::kDeadHost) == "host7");
  CHECK(number_of(publication, header::kDeadAttempts) == 4);
  CHECK(number_of(publication, header::kDeadCrashes) == 3);
  CHECK(text_of(publication, header::kExchange) == "orders");
  CHECK(text_of(publication, header::kRoutingKey) == "new.eu");
  CHECK(get<AmqpArray>(publication, header::kHistory) == history({}, kAttempt));
  // Whoever takes it from there begins with the first attempt.
  for (const auto name :
       {header::kAttempt, header::kCrashes, header::kExpires, header::kFirstSeen,
        header::kToExchange, header::kToKey, header::kTransient, header::kUnroutable,
        header::kExpiration, header::kReason, header::kDue}) {
    CAPTURE(name);
    CHECK(has_not(publication, name));
  }
  if (parking) {
    CHECK(kind_of(*copy) == CopyKind::parking);
    CHECK(publication.exchange.empty());
    CHECK(publication.routing_key == "the queue.dead");
    CHECK(texts(steps_for(copy->need, kDelays, settings, false)) ==
          std::vector<std::string>{"declare queue 'the queue.dead'"});
  } else {
    CHECK(kind_of(*copy) == CopyKind::dead_letter);
    CHECK(publication.exchange == "dead");
    CHECK(publication.routing_key == "new.eu");
    CHECK(texts(steps_for(copy->need, kDelays, settings, false)) ==
          std::vector<std::string>{"look for exchange 'dead'"});
  }
}

TEST_CASE("dead letters go where the settings say, and that is looked for or declared",
          "[unit][copies]") {
  struct Row {
    const char* what;
    std::string exchange, routing_key;
    bool declare;
    std::string expected_key;
    std::vector<std::string> expected_steps;
  };
  const Row rows[] = {
      {"an exchange", "dlx", "", false, "new.eu", {"look for exchange 'dlx'"}},
      {"an exchange and a key", "dlx", "k", false, "k", {"look for exchange 'dlx'"}},
      {"a declared exchange", "dlx", "", true, "new.eu", {"declare exchange 'dlx'"}},
      {"a queue", "", "q.dead", false, "q.dead", {}},  // mandatory: a missing one is heard of
      {"a declared queue", "", "q.dead", true, "q.dead", {"declare queue 'q.dead'"}},
  };
  const Sample sample;
  const Kept kept(sample);
  for (const Row& row : rows) {
    CAPTURE(row.what);
    DeadLetterSettings settings;
    settings.to = DeadLetterSettings::To::exchange;
    settings.exchange = row.exchange;
    settings.routing_key = row.routing_key;
    settings.declare = row.declare;
    settings.exchange_type = "fanout";
    const auto copy = dead_letter_copy(settings, false, kept.delivery, "q",
                                       {dead_code::kRejected, "r", 1, 0}, kAuthor, kAttempt);
    CHECK(copy->publication.exchange == row.exchange);
    CHECK(copy->publication.routing_key == row.expected_key);
    const auto steps = steps_for(copy->need, kDelays, settings, false);
    CHECK(texts(steps) == row.expected_steps);
    for (const Request& step : steps) {
      if (const auto* exchange = std::get_if<ExchangeDeclare>(&step)) {
        CHECK(exchange->passive == !row.declare);
        if (row.declare) CHECK(exchange->exchange.type == "fanout");
        CHECK(exchange->exchange.durable);
      }
      if (const auto* queue = std::get_if<QueueDeclare>(&step)) {
        CHECK_FALSE(queue->passive);
        CHECK(queue->declaration.durable);
      }
    }
  }
}

TEST_CASE("a parking queue is of the kind of its queue, and its name fits", "[unit][copies]") {
  CHECK(parking_queue("q") == "q.dead");
  CHECK(parking_queue(std::string(250, 'q')) == std::string(250, 'q') + ".dead");
  CHECK(parking_queue(std::string(255, 'q')) == std::string(250, 'q') + ".dead");
  const Sample sample;
  const Kept kept(sample);
  const auto copy = dead_letter_copy({}, true, kept.delivery, "q",
                                     {dead_code::kRejected, "r", 1, 0}, kAuthor, kAttempt);
  for (const bool quorum : {false, true}) {
    const auto steps = steps_for(copy->need, kDelays, {}, quorum);
    REQUIRE(steps.size() == 1);
    const auto& queue = std::get<QueueDeclare>(steps.front());
    CHECK(queue.declaration.type == (quorum ? "quorum" : "classic"));
    CHECK(queue.declaration.durable);
    CHECK_FALSE(queue.passive);
  }
}

TEST_CASE("a dead letter that nobody takes is parked, in a queue as it is if need be",
          "[unit][copies]") {
  const Sample sample;
  const Kept kept(sample);
  DeadLetterSettings settings;
  settings.exchange = "dlx";
  const auto copy = dead_letter_copy(settings, false, kept.delivery, "q",
                                     {dead_code::kRejected, "r", 1, 0}, kAuthor, kAttempt);
  REQUIRE(next_best(*copy, Fate::refused, "q"));
  CHECK(kind_of(*copy) == CopyKind::parking);
  CHECK(copy->publication.exchange.empty());
  CHECK(copy->publication.routing_key == "q.dead");
  CHECK(texts(steps_for(copy->need, kDelays, settings, false)) ==
        std::vector<std::string>{"declare queue 'q.dead'"});
  REQUIRE(next_best(*copy, Fate::refused, "q"));
  CHECK(copy->publication.routing_key == "q.dead");
  CHECK(texts(steps_for(copy->need, kDelays, settings, false)) ==
        std::vector<std::string>{"look for queue 'q.dead'"});
  CHECK_FALSE(next_best(*copy, Fate::refused, "q"));
  check_whole(*copy, sample, kept.encoded);
  CHECK(text_of(copy->publication, header::kDeadReason) == "r");
}

TEST_CASE("a copy that is too large does without its history, a dead letter then without the rest",
          "[unit][copies]") {
  Sample sample;
  sample.other_fields = history_field(1000);
  const Kept kept(sample);
  const auto retry = retry_copy(kDelays, kept.delivery, "q", 1s, 0, kAttempt);
  const std::string need = retry->need;
  REQUIRE(next_best(*retry, Fate::too_large, "q"));
  CHECK(get<AmqpArray>(retry->publication, header::kHistory).empty());
  CHECK(kind_of(*retry) == CopyKind::retry);
  CHECK(retry->need == need);
  check_whole(*retry, sample, kept.encoded);
  CHECK_FALSE(next_best(*retry, Fate::too_large, "q"));  // a dead letter, now

  DeadLetterSettings settings;
  settings.exchange = "dlx";
  const bool parking = GENERATE(false, true);
  const auto dead = dead_letter_copy(settings, parking, kept.delivery, "q",
                                     {dead_code::kRejected, "r", 1, 0}, kAuthor, kAttempt);
  REQUIRE(next_best(*dead, Fate::too_large, "q"));
  CHECK(get<AmqpArray>(dead->publication, header::kHistory).empty());
  CHECK(text_of(dead->publication, header::kDeadReason) == "r");
  REQUIRE(next_best(*dead, Fate::too_large, "q"));
  REQUIRE(dead->publication.headers.size() == 1);
  CHECK(text_of(dead->publication, header::kDeadCode) == dead_code::kRejected);
  REQUIRE(next_best(*dead, Fate::too_large, "q"));
  CHECK(dead->publication.headers.empty());
  CHECK_FALSE(next_best(*dead, Fate::too_large, "q"));
  CHECK(kind_of(*dead) == (parking ? CopyKind::parking : CopyKind::dead_letter));
}

TEST_CASE("a dead letter whose place is declared otherwise goes there all the same",
          "[unit][copies]") {
  const Sample sample;
  const Kept kept(sample);
  DeadLetterSettings settings;
  settings.declare = true;
  const bool queue = GENERATE(true, false);
  (queue ? settings.routing_key : settings.exchange) = "dead";
  const auto copy = dead_letter_copy(settings, false, kept.delivery, "q",
                                     {dead_code::kRejected, "r", 1, 0}, kAuthor, kAttempt);
  const std::string what = queue ? "queue 'dead'" : "exchange 'dead'";
  CHECK_THAT(texts(steps_for(copy->need, kDelays, settings, false)).at(0),
             Catch::Matchers::Contains("declare " + what));
  REQUIRE(next_best(*copy, Fate::refused, "q"));
  CHECK(kind_of(*copy) == CopyKind::dead_letter);
  CHECK(texts(steps_for(copy->need, kDelays, settings, false)) ==
        std::vector<std::string>{"look for " + what});
  REQUIRE(next_best(*copy, Fate::refused, "q"));
  CHECK(kind_of(*copy) == CopyKind::parking);
}

TEST_CASE("what a relay cannot deliver does without its reason where that does not fit",
          "[unit][copies]") {
  Sample sample;
  sample.headers = all_headers();
  const Kept kept(sample);
  const bool again = GENERATE(false, true);
  const auto copy = again ? again_copy(kDelays, kept.delivery, "r")
                          : undeliverable_copy(kDelays, kept.delivery, "r");
  REQUIRE(text_of(copy->publication, header::kReason) == "r");
  CHECK(next_best(*copy, Fate::too_large, {}));
  CHECK(find(copy->publication.headers, header::kReason) == nullptr);
  CHECK_FALSE(next_best(*copy, Fate::too_large, {}));
}

TEST_CASE("an attempt that was not begun is not in the history", "[unit][copies]") {
  Sample sample;
  sample.other_fields = history_field(3);
  const Kept kept(sample);
  const AmqpTable known = decode_headers(kept.encoded, header::kHistory);
  REQUIRE(known.size() == 1);
  const auto dead =
      dead_letter_copy({}, true, kept.delivery, "q",
                       {dead_code::kExpired, "r", kAttempt.number - 1, 0}, kAuthor, kAttempt);
  CHECK(get<AmqpArray>(dead->publication, header::kHistory) ==
        std::get<AmqpArray>(known.front().second.value));
}

TEST_CASE("for a retry, for what is lost, and for relays, there is no other way",
          "[unit][copies]") {
  Sample sample;
  sample.headers = all_headers();
  sample.other_fields = history_field(1000);
  const Kept kept(sample);
  const auto fate = GENERATE(Fate::returned, Fate::nacked, Fate::refused, Fate::lost);
  CHECK_FALSE(next_best(*retry_copy(kDelays, kept.delivery, "q", 1s, 0, kAttempt), fate, "q"));
  CHECK_FALSE(next_best(*due_copy(kept.delivery, 0), fate, "q"));
  CHECK_FALSE(next_best(*again_copy(kDelays, kept.delivery, "r"), fate, "q"));
  CHECK_FALSE(next_best(*undeliverable_copy(kDelays, kept.delivery, "r"), fate, "q"));
  CHECK_FALSE(next_best(*dead_letter_copy({}, true, kept.delivery, "q",
                                          {dead_code::kRejected, "r", 1, 0}, kAuthor, kAttempt),
                        Fate::lost, "q"));
}

TEST_CASE("what is due goes where its headers say, without them", "[unit][copies]") {
  Sample sample;
  sample.headers = all_headers();
  sample.shared = GENERATE(false, true);
  const Kept kept(sample);
  const auto copy = due_copy(kept.delivery, 1234);
  const Publication& publication = copy->publication;
  check_whole(*copy, sample, kept.encoded);
  CHECK(kind_of(*copy) == CopyKind::due);
  CHECK(publication.exchange == "target");
  CHECK(publication.routing_key == "to.key");
  CHECK(texts(steps_for(copy->need, kDelays, {}, false)) ==
        std::vector<std::string>{"look for exchange 'target'"});
  CHECK_FALSE(publication.persistent);
  CHECK_FALSE(publication.mandatory);
  CHECK(publication.expiration == "1234");
  CHECK(publication.expiration.data() == copy->expiration.data());
  CHECK(publication.headers.empty());
  for (const auto name : {header::kToExchange, header::kToKey, header::kTransient,
                          header::kUnroutable, header::kExpiration, header::kReason}) {
    CAPTURE(name);
    CHECK(is_without(publication, name));
  }
  for (const auto name : {header::kAttempt, header::kCrashes, header::kFirstSeen, header::kExchange,
                          header::kRoutingKey, header::kExpires, header::kDue, header::kHistory,
                          header::kDeadReason, header::kParentId, header::kTraceId}) {
    CAPTURE(name);
    CHECK_FALSE(is_without(publication, name));
  }
}

TEST_CASE("what is due for a queue needs no exchange, and is kept and missed by default",
          "[unit][copies]") {
  Sample sample;
  sample.headers = {{header::kToExchange, ""}, {header::kToKey, "q"}};
  const Kept kept(sample);
  const auto copy = due_copy(kept.delivery, 0);
  CHECK(copy->need.empty());
  CHECK(copy->publication.exchange.empty());
  CHECK(copy->publication.routing_key == "q");
  CHECK(copy->publication.persistent);
  CHECK(copy->publication.mandatory);
  CHECK(copy->publication.expiration.empty());
}

TEST_CASE("what cannot be delivered goes round again, with all that it carries", "[unit][copies]") {
  Sample sample;
  sample.headers = all_headers();
  sample.shared = GENERATE(false, true);
  const Kept kept(sample);
  DelaySettings delays;
  delays.prefix = "other";
  delays.retry = 61s;
  const auto copy = again_copy(delays, kept.delivery, "nacked: full");
  const Publication& publication = copy->publication;
  check_whole(*copy, sample, kept.encoded);
  CHECK(kind_of(*copy) == CopyKind::again);
  const LadderEntry entry = ladder_entry("other", 61s);
  CHECK(publication.exchange == entry.exchange);
  CHECK(publication.routing_key == entry.routing_key);
  CHECK(texts(steps_for(copy->need, delays, {}, false)) ==
        texts(ladder_steps("other", entry.level)));
  CHECK(publication.mandatory);
  CHECK(publication.persistent);
  CHECK(text_of(publication, header::kReason) == "nacked: full");
  CHECK(text_of(publication, header::kToExchange) == "target");
  CHECK(text_of(publication, header::kToKey) == "to.key");
  // When it was due first: from then on its time runs.
  CHECK(number_of(publication, header::kDue) == 1'700'000'000'000);
  CHECK(publication.without.empty());  // how it is to be delivered is copied
  for (const auto name : {header::kTransient, header::kUnroutable, header::kExpiration}) {
    CHECK(find(publication, name) == nullptr);
  }
}

TEST_CASE("what cannot be delivered at all is kept with all that it carries", "[unit][copies]") {
  Sample sample;
  sample.headers = all_headers();
  sample.shared = GENERATE(false, true);
  const Kept kept(sample);
  const auto copy = undeliverable_copy(kDelays, kept.delivery, "expired");
  const Publication& publication = copy->publication;
  check_whole(*copy, sample, kept.encoded);
  CHECK(kind_of(*copy) == CopyKind::undeliverable);
  CHECK(copy->need.empty());
  CHECK(publication.exchange.empty());
  CHECK(publication.routing_key == "lope.delay.undeliverable");
  CHECK(publication.mandatory);
  CHECK(publication.persistent);
  CHECK(publication.headers == AmqpTable{{"x-lope-reason", {std::string("expired")}}});
  CHECK(publication.without.empty());
}

namespace {

PublicationView full_publication(const ByteBuffer& headers) {
  PublicationView view;
  view.priority = 7;
  view.timestamp = 1'700'000'000;
  view[TextProperty::exchange] = "x";
  view[TextProperty::routing_key] = "k";
  view[TextProperty::content_type] = "text/plain";
  view[TextProperty::content_encoding] = "gzip";
  view[TextProperty::correlation_id] = "c-1";
  view[TextProperty::reply_to] = "r";
  view[TextProperty::message_id] = "m-1";
  view[TextProperty::type] = "t";
  view.header_count = 1;
  view.headers = {headers.data(), headers.size()};
  view.body = "the body";
  return view;
}

void check_publication(const Publication& publication, const PublicationView& view) {
  CHECK(publication.content_type == "text/plain");
  CHECK(publication.content_encoding == "gzip");
  CHECK(publication.correlation_id == "c-1");
  CHECK(publication.reply_to == "r");
  CHECK(publication.message_id == "m-1");
  CHECK(publication.type == "t");
  CHECK(publication.timestamp == 1'700'000'000);
  CHECK(publication.priority == 7);
  CHECK(publication.packed_headers == view.headers);
  CHECK(publication.body == "the body");
  CHECK(publication.copied.empty());
}

}  // namespace

TEST_CASE("what a handler publishes goes where it says", "[unit][copies]") {
  ByteBuffer headers;
  HeaderWriter(headers).add_text("h", HeaderKind::text, "v");
  PublicationView view = full_publication(headers);
  const bool transient = GENERATE(false, true);
  const bool unroutable = GENERATE(false, true);
  view.flags =
      (transient ? kPublicationTransient : 0) | (unroutable ? kPublicationMayBeUnroutable : 0);
  view.expiration_ms = GENERATE(0u, 1500u);
  // What is due already is due now.
  view.due_unix_ms = GENERATE(std::uint64_t{0}, std::uint64_t{1'600'000'000'000});
  const auto outbound = publication_for(kDelays, publish_payload(view));
  REQUIRE(outbound.ok());
  const Publication& publication = (*outbound)->publication;
  CHECK(kind_of(**outbound) == CopyKind::publication);
  check_publication(publication, view);
  CHECK(publication.exchange == "x");
  CHECK(publication.routing_key == "k");
  CHECK(publication.persistent != transient);
  CHECK(publication.mandatory != unroutable);
  CHECK(publication.expiration == (view.expiration_ms == 0 ? "" : "1500"));
  CHECK(publication.headers.empty());
  CHECK(texts(steps_for((*outbound)->need, kDelays, {}, false)) ==
        std::vector<std::string>{"look for exchange 'x'"});
}

TEST_CASE("what a handler publishes to a queue needs nothing", "[unit][copies]") {
  PublicationView view;
  view[TextProperty::routing_key] = "q";
  const auto outbound = publication_for(kDelays, publish_payload(view));
  REQUIRE(outbound.ok());
  CHECK((*outbound)->need.empty());
  CHECK((*outbound)->publication.exchange.empty());
  CHECK((*outbound)->publication.routing_key == "q");
  CHECK((*outbound)->publication.priority == -1);
  CHECK((*outbound)->publication.mandatory);
  CHECK((*outbound)->publication.persistent);
}

TEST_CASE("what a handler publishes for later goes into the ladder", "[unit][copies]") {
  ByteBuffer headers;
  HeaderWriter(headers).add_text("h", HeaderKind::text, "v");
  PublicationView view = full_publication(headers);
  const bool transient = GENERATE(false, true);
  const bool unroutable = GENERATE(false, true);
  view.flags =
      (transient ? kPublicationTransient : 0) | (unroutable ? kPublicationMayBeUnroutable : 0);
  view.expiration_ms = GENERATE(0u, 1500u);
  const std::int64_t before = now_ms();
  view.due_unix_ms = static_cast<std::uint64_t>(before) + 3'600'000;
  const auto outbound = publication_for(kDelays, publish_payload(view));
  REQUIRE(outbound.ok());
  const Publication& publication = (*outbound)->publication;
  CHECK(kind_of(**outbound) == CopyKind::publication);
  check_publication(publication, view);
  // An hour, or the little less that is left of it.
  const LadderEntry entry = ladder_entry(kDelays.prefix, 1h);
  CHECK(publication.exchange == entry.exchange);
  CHECK(publication.routing_key.size() == entry.routing_key.size());
  CHECK(publication.routing_key <= entry.routing_key);
  CHECK(publication.routing_key >= ladder_entry(kDelays.prefix, 59min).routing_key);
  CHECK((*outbound)->need == "ladder " + std::to_string(entry.level));
  CHECK(publication.mandatory);
  CHECK(publication.persistent);
  CHECK(publication.expiration.empty());
  CHECK(text_of(publication, header::kToExchange) == "x");
  CHECK(text_of(publication, header::kToKey) == "k");
  CHECK(number_of(publication, header::kDue) == static_cast<std::int64_t>(view.due_unix_ms));
  CHECK((find(publication, header::kTransient) != nullptr) == transient);
  CHECK((find(publication, header::kUnroutable) != nullptr) == unroutable);
  if (transient) CHECK(get<bool>(publication, header::kTransient));
  if (unroutable) CHECK(get<bool>(publication, header::kUnroutable));
  if (view.expiration_ms == 0) {
    CHECK(find(publication, header::kExpiration) == nullptr);
  } else {
    CHECK(number_of(publication, header::kExpiration) == 1500);
  }
}

TEST_CASE("what is due in an age waits as long as the ladder is, not a moment", "[unit][copies]") {
  PublicationView view;
  view[TextProperty::routing_key] = "q";
  const auto now = static_cast<std::uint64_t>(now_ms());
  const auto longest = static_cast<std::uint64_t>(kLongestDelay.count());
  view.due_unix_ms = GENERATE_COPY(now + longest + 60'000, std::uint64_t{INT64_MAX},
                                   std::uint64_t{INT64_MAX} + now + 1000, UINT64_MAX);
  const auto outbound = publication_for(kDelays, publish_payload(view));
  REQUIRE(outbound.ok());
  const Publication& publication = (*outbound)->publication;
  CHECK(publication.routing_key == ladder_entry(kDelays.prefix, kLongestDelay).routing_key);
  // When it comes out, so that what is wrong then is looked at from then on.
  CHECK(number_of(publication, header::kDue) >= static_cast<std::int64_t>(now + longest));
  CHECK(number_of(publication, header::kDue) <= now_ms() + kLongestDelay.count());
}

TEST_CASE("a damaged publication is an error", "[unit][copies]") {
  PublicationView view;
  view[TextProperty::routing_key] = "q";
  view.body = "body";
  const std::string payload = publish_payload(view);
  for (std::size_t size = 0; size < payload.size(); ++size) {
    CHECK_FALSE(publication_for(kDelays, payload.substr(0, size)).ok());
  }
}

TEST_CASE("the way of a message round the ladder ends as it began", "[unit][copies]") {
  // Into the ladder, out of it, and what the headers are then.
  Sample sample;
  sample.attempt = 1;
  const Kept kept(sample);
  const auto copy = retry_copy(kDelays, kept.delivery, "q", 1s, 2, kAttempt);
  Sample out;
  for (const auto& [name, value] : copy->publication.headers) {
    if (const auto* text = std::get_if<std::string>(&value.value)) {
      out.headers.push_back({name, *text});
    } else if (const auto* number = std::get_if<std::int64_t>(&value.value)) {
      out.headers.push_back({name, *number});
    }
  }
  const Kept arrived(out);
  const auto due = due_copy(arrived.delivery, 0);
  CHECK(due->publication.exchange.empty());
  CHECK(due->publication.routing_key == "q");
  const auto view = decode_delivery(arrived.delivery.frame.bytes());
  REQUIRE(view.ok());
  const Travel travel = travel_of(view->headers);
  CHECK(travel.attempt == 2);
  CHECK(travel.crashes == 2);
  CHECK(travel.first_seen_ms == sample.first_seen_ms);
  REQUIRE(travel.has_origin);
  CHECK(travel.exchange == "orders");
  CHECK(travel.routing_key == "new.eu");
}

TEST_CASE("a need that nobody knows takes no steps", "[unit][copies]") {
  CHECK(steps_for("", kDelays, {}, false).empty());
  CHECK(steps_for("something", kDelays, {}, false).empty());
}

}  // namespace lope::consumer
