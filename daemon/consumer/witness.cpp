#include "consumer/witness.h"

#include <sys/epoll.h>

#include <algorithm>

#include "common/uuid.h"
#include "consumer/trace_context.h"
#include "consumer/travel.h"

namespace lope::consumer {

namespace {

// What is left at a drain may take so long to be sent.
constexpr std::chrono::milliseconds kFinish{2000};

DeliveryView view_of(const Delivery& delivery) {
  const auto view = decode_delivery(delivery.frame.bytes());
  return view ? *view : DeliveryView{};
}

}  // namespace

Result<std::unique_ptr<Witness>> Witness::create(EventLoop& loop, const ConsumerSettings& settings,
                                                 std::string_view host, GroupBoard& board,
                                                 HandlerOf handler_of) {
  const bool traced = !settings.telemetry.endpoint.empty();
  if (!settings.group.journal.on && !traced) return std::unique_ptr<Witness>();
  std::unique_ptr<Witness> witness(new Witness(std::move(handler_of)));
  if (settings.group.journal.on) {
    witness->journal_ = std::make_unique<Journal>(settings, host, board);
  }
  // They only wake the loop; the turn that this brings does the rest.
  auto timer = loop.make_timer([] {});
  if (!timer) return Error{timer.error()};
  witness->timer_ = std::move(*timer);
  if (!traced) return witness;
  auto telemetry = Telemetry::create(settings, host, board);
  if (!telemetry) return Error{telemetry.error()};
  witness->telemetry_ = std::move(*telemetry);
  Witness* const self = witness.get();
  auto exported = loop.watch_fd(self->telemetry_->exporter().event_fd(), EPOLLIN,
                                [self](std::uint32_t) { self->exported_.stop(); });
  if (!exported) return Error{exported.error()};
  witness->exported_ = std::move(*exported);
  return witness;
}

void Witness::name(DeliveryView& view) {
  if (!ids_of(view).message.empty()) return;
  named_.clear();
  named_.append(view.headers);
  HeaderWriter writer(named_);
  writer.add_text(header::kId, HeaderKind::text, uuid());
  view.headers = {named_.data(), named_.size()};
  view.header_count += writer.count();
}

void Witness::arrives(Delivery& delivery, DeliveryView& view) {
  if (journal_) name(view);
  if (telemetry_) telemetry_->arrives(delivery, view, traced_);
}

void Witness::received(Delivery& delivery) {
  delivery.told = Delivery::Told::received;
  delivery.ended = {};
  if (!journal_) return;
  const DeliveryView view = view_of(delivery);
  journal_->received(delivery, view, body_of(delivery, view));
}

// Spans of its own for this attempt, of which its handler hears in the header that it had before.
void Witness::trace_again(Delivery& delivery) {
  DeliveryTrace& trace = delivery.trace;
  const std::string before = to_traceparent({trace.trace, trace.process, true});
  trace.receive = random_span_id();
  trace.process = random_span_id();
  const std::string now = to_traceparent({trace.trace, trace.process, true});
  const DeliveryView view = view_of(delivery);
  std::string_view headers = view.headers;
  while (const auto header = next_header(headers)) {
    if (header->name != kTraceParent || header->value != before) continue;
    now.copy(delivery.frame.data() + (header->value.data() - delivery.frame.data()), now.size());
  }
}

void Witness::ran(Delivery& delivery, std::uint64_t duration_ns, bool held, bool was_held) {
  const TimePoint now = Clock::now();
  if (!was_held) {
    delivery.began = std::max(delivery.arrived, now - std::chrono::nanoseconds(duration_ns));
  }
  if (!held) delivery.ended = now;
}

void Witness::again(Delivery& delivery) {
  if (delivery.told != Delivery::Told::handled) return;
  delivery.began = delivery.ended = {};
  if (delivery.trace.recorded) trace_again(delivery);
  received(delivery);
}

void Witness::ended(Delivery& delivery) {
  if (delivery.ended == TimePoint{}) delivery.ended = Clock::now();
}

void Witness::handled(Delivery& delivery, const Handled& handled) {
  if (delivery.told != Delivery::Told::received) return;
  delivery.told = Delivery::Told::handled;
  const DeliveryView view = view_of(delivery);
  if (journal_) journal_->handled(delivery, view, handled, handler_of_(delivery));
  if (telemetry_) telemetry_->handled(delivery, view, handled);
}

void Witness::published(const Delivery& delivery, const Outbound& outbound, std::string_view fate) {
  const DeliveryView view = view_of(delivery);
  if (journal_) journal_->published(delivery, view, outbound, fate);
  if (telemetry_) telemetry_->published(delivery, view, outbound, fate);
}

void Witness::over(Delivery& delivery) { handled(delivery, {.outcome = "handed_back"}); }

void Witness::refused_unread(std::uint16_t queue, DeliveryView view, std::uint64_t size,
                             std::string_view code, std::string_view reason) {
  if (!journal_) return;
  name(view);
  Delivery delivery;
  delivery.queue = queue;
  delivery.body_size = size;
  journal_->received(delivery, view, std::nullopt);
  journal_->handled(delivery, view, {.outcome = "dead", .reason = reason, .code = code}, {});
}

void Witness::tend(TimePoint now) {
  if (telemetry_) telemetry_->exporter().tend(now);
  if (!journal_) return;
  journal_->pass_on(now, finish_by_ != TimePoint{});
  if (journal_->due() != TimePoint::max() && !timer_.armed()) timer_.arm(journal_->due());
}

bool Witness::finish(TimePoint now) {
  if (finish_by_ == TimePoint{}) {
    finish_by_ = now + kFinish;
    timer_.arm(finish_by_);
    if (telemetry_) telemetry_->exporter().finish();
  }
  if (journal_) journal_->pass_on(now, true);
  const bool told = !journal_ || journal_->lane().empty() ||
                    journal_->lane().not_before() >= finish_by_;  // nothing can be sent by then
  return now >= finish_by_ || (told && (!telemetry_ || telemetry_->exporter().finished()));
}

void Witness::abandon() {
  if (!journal_) return;
  journal_->pass_on(Clock::now(), true);
  journal_->lane().give_up("the group ends");
}

}  // namespace lope::consumer
