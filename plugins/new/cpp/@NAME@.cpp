// A handler to start from: takes two options, and greets whoever the message names.
#include <lope/handler.hpp>
#include <string>

namespace {

constexpr lope_option kOptions[] = {
    lope::required("greeting", "the word to greet with"),
    lope::defaulted("times", "1", "how often to greet", LOPE_UINT64), lope::kEndOfOptions};

// One object a thread; every call of it comes from that thread.
class @CLASS@ final : public lope::Handler {
 public:
  explicit @CLASS@(lope::Host host)
      : host_(host),
        greeting_(host.option_as<std::string>("greeting")),
        times_(host.option_as<unsigned>("times")) {
    if (times_ == 0)
      throw lope::InvalidConfiguration("option 'times': expected at least 1, found 0");
  }

  lope::Outcome handle(const lope::Message& message) override {
    // Nobody will ever be able to handle this one: it is dead-lettered. To have a message come
    // again, throw lope::Retry, or anything else.
    if (message.body().empty()) throw lope::Reject("an empty body: nobody to greet");
    for (unsigned i = 0; i < times_; ++i) {
      host_.info(greeting_ + ", " + std::string(message.body_text()) + "!");
    }
    return lope::Outcome::ack;
  }

 private:
  const lope::Host host_;
  const std::string greeting_;
  const unsigned times_;
};

}  // namespace

LOPE_HANDLER_WITH(@CLASS@, "@NAME@", "0.1.0", "greets whoever the message names", kOptions)
