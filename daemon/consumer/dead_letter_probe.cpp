#include "consumer/dead_letter_probe.h"

#include <optional>
#include <utility>

namespace lope::consumer {

namespace {

constexpr int kPreconditionFailed = 406;
constexpr int kNotFound = 404;
constexpr int kMaxRounds = 4;

bool is_about(std::string_view text, std::string_view argument) {
  return text.find("inequivalent arg '" + std::string(argument) + "'") != std::string_view::npos;
}

// "… but current is 'dlx'", and by another version "… but current is the value 'dlx' of type
// 'longstr'". Names do not hold quotes that would deceive this: the last is the one. Nothing when
// the text does not come so far: the broker cuts it at 255 bytes, which a long name of a queue
// fills.
std::optional<std::string> current_value(std::string_view text) {
  if (!text.ends_with('\'')) return std::nullopt;
  constexpr std::string_view kBefore[] = {"but current is the value '", "but current is '"};
  for (const std::string_view before : kBefore) {
    const std::size_t at = text.rfind(before);
    if (at == std::string_view::npos) continue;
    const std::string_view rest = text.substr(at + before.size());
    const std::size_t typed = rest.rfind("' of type '");
    const std::size_t end = typed != std::string_view::npos ? typed : rest.rfind('\'');
    if (end == std::string_view::npos) return std::nullopt;
    return std::string(rest.substr(0, end));
  }
  return std::nullopt;
}

}  // namespace

Request DeadLetterProbe::next() const {
  if (looking_for_exchange_) {
    ExchangeDeclare look;
    look.exchange.name = exchange_;
    look.passive = true;
    return look;
  }
  QueueDeclare declare;
  declare.queue = queue_;
  declare.declaration.durable = durable_;
  declare.declaration.auto_delete = auto_delete_;
  declare.declaration.arguments = {{"x-dead-letter-exchange", {true}}};
  return declare;
}

bool DeadLetterProbe::on_ok() {
  if (looking_for_exchange_) answer_ = Answer::there;
  return true;
}

bool DeadLetterProbe::on_channel_closed(int code, std::string_view text) {
  if (looking_for_exchange_) {
    if (code == kNotFound) answer_ = Answer::missing;
    return true;
  }
  if (code != kPreconditionFailed || ++rounds_ > kMaxRounds) return true;
  if (is_about(text, "durable")) {
    durable_ = !durable_;
    return false;
  }
  if (is_about(text, "auto_delete")) {
    auto_delete_ = !auto_delete_;
    return false;
  }
  other_type_ = is_about(text, "x-queue-type");
  if (!is_about(text, "x-dead-letter-exchange")) return true;
  no_stream_ = true;  // of a stream the type is what differs first
  if (text.ends_with("but current is none")) {
    answer_ = Answer::none;
    return true;
  }
  auto current = current_value(text);
  if (!current) return true;
  exchange_ = std::move(*current);
  if (exchange_.empty()) {  // the default exchange
    answer_ = Answer::there;
    return true;
  }
  looking_for_exchange_ = true;
  return false;
}

}  // namespace lope::consumer
