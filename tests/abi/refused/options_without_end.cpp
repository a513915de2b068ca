#include <lope/handler.hpp>

struct Idle : lope::Handler {
  lope::Outcome handle(const lope::Message&) override { return lope::Outcome::ack; }
};
constexpr lope_option kOptions[] = {lope::required("dsn", "where to write")};
LOPE_HANDLER_WITH(Idle, "idle", "1.0.0", nullptr, kOptions)
