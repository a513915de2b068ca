#include "consumer/dedup_local.h"

#include <fcntl.h>
#include <lmdb.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "common/clock.h"
#include "common/hash.h"
#include "common/log.h"
#include "common/text.h"
#include "consumer/dedup_owner.h"

namespace lope::consumer {

namespace {

constexpr const char* kData = "/data.mdb";
constexpr const char* kLock = "/lock.mdb";
constexpr const char* kAside = "/data.mdb.aside";
constexpr const char* kState = "/state";
constexpr const char* kClean = "clean";
// So many processes in a row may die shortly after they have opened it.
constexpr int kMaxDeaths = 8;
constexpr int kMaxTries = 16;
// What has expired is removed little by little: so much faster than it is added.
constexpr std::size_t kExpiredEach = 2;
constexpr std::size_t kExpiredMore = 16;
constexpr std::size_t kExpiredIdle = 1000;
// Pages that were given out and never written need not be in the file.
constexpr std::size_t kUnwrittenPages = 256;

struct ClaimRecord {
  std::uint64_t token;
  std::int64_t until_ms;
};  // and the owner behind it
struct DoneRecord {
  std::int64_t until_ms;  // it is a double until then
  std::int64_t next_ms;   // the key is not begun before
  std::int64_t done_ms;   // 0: only begun
  std::uint64_t key_size;
};  // and behind it the key, then the message's id

MDB_val value_of(std::string_view bytes) { return {bytes.size(), const_cast<char*>(bytes.data())}; }

std::string_view text_of(const MDB_val& value) {
  return {static_cast<const char*>(value.mv_data), value.mv_size};
}

template <typename Record>
bool take(const MDB_val& value, Record& record, std::string_view& rest) {
  if (value.mv_size < sizeof record) return false;
  std::memcpy(&record, value.mv_data, sizeof record);
  rest = text_of(value).substr(sizeof record);
  return true;
}

template <typename Record>
std::string bytes_of(const Record& record, std::string_view rest) {
  std::string bytes(sizeof record, '\0');
  std::memcpy(bytes.data(), &record, sizeof record);
  bytes += rest;
  return bytes;
}

std::uint64_t number_of(const MDB_val& key) {
  std::uint64_t number = 0;
  std::memcpy(&number, key.mv_data, std::min(key.mv_size, sizeof number));
  return number;
}

// Of the file, and not of what is asked of it.
bool is_damage(int error) {
  return error == MDB_CORRUPTED || error == MDB_PAGE_NOTFOUND || error == MDB_INVALID ||
         error == MDB_VERSION_MISMATCH || error == MDB_CURSOR_FULL || error == MDB_PAGE_FULL ||
         error == MDB_INCOMPATIBLE;
}

// The process ends behind this: what was found damaged is not to be found by the next one.
void on_assertion(MDB_env* env, const char* text) {
  const char* folder = nullptr;
  if (::mdb_env_get_path(env, &folder) == 0 && folder != nullptr) {
    const std::string path(folder);
    ::rename((path + kData).c_str(), (path + kAside).c_str());
    ::unlink((path + kLock).c_str());
  }
  log_error("dedup store is damaged",
            {{"folder", folder == nullptr ? "" : folder}, {"reason", text}});
}

std::int64_t now_ms() { return static_cast<std::int64_t>(unix_ms()); }

}  // namespace

struct DedupLocal::Turn {
  MDB_txn* txn;
  std::int64_t now;
  const DedupTimes& times;
  MDB_cursor* log = nullptr;
};

DedupLocal::DedupLocal(std::string folder, std::size_t map_bytes, std::size_t largest_map)
    : folder_(std::move(folder)),
      self_(own_name()),
      map_bytes_(map_bytes),
      largest_map_(largest_map) {}

DedupLocal::~DedupLocal() {
  if (env_ == nullptr) return;
  const bool synced = ::mdb_env_sync(env_, 1) == 0;
  ::mdb_env_close(env_);
  env_ = nullptr;
  // The last one says that all is there.
  if (synced && ::flock(state_.get(), LOCK_EX | LOCK_NB) == 0) write_state(kClean);
}

Error DedupLocal::failure(int error) const {
  return Error{"dedup store '" + folder_ + "': " + ::mdb_strerror(error)};
}

// ---- Opening

Result<void> DedupLocal::open() {
  std::error_code failed;
  std::filesystem::create_directories(folder_, failed);
  if (failed) {
    return Error{"dedup store '" + folder_ + "': " + errno_text("mkdir", failed.value())};
  }
  const std::string path = folder_ + kState;
  state_.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!state_.valid()) return Error{errno_text("dedup store: open '" + path + "'", errno)};
  if (::flock(state_.get(), LOCK_EX | LOCK_NB) == 0) {
    if (auto looked = look_at_state(); !looked) return looked;
  }
  // Others have it open: it is as they say.
  if (::flock(state_.get(), LOCK_SH) != 0) {
    return Error{errno_text("dedup store: flock '" + path + "'", errno)};
  }
  int error = open_environment();
  if (is_damage(error)) {
    set_aside(::mdb_strerror(error));
    error = open_environment();
  }
  if (error != 0) return failure(error);
  return {};
}

