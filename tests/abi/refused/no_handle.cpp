#include <lope/handler.hpp>

struct Idle : lope::Handler {};
LOPE_HANDLER(Idle, "idle", "1.0.0")
