#include "secret.hpp"

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace lope::http {

namespace {

constexpr off_t kMaxSecret = 64 * 1024;

bool same_file(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size &&
         a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

}  // namespace

std::optional<Secret> Secret::from_options(const Host& host, const std::string& name) {
  std::string kind, value;
  for (const char* const each : {"credential", "file", "env"}) {
    const auto text = host.option_as<std::string>(name + "." + each);
    if (text.empty()) continue;
    if (!kind.empty()) {
      throw InvalidConfiguration("option '" + name +
                                 "': expected one of credential, file and env, " + "found " + kind +
                                 " and " + each);
    }
    kind = each;
    value = text;
  }
  if (kind.empty()) return std::nullopt;

  Secret secret(host, name + "." + kind);
  const auto wrong = [&secret](const std::string& expected, const std::string& found) {
    return InvalidConfiguration("option '" + secret.option_ + "': expected " + expected +
                                ", found " + found);
  };
  if (kind == "env") {
    const char* const found = std::getenv(value.c_str());
    if (found == nullptr || *found == '\0') {
      throw wrong("the environment variable '" + value + "' to be set", "none");
    }
    secret.value_ = found;
    return secret;
  }
  secret.path_ = value;
  if (kind == "credential") {
    if (value.find('/') != std::string::npos || value == "." || value == "..") {
      throw wrong("the name of a systemd credential, without '/'", "'" + value + "'");
    }
    const char* const folder = std::getenv("CREDENTIALS_DIRECTORY");
    if (folder == nullptr) {
      throw wrong("$CREDENTIALS_DIRECTORY, which systemd sets for LoadCredential=", "none");
    }
    secret.path_ = std::string(folder) + "/" + value;
  }
  try {
    secret.read();
  } catch (const std::exception& error) {
    throw InvalidConfiguration("option '" + secret.option_ + "': " + error.what());
  }
  return secret;
}

const std::string& Secret::get() {
  if (path_.empty()) return value_;
  struct stat now {};
  if (::stat(path_.c_str(), &now) == 0 && same_file(now, seen_)) return value_;
  try {
    read();
    failing_ = false;
  } catch (const std::exception& error) {
    if (!std::exchange(failing_, true)) {
      host_.warn("option '" + option_ + "': " + error.what() +
                 "; the one that was read before is used");
    }
  }
  return value_;
}

void Secret::read() {
  const auto failed = [this](const std::string& found) {
    return std::runtime_error("'" + path_ +
                              "': expected a readable file that is not empty, found: " + found);
  };
  // What it looked like before: a change while it is read is seen the next time.
  struct stat now {};
  if (::stat(path_.c_str(), &now) != 0) throw failed(std::generic_category().message(errno));
  if (!S_ISREG(now.st_mode)) throw failed("no regular file");
  if (now.st_size > kMaxSecret) throw failed("more than 64 KiB");
  std::ifstream file(path_, std::ios::binary);
  if (!file) throw failed(std::generic_category().message(errno));
  std::string text(std::istreambuf_iterator<char>(file), {});
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  if (text.empty()) throw failed("nothing in it");
  value_ = std::move(text);
  seen_ = now;
}

}  // namespace lope::http
