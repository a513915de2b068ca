#include "consumer/stream_keeper.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <map>
#include <mutex>
#include <utility>

#include "common/detached_thread.h"
#include "common/fd.h"
#include "common/text.h"

namespace lope::consumer {

namespace {

constexpr std::size_t kMostBytes = 16 << 20;
constexpr std::size_t kLongestName = 200;

// A name of a file: what is not plain as %XX; a long one is cut and told apart by a sum.
std::string file_name(const std::string& queue) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string name;
  for (const char c : queue) {
    const auto byte = static_cast<unsigned char>(c);
    if (is_plain_name(std::string_view(&c, 1), 1) && (c != '.' || !name.empty())) {
      name += c;
    } else {
      name += {'%', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  if (name.size() <= kLongestName) return name;
  return name.substr(0, kLongestName) + "~" + std::to_string(end_print(0, queue));
}

Result<void> make_folder(const std::string& path) {
  for (std::size_t at = path.find('/', 1);; at = path.find('/', at + 1)) {
    const std::string part = path.substr(0, at);
    if (::mkdir(part.c_str(), 0750) < 0 && errno != EEXIST) {
      return Error{errno_text("mkdir '" + part + "'", errno)};
    }
    if (at == std::string::npos) return {};
  }
}

Result<void> sync_folder(const std::string& path) {
  const UniqueFd folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid() || ::fsync(folder.get()) < 0) {
    return Error{errno_text("sync '" + path + "'", errno)};
  }
  return {};
}

// Whatever happens on the way, there is the old file or the new one.
Result<void> replace_file(const std::string& folder, const std::string& path,
                          const std::string& content) {
  const std::string temporary = path + ".new";
  const UniqueFd file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640));
  if (!file.valid()) return Error{errno_text("open '" + temporary + "'", errno)};
  for (std::size_t done = 0; done < content.size();) {
    const ssize_t n = ::write(file.get(), content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Error{errno_text("write '" + temporary + "'", n < 0 ? errno : ENOSPC)};
    done += static_cast<std::size_t>(n);
  }
  if (::fdatasync(file.get()) < 0) return Error{errno_text("sync '" + temporary + "'", errno)};
  const bool is_first = ::access(path.c_str(), F_OK) != 0;
  if (::rename(temporary.c_str(), path.c_str()) < 0) {
    return Error{errno_text("rename '" + temporary + "'", errno)};
  }
  // Later ones need no name on the disk: without, an older file is found.
  return is_first ? sync_folder(folder) : Result<void>{};
}

}  // namespace

struct StreamKeeper::Shared {
  Shared(std::string where, UniqueFd taken) : folder(std::move(where)), lock(std::move(taken)) {}

  const std::string folder;
  UniqueFd lock;  // of the folder; the thread's
  std::mutex mutex;
  std::condition_variable changed;
  // Guarded by mutex.
  std::map<std::string, std::string> waiting;  // path and content
  bool writing = false;
  bool ending = false;
  bool over = false;
  std::string trouble;
};

Result<std::unique_ptr<StreamKeeper>> StreamKeeper::open(const std::string& state_dir,
                                                         const std::string& group) {
  if (state_dir.empty()) {
    return Error{"expected state_dir, where positions in streams are kept, found none"};
  }
  std::string folder = state_dir + "/streams/" + file_name(group);
  if (auto made = make_folder(folder); !made) return Error{made.error()};
  UniqueFd lock(::open((folder + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640));
  if (!lock.valid()) return Error{errno_text("open '" + folder + "/lock'", errno)};
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) < 0) {
    if (errno != EWOULDBLOCK) return Error{errno_text("lock '" + folder + "/lock'", errno)};
    return Error{"'" + folder + "' is in use: another daemon runs this group"};
  }
  auto shared = std::make_shared<Shared>(std::move(folder), std::move(lock));
  if (auto started = start_detached_thread([shared] { run(*shared); }); !started) {
    return Error{started.error()};
  }
  return std::unique_ptr<StreamKeeper>(new StreamKeeper(std::move(shared)));
}

StreamKeeper::~StreamKeeper() {
  std::unique_lock lock(shared_->mutex);
  shared_->ending = true;
  shared_->changed.notify_all();
  // Who has waited in vain already does not do so again.
  if (patient_) shared_->changed.wait_for(lock, kPatience, [this] { return shared_->over; });
}

std::string StreamKeeper::path_of(const std::string& queue) const {
  return shared_->folder + "/" + file_name(queue) + ".offset";
}

Result<std::optional<StreamPosition>> StreamKeeper::load(const std::string& queue) const {
  const std::string path = path_of(queue);
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) {
    if (errno == ENOENT) return std::optional<StreamPosition>();
    return Error{errno_text("open '" + path + "'", errno)};
  }
  std::string text;
  char part[4096];
  while (true) {
    const ssize_t n = ::read(file.get(), part, sizeof part);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error{errno_text("read '" + path + "'", errno)};
    if (n == 0 || text.size() > kMostBytes) break;
    text.append(part, static_cast<std::size_t>(n));
  }
  auto position = parse_position(text);
  if (!position) return Error{"'" + path + "': " + position.error()};
  return std::optional(std::move(*position));
}

void StreamKeeper::save(const std::string& queue, const StreamPosition& position) {
  std::string text = position_text(queue, position);
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->waiting[path_of(queue)] = std::move(text);
  }
  shared_->changed.notify_all();
}

bool StreamKeeper::finish(std::chrono::milliseconds patience) {
  std::unique_lock lock(shared_->mutex);
  patient_ = shared_->changed.wait_for(
      lock, patience, [this] { return shared_->waiting.empty() && !shared_->writing; });
  return patient_;
}

std::string StreamKeeper::take_trouble() {
  const std::lock_guard lock(shared_->mutex);
  return std::exchange(shared_->trouble, {});
}

void StreamKeeper::run(Shared& shared) {
  std::unique_lock lock(shared.mutex);
  while (true) {
    shared.changed.wait(lock, [&shared] { return shared.ending || !shared.waiting.empty(); });
    if (shared.waiting.empty()) break;
    const auto next = shared.waiting.extract(shared.waiting.begin());
    shared.writing = true;
    lock.unlock();
    const auto written = replace_file(shared.folder, next.key(), next.mapped());
    lock.lock();
    shared.writing = false;
    if (!written) shared.trouble = written.error();
    shared.changed.notify_all();
  }
  shared.lock.reset();
  shared.over = true;
  shared.changed.notify_all();
}

}  // namespace lope::consumer
