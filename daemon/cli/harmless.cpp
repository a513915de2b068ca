#include "cli/harmless.h"

#include <algorithm>

#include "cli/received.h"

namespace lope::cli {

namespace {

constexpr int kRefused = 403, kNotFound = 404, kLocked = 405, kPreconditionFailed = 406;

constexpr std::string_view kOfStreams = "x-max-age";
constexpr std::string_view kAlternate = "alternate-exchange";
constexpr std::string_view kPriority = "x-priority";
constexpr std::string_view kNobodysArgument = "x-lope-check";

bool mentions(const BrokerAnswer& answer, std::string_view what) {
  return answer.text.find(what) != std::string::npos;
}

std::string quoted(std::string_view name) { return "'" + std::string(name) + "'"; }

}  // namespace

consumer::QueueDeclare harmless_declare(const std::string& queue, const DeclareSettings& settings) {
  consumer::QueueDeclare declare{queue, settings, false};
  declare.declaration.arguments.emplace_back(std::string(kOfStreams), AmqpValue{std::string("1h")});
  return declare;
}

Judgement judge_queue(const BrokerAnswer& answer) {
  if (answer.ok) return Judgement::there;
  switch (answer.code) {
    case kRefused: return Judgement::refused;
    case kLocked: return Judgement::differs;
    case kPreconditionFailed:
      return mentions(answer, "invalid arg " + quoted(kOfStreams)) ? Judgement::missing
                                                                   : Judgement::differs;
    default: return Judgement::unknown;
  }
}

consumer::ExchangeDeclare harmless_declare(const ExchangeSettings& exchange) {
  consumer::ExchangeDeclare declare{exchange, false};
  AmqpTable& arguments = declare.exchange.arguments;
  std::erase_if(arguments, [](const AmqpEntry& entry) { return entry.first == kAlternate; });
  arguments.emplace_back(std::string(kAlternate), AmqpValue{true});
  return declare;
}

Judgement judge_exchange(const BrokerAnswer& answer, const ExchangeSettings& exchange) {
  if (answer.ok) return Judgement::there;
  if (answer.code == kRefused) return Judgement::refused;
  if (answer.code != kPreconditionFailed) return Judgement::unknown;
  if (mentions(answer, "invalid type 'bool' for arg " + quoted(kAlternate))) {
    return Judgement::missing;
  }
  if (!mentions(answer, "inequivalent arg " + quoted(kAlternate))) return Judgement::differs;
  // All else is equal. The one that the exchange has is named at the end.
  const std::string wanted = text_of(exchange.arguments, kAlternate);
  const std::size_t current = answer.text.rfind("but current is ");
  if (current == std::string::npos) return Judgement::unknown;
  const std::string_view has = std::string_view(answer.text).substr(current);
  const bool same =
      wanted.empty() ? has.ends_with("none") : has.find(quoted(wanted)) != std::string_view::npos;
  return same ? Judgement::there : Judgement::differs;
}

consumer::Consume harmless_consume(const std::string& queue) {
  consumer::Consume consume;
  consume.queue = queue;
  consume.arguments = {{std::string(kPriority), AmqpValue{std::string("none")}}};
  return consume;
}

Judgement judge_consume(const BrokerAnswer& answer) {
  if (answer.ok) return Judgement::there;
  switch (answer.code) {
    case kRefused: return Judgement::refused;
    case kNotFound: return Judgement::missing;
    case kPreconditionFailed:
      return mentions(answer, quoted(kPriority)) ? Judgement::there : Judgement::unknown;
    default: return Judgement::unknown;
  }
}

consumer::Unbind harmless_unbind(const consumer::QueueBind& bind) {
  consumer::Unbind unbind{true, bind.queue, bind.binding};
  unbind.binding.arguments.emplace_back(std::string(kNobodysArgument), AmqpValue{true});
  return unbind;
}

consumer::Unbind harmless_unbind(const consumer::ExchangeBind& bind) {
  consumer::Unbind unbind = harmless_unbind({bind.destination, {bind.source, bind.key, {}}});
  unbind.from_queue = false;
  return unbind;
}

Judgement judge_unbind(const BrokerAnswer& answer) {
  if (answer.ok) return Judgement::there;
  switch (answer.code) {
    case kRefused: return Judgement::refused;
    case kNotFound: return Judgement::missing;
    default: return Judgement::unknown;
  }
}

consumer::Publication harmless_publication(std::string_view exchange,
                                           std::string_view routing_key) {
  consumer::Publication publication;
  publication.exchange = exchange;
  publication.routing_key = routing_key;
  publication.mandatory = false;
  publication.persistent = false;
  publication.expiration = "none";
  return publication;
}

Judgement judge_publication(const BrokerAnswer& answer) {
  switch (answer.code) {
    case kRefused: return Judgement::refused;
    case kNotFound: return Judgement::missing;
    case kPreconditionFailed:
      return mentions(answer, "expiration") ? Judgement::there : Judgement::unknown;
    default: return Judgement::unknown;
  }
}

bool is_of_the_key(const BrokerAnswer& answer) {
  return answer.code == kRefused && mentions(answer, "access to topic ");
}

}  // namespace lope::cli
