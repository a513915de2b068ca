// Can be created, and dies in its first message.
#include <csignal>
#include <lope/handler.hpp>

namespace {

class Dies final : public lope::Handler {
 public:
  explicit Dies(lope::Host) {}
  lope::Outcome handle(const lope::Message&) override {
    std::raise(SIGKILL);
    return lope::Outcome::ack;
  }
};

}  // namespace

LOPE_HANDLER(Dies, "dies", "2.0.0")