// Nobody else has it open. What was not closed in good order before the machine went down is not
// trusted.
Result<void> DedupLocal::look_at_state() {
  char text[128] = {};
  if (::pread(state_.get(), text, sizeof text - 1, 0) < 0) {
    return Error{errno_text("dedup store: read '" + folder_ + kState + "'", errno)};
  }
  const std::string boot = boot_id();
  char then[64] = {};
  deaths_ = 0;
  if (std::sscanf(text, "open %63s %d", then, &deaths_) >= 1) {
    if (boot != then) {
      set_aside("the machine went down while it was in use");
      deaths_ = 0;
    } else if (deaths_ >= kMaxDeaths) {
      set_aside(std::to_string(deaths_) + " processes died as soon as they had opened it");
      deaths_ = 0;
    }
  }
  write_state("open " + boot + " " + std::to_string(deaths_ + 1));
  return {};
}

void DedupLocal::write_state(const std::string& text, bool sync) {
  if (::ftruncate(state_.get(), 0) != 0 ||
      ::pwrite(state_.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()) ||
      (sync && ::fdatasync(state_.get()) != 0)) {
    log_warn("dedup store: its state cannot be written",
             {{"folder", folder_}, {"reason", errno_text("write", errno)}});
  }
}

int DedupLocal::open_environment() {
  if (const int error = ::mdb_env_create(&env_); error != 0) return error;
  const auto attempt = [this]() -> int {
    ::mdb_env_set_maxdbs(env_, 2);
    ::mdb_env_set_assert(env_, on_assertion);
    if (const int error = ::mdb_env_set_mapsize(env_, map_bytes_); error != 0) return error;
    constexpr unsigned kFlags = MDB_NOSYNC | MDB_NOTLS | MDB_NORDAHEAD;
    if (const int error = ::mdb_env_open(env_, folder_.c_str(), kFlags, 0600); error != 0) {
      return error;
    }
    int dead = 0;
    ::mdb_reader_check(env_, &dead);
    MDB_envinfo info{};
    MDB_stat pages{};
    struct stat file {};
    ::mdb_env_info(env_, &info);
    ::mdb_env_stat(env_, &pages);
    if (::stat((folder_ + kData).c_str(), &file) != 0) return errno;
    inode_ = file.st_ino;
    // Beyond the end of its file nothing can be read: that is a signal, not an error.
    const std::size_t needed = (info.me_last_pgno + 1) * pages.ms_psize;
    if (static_cast<std::size_t>(file.st_size) + kUnwrittenPages * pages.ms_psize < needed) {
      return MDB_CORRUPTED;
    }
    MDB_txn* txn = nullptr;
    int error = ::mdb_txn_begin(env_, nullptr, 0, &txn);
    if (error == MDB_MAP_RESIZED) {
      ::mdb_env_set_mapsize(env_, 0);
      error = ::mdb_txn_begin(env_, nullptr, 0, &txn);
    }
    if (error != 0) return error;
    if ((error = ::mdb_dbi_open(txn, "claims", MDB_CREATE, &claims_)) != 0 ||
        (error = ::mdb_dbi_open(txn, "done", MDB_CREATE | MDB_INTEGERKEY, &done_)) != 0) {
      ::mdb_txn_abort(txn);
      return error;
    }
    return ::mdb_txn_commit(txn);
  };
  const int error = attempt();
  if (error != 0) close();
  worked_ = false;
  index_.clear();
  order_.clear();
  seen_ = 0;
  return error;
}

void DedupLocal::close() {
  if (env_ != nullptr) ::mdb_env_close(std::exchange(env_, nullptr));
}

// Kept for those who want to look at it; the one before goes.
void DedupLocal::set_aside(const std::string& reason) {
  close();
  const std::string data = folder_ + kData;
  if (::rename(data.c_str(), (folder_ + kAside).c_str()) != 0 && errno == ENOENT) return;
  ::unlink((folder_ + kLock).c_str());
  log_warn("dedup store set aside", {{"folder", folder_},
                                     {"reason", reason},
                                     {"then", "messages that were done before may be done again"}});
}

