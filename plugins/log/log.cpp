// Writes each message as one line of the daemon's log, and acks it. The host escapes and cuts what
// it writes, so nothing here does.
#include <lope/handler.hpp>

#include <string>

namespace {

constexpr lope_option kOptions[] = {
    lope::defaulted("level", "info", "log level of the lines: debug, info, warn or error"),
    lope::defaulted("max_body", "256", "bytes of the body to show", LOPE_UINT64),
    lope::kEndOfOptions};

lope::Level level_from(const std::string& name) {
  if (name == "debug") return lope::Level::debug;
  if (name == "info") return lope::Level::info;
  if (name == "warn") return lope::Level::warn;
  if (name == "error") return lope::Level::error;
  throw lope::InvalidConfiguration("option 'level': expected debug, info, warn or error, found '" +
                                   name + "'");
}

class Log final : public lope::Handler {
 public:
  explicit Log(lope::Host host)
      : host_(host),
        level_(level_from(host.option_as<std::string>("level"))),
        max_body_(host.option_as<std::size_t>("max_body")) {}

  lope::Outcome handle(const lope::Message& message) override {
    if (!host_.log_enabled(level_)) return lope::Outcome::ack;
    line_ = "queue=";
    line_ += message.queue();
    line_ += " key=";
    line_ += message.routing_key();
    line_ += " id=";
    line_ += message.message_id();
    line_ += " size=";
    line_ += std::to_string(message.body().size());
    line_ += " body=";
    line_ += message.body_text().substr(0, max_body_);
    if (message.body().size() > max_body_) line_ += "…";
    host_.log(level_, line_);
    return lope::Outcome::ack;
  }

 private:
  const lope::Host host_;
  const lope::Level level_;
  const std::size_t max_body_;
  std::string line_;  // kept between messages for its memory
};

}  // namespace

LOPE_HANDLER_WITH(Log, "log", "1.0.0", "writes each message as a line of the log", kOptions)
