#include "cli/programs.h"

#include <unistd.h>

#include <filesystem>
#include <system_error>

namespace lope::cli {

Result<std::string> program_path(const std::string& name) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return Error{"cannot find this program's own path: " + error.message()};
  const auto beside = self.parent_path() / name;
  const auto installed = self.parent_path().parent_path() / "libexec" / "lope" / name;
  for (const auto& path : {beside, installed}) {
    if (::access(path.c_str(), X_OK) == 0) return path.string();
  }
  return Error{"program '" + name + "': expected at " + beside.string() + " or " +
               installed.string() + ", found at neither"};
}

Result<std::string> installation() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return Error{"cannot find this program's own path: " + error.message()};
  const auto above = self.parent_path().parent_path();
  return (above.filename() == "libexec" ? above.parent_path() : above).string();
}

}  // namespace lope::cli
