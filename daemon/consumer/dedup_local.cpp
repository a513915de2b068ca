#include "consumer/dedup_local.h"

#include <fcntl.h>
#include <lmdb.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
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
// One text takes the place of another at once, whatever happens on the way.
constexpr std::size_t kStateSize = 64;
// So many processes in a row may die shortly after they have opened it.
constexpr int kMaxDeaths = 8;
constexpr int kMaxTries = 16;
// What has expired is removed little by little: so much faster than it is added.
constexpr std::size_t kExpiredEach = 2;
constexpr std::size_t kExpiredMore = 16;
constexpr std::size_t kExpiredIdle = 1000;
// Pages that were given out and never written need not be in the file.
constexpr std::size_t kUnwrittenPages = 256;
// What was noted so much later than it is now was noted before the clock was set back.
constexpr std::int64_t kClockMarginMs = 60'000;

struct ClaimRecord {
  std::uint64_t token;
  std::int64_t until_ms;  // since the machine was started: nobody can set that clock
};                        // and the owner behind it
struct DoneRecord {
  std::int64_t until_ms;  // it is a double until then; 0: it was only begun
  std::int64_t next_ms;   // the key is not begun before
  std::int64_t noted_ms;  // these three since 1970
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

// Of the file, and not of what is asked of it. A transaction is bad where LMDB has passed over what
// it found damaged: all that it has told ends one here.
bool is_damage(int error) {
  return error == MDB_CORRUPTED || error == MDB_PAGE_NOTFOUND || error == MDB_INVALID ||
         error == MDB_VERSION_MISMATCH || error == MDB_CURSOR_FULL || error == MDB_PAGE_FULL ||
         error == MDB_INCOMPATIBLE || error == MDB_BAD_TXN;
}

// What is locked of the state's file, a byte each, behind all that it holds.
enum class Lock : off_t {
  in_use =
      1 << 20,  // shared: by who has the environment open; alone: by who says what became of it
  changing,     // by who opens it or sets it aside
};

// Not flock(), which gives up a shared lock before it finds that it cannot have it alone.
bool set_lock(const UniqueFd& file, Lock which, int kind, bool wait = false) {
  struct flock range {};
  range.l_type = static_cast<decltype(range.l_type)>(kind);
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(which);
  range.l_len = 1;
  int result = 0;
  do {
    result = ::fcntl(file.get(), wait ? F_OFD_SETLKW : F_OFD_SETLK, &range);
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

// How many died, in "open BOOT DEATHS" of this boot; nothing: it says something else.
std::optional<int> deaths_of(const std::string& state, const std::string& boot) {
  const std::string begin = "open " + boot + " ";
  if (boot.empty() || !state.starts_with(begin)) return std::nullopt;
  int deaths = 0;
  char end = 0;
  if (std::sscanf(state.c_str() + begin.size(), "%d%c", &deaths, &end) != 1) return std::nullopt;
  return deaths;
}

std::string open_state(int deaths) { return "open " + boot_id() + " " + std::to_string(deaths); }

Result<std::string> read_state(const UniqueFd& file, const std::string& path) {
  char text[2 * kStateSize];
  const ssize_t n = ::pread(file.get(), text, sizeof text, 0);
  if (n < 0) return Error{errno_text("dedup store: read '" + path + "'", errno)};
  std::string state(text, static_cast<std::size_t>(n));
  while (!state.empty() && (state.back() == ' ' || state.back() == '\n')) state.pop_back();
  return state;
}

// Also after the clock was set back: otherwise it stands for as much longer, in the way of messages
// that are no doubles and of all that was noted behind it.
bool is_over(const DoneRecord& record, std::int64_t now) {
  return record.noted_ms > now + kClockMarginMs || std::max(record.until_ms, record.next_ms) <= now;
}

std::int64_t uptime_ms() { return static_cast<std::int64_t>(monotonic_ns() / 1'000'000); }

}  // namespace

struct DedupLocal::Turn {
  MDB_txn* txn;
  std::int64_t now;
  std::int64_t uptime;
  const DedupTimes& times;
  MDB_cursor* log = nullptr;
};

DedupLocal::DedupLocal(std::string folder, std::size_t map_bytes, std::size_t largest_map,
                       std::function<std::uint64_t()> wall_ms)
    : folder_(std::move(folder)),
      self_(own_name()),
      wall_ms_(std::move(wall_ms)),
      map_bytes_(map_bytes),
      largest_map_(largest_map) {}

DedupLocal::~DedupLocal() {
  if (env_ == nullptr) return;
  const bool synced = ::mdb_env_sync(env_, 1) == 0;
  ::mdb_env_close(env_);
  env_ = nullptr;
  if (synced) say_that_it_is_closed();
}

// The last one does, and of two that end at once the later.
void DedupLocal::say_that_it_is_closed() {
  set_lock(state_, Lock::in_use, F_UNLCK);
  if (!set_lock(state_, Lock::in_use, F_WRLCK)) return;
  // Another may have come and died since.
  const UniqueFd data(::open((folder_ + kData).c_str(), O_RDWR | O_CLOEXEC));
  if (!data.valid() || ::fdatasync(data.get()) != 0) return;
  if (auto written = write_state(kClean); !written) {
    log_warn("dedup store: its state cannot be written",
             {{"folder", folder_}, {"reason", written.error()}});
  }
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
  if (!set_lock(state_, Lock::changing, F_WRLCK, true)) {
    return Error{errno_text("dedup store: lock '" + path + "'", errno)};
  }
  auto opened = open_alone();
  if (opened) {
    set_lock(state_, Lock::changing, F_UNLCK);
  } else {
    state_.reset();  // and all its locks
  }
  return opened;
}

// No other opens it meanwhile, nor sets it aside.
Result<void> DedupLocal::open_alone() {
  if (auto taken = take_state(); !taken) return taken;
  int error = open_environment();
  if (is_damage(error)) {
    set_aside(::mdb_strerror(error));
    error = open_environment();
  }
  if (error != 0) return failure(error);
  return {};
}

// It is said to be open, and stays so until it is closed.
Result<void> DedupLocal::take_state() {
  if (set_lock(state_, Lock::in_use, F_WRLCK)) {
    if (auto looked = look_at_state(); !looked) return looked;
  }
  // Others have it open, or the last of them is about to say that it is closed.
  if (!set_lock(state_, Lock::in_use, F_RDLCK, true)) {
    return Error{errno_text("dedup store: lock '" + folder_ + kState + "'", errno)};
  }
  const auto state = read_state(state_, folder_ + kState);
  if (!state) return Error{state.error()};
  if (deaths_of(*state, boot_id())) return {};
  return write_state(open_state(0));
}

// Nobody else has it open. Trusted is what was closed in good order, and what was in use since the
// machine was started.
Result<void> DedupLocal::look_at_state() {
  const auto state = read_state(state_, folder_ + kState);
  if (!state) return Error{state.error()};
  const auto deaths = deaths_of(*state, boot_id());
  deaths_ = deaths.value_or(0);
  if (!deaths && *state != kClean) {
    set_aside("the machine went down while it was in use");
  } else if (deaths_ >= kMaxDeaths) {
    set_aside(std::to_string(deaths_) + " processes died as soon as they had opened it");
    deaths_ = 0;
  }
  return write_state(open_state(deaths_ + 1));
}

Result<void> DedupLocal::write_state(std::string text, bool sync) {
  text.resize(kStateSize - 1, ' ');
  text += '\n';
  const ssize_t n = ::pwrite(state_.get(), text.data(), text.size(), 0);
  int error = n < 0 ? errno : 0;
  if (n >= 0 && n != static_cast<ssize_t>(text.size())) error = ENOSPC;
  if (error == 0 && sync && ::fdatasync(state_.get()) != 0) error = errno;
  if (error == 0) return {};
  return Error{errno_text("dedup store: write '" + folder_ + kState + "'", error)};
}

int DedupLocal::open_environment() {
  inode_ = 0;
  if (const int error = ::mdb_env_create(&env_); error != 0) return error;
  const auto attempt = [this]() -> int {
    ::mdb_env_set_maxdbs(env_, 2);
    ::mdb_env_set_userctx(env_, this);
    ::mdb_env_set_assert(env_, [](MDB_env* env, const char* text) {
      static_cast<DedupLocal*>(::mdb_env_get_userctx(env))->on_assertion(text);
    });
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

// Another process has set aside what is open here, or somebody has deleted it.
bool DedupLocal::is_replaced() const {
  struct stat file {};
  return ::stat((folder_ + kData).c_str(), &file) != 0 || file.st_ino != inode_;
}

// Kept for those who want to look at it; the one before goes. False: there is none.
bool DedupLocal::rename_aside() const {
  const std::string data = folder_ + kData;
  if (::rename(data.c_str(), (folder_ + kAside).c_str()) != 0 && errno == ENOENT) return false;
  ::unlink((folder_ + kLock).c_str());
  return true;
}

// The process ends behind this: what was found damaged is not to be found by the next one. Nothing
// is waited for, since who changes it may wait for us.
void DedupLocal::on_assertion(const char* text) {
  if (set_lock(state_, Lock::changing, F_WRLCK) && (inode_ == 0 || !is_replaced())) rename_aside();
  log_error("dedup store is damaged", {{"folder", folder_}, {"reason", text}});
}

// Under Lock::changing, and not what another has begun anew.
void DedupLocal::set_aside(const std::string& reason) {
  close();
  if (!rename_aside()) return;
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
  if (std::exchange(worked_, true) || !set_lock(state_, Lock::in_use, F_WRLCK)) return;
  // Where that fails it counts one death too many.
  [[maybe_unused]] const auto written = write_state(open_state(0), false);
  set_lock(state_, Lock::in_use, F_RDLCK);
}

void DedupLocal::tend() {
  if (env_ == nullptr) return;
  if (is_replaced()) return close();
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
      const bool alone = set_lock(state_, Lock::changing, F_WRLCK, true);
      if (alone && !is_replaced()) {
        set_aside(::mdb_strerror(error));
      } else {
        close();
      }
      set_lock(state_, Lock::changing, F_UNLCK);
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
  Turn turn{nullptr, static_cast<std::int64_t>(wall_ms_()), uptime_ms(), times};
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
  if (is_over(record, turn.now)) return false;
  answer.was_done = record.until_ms != 0;
  answer.done_ms = answer.was_done ? record.noted_ms : 0;
  answer.id = rest.substr(record.key_size);
  answer.wait = std::chrono::milliseconds(record.next_ms - turn.now);
  answer.kind =
      record.until_ms > turn.now ? DedupAnswer::Kind::is_done : DedupAnswer::Kind::too_soon;
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
                            : claimed.until_ms <= turn.uptime || is_void(std::string(rest));
      if (!over) {
        answer.kind = DedupAnswer::Kind::taken;
        answer.by = own ? claimed.token : 0;
      }
    }
  }
  if (answer.kind == DedupAnswer::Kind::claimed) {
    error = put_claim(turn, op);
    if (error != 0) return error;
  }
  answers.push_back(std::move(answer));
  return 0;
}

int DedupLocal::done(Turn& turn, const DedupOp& op) {
  bool own = false;
  if (const int error = drop_claim(turn, op, own); error != 0) return error;
  return note(turn, op, true);
}

int DedupLocal::release(Turn& turn, const DedupOp& op) {
  bool own = false;
  if (const int error = drop_claim(turn, op, own); error != 0) return error;
  // What another has made of it since is not overwritten.
  return own && op.begun_ms != 0 ? note(turn, op, false) : 0;
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

int DedupLocal::put_claim(Turn& turn, const DedupOp& op) {
  MDB_val key = value_of(op.key);
  const std::string bytes =
      bytes_of(ClaimRecord{op.token, turn.uptime + turn.times.lease.count()}, self_);
  MDB_val record = value_of(bytes);
  return ::mdb_put(turn.txn, claims_, &key, &record, 0);
}

int DedupLocal::renew(Turn& turn, const DedupOp& op) {
  MDB_val key = value_of(op.key);
  MDB_val found{};
  ClaimRecord claimed{};
  std::string_view owner;
  const int error = ::mdb_get(turn.txn, claims_, &key, &found);
  if (error != 0 && error != MDB_NOTFOUND) return error;
  const bool others =
      error == 0 && (!take(found, claimed, owner) || owner != self_ || claimed.token != op.token);
  return others ? 0 : put_claim(turn, op);
}

// `done` false: it was only begun.
int DedupLocal::note(Turn& turn, const DedupOp& op, bool done) {
  const std::int64_t until = done ? turn.now + turn.times.window.count() : 0;
  const std::int64_t begun = std::min(op.begun_ms, turn.now);  // the clock may have been set back
  const std::int64_t next = begun == 0 ? 0 : begun + turn.times.min_interval.count();
  const DoneRecord noted{until, next, turn.now, op.key.size()};
  if (is_over(noted, turn.now)) return 0;
  // Behind all others: what is written together lies together.
  std::uint64_t place = 1;
  MDB_val number{};
  MDB_val record{};
  int error = ::mdb_cursor_get(turn.log, &number, &record, MDB_LAST);
  if (error == 0) place = number_of(number) + 1;
  if (error != 0 && error != MDB_NOTFOUND) return error;
  number = {sizeof place, &place};
  const std::string bytes = bytes_of(noted, op.key + op.id);
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
    if (!is_over(record, turn.now) || first >= seen_) break;
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

// Claims whose message never came again. Some at a time, from where the last sweep ended.
int DedupLocal::sweep(Turn& turn) {
  MDB_cursor* cursor = nullptr;
  if (const int error = ::mdb_cursor_open(turn.txn, claims_, &cursor); error != 0) return error;
  MDB_val key = value_of(swept_);
  MDB_val found{};
  int error = ::mdb_cursor_get(cursor, &key, &found, swept_.empty() ? MDB_FIRST : MDB_SET_RANGE);
  for (std::size_t i = 0; error == 0 && i < kExpiredIdle; ++i) {
    ClaimRecord claimed{};
    std::string_view owner;
    if (take(found, claimed, owner) &&
        (claimed.until_ms <= turn.uptime || is_void(std::string(owner)))) {
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
