#include "consumer/dead_letter_probe.h"

#include <catch2/catch.hpp>
#include <string>
#include <variant>
#include <vector>

namespace lope::consumer {

namespace {

using Answer = DeadLetterProbe::Answer;

// As the broker says it about the argument that is asked for.
std::string refusal(const std::string& queue, const std::string& rest) {
  return "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue '" + queue +
         "' in vhost '/': " + rest;
}
const std::string kNone = "received the value 'true' of type 'bool' but current is none";

// The broker's short text holds 255 bytes.
std::string cut(const std::string& text) {
  return text.size() <= 255 ? text : text.substr(0, 252) + "...";
}

struct Said {
  int code = 0;  // 0: it is ok
  std::string text = {};
};

// True when the probe was over with the last of these, and not before.
bool carry_out(DeadLetterProbe& probe, const std::vector<Said>& answers) {
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const bool last = answers[i].code == 0
                          ? probe.on_ok()
                          : probe.on_channel_closed(answers[i].code, answers[i].text);
    if (last) return i + 1 == answers.size();
  }
  return false;
}

}  // namespace

TEST_CASE("what a queue does with rejected messages is read from the broker's refusal",
          "[unit][dead_letter_probe]") {
  const Said not_durable{406,
                         "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'p1' in vhost "
                         "'/': received 'true' but current is 'false'"};
  const Said auto_delete{406,
                         "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue 'p1' in "
                         "vhost '/': received 'false' but current is 'true'"};
  const Said dlx{406, refusal("p1", "received 'true' but current is 'dlx'")};
  const Said missing{404, "NOT_FOUND - no exchange 'dlx' in vhost '/'"};
  const std::string long_name(120, 'q');
  struct Row {
    const char* what;
    std::vector<Said> answers;
    Answer expected;
    std::string exchange = {};
  };
  const Row rows[] = {
      {"it has none", {{406, refusal("p1", kNone)}}, Answer::none},
      {"it has one", {dlx, {}}, Answer::there, "dlx"},
      {"it has one, in other words",
       {{406, refusal("p1",
                      "received the value 'true' of type 'bool' but current is the value 'dlx' of "
                      "type 'longstr'")},
        {}},
       Answer::there,
       "dlx"},
      {"it has one that is not there", {dlx, missing}, Answer::missing, "dlx"},
      {"nobody may look for it",
       {dlx, {403, "ACCESS_REFUSED - access to exchange 'dlx' in vhost '/' refused for user 'u'"}},
       Answer::unknown,
       "dlx"},
      {"its name has quotes",
       {{406, refusal("p1", "received 'true' but current is 'it's 'x''")}, {}},
       Answer::there,
       "it's 'x'"},
      {"it is the default exchange",
       {{406, refusal("p1", "received 'true' but current is ''")}},
       Answer::there},
      {"the queue is not durable", {not_durable, {406, refusal("p1", kNone)}}, Answer::none},
      {"the queue is neither durable nor for ever",
       {not_durable, auto_delete, dlx, {}},
       Answer::there,
       "dlx"},
      {"the broker never agrees",
       {not_durable, not_durable, not_durable, not_durable, not_durable},
       Answer::unknown},
      {"it is a stream",
       {{406,
         "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'p5' in vhost '/': "
         "received none but current is the value 'stream' of type 'longstr'"}},
       Answer::unknown},
      {"the queue is not there",
       {{406,
         "PRECONDITION_FAILED - invalid type 'bool' for arg 'x-dead-letter-exchange' in queue "
         "'none' in vhost '/'"}},
       Answer::unknown},
      {"the queue is somebody else's",
       {{405,
         "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'p1' in vhost '/'. It "
         "could be originally declared on another connection or the exclusive property value does "
         "not match that of the original declaration."}},
       Answer::unknown},
      {"nobody may declare it",
       {{403, "ACCESS_REFUSED - access to queue 'p1' in vhost '/' refused for user 'u'"}},
       Answer::unknown},
      {"the broker takes it", {{}}, Answer::unknown},
      {"its text is cut before it has said",
       {{406, cut(refusal(long_name, kNone))}},
       Answer::unknown},
      {"its text is cut inside the exchange's name",
       {{406, cut(refusal(long_name, "received 'true' but current is 'a.rather.long.name'"))}},
       Answer::unknown},
      {"its text is cut inside the queue's name",
       {{406, cut(refusal(std::string(255, 'q'), kNone))}},
       Answer::unknown},
      {"its text is cut right behind a quote",
       {{406, refusal("p1", "received 'true' but current is '")}},
       Answer::unknown},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    DeadLetterProbe probe("p1");
    CHECK(carry_out(probe, row.answers));
    CHECK(probe.answer() == row.expected);
    CHECK(probe.exchange() == row.exchange);
    if (row.expected != Answer::unknown) CHECK(probe.is_no_stream());
    CHECK(probe.may_be_stream() == (std::string_view(row.what) == "it is a stream"));
    if (std::string(row.what) == "it is a stream") CHECK_FALSE(probe.is_no_stream());
  }
}

TEST_CASE("however long the names, no cut text says that a queue has a dead-letter exchange",
          "[unit][dead_letter_probe]") {
  for (std::size_t size = 1; size <= 255; ++size) {
    CAPTURE(size);
    const std::string text = cut(refusal(std::string(size, 'q'), kNone));
    DeadLetterProbe probe("p1");
    CHECK(carry_out(probe, {{406, text}}));
    CHECK(probe.answer() == (text.ends_with("none") ? Answer::none : Answer::unknown));
  }
}

TEST_CASE("a probe asks for what no queue has, and then for the exchange",
          "[unit][dead_letter_probe]") {
  DeadLetterProbe probe("p1");
  const Request first_request = probe.next();
  const auto* first = std::get_if<QueueDeclare>(&first_request);
  REQUIRE(first != nullptr);
  CHECK(first->queue == "p1");
  CHECK_FALSE(first->passive);
  CHECK(first->declaration.durable);
  CHECK_FALSE(first->declaration.auto_delete);
  // Of a kind that the broker refuses for every queue: none is made by asking.
  CHECK(first->declaration.arguments == AmqpTable{{"x-dead-letter-exchange", {true}}});

  REQUIRE_FALSE(
      probe.on_channel_closed(406,
                              "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'p1' in "
                              "vhost '/': received 'true' but current is 'false'"));
  REQUIRE_FALSE(
      probe.on_channel_closed(406,
                              "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue 'p1' "
                              "in vhost '/': received 'false' but current is 'true'"));
  const Request second_request = probe.next();
  const auto* second = std::get_if<QueueDeclare>(&second_request);
  REQUIRE(second != nullptr);
  CHECK_FALSE(second->declaration.durable);
  CHECK(second->declaration.auto_delete);

  REQUIRE_FALSE(
      probe.on_channel_closed(406, refusal("p1", "received 'true' but current is 'dlx'")));
  const Request third_request = probe.next();
  const auto* third = std::get_if<ExchangeDeclare>(&third_request);
  REQUIRE(third != nullptr);
  CHECK(third->exchange.name == "dlx");
  CHECK(third->passive);
}

}  // namespace lope::consumer
