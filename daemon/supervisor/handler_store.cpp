#include "supervisor/handler_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <map>
#include <system_error>
#include <tuple>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/plugin_file.h"
#include "common/text.h"

namespace lope::supervisor {

namespace {

constexpr std::size_t kMaxFile = std::size_t{1} << 30;
constexpr std::time_t kKept = 3600;  // seconds

std::string folder_of(const std::string& cache_dir) { return cache_dir + "/handlers"; }

Result<std::string> read_file(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file.valid()) return Error{errno_text("open '" + path + "'", errno)};
  std::string content;
  std::size_t size = 0;
  while (true) {
    constexpr std::size_t kStep = 1 << 20;
    content.resize(size + kStep);
    const ssize_t n = ::read(file.get(), content.data() + size, kStep);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error{errno_text("read '" + path + "'", errno)};
    size += static_cast<std::size_t>(n);
    if (n == 0) break;
    if (size > kMaxFile) return Error{"'" + path + "': expected at most 1 GiB, found more"};
  }
  content.resize(size);
  return content;
}

std::string hash_of(const std::string& content) {
  const XXH128_hash_t hash = XXH3_128bits(content.data(), content.size());
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return text;
}

Result<void> make_folders(const std::string& path) {
  for (std::size_t end = path.find('/', 1); true; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (::mkdir(part.c_str(), 0755) < 0 && errno != EEXIST) {
      return Error{errno_text("mkdir '" + part + "'", errno)};
    }
    if (end == std::string::npos) return {};
  }
}

// Whole or not at all: under another name first.
Result<void> write_file(const std::string& path, const std::string& content) {
  const std::string draft = path + "." + std::to_string(::getpid()) + ".draft";
  UniqueFd file(::open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!file.valid()) return Error{errno_text("open '" + draft + "'", errno)};
  const auto fail = [&](const std::string& call, int error) {
    ::unlink(draft.c_str());
    return Error{errno_text(call + " '" + draft + "'", error)};
  };
  std::size_t written = 0;
  while (written < content.size()) {
    const ssize_t n = ::write(file.get(), content.data() + written, content.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail("write", errno);
    written += static_cast<std::size_t>(n);
  }
  if (::fchmod(file.get(), 0555) < 0) return fail("fchmod", errno);
  if (::rename(draft.c_str(), path.c_str()) < 0) return fail("rename", errno);
  return {};
}

// Of a file that find_plugin() has found good.
Result<std::string> keep(const PluginFile& file, const std::string& name,
                         const std::string& folder) {
  const auto content = read_file(file.path);
  if (!content) return Error{content.error()};
  const std::string own_folder = folder + "/" + hash_of(*content);
  if (auto made = make_folders(own_folder); !made) return Error{made.error()};
  const std::string path = own_folder + "/" + name + ".so";
  // One that is there may have been cut by a full disk or a crash of the machine.
  if (const auto there = read_file(path); !there || *there != *content) {
    if (auto written = write_file(path, *content); !written) return Error{written.error()};
  }
  (void)::utimensat(AT_FDCWD, path.c_str(), nullptr, 0);  // looked at: see tidy_copies()
  // Its folders must be as safe as those of the file.
  if (auto checked = check_plugin(path); !checked) return Error{checked.error()};
  return path;
}

// A name that cannot be right is not worth waiting for.
bool is_missing(const std::string& handlers_dir, const std::string& handler) {
  if (handler.find('/') != std::string::npos || handler.ends_with(".so")) return false;
  struct stat status {};
  const std::string path = handlers_dir + "/" + handler + ".so";
  return ::stat(path.c_str(), &status) < 0 && errno == ENOENT;
}

}  // namespace

std::string default_cache_dir() {
  const auto variable = [](const char* name) {
    const char* const value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  if (const std::string given = variable("CACHE_DIRECTORY"); !given.empty()) {
    return given.substr(0, given.find(':'));
  }
  if (::geteuid() == 0) return "/var/cache/lope";
  if (const std::string home = variable("XDG_CACHE_HOME"); !home.empty()) return home + "/lope";
  if (const std::string home = variable("HOME"); !home.empty()) return home + "/.cache/lope";
  return {};
}

std::vector<std::string> keep_handlers(Settings& settings, const std::string& cache_dir) {
  std::vector<std::string> troubles;
  std::map<std::string, std::pair<std::string, std::string>> known;  // copy and what is missing
  for (GroupSettings& group : settings.groups) {
    auto found = known.find(group.handler);
    if (found == known.end()) {
      std::pair<std::string, std::string> kept;
      const auto file = find_plugin(settings.handlers_dir, group.handler);
      if (!file) {
        if (is_missing(settings.handlers_dir, group.handler)) kept.second = file.error();
      } else if (file->looks_around) {
        troubles.push_back("handler '" + file->path +
                           "': its run path has $ORIGIN, so it is loaded from where it is: "
                           "do not overwrite it while it runs");
      } else {
        auto copy = cache_dir.empty() ? Result<std::string>(Error{"no cache folder is known"})
                                      : keep(*file, group.handler, folder_of(cache_dir));
        if (copy) {
          kept.first = std::move(*copy);
        } else {
          troubles.push_back("handler '" + file->path +
                             "': no private copy, so it is loaded from where it is: do not "
                             "overwrite it while it runs: " +
                             copy.error());
        }
      }
      found = known.emplace(group.handler, std::move(kept)).first;
    }
    std::tie(group.handler_copy, group.handler_missing) = found->second;
  }
  return troubles;
}

Result<UniqueFd> hold_copy(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file.valid()) return Error{errno_text("open '" + path + "'", errno)};
  if (::flock(file.get(), LOCK_SH | LOCK_NB) < 0) {
    return Error{errno_text("flock '" + path + "'", errno)};
  }
  return file;
}

void tidy_copies(const std::string& cache_dir) {
  namespace fs = std::filesystem;
  std::error_code error;
  for (const auto& folder : fs::directory_iterator(folder_of(cache_dir), error)) {
    for (const auto& entry : fs::directory_iterator(folder.path(), error)) {
      const UniqueFd file(
          ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
      struct stat status {};
      if (!file.valid() || ::fstat(file.get(), &status) < 0 || !S_ISREG(status.st_mode)) continue;
      if (std::time(nullptr) - status.st_mtime < kKept) continue;
      if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) ::unlink(entry.path().c_str());
    }
    ::rmdir(folder.path().c_str());  // fails unless it is empty
  }
}

}  // namespace lope::supervisor
