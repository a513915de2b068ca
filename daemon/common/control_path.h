// Where a daemon's control socket is when nobody has said it.
#pragma once

#include <string>
#include <vector>

namespace lope {

// Of a daemon: LOPE_SOCKET; control.sock in the service's RUNTIME_DIRECTORY; for root in /run/lope;
// for others in XDG_RUNTIME_DIR/lope. Empty: none of these is there.
std::string default_control_socket();

// Where a command looks for it, in this order: LOPE_SOCKET alone, or else the places above.
std::vector<std::string> likely_control_sockets();

}  // namespace lope
