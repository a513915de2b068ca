#include "consumer/dead_letter_probe.h"

namespace lope::consumer {

namespace {

constexpr int kPreconditionFailed = 406;
constexpr int kNotFound = 404;
constexpr int kMaxRounds = 4;

bool is_about(std::string_view text, std::string_view argument) {
  return text.find("inequivalent arg '" + std::string(argument) + "'") != std::string_view::npos;
}

// "… but current is 'dlx'", and by another version "… but current is the value 'dlx' of type
// 'longstr'". Names do not hold quotes that would deceive this: the last is the one.
std::string current_value(std::string_view text) {
  constexpr std::string_view kBefore[] = {"but current is the value '", "but current is '"};
  for (const std::string_view before : kBefore) {
    const std::size_t at = text.rfind(before);
    if (at == std::string_view::npos) continue;
    const std::string_view rest = text.substr(at + before.size());
    const std::size_t typed = rest.rfind("' of type '");
    return std::string(rest.substr(0, typed != std::string_view::npos ? typed : rest.rfind('\'')));
  }
  return {};
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
    answer_ = code == kNotFound ? Answer::missing : Answer::there;
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
  if (!is_about(text, "x-dead-letter-exchange")) return true;
  if (text.ends_with("but current is none")) {
    answer_ = Answer::none;
    return true;
  }
  exchange_ = current_value(text);
  if (exchange_.empty()) {  // the default exchange
    answer_ = Answer::there;
    return true;
  }
  looking_for_exchange_ = true;
  return false;
}

}  // namespace lope::consumer