// More space, or the space that another process has made.
bool DedupLocal::grow(int error) {
  std::size_t bytes = 0;  // what the file says
  if (error == MDB_MAP_FULL) {
    if (map_bytes_ >= largest_map_) return false;
    bytes = map_bytes_ = std::min(map_bytes_ * 2, largest_map_);
  }
  if (::mdb_env_set_mapsize(env_, bytes) != 0) return false;
  MDB_envinfo info{};
  if (::mdb_env_info(env_, &info) == 0) map_bytes_ = std::max(map_bytes_, info.me_mapsize);
  return true;
}

// The first turn has read all that was noted: whoever dies from now on does not die of that.
void DedupLocal::note_that_it_works() {
  if (std::exchange(worked_, true) || ::flock(state_.get(), LOCK_EX | LOCK_NB) != 0) return;
  write_state("open " + boot_id() + " 0", false);
  ::flock(state_.get(), LOCK_SH);
}

void DedupLocal::tend() {
  if (env_ == nullptr) return;
  struct stat file {};
  if (::stat((folder_ + kData).c_str(), &file) != 0 || file.st_ino != inode_) {
    close();  // another process has set it aside, or somebody has deleted it
    return;
  }
  std::vector<DedupAnswer> none;
  // What fails here fails in the next call too, which says so.
  [[maybe_unused]] const int error = transact({}, {}, none);
}

Result<DedupLocal::Size> DedupLocal::size() {
  if (env_ == nullptr) {
    if (auto opened = open(); !opened) return Error{opened.error()};
  }
  MDB_txn* txn = nullptr;
  if (const int error = ::mdb_txn_begin(env_, nullptr, MDB_RDONLY, &txn); error != 0) {
    return failure(error);
  }
  const auto entries = [txn](unsigned dbi) {
    MDB_stat stat{};
    ::mdb_stat(txn, dbi, &stat);
    return stat.ms_entries;
  };
  Size size{entries(done_), entries(claims_), index_.size(), map_bytes_};
  ::mdb_txn_abort(txn);
  return size;
}

// ---- One turn, one transaction

Result<void> DedupLocal::apply(std::span<const DedupOp> ops, const DedupTimes& times,
                               std::vector<DedupAnswer>& answers) {
  const std::size_t before = answers.size();
  for (int i = 0;; ++i) {
    if (env_ == nullptr) {
      if (auto opened = open(); !opened) return opened;
    }
    const int error = transact(ops, times, answers);
    if (error == 0) {
      note_that_it_works();
      return {};
    }
    answers.resize(before);
    if (i >= kMaxTries) return failure(error);
    if ((error == MDB_MAP_FULL || error == MDB_MAP_RESIZED) && grow(error)) continue;
    if (is_damage(error)) {
      set_aside(::mdb_strerror(error));
      continue;
    }
    const Error failed = failure(error);
    // It is of no use any more when a page that says where everything is could not be written.
    if (error == MDB_PANIC) close();
    return failed;
  }
}

int DedupLocal::transact(std::span<const DedupOp> ops, const DedupTimes& times,
                         std::vector<DedupAnswer>& answers) {
  Turn turn{nullptr, now_ms(), times};
  if (const int error = ::mdb_txn_begin(env_, nullptr, 0, &turn.txn); error != 0) return error;
  dead_.clear();
  const std::uint64_t seen = seen_;
  std::size_t added = 0;
  int error = ::mdb_cursor_open(turn.txn, done_, &turn.log);
  for (const DedupOp& op : ops) {
    if (error != 0) break;
    switch (op.kind) {
      case DedupOp::Kind::claim: error = claim(turn, op, answers); break;
      case DedupOp::Kind::done:
        error = done(turn, op);
        answers.push_back({.kind = DedupAnswer::Kind::noted, .token = op.token});
        ++added;
        break;
      case DedupOp::Kind::release: error = release(turn, op); break;
      case DedupOp::Kind::renew: error = renew(turn, op); break;
    }
  }
  if (error == 0) error = catch_up(turn);
  if (error == 0) {
    error = expire(turn, ops.empty() ? kExpiredIdle : added * kExpiredEach + kExpiredMore);
  }
  if (error == 0 && ops.empty()) error = sweep(turn);
  if (turn.log != nullptr) ::mdb_cursor_close(turn.log);
  if (error != 0) {
    ::mdb_txn_abort(turn.txn);
  } else {
    error = ::mdb_txn_commit(turn.txn);
  }
  if (error != 0) {
    // What was read of this turn never was. What is left of it in the index leads to no such
    // record, or to another one, which is seen when it is looked at.
    seen_ = seen;
    while (!order_.empty() && order_.back().first > seen) order_.pop_back();
  }
  return error;
}

