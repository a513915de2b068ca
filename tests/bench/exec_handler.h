// The handler exec: a command for each message, against amqp-consume with the same command; and a
// co-process in C.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "support/broker.h"

namespace lope::bench {

// Prints a table in Markdown. Throws std::runtime_error when anything is not as it should be.
nlohmann::json run_exec(test::Broker& broker, int rounds, double scale);

}  // namespace lope::bench
