#include "support/temp_dir.h"

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <system_error>

namespace lope::test {

TempDir::TempDir() {
  std::string name = (std::filesystem::temp_directory_path() / "lope-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) {
    throw std::runtime_error("mkdtemp '" + name + "': " + std::generic_category().message(errno));
  }
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;  // what a test made unreadable on purpose is not worth a failure here
  std::filesystem::remove_all(path_, ignored);
}

std::string TempDir::write(std::string_view name, std::string_view content) const {
  const std::string path = file(name);
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  out.close();
  if (!out) throw std::runtime_error("cannot write '" + path + "'");
  return path;
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream content;
  content << in.rdbuf();  // no exception when it is a process in /proc that ends meanwhile
  return content.str();
}

}  // namespace lope::test