// What has been noted since, by whom ever.
int DedupLocal::catch_up(Turn& turn) {
  std::uint64_t next = seen_ + 1;
  MDB_val number{sizeof next, &next};
  MDB_val found{};
  int error = ::mdb_cursor_get(turn.log, &number, &found, MDB_SET_RANGE);
  for (; error == 0; error = ::mdb_cursor_get(turn.log, &number, &found, MDB_NEXT)) {
    DoneRecord record{};
    std::string_view rest;
    if (!take(found, record, rest) || rest.size() < record.key_size) return MDB_CORRUPTED;
    seen_ = number_of(number);
    const std::uint64_t hash = hash128(rest.substr(0, record.key_size)).low;
    index_[hash] = seen_;
    order_.emplace_back(seen_, hash);
  }
  return error == MDB_NOTFOUND ? 0 : error;
}

// The latest about a key. False: there is nothing.
bool DedupLocal::find_done(Turn& turn, const std::string& key, DedupAnswer& answer, int& error) {
  error = catch_up(turn);
  if (error != 0) return false;
  const auto entry = index_.find(hash128(key).low);
  if (entry == index_.end()) return false;
  std::uint64_t place = entry->second;
  MDB_val number{sizeof place, &place};
  MDB_val found{};
  error = ::mdb_get(turn.txn, done_, &number, &found);
  if (error == MDB_NOTFOUND) {
    error = 0;
    return false;
  }
  DoneRecord record{};
  std::string_view rest;
  if (error != 0 || !take(found, record, rest)) return false;
  if (rest.substr(0, record.key_size) != key) return false;  // of the same hash
  answer.done_ms = record.done_ms;
  answer.id = rest.substr(record.key_size);
  answer.was_done = record.done_ms != 0;
  answer.wait = std::chrono::milliseconds(record.next_ms - turn.now);
  if (record.until_ms > turn.now) {
    answer.kind = DedupAnswer::Kind::is_done;
  } else if (record.next_ms > turn.now) {
    answer.kind = DedupAnswer::Kind::too_soon;
  }
  return true;
}

// Those of the dead count for nothing; of those who cannot be looked at the lease tells.
bool DedupLocal::is_void(const std::string& owner) {
  const auto [entry, added] = dead_.try_emplace(owner, false);
  if (added) {
    const OwnerLife life = life_of(owner);
    entry->second = life == OwnerLife::dead || life == OwnerLife::other_boot;
  }
  return entry->second;
}

int DedupLocal::claim(Turn& turn, const DedupOp& op, std::vector<DedupAnswer>& answers) {
  DedupAnswer answer{.kind = DedupAnswer::Kind::claimed, .token = op.token};
  MDB_val key = value_of(op.key);
  MDB_val found{};
  std::string_view rest;
  int error = 0;
  find_done(turn, op.key, answer, error);
  if (error != 0) return error;
  if (answer.kind == DedupAnswer::Kind::claimed) {
    ClaimRecord claimed{};
    error = ::mdb_get(turn.txn, claims_, &key, &found);
    if (error != 0 && error != MDB_NOTFOUND) return error;
    if (error == 0 && take(found, claimed, rest)) {
      const bool own = rest == self_;
      const bool over = own ? claimed.token == op.token || claimed.token == op.instead
                            : claimed.until_ms <= turn.now || is_void(std::string(rest));
      if (!over) {
        answer.kind = DedupAnswer::Kind::taken;
        answer.by = own ? claimed.token : 0;
      }
    }
  }
  if (answer.kind == DedupAnswer::Kind::claimed) {
    const std::string bytes =
        bytes_of(ClaimRecord{op.token, turn.now + turn.times.lease.count()}, self_);
    MDB_val record = value_of(bytes);
    error = ::mdb_put(turn.txn, claims_, &key, &record, 0);
    if (error != 0) return error;
  }
  answers.push_back(std::move(answer));
  return 0;
}

int DedupLocal::done(Turn& turn, const DedupOp& op) {
  bool own = false;
  if (const int error = drop_claim(turn, op, own); error != 0) return error;
  return note(turn, op, turn.now);
}

int DedupLocal::release(Turn& turn, const DedupOp& op) {
  bool own = false;
  if (const int error = drop_claim(turn, op, own); error != 0) return error;
  // What another has made of it since is not overwritten.
  return own && op.begun_ms != 0 ? note(turn, op, 0) : 0;
}

