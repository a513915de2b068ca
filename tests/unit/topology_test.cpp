#include "consumer/topology.h"

#include <catch2/catch.hpp>

namespace lope::consumer {

namespace {

std::vector<std::string> texts(const QueueSettings& queue, bool open) {
  std::vector<std::string> result;
  for (const Request& step : subscription_steps(queue, open)) result.push_back(describe(step));
  return result;
}

}  // namespace

TEST_CASE("a queue that must be there is not declared", "[unit][topology]") {
  QueueSettings queue;
  queue.name = "q";
  CHECK(texts(queue, false) ==
        std::vector<std::string>{"open channel", "set prefetch", "consume from queue 'q'"});
  CHECK(texts(queue, true) == std::vector<std::string>{"set prefetch", "consume from queue 'q'"});
}

TEST_CASE("exchanges come before the queue, bindings after it", "[unit][topology]") {
  QueueSettings queue;
  queue.name = "q";
  queue.declare = true;
  queue.declaration.exchanges = {{"x", "topic", true, false, false, {}}};
  queue.declaration.bindings = {{"x", "a.#", {}}, {"amq.topic", "b", {}}};
  CHECK(texts(queue, false) == std::vector<std::string>{"open channel", "declare exchange 'x'",
                                                        "declare queue 'q'",
                                                        "bind queue 'q' to exchange 'x'",
                                                        "bind queue 'q' to exchange 'amq.topic'",
                                                        "set prefetch", "consume from queue 'q'"});
}

TEST_CASE("a stream is consumed from an offset, its lookout from the last part",
          "[unit][topology]") {
  QueueSettings queue;
  queue.name = "s";
  queue.stream = true;
  queue.offset = {StreamOffset::From::number, 7};
  std::vector<Request> steps = subscription_steps(queue, true);
  CHECK(std::get<Consume>(steps.back()).offset == queue.offset);
  add_lookout(steps, queue);
  REQUIRE(steps.size() == 4);
  CHECK(std::get<Qos>(steps[2]).prefetch == 1);
  const Consume& lookout = std::get<Consume>(steps[3]);
  CHECK(lookout.queue == "s");
  CHECK(lookout.consumer_tag == kLookoutTag);
  CHECK(lookout.offset == StreamOffset{StreamOffset::From::last, 0});
  queue.stream = false;
  CHECK_FALSE(std::get<Consume>(subscription_steps(queue, true).back()).offset.has_value());
}

TEST_CASE("a consumer that asks for nothing comes and goes behind the last acks",
          "[unit][topology]") {
  const std::vector<Request> steps = ack_barrier("q");
  REQUIRE(steps.size() == 4);
  CHECK(std::get<Qos>(steps[0]).prefetch == 1);
  const auto& consume = std::get<Consume>(steps[1]);
  CHECK(consume.queue == "q");
  CHECK_FALSE(consume.no_ack);
  const AmqpValue* credit = find(consume.arguments, "x-credit");
  REQUIRE(credit != nullptr);
  CHECK(std::get<AmqpTable>(credit->value) ==
        AmqpTable{{"credit", {std::int64_t{0}}}, {"drain", {false}}});
  CHECK(std::get<Cancel>(steps[2]).consumer_tag == consume.consumer_tag);
  CHECK(std::holds_alternative<Qos>(steps[3]));
}

TEST_CASE("a queue is asked with a consumer that asks for nothing", "[unit][topology]") {
  const auto names = [](bool open) {
    std::vector<std::string> result;
    for (const Request& step : queue_check_steps("q", open)) result.push_back(describe(step));
    return result;
  };
  CHECK(names(false) == std::vector<std::string>{"open channel", "set prefetch",
                                                 "consume from queue 'q'", "cancel"});
  CHECK(names(true) == std::vector<std::string>{"consume from queue 'q'", "cancel"});
  const auto consume = std::get<Consume>(queue_check_steps("q", true)[0]);
  CHECK(find(consume.arguments, "x-credit") != nullptr);
  CHECK(has_queue_check("3.10.8"));
  CHECK(has_queue_check("3.13.7"));
  CHECK_FALSE(has_queue_check("4.0.2"));  // its consumers get messages whatever they ask for
  CHECK_FALSE(has_queue_check(""));
}

}  // namespace lope::consumer
