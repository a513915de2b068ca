// A static object that ends the process while the file is loaded.
#include <lope/handler.hpp>

#include <csignal>
#include <cstdlib>

namespace {

struct Static {
  Static() {
    std::signal(SIGABRT, SIG_DFL);
    std::abort();
  }
} object;

class Idle final : public lope::Handler {
 public:
  lope::Outcome handle(const lope::Message&) override { return lope::Outcome::ack; }
};

}  // namespace

LOPE_HANDLER(Idle, "aborting_constructor", "1.0.0")
