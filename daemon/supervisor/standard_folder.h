// Where a service, root or a user has its files of one kind.
#pragma once

#include <string>

namespace lope::supervisor {

// What has to outlive the daemon: $STATE_DIRECTORY (systemd's), /var/lib/lope for root,
// XDG_STATE_HOME/lope or ~/.local/state/lope; empty: none of them says where.
std::string default_state_dir();

// What may be lost: $CACHE_DIRECTORY, /var/cache/lope for root, XDG_CACHE_HOME/lope or
// ~/.cache/lope; empty: none of them says where.
std::string default_cache_dir();

}  // namespace lope::supervisor
