// A folder of a test's own, gone with the object.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace lope::test {

class TempDir {
 public:
  // Under the system's temporary folder, mode 0700. Throws std::runtime_error when it cannot be
  // made.
  TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir();

  const std::filesystem::path& path() const { return path_; }
  // The path of `name` inside, as text.
  std::string file(std::string_view name) const { return (path_ / name).string(); }
  // Writes `content` to `name` inside and returns its path.
  std::string write(std::string_view name, std::string_view content) const;

 private:
  std::filesystem::path path_;
};

// The whole content of a file; empty when it is not there.
std::string read_file(const std::string& path);

}  // namespace lope::test
