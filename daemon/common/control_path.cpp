#include "common/control_path.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>

namespace lope {

namespace {

constexpr const char* kSystemSocket = "/run/lope/control.sock";

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

std::string user_socket() {
  const std::string folder = variable("XDG_RUNTIME_DIR");
  return folder.empty() ? std::string() : folder + "/lope/control.sock";
}

}  // namespace

Result<sockaddr_un> unix_address(const std::string& path) {
  if (path.size() > kMaxSocketPath) {
    return Error{"'" + path + "': expected a path of at most " + std::to_string(kMaxSocketPath) +
                 " bytes, found " + std::to_string(path.size())};
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, path.size());
  return address;
}

std::string default_control_socket() {
  if (std::string given = variable("LOPE_SOCKET"); !given.empty()) return given;
  if (const std::string folders = variable("RUNTIME_DIRECTORY"); !folders.empty()) {
    return folders.substr(0, folders.find(':')) + "/control.sock";
  }
  return ::geteuid() == 0 ? kSystemSocket : user_socket();
}

std::vector<std::string> likely_control_sockets() {
  if (std::string given = variable("LOPE_SOCKET"); !given.empty()) return {given};
  std::vector<std::string> sockets = {kSystemSocket};
  if (std::string own = user_socket(); !own.empty()) sockets.push_back(std::move(own));
  return sockets;
}

}  // namespace lope
