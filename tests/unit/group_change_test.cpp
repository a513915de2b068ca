#include "supervisor/group_change.h"

#include <catch2/catch.hpp>
#include <functional>
#include <string>

using namespace lope;
using namespace lope::supervisor;
using namespace std::chrono_literals;

namespace {

ConsumerSettings plain() {
  ConsumerSettings settings;
  settings.handlers_dir = "/h";
  settings.group.name = "g";
  settings.group.handler = "x";
  settings.group.handler_copy = "/c/1/x.so";
  QueueSettings queue;
  queue.name = "q";
  settings.group.queues = {queue};
  return settings;
}

}  // namespace

TEST_CASE("what has to be done for a change of settings", "[unit][group_change]") {
  struct Row {
    std::string what;
    std::function<void(ConsumerSettings&)> change;
    GroupChange expected;
  };
  using C = GroupChange;
  const Row rows[] = {
      {"nothing", [](auto&) {}, C::none},
      {"how often it has changed", [](auto& s) { s.generation = 7; }, C::none},
      {"that it is paused", [](auto& s) { s.paused = true; }, C::none},
      {"workers", [](auto& s) { s.group.workers = 2; }, C::settings},
      {"workers_max", [](auto& s) { s.group.workers_max = 2; }, C::settings},
      {"timeout", [](auto& s) { s.group.timeout = 1s; }, C::settings},
      {"start_timeout", [](auto& s) { s.group.start_timeout = 1s; }, C::settings},
      {"retry", [](auto& s) { s.group.retry.attempts = 9; }, C::settings},
      {"crashes", [](auto& s) { s.group.crashes = 9; }, C::settings},
      {"breaker", [](auto& s) { s.group.breaker.on = false; }, C::settings},
      {"rate",
       [](auto& s) {
         s.group.rate = {5, 1};
       },
       C::settings},
      {"order", [](auto& s) { s.group.order.by = OrderSettings::By::queue; }, C::consumer},
      {"dedup.window", [](auto& s) { s.group.dedup.window = 1s; }, C::settings},
      {"dedup.on_store_failure",
       [](auto& s) { s.group.dedup.on_store_failure = DedupSettings::OnStoreFailure::run; },
       C::settings},
      {"dedup.min_interval", [](auto& s) { s.group.dedup.min_interval = 1s; }, C::settings},
      {"dedup.min_interval.then",
       [](auto& s) { s.group.dedup.too_soon = DedupSettings::TooSoon::drop; }, C::settings},
      {"dedup.key", [](auto& s) { s.group.dedup.key = DedupSettings::Key::body; }, C::consumer},
      {"dedup.store", [](auto& s) { s.group.dedup.store = DedupSettings::Store::redis; },
       C::consumer},
      {"max_body",  // as it is loaded
       [](auto& s) { s.group.max_body_bytes = s.group.content.max_decoded_bytes = 9; },
       C::settings},
      {"content types", [](auto& s) { s.group.content.accept = {"a/b"}; }, C::settings},
      {"batch wait", [](auto& s) { s.group.batch_wait = 9s; }, C::settings},
      {"recycle by age", [](auto& s) { s.group.recycle.age = 9s; }, C::settings},
      {"shutdown_timeout", [](auto& s) { s.shutdown_timeout = 9s; }, C::settings},
      {"log level", [](auto& s) { s.log.level = LogLevel::debug; }, C::settings},
      {"what only the relay goes by", [](auto& s) { s.delays.retry = 9s; }, C::none},
      {"the handler", [](auto& s) { s.group.handler = "y"; }, C::workers},
      {"its file", [](auto& s) { s.group.handler_copy = "/c/2/x.so"; }, C::workers},
      {"its options",
       [](auto& s) {
         s.group.options = {{"a", "1"}};
       },
       C::workers},
      {"decoding", [](auto& s) { s.group.content.decode = true; }, C::workers},
      {"the schema", [](auto& s) { s.group.content.schema = "{}"; }, C::workers},
      {"compressing", [](auto& s) { s.group.content.compress = "gzip"; }, C::workers},
      {"threads", [](auto& s) { s.group.threads = 2; }, C::workers},
      {"flush_interval", [](auto& s) { s.group.flush_interval = 9s; }, C::workers},
      {"that memory is measured", [](auto& s) { s.group.recycle.memory_bytes = 9; }, C::workers},
      {"the folder of handlers", [](auto& s) { s.handlers_dir = "/i"; }, C::workers},
      {"prefetch", [](auto& s) { s.group.queues[0].prefetch = 9; }, C::consumer},
      {"the journal", [](auto& s) { s.group.journal.on = true; }, C::consumer},
      {"where spans go", [](auto& s) { s.telemetry.endpoint = "http://c"; }, C::consumer},
      {"another queue", [](auto& s) { s.group.queues[0].name = "r"; }, C::consumer},
      {"one queue more", [](auto& s) { s.group.queues.push_back(QueueSettings{}); }, C::consumer},
      {"auto_ack", [](auto& s) { s.group.auto_ack = true; }, C::consumer},
      {"dead letters", [](auto& s) { s.group.dead_letter.exchange = "e"; }, C::consumer},
      {"batches", [](auto& s) { s.group.batch_size = 9; }, C::consumer},
      {"the broker", [](auto& s) { s.broker.addresses[0].host = "h"; }, C::consumer},
      {"how to log in", [](auto& s) { s.broker.login = Login::external; }, C::consumer},
      {"TLS", [](auto& s) { s.broker.tls.ca_file = "f"; }, C::consumer},
      {"the broker's password", [](auto& s) { s.broker.addresses[0].password = "p"; }, C::consumer},
      {"where delays wait", [](auto& s) { s.delays.prefix = "p"; }, C::consumer},
      {"the log's file", [](auto& s) { s.log.file = "f"; }, C::consumer},
      {"workers and prefetch",
       [](auto& s) {
         s.group.workers = 2;
         s.group.queues[0].prefetch = 9;
       },
       C::consumer},
      {"workers and options",
       [](auto& s) {
         s.group.workers = 2;
         s.group.options_json = "{}x";
       },
       C::workers},
  };
  for (const Row& row : rows) {
    ConsumerSettings after = plain();
    row.change(after);
    INFO(row.what);
    CHECK(change_between(plain(), after) == row.expected);
    CHECK(change_between(after, plain()) == row.expected);
  }
}

