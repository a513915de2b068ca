#include "consumer/telemetry.h"

#include <unistd.h>

#include <algorithm>
#include <optional>

#include "consumer/copies.h"
#include "consumer/journal_event.h"
#include "consumer/travel.h"

namespace lope::consumer {

namespace {

constexpr std::string_view kConfirmed = "confirmed";
// Outcomes of messages that nothing went wrong with.
constexpr std::string_view kFine[] = {"ack", "double", "handed_back", "skipped"};

// Both ways of telling a time, taken at once.
struct Now {
  TimePoint monotonic = Clock::now();
  std::uint64_t unix = unix_ns();

  std::uint64_t unix_of(TimePoint time) const {
    const auto ago = std::chrono::duration_cast<std::chrono::nanoseconds>(monotonic - time).count();
    return unix - static_cast<std::uint64_t>(std::max<std::int64_t>(ago, 0));
  }
};

void add(Span& span, std::string_view name, std::string_view value) {
  if (!value.empty()) span.attributes.push_back({name, std::string(value)});
}
void add(Span& span, std::string_view name, std::int64_t value) {
  span.attributes.push_back({name, value});
}

void add_operation(Span& span, std::string_view name, std::string_view type) {
  add(span, "messaging.system", "rabbitmq");
  add(span, "messaging.operation.name", name);
  add(span, "messaging.operation.type", type);
}

// As the conventions have it for RabbitMQ: exchange, routing key and queue, but for what is empty,
// and the queue's name once.
std::string destination(std::string_view exchange, std::string_view routing_key,
                        std::string_view queue = {}) {
  std::string name(exchange);
  for (const std::string_view part :
       {routing_key, routing_key == queue ? std::string_view() : queue}) {
    if (part.empty()) continue;
    if (!name.empty()) name += ':';
    name += part;
  }
  return name.empty() ? "amq.default" : name;
}

std::string_view header_of(std::string_view headers, std::string_view name) {
  while (const auto header = next_header(headers)) {
    if (header->name == name && header->kind == HeaderKind::text) return header->value;
  }
  return {};
}

}  // namespace

Telemetry::Telemetry(const ConsumerSettings& settings, std::unique_ptr<SpanExporter> exporter)
    : sample_(settings.telemetry.sample), exporter_(std::move(exporter)) {
  for (const QueueSettings& queue : settings.group.queues) queues_.push_back(queue.name);
}

Result<std::unique_ptr<Telemetry>> Telemetry::create(const ConsumerSettings& settings,
                                                     std::string_view host, GroupBoard& board) {
  const SpanAttribute resource[] = {
      {"service.name", settings.telemetry.service_name},
      {"service.version", std::string(LOPE_VERSION)},
      {"host.name", std::string(host)},
      {"process.pid", std::int64_t{::getpid()}},
      {"lope.group", settings.group.name},
  };
  auto exporter =
      SpanExporter::create(settings.telemetry, resource_json(resource), settings.group.name, board);
  if (!exporter) return Error{exporter.error()};
  return std::unique_ptr<Telemetry>(new Telemetry(settings, std::move(*exporter)));
}

void Telemetry::arrives(Delivery& delivery, DeliveryView& view, ByteBuffer& scratch) {
  DeliveryTrace& trace = delivery.trace;
  trace = {};
  const auto context = parse_traceparent(header_of(view.headers, kTraceParent));
  if (context) {
    trace.trace = context->trace;
    trace.parent = context->span;
    trace.recorded = context->sampled;
    if (!trace.recorded) return;  // passed on as it is
  } else {
    trace.began = true;
    trace.trace = random_trace_id();
    trace.recorded = is_sampled(trace.trace, sample_);
  }
  trace.receive = random_span_id();
  trace.process = random_span_id();

  const bool keeps_state = context && is_tracestate(header_of(view.headers, kTraceState));
  scratch.clear();
  HeaderWriter writer(scratch);
  std::string_view left = view.headers;
  while (const auto header = next_header(left)) {
    if (header->name == kTraceParent || (header->name == kTraceState && !keeps_state)) continue;
    if (header->kind == HeaderKind::text || header->kind == HeaderKind::bytes) {
      writer.add_text(header->name, header->kind, header->value);
    } else {
      writer.add_scalar(header->name, header->kind, header->bits);
    }
  }
  writer.add_text(kTraceParent, HeaderKind::text,
                  to_traceparent({trace.trace, trace.process, trace.recorded}));
  view.header_count = writer.count();
  view.headers = {scratch.data(), scratch.size()};
}

void Telemetry::handled(const Delivery& delivery, const DeliveryView& view,
                        const Handled& handled) {
  const DeliveryTrace& trace = delivery.trace;
  if (!trace.recorded) return;
  const Now now;
  const std::string& queue = queues_[delivery.queue];
  const auto make = [&](SpanId id, SpanId parent, const char* what, TimePoint begin,
                        TimePoint end) {
    Span span;
    span.trace = trace.trace;
    span.id = id;
    span.parent = parent;
    span.name = std::string(what) + " " + queue;
    span.kind = Span::Kind::consumer;
    span.start_ns = now.unix_of(begin);
    span.end_ns = now.unix_of(end);
    add_operation(span, what, what);
    add(span, "messaging.destination.name",
        destination(view[TextProperty::exchange], view[TextProperty::routing_key], queue));
    add(span, "messaging.rabbitmq.destination.routing_key", view[TextProperty::routing_key]);
    add(span, "messaging.rabbitmq.message.delivery_tag", static_cast<std::int64_t>(delivery.tag));
    add(span, "messaging.message.id", ids_of(view).message);
    add(span, "messaging.message.conversation_id", view[TextProperty::correlation_id]);
    add(span, "messaging.message.body.size", static_cast<std::int64_t>(delivery.body_size));
    add(span, "lope.attempt", std::int64_t{delivery.attempt});
    add(span, "lope.outcome", handled.outcome);
    if (std::ranges::find(kFine, handled.outcome) == std::end(kFine)) {
      span.failed = true;
      span.failure = handled.reason;
      add(span, "error.type", handled.code.empty() ? handled.outcome : handled.code);
    }
    exporter_->add(std::move(span));
  };
  make(trace.receive, trace.parent, "receive", delivery.arrived, now.monotonic);
  if (delivery.ended != TimePoint{}) {
    make(trace.process, trace.receive, "process", delivery.began, delivery.ended);
  }
}

void Telemetry::publishes(const Delivery& delivery, Outbound& outbound) {
  const DeliveryTrace& trace = delivery.trace;
  if (!trace.recorded) return;
  if (static_cast<CopyKind>(outbound.kind) != CopyKind::publication) {
    outbound.span = random_span_id();
    return;
  }
  const std::string_view given = header_of(outbound.publication.packed_headers, kTraceParent);
  const auto context = parse_traceparent(given);
  if (!context || context->trace != trace.trace || context->span != trace.process) return;
  outbound.span = random_span_id();
  const std::string own = to_traceparent({trace.trace, outbound.span, true});
  outbound.storage.replace(static_cast<std::size_t>(given.data() - outbound.storage.data()),
                           own.size(), own);
}

void Telemetry::published(const Delivery& delivery, const DeliveryView& view,
                          const Outbound& outbound, std::string_view fate) {
  const DeliveryTrace& trace = delivery.trace;
  if (!trace.recorded || outbound.span == SpanId{}) return;
  const Now now;
  const auto [exchange, routing_key] = destination_of(outbound);
  Span span;
  span.trace = trace.trace;
  span.id = outbound.span;
  span.parent = delivery.ended != TimePoint{} ? trace.process : trace.receive;
  span.name = "publish " + std::string(exchange.empty() ? routing_key : exchange);
  span.kind = Span::Kind::producer;
  span.start_ns = now.unix_of(delivery.ended != TimePoint{} ? delivery.ended : delivery.arrived);
  span.end_ns = now.unix;
  add_operation(span, "publish", "send");
  add(span, "messaging.destination.name", destination(exchange, routing_key));
  add(span, "messaging.rabbitmq.destination.routing_key", routing_key);
  const bool copy = static_cast<CopyKind>(outbound.kind) != CopyKind::publication;
  add(span, "messaging.message.id",
      copy ? ids_of(view).message : std::string_view(outbound.message_id));
  add(span, "messaging.message.body.size",
      static_cast<std::int64_t>(outbound.publication.body.size()));
  add(span, "lope.kind", kind_name(outbound));
  if (fate != kConfirmed) {
    span.failed = true;
    span.failure = fate;
    add(span, "error.type", fate.substr(0, fate.find(':')));
  }
  exporter_->add(std::move(span));
}

}  // namespace lope::consumer
