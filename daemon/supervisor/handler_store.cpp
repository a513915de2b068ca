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

#include "common/hash.h"
#include "common/plugin_file.h"
#include "common/text.h"

namespace lope::supervisor {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxFile = std::size_t{1} << 30;
constexpr std::time_t kKept = 3600;  // seconds

// As far as it can be read.
std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    entries.push_back(at->path());
  }
  return entries;
}

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
  const Hash128 hash = hash128(content);
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(hash.high),
                static_cast<unsigned long long>(hash.low));
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

// The copy's path, of a file that find_plugin() has found good.
Result<std::string> keep(const std::string& content, const std::string& hash,
                         const std::string& name, const std::string& cache_dir) {
  if (cache_dir.empty()) return Error{"no cache folder is known"};
  const std::string folder = folder_of(cache_dir) + "/" + hash;
  if (auto made = make_folders(folder); !made) return Error{made.error()};
  const std::string path = folder + "/" + name + ".so";
  // One that is there may have been cut by a full disk or a crash of the machine.
  if (const auto there = read_file(path); !there || *there != content) {
    if (auto written = write_file(path, content); !written) return Error{written.error()};
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

// What is known of one handler's file.
struct Kept {
  std::string hash, copy, missing, trouble;
};

Kept look_at(const std::string& handlers_dir, const std::string& handler,
             const std::string& cache_dir) {
  Kept kept;
  const auto file = find_plugin(handlers_dir, handler);
  if (!file) {
    if (is_missing(handlers_dir, handler)) kept.missing = file.error();
    return kept;
  }
  const auto in_place = [&](const std::string& why) {
    kept.trouble = "handler '" + file->path + "': " + why +
                   ", so it is loaded from where it is: do not overwrite it while it runs";
    return kept;
  };
  const auto content = read_file(file->path);
  if (!content) return in_place("no private copy: " + content.error());
  kept.hash = hash_of(*content);
  if (file->looks_around) return in_place("its run path has $ORIGIN");
  auto copy = keep(*content, kept.hash, handler, cache_dir);
  if (!copy) return in_place("no private copy: " + copy.error());
  kept.copy = std::move(*copy);
  return kept;
}

}  // namespace

std::vector<std::string> keep_handlers(Settings& settings, const std::string& cache_dir) {
  std::vector<std::string> troubles;
  std::map<std::string, Kept> known;
  for (GroupSettings& group : settings.groups) {
    const auto [found, is_new] = known.try_emplace(group.handler);
    Kept& kept = found->second;
    if (is_new) {
      kept = look_at(settings.handlers_dir, group.handler, cache_dir);
      if (!kept.trouble.empty()) troubles.push_back(kept.trouble);
    }
    group.handler_hash = kept.hash;
    group.handler_copy = kept.copy;
    group.handler_missing = kept.missing;
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
  if (cache_dir.empty()) return;
  for (const fs::path& folder : entries_of(folder_of(cache_dir))) {
    for (const fs::path& path : entries_of(folder)) {
      const UniqueFd file(
          ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
      struct stat status {};
      if (!file.valid() || ::fstat(file.get(), &status) < 0 || !S_ISREG(status.st_mode)) continue;
      if (std::time(nullptr) - status.st_mtime < kKept) continue;
      if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) ::unlink(path.c_str());
    }
    ::rmdir(folder.c_str());  // fails unless it is empty
  }
}

}  // namespace lope::supervisor
