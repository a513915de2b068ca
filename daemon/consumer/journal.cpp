#include "consumer/journal.h"

#include <sys/random.h>

#include <cstdio>
#include <cstdlib>

#include "consumer/copies.h"

namespace lope::consumer {

namespace {

std::string random_source() {
  std::uint64_t number = 0;
  if (::getrandom(&number, sizeof number, 0) != static_cast<ssize_t>(sizeof number)) std::abort();
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(number));
  return text;
}

std::int64_t us_between(TimePoint begin, TimePoint end) {
  if (begin == TimePoint{} || end < begin) return -1;
  return std::chrono::duration_cast<std::chrono::microseconds>(end - begin).count();
}

}  // namespace

Journal::Journal(const ConsumerSettings& settings, std::string_view host, GroupBoard& board)
    : group_(settings.group.name),
      settings_(settings.group.journal),
      lane_(settings_, group_, board) {
  const std::string source = random_source();
  for (const QueueSettings& queue : settings.group.queues) {
    origins_.push_back(event_origin(source, host, group_, queue.name));
  }
}

template <typename Event>
void Journal::tell(const Delivery& delivery, const MessageIds& ids, std::uint64_t time_us,
                   const Event& event) {
  append_event(events_, {origins_[delivery.queue], ++number_, time_us, ids, delivery.attempt},
               event);
  ++count_;
  if (events_.size() >= kBatchBytes) {
    pass_on(Clock::now(), true);
  } else if (due_ == TimePoint::max()) {
    due_ = Clock::now() + kBatchWait;
  }
}

void Journal::received(const Delivery& delivery, const DeliveryView& view,
                       std::optional<std::string_view> body) {
  tell(delivery, ids_of(view), view.received_unix_ns / 1000,
       ReceivedEvent{.view = view,
                     .size = delivery.body_size,
                     .headers = settings_.headers,
                     .secret_headers = settings_.secret_headers,
                     .body = settings_.bodies && body.has_value(),
                     .bytes = body.value_or(std::string_view()),
                     .max_body = static_cast<std::size_t>(settings_.max_body_bytes)});
}

void Journal::handled(const Delivery& delivery, const DeliveryView& view, const Handled& handled,
                      const HandlerName& handler) {
  HandledEvent event{.outcome = handled.outcome,
                     .reason = handled.reason,
                     .code = handled.code,
                     .crashes = handled.crashes,
                     .delay_ms = handled.delay.count()};
  std::string worker;
  if (delivery.ended != TimePoint{}) {
    event.waited_us = us_between(delivery.arrived, delivery.began);
    event.ran_us = us_between(delivery.began, delivery.ended);
    worker = group_;
    worker += '/';
    worker += std::to_string(delivery.ran_at);
    event.worker = worker;
    event.handler = handler.name;
    event.handler_version = handler.version;
  }
  tell(delivery, ids_of(view), unix_ns() / 1000, event);
}

void Journal::published(const Delivery& delivery, const DeliveryView& view,
                        const Outbound& outbound, std::string_view fate) {
  const auto [exchange, routing_key] = destination_of(outbound);
  const bool copy = static_cast<CopyKind>(outbound.kind) != CopyKind::publication;
  tell(delivery,
       copy ? ids_of(view) : ids_of(outbound.message_id, outbound.publication.packed_headers),
       unix_ns() / 1000,
       PublishedEvent{.kind = kind_name(outbound),
                      .exchange = exchange,
                      .routing_key = routing_key,
                      .size = outbound.publication.body.size(),
                      .delay_ms = outbound.delay.count(),
                      .fate = fate});
}

void Journal::pass_on(TimePoint now, bool all) {
  lane_.tend(now);
  if (count_ == 0 || !(all || now >= due_)) return;
  lane_.add(std::move(events_), std::exchange(count_, 0), now);
  events_ = {};
  events_.reserve(kBatchBytes + kBatchBytes / 8);
  due_ = TimePoint::max();
}

}  // namespace lope::consumer
