// Looks at the first messages of a queue and leaves them there: they are put back, in their places,
// and marked as redelivered.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/received.h"
#include "common/settings.h"

namespace lope::cli {

struct Peeked {
  int exit_code = 0;  // kExitOk, or why there are none: it has said so
  std::vector<Received> messages;
};

// `command` ("lope try") begins what it says. The addresses of `broker` are tried in their order.
Peeked peek(const std::string& command, const BrokerSettings& broker, const std::string& queue,
            std::uint64_t count);

}  // namespace lope::cli
