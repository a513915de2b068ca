// Requests that tell what the broker would say, and change nothing: each has something wrong with
// it that the broker notices last, after permissions, and after what it has already. So the refusal
// tells how far it came. Nothing is declared, bound, consumed or published by them. Pure.
#pragma once

#include <string>
#include <string_view>

#include "common/settings.h"
#include "consumer/connection.h"

namespace lope::cli {

struct BrokerAnswer {
  bool ok = false;
  int code = 0;  // of a refusal; 0: there was no answer
  std::string text;
  std::string to_string() const { return (code != 0 ? std::to_string(code) + " " : "") + text; }
};

enum class Judgement {
  there,    // as asked for
  missing,  // and it may be declared; or, for what is not declared, it may be used
  differs,  // it is declared otherwise, or cannot be declared so: the answer's text says how
  refused,  // not permitted
  unknown,  // the broker says something else
};

// Is there such a queue, could it be declared? The argument of another type of queue that is added
// counts for nothing with an existing one, and makes a new one impossible.
consumer::QueueDeclare harmless_declare(const std::string& queue, const DeclareSettings& settings);
Judgement judge_queue(const BrokerAnswer& answer);

// The same for an exchange: an alternate exchange that is no name.
consumer::ExchangeDeclare harmless_declare(const ExchangeSettings& exchange);
Judgement judge_exchange(const BrokerAnswer& answer, const ExchangeSettings& exchange);

// May it be consumed from? A priority that is no number.
consumer::Consume harmless_consume(const std::string& queue);
Judgement judge_consume(const BrokerAnswer& answer);

// May they be bound like this? That wants the same permissions as taking the binding away, and a
// binding with the argument that is added is nobody's.
consumer::Unbind harmless_unbind(const consumer::QueueBind& bind);
consumer::Unbind harmless_unbind(const consumer::ExchangeBind& bind);
Judgement judge_unbind(const BrokerAnswer& answer);

// May it be published to? An expiration that is no number; without one given the routing key is
// nobody's. The views are kept.
inline constexpr std::string_view kNobodysKey = "lope.check.no-such-key";
consumer::Publication harmless_publication(std::string_view exchange,
                                           std::string_view routing_key = kNobodysKey);
Judgement judge_publication(const BrokerAnswer& answer);

// Refused for the sake of this routing key: a topic exchange may permit others.
bool is_of_the_key(const BrokerAnswer& answer);

}  // namespace lope::cli
