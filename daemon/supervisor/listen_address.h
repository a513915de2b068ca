// Where the monitor serves: how it is written, and the socket for it.
#pragma once

#include <string>
#include <string_view>

#include "common/fd.h"
#include "common/result.h"
#include "common/settings.h"

namespace lope::supervisor {

// "9419" and ":9419" are 127.0.0.1; "192.0.2.1:9419", "[::1]:9419", "localhost:9419" (127.0.0.1).
// Port 0 is any free one. Errors say what was expected.
Result<ListenAddress> parse_listen_address(std::string_view text);

// Nobody on another machine can reach it.
bool is_loopback(const ListenAddress& address);

// "127.0.0.1:9419", "[::1]:9419"
std::string to_string(const ListenAddress& address);

// A socket that listens there. `address` gets the port that it has.
Result<UniqueFd> listen_on(ListenAddress& address);

}  // namespace lope::supervisor
