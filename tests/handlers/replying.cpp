// Replies to each message as its body says, and acks it:
//   echo:TEXT       the text, with the request's content type and header "a" as its own
//   bytes           bytes that are no UTF-8
//   nothing         a reply without a body
//   code:NUMBER     {"code":NUMBER,"message":"as told","body":null}
//   wrong           a reply to another request, by its correlation id
//   silent          none at all
#include <lope/handler.hpp>
#include <string>

namespace {

class Replying final : public lope::Handler {
 public:
  lope::Outcome handle(const lope::Message& message) override {
    const std::string body(message.body_text());
    lope::Publication reply;
    reply.may_be_unroutable = true;
    if (body.starts_with("code:")) {
      message.reply_json(std::stoi(body.substr(5)), "as told");
    } else if (body != "silent") {
      if (body.starts_with("echo:")) reply.body = body.substr(5);
      if (body == "bytes") reply.body = std::string("\x00\xff\x80", 3);
      if (body == "wrong") reply.correlation_id = "another";
      reply.content_type = std::string(message.content_type());
      if (const auto header = message.header_text("a")) reply.header("a", std::string(*header));
      message.reply(reply);
    }
    return lope::Outcome::ack;
  }
};

}  // namespace

LOPE_HANDLER(Replying, "replying", "1.0.0")
