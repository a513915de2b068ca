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

}  // namespace lope::consumer
