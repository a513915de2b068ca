// A handler for the tests of <lope/handler.hpp>: single messages only, each of which says what to
// do.
#include <lope/handler.hpp>
#include <string>

namespace {

constexpr lope_option kOptions[] = {
    lope::required("name", "any text"),
    lope::defaulted("width", "640", "an integer", LOPE_INT64),
    lope::defaulted("ratio", "1.5", "a number", LOPE_DOUBLE),
    lope::defaulted("loud", "no", "a truth", LOPE_BOOL),
    lope::secret(lope::defaulted("pin", "1", "a secret number", LOPE_INT64)),
    lope::kEndOfOptions};

class Edge final : public lope::Handler {
 public:
  explicit Edge(lope::Host host)
      : host_(host),
        seen_(host.option_as<std::string>("name") + "," +
              std::to_string(host.option_as<std::int16_t>("width")) + "," +
              (host.option_as<bool>("loud") ? "loud" : "quiet") + "," +
              std::to_string(host.option_or("not there", 7)) + "," +
              host.option_or("nor this", "x")) {
    if (host.option_as<double>("ratio") < 0) throw lope::InvalidConfiguration("a negative ratio");
    host.option_as<int>("pin");
    host.info("made " + seen_);
  }
  ~Edge() override { host_.info("destroyed"); }

  lope::Outcome handle(const lope::Message& message) override {
    const std::string_view body = message.body_text();
    if (body == "ack") return lope::Outcome::ack;
    if (body == "retry") return lope::Outcome::retry;
    if (body == "hold") return lope::Outcome::hold;
    if (body == "none") return {};
    if (body == "throw reject") throw lope::Reject("not an image");
    if (body == "throw retry") throw lope::Retry("the disk is full");
    if (body == "throw retry with delay") throw lope::Retry("later", std::chrono::seconds(7));
    if (body == "throw standard") throw std::runtime_error("something else");
    if (body == "throw nothing standard") throw 77;
    if (body == "retry_after") {
      message.retry_after(std::chrono::milliseconds(250));
      return lope::Outcome::retry;
    }
    if (body == "publish") return publish(message);
    if (body == "publish values") return publish_values(message);
    if (body == "publish table") {
      lope::Publication publication;
      message.publish(publication.header("table", *message.header("table")));
      return lope::Outcome::ack;
    }
    if (body == "copy headers") return copy_headers(message);
    if (body == "reply") {
      lope::Publication answer;
      answer.body = "the answer";
      message.reply(answer);
      return lope::Outcome::ack;
    }
    if (body.substr(0, 11) == "reply_json ") {
      message.reply_json(-404, body.substr(11), R"({"n":1})");
      message.reply_json(0, "");
      return lope::Outcome::ack;
    }
    if (body == "keep_alive")
      return message.keep_alive() ? lope::Outcome::ack : lope::Outcome::reject;
    if (body == "headers") return check_headers(message);
    if (body == "beyond the last header") message.header_at(message.header_count());
    if (body == "settle")
      return host_.settle(message.id(), lope::Outcome::ack) ? lope::Outcome::ack
                                                            : lope::Outcome::reject;
    if (body == "metric") {
      host_.counter("late", "too late").record(1);
      return lope::Outcome::ack;
    }
    throw lope::Reject("unknown: " + std::string(body));
  }

 private:
  static lope::Outcome publish(const lope::Message& message) {
    lope::Publication publication;
    publication.body = "sent";
    publication.exchange = "exchange";
    publication.routing_key = "key";
    publication.persistent = false;
    publication.delay = std::chrono::seconds(2);
    publication.header("text", "a")
        .header("number", -3)
        .header("natural", 4u)
        .header("truth", true)
        .header("real", 0.5);
    message.publish(publication);
    return lope::Outcome::ack;
  }

  static lope::Outcome publish_values(const lope::Message& message) {
    lope::Publication publication;
    publication.header("bytes", lope::Value::bytes(std::string_view("a\0b", 3)))
        .header("time", lope::Value::timestamp(std::chrono::system_clock::time_point(
                            std::chrono::milliseconds(1'234'999))))
        .header("long ago", lope::Value::timestamp(
                                std::chrono::system_clock::time_point(std::chrono::seconds(-5))))
        .header("nothing", lope::Value::null())
        .header("text", *message.header("colour"))
        .header("twice", "a")
        .header("twice", 2);
    message.publish(publication);
    return lope::Outcome::ack;
  }

  static lope::Outcome copy_headers(const lope::Message& message) {
    lope::Publication publication;
    publication.header("set before", "mine").copy_headers(message).header("set after", "mine");
    message.publish(publication);
    return lope::Outcome::ack;
  }

  static lope::Outcome check_headers(const lope::Message& message) {
    const bool as_expected = message.header_text("colour") == "red" &&
                             message.header_int("size") == 5 && !message.header_text("size") &&
                             !message.header("no such header") && message.header_count() == 2 &&
                             message.header_at(1).name == "size" && message.queue() == "edge" &&
                             message.routing_key().empty() && message.attempt() == 1 &&
                             !message.timestamp();
    return as_expected ? lope::Outcome::ack : lope::Outcome::reject;
  }

  const lope::Host host_;
  const std::string seen_;
};

}  // namespace

LOPE_HANDLER_WITH(Edge, "edge", "1.0.0", "for the tests", kOptions)
