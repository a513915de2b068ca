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

std::vector<Request> ack_barrier(const std::string& queue) {
  const std::string tag = "lope-last-acks";
  const AmqpTable no_credit{{"credit", {std::int64_t{0}}}, {"drain", {false}}};
  const AmqpTable arguments{{"x-credit", {no_credit}}, {"x-priority", {std::int64_t{-1000}}}};
  return {Qos{1}, Consume{queue, tag, arguments}, Cancel{tag}, Qos{1}};
}

}  // namespace lope::consumer
