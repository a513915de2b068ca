// Follows each message through the consumer and tells of it: to the journal, and in spans. There
// is one only where something is to be told.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/event_loop.h"
#include "common/link.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "consumer/delivery_table.h"
#include "consumer/journal.h"
#include "consumer/publisher.h"
#include "consumer/telemetry.h"

namespace lope::consumer {

class Witness {
 public:
  // By what a delivery was handled.
  using HandlerOf = std::function<HandlerName(const Delivery&)>;

  // nullptr: nothing is to be told.
  static Result<std::unique_ptr<Witness>> create(EventLoop& loop, const ConsumerSettings& settings,
                                                 std::string_view host, GroupBoard& board,
                                                 HandlerOf handler_of);

  // ---- The delivery's way
  // Before its frame is made: a message without an id gets one to go by, and all get their trace,
  // in headers. `view` is valid until the next call then.
  void arrives(Delivery& delivery, DeliveryView& view);
  // It is all there.
  void received(Delivery& delivery);
  // What was handled here before is to be handled again, without having been away.
  void again(Delivery& delivery);
  // Its handler said something; `held`: that it keeps it; `was_held`: it had.
  void ran(Delivery& delivery, std::uint64_t duration_ns, bool held, bool was_held);
  // It was ended inside its handler, which has said nothing.
  void ended(Delivery& delivery);
  // What the attempt came to. Only the first word counts.
  void handled(Delivery& delivery, const Handled& handled);
  // What is published for it, and what became of that.
  void publishes(const Delivery& delivery, Outbound& outbound) {
    if (telemetry_) telemetry_->publishes(delivery, outbound);
  }
  void published(const Delivery& delivery, const Outbound& outbound, std::string_view fate);
  // The broker has it again, if nothing else was said of it.
  void over(Delivery& delivery);
  // It was too large to be read at all.
  void refused_unread(std::uint16_t queue, DeliveryView view, std::uint64_t size,
                      std::string_view code, std::string_view reason);

  // ---- The loop
  // Wakes it when it is to be called again.
  void tend(TimePoint now);
  // At the end: true when all that can be sent has been, or has had its time.
  bool finish(TimePoint now);
  // What is left is given up.
  void abandon();
  // The publisher's; nullptr: none.
  JournalLane* lane() { return journal_ ? &journal_->lane() : nullptr; }

 private:
  explicit Witness(HandlerOf handler_of) : handler_of_(std::move(handler_of)) {}

  void name(DeliveryView& view);
  static void trace_again(Delivery& delivery);

  std::unique_ptr<Journal> journal_;  // one of the two may be none
  std::unique_ptr<Telemetry> telemetry_;
  const HandlerOf handler_of_;
  ByteBuffer named_, traced_;  // scratch of arrives()
  TimePoint finish_by_{};
  EventSource timer_;
  EventSource exported_;
};

}  // namespace lope::consumer
