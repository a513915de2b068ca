// Spans of a group's messages: one for each delivery's stay here, one for its handler's call, one
// for each thing published for it. Takes up the trace that a message comes with, and puts what is
// published into it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/link.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "consumer/delivery_table.h"
#include "consumer/journal.h"
#include "consumer/publisher.h"
#include "consumer/span_exporter.h"

namespace lope::consumer {

class Telemetry {
 public:
  static Result<std::unique_ptr<Telemetry>> create(const ConsumerSettings& settings,
                                                   std::string_view host, GroupBoard& board);

  // Before the delivery's frame is made. Its handler, and what that publishes, gets the context of
  // its own span; `scratch` holds the headers that `view` has then.
  void arrives(Delivery& delivery, DeliveryView& view, ByteBuffer& scratch);
  void handled(const Delivery& delivery, const DeliveryView& view, const Handled& handled);
  // Before it is published: a publication of a handler that has not set a context of its own gets
  // that of its own span.
  void publishes(const Delivery& delivery, Outbound& outbound);
  void published(const Delivery& delivery, const DeliveryView& view, const Outbound& outbound,
                 std::string_view fate);

  SpanExporter& exporter() { return *exporter_; }

 private:
  Telemetry(const ConsumerSettings& settings, std::unique_ptr<SpanExporter> exporter);

  std::vector<std::string> queues_;  // their names
  const double sample_;
  std::unique_ptr<SpanExporter> exporter_;
};

}  // namespace lope::consumer
