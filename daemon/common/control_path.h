// Where a daemon's control socket is when nobody has said it, and how it is named to the kernel.
#pragma once

#include <sys/un.h>

#include <string>
#include <vector>

#include "common/result.h"

namespace lope {

// The longest path that a socket can have, in bytes.
inline constexpr std::size_t kMaxSocketPath = sizeof(sockaddr_un::sun_path) - 1;

// Fails when the path is longer than that.
Result<sockaddr_un> unix_address(const std::string& path);

// Of a daemon: LOPE_SOCKET; control.sock in the service's RUNTIME_DIRECTORY; for root in /run/lope;
// for others in XDG_RUNTIME_DIR/lope. Empty: none of these is there.
std::string default_control_socket();

// Where a command looks for it, in this order: LOPE_SOCKET alone, or else the places above.
std::vector<std::string> likely_control_sockets();

}  // namespace lope
