// A static object that throws while the file is loaded.
#include <lope/handler.hpp>

#include <stdexcept>

namespace {

struct Static {
  Static() { throw std::runtime_error("thrown by a static object"); }
} object;

class Idle final : public lope::Handler {
 public:
  lope::Outcome handle(const lope::Message&) override { return lope::Outcome::ack; }
};

}  // namespace

LOPE_HANDLER(Idle, "throwing_constructor", "1.0.0")
