#include "consumer/topology.h"

namespace lope::consumer {

std::vector<Request> subscription_steps(const QueueSettings& queue, bool channel_open) {
  std::vector<Request> steps;
  if (!channel_open) steps.emplace_back(ChannelOpen{});
  if (queue.declare) {
    for (const ExchangeSettings& exchange : queue.declaration.exchanges) {
      steps.emplace_back(ExchangeDeclare{exchange});
    }
    steps.emplace_back(QueueDeclare{queue.name, queue.declaration});
    for (const BindingSettings& binding : queue.declaration.bindings) {
      steps.emplace_back(QueueBind{queue.name, binding});
    }
  }
  steps.emplace_back(Qos{static_cast<std::uint16_t>(queue.prefetch)});
  Consume consume{queue.name, queue.consumer_tag, queue.consumer_arguments};
  if (queue.stream) consume.offset = queue.offset;
  steps.emplace_back(std::move(consume));
  return steps;
}

void add_lookout(std::vector<Request>& steps, const QueueSettings& stream) {
  steps.emplace_back(Qos{1});
  steps.emplace_back(Consume{
      stream.name, std::string(kLookoutTag), {}, false, StreamOffset{StreamOffset::From::last, 0}});
}

namespace {

// Asks for no message, up to RabbitMQ 3.13.
Consume consume_nothing(const std::string& queue, const std::string& tag) {
  const AmqpTable no_credit{{"credit", {std::int64_t{0}}}, {"drain", {false}}};
  return {queue, tag, {{"x-credit", {no_credit}}, {"x-priority", {std::int64_t{-1000}}}}};
}

}  // namespace

std::vector<Request> ack_barrier(const std::string& queue) {
  const std::string tag = "lope-last-acks";
  return {Qos{1}, consume_nothing(queue, tag), Cancel{tag}, Qos{1}};
}

std::vector<Request> queue_check_steps(const std::string& queue, bool channel_open) {
  const std::string tag = "lope-check";
  std::vector<Request> steps;
  if (!channel_open) steps = {ChannelOpen{}, Qos{1}};
  steps.emplace_back(consume_nothing(queue, tag));
  steps.emplace_back(Cancel{tag});
  return steps;
}

bool has_queue_check(std::string_view broker_version) { return broker_version.starts_with("3."); }

}  // namespace lope::consumer
