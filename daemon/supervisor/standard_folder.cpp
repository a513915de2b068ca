#include "supervisor/standard_folder.h"

#include <unistd.h>

#include <cstdlib>

namespace lope::supervisor {

namespace {

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// `service`: the variable that systemd sets, a list; `xdg` and `home`: of a user.
std::string standard_folder(const char* service, const char* root, const char* xdg,
                            const char* home) {
  if (const std::string given = variable(service); !given.empty()) {
    return given.substr(0, given.find(':'));
  }
  if (::geteuid() == 0) return root;
  if (const std::string folder = variable(xdg); !folder.empty()) return folder + "/lope";
  if (const std::string folder = variable("HOME"); !folder.empty()) return folder + home + "/lope";
  return {};
}

}  // namespace

std::string default_state_dir() {
  return standard_folder("STATE_DIRECTORY", "/var/lib/lope", "XDG_STATE_HOME", "/.local/state");
}

std::string default_cache_dir() {
  return standard_folder("CACHE_DIRECTORY", "/var/cache/lope", "XDG_CACHE_HOME", "/.cache");
}

}  // namespace lope::supervisor
