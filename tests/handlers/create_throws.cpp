// A constructor that throws: what, option `how` says.
#include <lope/handler.hpp>

#include <stdexcept>

namespace {

class Thrower final : public lope::Handler {
 public:
  explicit Thrower(lope::Host host) {
    const std::string how = host.option_or("how", "runtime_error");
    if (how == "invalid") throw lope::InvalidConfiguration("thrown as invalid");
    if (how == "int") throw 77;
    if (how == "option") host.option_as<int>("missing");
    throw std::runtime_error("thrown by the constructor");
  }
  lope::Outcome handle(const lope::Message&) override { return lope::Outcome::ack; }
};

}  // namespace

LOPE_HANDLER(Thrower, "create_throws", "1.0.0")
