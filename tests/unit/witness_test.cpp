// What is told of a message that stays here between its attempts.
#include "consumer/witness.h"

#include <catch2/catch.hpp>
#include <string>

#include "consumer/trace_context.h"

using namespace lope;
using namespace lope::consumer;

namespace {

std::string traceparent_of(const Delivery& delivery) {
  const auto view = decode_delivery(delivery.frame.bytes());
  REQUIRE(view.ok());
  std::string_view headers = view->headers;
  while (const auto header = next_header(headers)) {
    if (header->name == kTraceParent) return std::string(header->value);
  }
  return {};
}

std::string own(const Delivery& delivery) {
  return to_traceparent({delivery.trace.trace, delivery.trace.process, true});
}

}  // namespace

TEST_CASE("an attempt that is made here has spans of its own, in the same trace",
          "[unit][witness]") {
  auto loop = EventLoop::create();
  REQUIRE(loop.ok());
  UniqueFd fd;
  auto board = BoardMapping<GroupBoard>::create("test", fd);
  REQUIRE(board.ok());
  ConsumerSettings settings;
  settings.telemetry.endpoint = "http://127.0.0.1:1";
  settings.group.queues.resize(1);
  settings.group.queues[0].name = "q";
  auto made = Witness::create(**loop, settings, "host", **board,
                              [](const Delivery&) { return HandlerName{}; });
  REQUIRE(made.ok());
  Witness& witness = **made;

  Delivery delivery;
  DeliveryView view;
  view[TextProperty::queue] = "q";
  witness.arrives(delivery, view);
  REQUIRE(delivery.trace.recorded);
  encode_delivery(view, 0, delivery.frame);
  witness.received(delivery);
  const DeliveryTrace first = delivery.trace;
  CHECK(traceparent_of(delivery) == own(delivery));

  witness.again(delivery);  // nothing was told of it
  CHECK(delivery.trace.process == first.process);

  witness.handled(delivery, {.outcome = "retry"});
  witness.again(delivery);
  CHECK(delivery.trace.trace == first.trace);
  CHECK(delivery.trace.receive != first.receive);
  CHECK(delivery.trace.process != first.process);
  CHECK(traceparent_of(delivery) == own(delivery));
}