// Only what is this very claim.
int DedupLocal::drop_claim(Turn& turn, const DedupOp& op, bool& own) {
  MDB_val key = value_of(op.key);
  MDB_val found{};
  ClaimRecord claimed{};
  std::string_view owner;
  const int error = ::mdb_get(turn.txn, claims_, &key, &found);
  if (error == MDB_NOTFOUND) return 0;
  if (error != 0) return error;
  own = take(found, claimed, owner) && owner == self_ && claimed.token == op.token;
  return own ? ::mdb_del(turn.txn, claims_, &key, nullptr) : 0;
}

int DedupLocal::renew(Turn& turn, const DedupOp& op) {
  MDB_val key = value_of(op.key);
  MDB_val found{};
  ClaimRecord claimed{};
  std::string_view owner;
  const int error = ::mdb_get(turn.txn, claims_, &key, &found);
  if (error == MDB_NOTFOUND) return 0;
  if (error != 0) return error;
  if (!take(found, claimed, owner) || owner != self_ || claimed.token != op.token) return 0;
  const std::string bytes =
      bytes_of(ClaimRecord{op.token, turn.now + turn.times.lease.count()}, self_);
  MDB_val record = value_of(bytes);
  return ::mdb_put(turn.txn, claims_, &key, &record, 0);
}

// `done_ms` 0: it was only begun.
int DedupLocal::note(Turn& turn, const DedupOp& op, std::int64_t done_ms) {
  const std::int64_t until = done_ms == 0 ? 0 : turn.now + turn.times.window.count();
  const std::int64_t next = op.begun_ms == 0 ? 0 : op.begun_ms + turn.times.min_interval.count();
  const std::int64_t expires = std::max(until, next);
  if (expires <= turn.now) return 0;
  // Behind all others: what is written together lies together.
  std::uint64_t place = 1;
  MDB_val number{};
  MDB_val record{};
  int error = ::mdb_cursor_get(turn.log, &number, &record, MDB_LAST);
  if (error == 0) place = number_of(number) + 1;
  if (error != 0 && error != MDB_NOTFOUND) return error;
  number = {sizeof place, &place};
  const std::string bytes =
      bytes_of(DoneRecord{until, next, done_ms, op.key.size()}, op.key + op.id);
  record = value_of(bytes);
  error = ::mdb_cursor_put(turn.log, &number, &record, MDB_APPEND);
  return error;
}

// From the oldest on. The last one stays: others go by its number.
int DedupLocal::expire(Turn& turn, std::size_t at_most) {
  MDB_val number{};
  MDB_val found{};
  int error = 0;
  std::uint64_t first = 0;
  for (std::size_t i = 0; error == 0 && i < at_most; ++i) {
    error = ::mdb_cursor_get(turn.log, &number, &found, MDB_FIRST);
    if (error != 0) break;
    first = number_of(number);
    DoneRecord record{};
    std::string_view rest;
    if (!take(found, record, rest)) return MDB_CORRUPTED;
    if (std::max(record.until_ms, record.next_ms) > turn.now || first >= seen_) break;
    error = ::mdb_cursor_del(turn.log, 0);
    ++first;
  }
  while (!order_.empty() && order_.front().first < first) {
    const auto [place, hash] = order_.front();
    order_.pop_front();
    if (const auto entry = index_.find(hash); entry != index_.end() && entry->second == place) {
      index_.erase(entry);
    }
  }
  return error == MDB_NOTFOUND ? 0 : error;
}

// Claims whose message never came again. A few at a time, from where the last sweep ended.
int DedupLocal::sweep(Turn& turn) {
  MDB_cursor* cursor = nullptr;
  if (const int error = ::mdb_cursor_open(turn.txn, claims_, &cursor); error != 0) return error;
  MDB_val key = value_of(swept_);
  MDB_val found{};
  int error = ::mdb_cursor_get(cursor, &key, &found, swept_.empty() ? MDB_FIRST : MDB_SET_RANGE);
  for (std::size_t i = 0; error == 0 && i < kExpiredIdle; ++i) {
    ClaimRecord claimed{};
    std::string_view owner;
    if (take(found, claimed, owner) && claimed.until_ms <= turn.now) {
      error = ::mdb_cursor_del(cursor, 0);
      if (error == 0) error = ::mdb_cursor_get(cursor, &key, &found, MDB_GET_CURRENT);
      if (error == EINVAL) error = MDB_NOTFOUND;  // that was the last one
    } else {
      error = ::mdb_cursor_get(cursor, &key, &found, MDB_NEXT);
    }
  }
  swept_ = error == 0 ? text_of(key) : std::string_view();
  ::mdb_cursor_close(cursor);
  return error == MDB_NOTFOUND ? 0 : error;
}

}  // namespace lope::consumer
