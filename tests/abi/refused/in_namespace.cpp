#include <lope/handler.hpp>

namespace mine {
struct Idle : lope::Handler {
  lope::Outcome handle(const lope::Message&) override { return lope::Outcome::ack; }
};
LOPE_HANDLER(Idle, "idle", "1.0.0")
}  // namespace mine
