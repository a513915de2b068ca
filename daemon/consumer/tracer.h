// `lope trace`: writes down the way of the next messages, each as a line of JSON when it is over.
// Costs nothing while nobody asks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "common/clock.h"
#include "common/fd.h"
#include "common/link.h"
#include "common/status.h"
#include "consumer/delivery_table.h"

namespace lope::consumer {

class Tracer {
 public:
  // The next `messages` that come are written to `output`, which is closed then. One trace at a
  // time: an earlier one ends.
  void start(int messages, UniqueFd output);
  bool active() const { return output_.valid(); }

  // Does nothing but for the messages that are traced.
  void begin(const Delivery& delivery, const DeliveryView& view);
  void step(const Delivery& delivery, std::string_view what) {
    if (active()) add_step(delivery, what);
  }
  void end(const Delivery& delivery) {
    if (active()) finish(delivery);
  }

 private:
  struct Trace {
    TimePoint came;
    MessageTrace said;
  };
  void add_step(const Delivery& delivery, std::string_view what);
  void finish(const Delivery& delivery);

  UniqueFd output_;
  int left_ = 0;                                      // that may still begin
  std::unordered_map<std::uint32_t, Trace> running_;  // by the delivery's index
};

}  // namespace lope::consumer
