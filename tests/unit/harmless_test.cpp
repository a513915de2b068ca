#include "cli/harmless.h"

#include <catch2/catch.hpp>

namespace lope::cli {
namespace {

std::string print(Judgement judgement) {
  switch (judgement) {
    case Judgement::there: return "there";
    case Judgement::missing: return "missing";
    case Judgement::differs: return "differs";
    case Judgement::refused: return "refused";
    case Judgement::unknown: return "unknown";
  }
  return "";
}

struct Case {
  BrokerAnswer answer;
  const char* expected;
};

const BrokerAnswer kRefusal{
    false, 403, "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'u'"};

TEST_CASE("a queue's declaration is judged by where it fails", "[unit][harmless]") {
  const auto request = harmless_declare("q", {});
  CHECK(request.declaration.arguments == AmqpTable{{"x-max-age", AmqpValue{std::string("1h")}}});
  CHECK_FALSE(request.passive);
  const Case table[] = {
      {{true, 0, ""}, "there"},
      {kRefusal, "refused"},
      {{false, 406,
        "PRECONDITION_FAILED - invalid arg 'x-max-age' for queue 'q' in vhost '/' of queue type "
        "rabbit_classic_queue"},
       "missing"},
      {{false, 406,
        "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': "
        "received none but current is the value '5' of type 'long'"},
       "differs"},
      {{false, 406, "PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue 'q' in vhost '/'"},
       "differs"},
      {{false, 405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q'"},
       "differs"},
      {{false, 0, "connection lost: closed by the broker"}, "unknown"},
  };
  for (const Case& each : table) {
    CAPTURE(each.answer.text);
    CHECK(print(judge_queue(each.answer)) == each.expected);
  }
}

TEST_CASE("an exchange's declaration is judged by where it fails", "[unit][harmless]") {
  ExchangeSettings plain;
  plain.name = "e";
  ExchangeSettings with_alternate = plain;
  with_alternate.arguments = {{"alternate-exchange", AmqpValue{std::string("other")}}};
  CHECK(harmless_declare(with_alternate).exchange.arguments ==
        AmqpTable{{"alternate-exchange", AmqpValue{true}}});
  const std::string begin =
      "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 'e' in vhost '/': "
      "received the value 'true' of type 'bool' but current is ";
  const BrokerAnswer none{false, 406, begin + "none"};
  const BrokerAnswer other{false, 406, begin + "the value 'other' of type 'longstr'"};
  CHECK(print(judge_exchange(none, plain)) == "there");
  CHECK(print(judge_exchange(other, plain)) == "differs");
  CHECK(print(judge_exchange(none, with_alternate)) == "differs");
  CHECK(print(judge_exchange(other, with_alternate)) == "there");
  const Case table[] = {
      {kRefusal, "refused"},
      {{false, 406,
        "PRECONDITION_FAILED - invalid type 'bool' for arg 'alternate-exchange' in exchange 'e'"},
       "missing"},
      {{false, 406,
        "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'e' in vhost '/': received "
        "'topic' but current is 'direct'"},
       "differs"},
      {{false, 0, "connection lost: closed by the broker: 503 COMMAND_INVALID"}, "unknown"},
  };
  for (const Case& each : table) {
    CAPTURE(each.answer.text);
    CHECK(print(judge_exchange(each.answer, plain)) == each.expected);
  }
}

TEST_CASE("consuming and publishing are judged by where they fail", "[unit][harmless]") {
  const BrokerAnswer priority{
      false, 406, "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost '/'"};
  const BrokerAnswer expiration{false, 406, "PRECONDITION_FAILED - invalid expiration 'none'"};
  const BrokerAnswer missing{false, 404, "NOT_FOUND - no queue 'q' in vhost '/'"};
  CHECK(print(judge_consume(priority)) == "there");
  CHECK(print(judge_consume(missing)) == "missing");
  CHECK(print(judge_consume(kRefusal)) == "refused");
  CHECK(print(judge_consume({false, 540, "NOT_IMPLEMENTED"})) == "unknown");
  CHECK(print(judge_publication(expiration)) == "there");
  CHECK(print(judge_publication(missing)) == "missing");
  CHECK(print(judge_publication(kRefusal)) == "refused");
  CHECK(print(judge_publication({true, 0, ""})) == "unknown");
}

TEST_CASE("a refusal for the sake of the routing key is told from one of the exchange",
          "[unit][harmless]") {
  CHECK(harmless_publication("e").routing_key == kNobodysKey);
  CHECK(harmless_publication("e", "k").routing_key == "k");
  const std::string topic =
      "ACCESS_REFUSED - access to topic 'k' in exchange 'e' in vhost '/' refused for user 'u'";
  CHECK(is_of_the_key({false, 403, topic}));
  CHECK_FALSE(is_of_the_key({false, 404, topic}));
  CHECK_FALSE(is_of_the_key(kRefusal));
  CHECK_FALSE(is_of_the_key({true, 0, ""}));
}

TEST_CASE("a binding is judged by what taking nobody's away comes to", "[unit][harmless]") {
  consumer::QueueBind bind{"q", {"e", "k", {{"x-match", AmqpValue{std::string("all")}}}}};
  const consumer::Unbind queue = harmless_unbind(bind);
  CHECK(queue.from_queue);
  CHECK(queue.destination == "q");
  CHECK(queue.binding.exchange == "e");
  CHECK(queue.binding.key == "k");
  // Another table is another binding.
  CHECK(queue.binding.arguments ==
        AmqpTable{{"x-match", AmqpValue{std::string("all")}}, {"x-lope-check", AmqpValue{true}}});
  const consumer::Unbind exchange = harmless_unbind(consumer::ExchangeBind{"below", "above", "k"});
  CHECK_FALSE(exchange.from_queue);
  CHECK(exchange.destination == "below");
  CHECK(exchange.binding.exchange == "above");
  CHECK(exchange.binding.key == "k");
  CHECK(exchange.binding.arguments == AmqpTable{{"x-lope-check", AmqpValue{true}}});
  CHECK(print(judge_unbind({true, 0, ""})) == "there");
  CHECK(print(judge_unbind(kRefusal)) == "refused");
  CHECK(print(judge_unbind({false, 404, "NOT_FOUND - no queue 'q' in vhost '/'"})) == "missing");
  CHECK(print(judge_unbind({false, 0, "connection lost"})) == "unknown");
}

}  // namespace
}  // namespace lope::cli
