// A static object that never lets the file finish loading.
#include <lope/handler.hpp>

#include <unistd.h>

namespace {

struct Static {
  Static() {
    for (;;) ::pause();
  }
} object;

class Idle final : public lope::Handler {
 public:
  lope::Outcome handle(const lope::Message&) override { return lope::Outcome::ack; }
};

}  // namespace

LOPE_HANDLER(Idle, "hanging_constructor", "1.0.0")