TEST_CASE("batches of another size, or another amount of memory, need no new worker",
          "[unit][group_change]") {
  ConsumerSettings before = plain();
  before.group.batch_size = 10;
  before.group.recycle.memory_bytes = 100;
  ConsumerSettings after = before;
  after.group.batch_size = 20;
  after.group.recycle.memory_bytes = 200;
  CHECK(change_between(before, after) == GroupChange::settings);
}

TEST_CASE("what a body may come to is the workers' where they decode or convert it",
          "[unit][group_change]") {
  for (const bool decodes : {false, true}) {
    ConsumerSettings before = plain();
    (decodes ? before.group.content.decode : before.group.content.to_utf8) = true;
    ConsumerSettings after = before;
    after.group.max_body_bytes = after.group.content.max_decoded_bytes = 9;
    CHECK(change_between(before, after) == GroupChange::workers);
    after = before;
    after.group.max_body_bytes = 9;  // with a max_size of its own
    CHECK(change_between(before, after) == GroupChange::settings);
  }
}

TEST_CASE("the relay goes by all of delays", "[unit][group_change]") {
  ConsumerSettings before = plain();
  before.relay = true;
  ConsumerSettings after = before;
  after.delays.retry = 9s;
  CHECK(change_between(before, after) == GroupChange::consumer);
  after = before;
  after.telemetry.endpoint = "http://c";  // it records no spans
  CHECK(change_between(before, after) == GroupChange::none);
}

TEST_CASE("an exclusive queue, and one with a single active consumer, has one at a time",
          "[unit][group_change]") {
  const GroupSettings shared = plain().group;
  GroupSettings exclusive = shared;
  exclusive.queues[0].declare = true;
  exclusive.queues[0].declaration.exclusive = true;
  GroupSettings single = shared;
  single.queues[0].declare = true;
  single.queues[0].declaration.arguments = {{"x-single-active-consumer", {true}}};
  GroupSettings ordered = shared;
  ordered.order.by = OrderSettings::By::routing_key;
  CHECK(one_at_a_time(ordered, ordered));
  CHECK(one_at_a_time(shared, ordered));
  CHECK(one_at_a_time(ordered, shared));
  GroupSettings other = exclusive;
  other.queues[0].name = "r";
  CHECK_FALSE(one_at_a_time(shared, shared));
  CHECK(one_at_a_time(exclusive, exclusive));
  CHECK(one_at_a_time(shared, exclusive));
  CHECK(one_at_a_time(single, shared));
  CHECK_FALSE(one_at_a_time(shared, other));
  GroupSettings stream = shared;  // both would read all of it
  stream.queues[0].stream = true;
  CHECK(one_at_a_time(stream, stream));
}
