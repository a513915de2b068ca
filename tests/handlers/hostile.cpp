// Looks at everything that a message has, whatever it is, and then does the same with each:
//   ack, reject, throw     throw: what was thrown has the message's id in it
//   retry                  RETRY up to its third attempt, with the id as the reason; then ack
//   copy                   publishes a copy, headers and all, to the queue `to`
#include <cstdint>
#include <lope/handler.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

namespace {

constexpr lope_option kOptions[] = {lope::required("does", "with each message"),
                                    lope::defaulted("to", "", "queue"), lope::kEndOfOptions};

class Hostile final : public lope::Handler {
 public:
  explicit Hostile(lope::Host host)
      : host_(host),
        does_(host.option_as<std::string>("does")),
        to_(host.option_as<std::string>("to")) {}

  lope::Outcome handle(const lope::Message& message) override {
    look_at(message);
    const std::string id(message.message_id());
    if (does_ == "reject") {
      message.explain("rejected: " + id);
      return lope::Outcome::reject;
    }
    if (does_ == "throw") throw std::runtime_error("thrown: " + id);
    if (does_ == "retry" && message.attempt() < 3) {
      message.explain("retried: " + id);
      return lope::Outcome::retry;
    }
    if (does_ == "copy") copy(message);
    return lope::Outcome::ack;
  }

 private:
  void look_at(const lope::Message& message) {
    const auto see = [this](std::string_view text) {
      for (const char c : text) seen_ += static_cast<unsigned char>(c);
    };
    for (const std::string_view text :
         {message.message_id(), message.correlation_id(), message.reply_to(), message.type(),
          message.app_id(), message.user_id(), message.content_type(), message.content_encoding(),
          message.exchange(), message.routing_key(), message.body_text()}) {
      see(text);
    }
    for (std::size_t i = 0; i < message.header_count(); ++i) {
      const lope::Header header = message.header_at(i);
      see(header.name);
      see(header.value.as_text().value_or(""));
      see(std::to_string(header.value.as_double().value_or(0)));
    }
    host_.log(lope::Level::debug, std::string("seen ") + std::string(message.message_id()));
  }

  void copy(const lope::Message& message) const {
    lope::Publication publication;
    publication.routing_key = to_;
    publication.body = std::string(message.body_text());
    publication.message_id = std::string(message.message_id());
    publication.content_type = std::string(message.content_type());
    publication.correlation_id = std::string(message.correlation_id());
    publication.copy_headers(message);
    message.publish(publication);
  }

  lope::Host host_;
  const std::string does_;
  const std::string to_;
  std::uint64_t seen_ = 0;
};

}  // namespace

LOPE_HANDLER_WITH(Hostile, "hostile", "1.0.0", "looks at everything", kOptions)
