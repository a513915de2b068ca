// A journal in a SQLite file. What many events have in common is written once:
//
//   contexts   who said it and what: an event has the number of its context
//   ids        of messages and traces, a UUID in 16 bytes; with a message's parent and trace, which
//              are ids as well
//   events     by time, so that new ones are added at the end, and old ones go from the beginning
//   contents   headers and bodies, of those events that have them
//
// daemon/journal/sqlite_journal.cpp reads it: what is changed here has to be changed there.
#include <sqlite3.h>

#include <algorithm>
#include <unordered_map>
#include <utility>
#include <vector>

#include "id_bytes.h"
#include "store.h"

namespace lope::plugins {

namespace {

constexpr int kApplication = 0x4C6F7065;  // "Lope"
constexpr int kVersion = 1;
constexpr std::size_t kKnownIds = 200'000;  // kept in memory
constexpr std::size_t kKnownContexts = 20'000;

constexpr const char* kSchema = R"(
CREATE TABLE contexts (
  id INTEGER PRIMARY KEY, event TEXT, kind TEXT, host TEXT, "group" TEXT, queue TEXT, exchange TEXT,
  content_type TEXT, type TEXT, app_id TEXT, outcome TEXT, code TEXT, worker TEXT, handler TEXT,
  handler_version TEXT, fate TEXT, redelivered INTEGER);
CREATE TABLE sources (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE ids (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name UNIQUE, parent INTEGER, trace INTEGER);
CREATE INDEX ids_parent ON ids (parent) WHERE parent IS NOT NULL;
CREATE INDEX ids_trace ON ids (trace) WHERE trace IS NOT NULL;
CREATE TABLE events (
  time INTEGER, source INTEGER, n INTEGER, context INTEGER, message INTEGER, attempt INTEGER,
  size INTEGER, waited_us INTEGER, ran_us INTEGER, delay_ms INTEGER, crashes INTEGER,
  timestamp INTEGER, routing_key TEXT, reason TEXT, content INTEGER,
  PRIMARY KEY (time, source, n)) WITHOUT ROWID;
CREATE INDEX events_message ON events (message) WHERE message IS NOT NULL;
CREATE INDEX events_context ON events (context);
CREATE TABLE contents (
  id INTEGER PRIMARY KEY, headers TEXT, body TEXT, body_encoding TEXT, body_cut INTEGER);
CREATE TABLE forgotten (times INTEGER);
INSERT INTO forgotten VALUES (0);
)";

// A new context is looked for among all; publishers may bring a new one with each message. Files
// that are there already had an index by queue alone.
constexpr const char* kContextsIndex = R"(
CREATE INDEX IF NOT EXISTS contexts_all ON contexts (
  queue, event, type, app_id, content_type, exchange, outcome, code, worker, kind, fate);
DROP INDEX IF EXISTS contexts_queue;
)";

class Database {
 public:
  explicit Database(const std::string& path) : path_(path) {
    sqlite3* handle = nullptr;
    const int opened =
        sqlite3_open_v2(path.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
    handle_.reset(handle);
    if (opened != SQLITE_OK) fail("open");
  }
  sqlite3* get() const { return handle_.get(); }
  void run(const char* sql) {
    if (sqlite3_exec(get(), sql, nullptr, nullptr, nullptr) != SQLITE_OK) {
      const std::string_view text(sql);
      fail(std::string(text.substr(0, text.find_first_of("\n(", 1))));
    }
  }
  [[noreturn]] void fail(const std::string& what) const {
    const std::string problem =
        "'" + path_ + "': " + what + ": " + (handle_ ? sqlite3_errmsg(get()) : "out of memory");
    if (sqlite3_errcode(get()) == SQLITE_NOTADB) throw std::runtime_error(problem);
    throw StoreError(problem);
  }

 private:
  struct Close {
    void operator()(sqlite3* handle) const { sqlite3_close(handle); }
  };
  const std::string path_;
  std::unique_ptr<sqlite3, Close> handle_;
};

// Texts are the caller's, and live until the next step() or row().
class Statement {
 public:
  Statement(Database& database, const char* sql) : database_(database) {
    sqlite3_stmt* statement = nullptr;
    if (sqlite3_prepare_v3(database.get(), sql, -1, SQLITE_PREPARE_PERSISTENT, &statement,
                           nullptr) != SQLITE_OK) {
      database.fail(sql);
    }
    statement_.reset(statement);
  }

  // 0 is no number here, and an empty text none.
  Statement& number(std::int64_t value) {
    ++place_;
    if (value != 0) sqlite3_bind_int64(get(), place_, value);
    return *this;
  }
  Statement& text(std::string_view value) {
    ++place_;
    if (!value.empty()) {
      sqlite3_bind_text64(get(), place_, value.data(), value.size(), SQLITE_STATIC, SQLITE_UTF8);
    }
    return *this;
  }
  // An id: bytes when it is short for a UUID.
  Statement& id(std::string_view name, const IdBytes& bytes) {
    if (bytes.size() == 0) return text(name);
    sqlite3_bind_blob(get(), ++place_, bytes.data(), static_cast<int>(bytes.size()), SQLITE_STATIC);
    return *this;
  }

  // The next row of a query; after the last one, which makes it ready for the next: false.
  bool row() {
    const int result = sqlite3_step(get());
    if (result == SQLITE_ROW) return true;
    finish();
    if (result != SQLITE_DONE) database_.fail(sqlite3_sql(get()));
    return false;
  }
  void run() {
    while (row()) continue;
  }
  // The number in the only row, or 0.
  std::int64_t only_number() {
    if (!row()) return 0;
    const std::int64_t value = sqlite3_column_int64(get(), 0);
    finish();
    return value;
  }
  std::int64_t column(int place) { return sqlite3_column_int64(get(), place); }

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };
  sqlite3_stmt* get() const { return statement_.get(); }
  void finish() {
    sqlite3_reset(get());
    sqlite3_clear_bindings(get());
    place_ = 0;
  }

  Database& database_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  int place_ = 0;
};

class SqliteStore final : public Store {
 public:
  SqliteStore(const std::string& path, int busy_ms) : database_(opened(path, busy_ms)) {}

  void begin() override {
    database_.run("BEGIN IMMEDIATE");
    new_ = 0;
    // Another process has deleted ids: those kept here may be among them.
    const std::int64_t times = forgotten_.only_number();
    if (times != forgotten_times_) forget_known();
    forgotten_times_ = times;
  }

  void add(const Event& event) override {
    std::int64_t content = 0;
    if (!event.headers.empty() || !event.body.empty()) {
      add_content_.text(event.headers)
          .text(event.body)
          .text(event.body_encoding)
          .number(event.body_cut ? 1 : 0)
          .run();
      content = sqlite3_last_insert_rowid(database_.get());
    }
    const std::int64_t source = source_of(event.source);
    const std::int64_t context = context_of(event);
    const std::int64_t message = message_of(event);
    add_event_.number(event.time_us)
        .number(source)
        .number(event.n)
        .number(context)
        .number(message)
        .number(event.attempt)
        .number(event.size)
        .number(event.waited_us)
        .number(event.ran_us)
        .number(event.delay_ms)
        .number(event.crashes)
        .number(event.timestamp)
        .text(event.routing_key)
        .text(event.reason)
        .number(content)
        .run();
    if (sqlite3_changes(database_.get()) > 0) {
      ++new_;
    } else if (content != 0) {
      delete_content_.number(content).run();
    }
  }

  std::uint64_t commit() override {
    database_.run("COMMIT");
    return new_;
  }

  // What was numbered in the transaction is not there any more.
  void roll_back() noexcept override {
    if (sqlite3_get_autocommit(database_.get()) == 0) {
      sqlite3_exec(database_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
    }
    forget_known();
  }

  std::uint64_t forget(std::int64_t time_us, std::uint64_t most) override {
    const std::int64_t oldest = oldest_.only_number();
    if (oldest == 0 || oldest >= time_us) return 0;
    begin();
    try {
      const std::uint64_t gone = forget_events(time_us, most);
      commit();
      return gone;
    } catch (...) {
      roll_back();
      throw;
    }
  }

 private:
  struct Known {
    std::int64_t id = 0;
    bool parent = false, trace = false;  // it has one
  };

  static Database opened(const std::string& path, int busy_ms) {
    Database database(path);
    sqlite3_busy_timeout(database.get(), busy_ms);
    database.run("PRAGMA journal_mode = WAL");
    // A commit is on disk when it returns: with NORMAL a power cut could take back the last ones.
    database.run("PRAGMA synchronous = FULL");
    database.run("PRAGMA wal_autocheckpoint = 8000");
    database.run("PRAGMA cache_size = -65536");
    database.run("BEGIN IMMEDIATE");
    const std::int64_t application = Statement(database, "PRAGMA application_id").only_number();
    const std::int64_t version = Statement(database, "PRAGMA user_version").only_number();
    const std::int64_t tables =
        Statement(database, "SELECT count(*) FROM sqlite_schema").only_number();
    if (application == kApplication ? version != kVersion : tables != 0) {
      throw std::runtime_error(
          "'" + path + "': expected a journal of version " + std::to_string(kVersion) + ", found " +
          (application == kApplication ? "one of version " + std::to_string(version)
                                       : "another kind of database"));
    }
    if (application != kApplication) {
      database.run(kSchema);
      database.run(("PRAGMA application_id = " + std::to_string(kApplication)).c_str());
      database.run(("PRAGMA user_version = " + std::to_string(kVersion)).c_str());
    }
    database.run(kContextsIndex);
    database.run("COMMIT");
    return database;
  }

  void forget_known() noexcept {
    ids_.clear();
    contexts_.clear();
    sources_.clear();
  }

  std::int64_t source_of(const std::string& name) {
    std::int64_t& id = sources_[name];
    if (id != 0) return id;
    id = find_source_.text(name).only_number();
    if (id == 0) {
      add_source_.text(name).run();
      id = sqlite3_last_insert_rowid(database_.get());
    }
    return id;
  }

  std::int64_t context_of(const Event& event) {
    const std::string_view fields[] = {
        event.event,    event.kind,         event.host,    event.group,           event.queue,
        event.exchange, event.content_type, event.type,    event.app_id,          event.outcome,
        event.code,     event.worker,       event.handler, event.handler_version, event.fate};
    key_.assign(1, event.redelivered ? '1' : '0');
    for (const std::string_view field : fields) {
      const auto size = static_cast<std::uint32_t>(field.size());
      key_.append(reinterpret_cast<const char*>(&size), sizeof size).append(field);
    }
    if (const auto known = contexts_.find(key_); known != contexts_.end()) return known->second;
    for (const std::string_view field : fields) find_context_.text(field);
    std::int64_t id = find_context_.number(event.redelivered ? 1 : 0).only_number();
    if (id == 0) {
      for (const std::string_view field : fields) add_context_.text(field);
      add_context_.number(event.redelivered ? 1 : 0).run();
      id = sqlite3_last_insert_rowid(database_.get());
    }
    if (contexts_.size() >= kKnownContexts) contexts_.clear();
    contexts_[key_] = id;
    return id;
  }

  Known& known_id(const std::string& name) {
    const auto known = ids_.find(name);
    if (known != ids_.end()) return known->second;
    if (ids_.size() >= kKnownIds) ids_.clear();
    const IdBytes bytes(name);
    Known entry;
    add_id_.id(name, bytes).run();
    if (sqlite3_changes(database_.get()) > 0) {
      entry.id = sqlite3_last_insert_rowid(database_.get());
    } else if (find_id_.id(name, bytes).row()) {
      entry = {find_id_.column(0), find_id_.column(1) != 0, find_id_.column(2) != 0};
      find_id_.run();
    }
    first_known_ = ids_.empty() ? entry.id : std::min(first_known_, entry.id);
    return ids_[name] = entry;
  }

  // A message's parent and trace are what was first heard of them.
  std::int64_t message_of(const Event& event) {
    if (event.message_id.empty()) return 0;
    const Known known = known_id(event.message_id);
    const bool parent =
        !known.parent && !event.parent_id.empty() && event.parent_id != event.message_id;
    const bool trace = !known.trace && !event.trace_id.empty();
    if (!parent && !trace) return known.id;
    const std::int64_t parent_id = parent ? known_id(event.parent_id).id : 0;
    const std::int64_t trace_id = trace ? known_id(event.trace_id).id : 0;
    link_id_.number(parent_id).number(trace_id).number(known.id).run();
    Known& entry = known_id(event.message_id);
    entry.parent = entry.parent || parent;
    entry.trace = entry.trace || trace;
    return known.id;
  }

  std::uint64_t forget_events(std::int64_t time_us, std::uint64_t most) {
    struct Old {
      std::int64_t time, source, n, context, message, content;
    };
    std::vector<Old> old;
    old_.number(time_us).number(static_cast<std::int64_t>(most));
    while (old_.row()) {
      old.push_back({old_.column(0), old_.column(1), old_.column(2), old_.column(3), old_.column(4),
                     old_.column(5)});
    }
    std::vector<std::int64_t> contexts, ids;
    for (const Old& each : old) {
      delete_event_.number(each.time).number(each.source).number(each.n).run();
      if (each.content != 0) delete_content_.number(each.content).run();
      contexts.push_back(each.context);
      if (each.message != 0) ids.push_back(each.message);
    }
    const bool any_context = forget_contexts(std::move(contexts));
    const bool any_id = forget_ids(std::move(ids));
    // Other processes learn of it so.
    if (any_context || any_id) {
      count_forgotten_.run();
      ++forgotten_times_;
    }
    return old.size();
  }

  static void make_unique(std::vector<std::int64_t>& numbers) {
    std::sort(numbers.begin(), numbers.end());
    numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  }

  // Whether any is gone.
  bool forget_contexts(std::vector<std::int64_t> contexts) {
    make_unique(contexts);
    bool any = false;
    for (const std::int64_t context : contexts) {
      if (context_used_.number(context).only_number() != 0) continue;
      delete_context_.number(context).run();
      any = true;
    }
    if (any) contexts_.clear();
    return any;
  }

  // With an id goes what only it referred to. Whether any is gone.
  bool forget_ids(std::vector<std::int64_t> ids) {
    std::int64_t latest = 0;  // of those that are gone
    while (!ids.empty()) {
      make_unique(ids);
      std::vector<std::int64_t> referred;
      for (const std::int64_t id : ids) {
        if (id_used_.number(id).number(id).number(id).number(id).only_number() != 0) continue;
        if (references_.number(id).row()) {
          for (const int place : {0, 1}) {
            const std::int64_t other = references_.column(place);
            if (other != 0 && other != id) referred.push_back(other);
          }
          references_.run();
        }
        delete_id_.number(id).run();
        latest = std::max(latest, id);
      }
      ids = std::move(referred);
    }
    // Numbers grow, and those that are kept are young: mostly none of them is gone.
    if (latest >= first_known_) ids_.clear();
    return latest != 0;
  }

  Database database_;
  Statement forgotten_{database_, "SELECT times FROM forgotten"};
  Statement add_event_{database_,
                       "INSERT OR IGNORE INTO events VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"};
  Statement add_content_{database_,
                         "INSERT INTO contents (headers, body, body_encoding, body_cut)"
                         " VALUES (?,?,?,?)"};
  Statement delete_content_{database_, "DELETE FROM contents WHERE id = ?"};
  Statement find_source_{database_, "SELECT id FROM sources WHERE name = ?"};
  Statement add_source_{database_, "INSERT INTO sources (name) VALUES (?)"};
  Statement find_context_{
      database_,
      "SELECT id FROM contexts WHERE event IS ? AND kind IS ? AND host IS ? AND \"group\" IS ? AND"
      " queue IS ? AND exchange IS ? AND content_type IS ? AND type IS ? AND app_id IS ? AND"
      " outcome IS ? AND code IS ? AND worker IS ? AND handler IS ? AND handler_version IS ? AND"
      " fate IS ? AND redelivered IS ?"};
  Statement add_context_{database_,
                         "INSERT INTO contexts (event, kind, host, \"group\", queue, exchange,"
                         " content_type, type, app_id, outcome, code, worker, handler,"
                         " handler_version, fate, redelivered)"
                         " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"};
  Statement add_id_{database_, "INSERT OR IGNORE INTO ids (name) VALUES (?)"};
  Statement find_id_{database_, "SELECT id, parent, trace FROM ids WHERE name = ?"};
  Statement link_id_{database_,
                     "UPDATE ids SET parent = coalesce(parent, ?), trace = coalesce(trace, ?)"
                     " WHERE id = ?"};
  Statement oldest_{database_, "SELECT time FROM events ORDER BY time LIMIT 1"};
  Statement old_{database_,
                 "SELECT time, source, n, context, message, content FROM events WHERE time < ?"
                 " ORDER BY time LIMIT ?"};
  Statement delete_event_{database_, "DELETE FROM events WHERE time = ? AND source = ? AND n = ?"};
  Statement context_used_{database_, "SELECT EXISTS (SELECT 1 FROM events WHERE context = ?)"};
  Statement delete_context_{database_, "DELETE FROM contexts WHERE id = ?"};
  Statement id_used_{database_,
                     "SELECT EXISTS (SELECT 1 FROM events WHERE message = ?) OR"
                     " EXISTS (SELECT 1 FROM ids WHERE parent = ?) OR"
                     " EXISTS (SELECT 1 FROM ids WHERE trace = ? AND id <> ?)"};
  Statement references_{database_, "SELECT parent, trace FROM ids WHERE id = ?"};
  Statement delete_id_{database_, "DELETE FROM ids WHERE id = ?"};
  Statement count_forgotten_{database_, "UPDATE forgotten SET times = times + 1"};

  // As they are in the file; emptied when that may be wrong, or when they grow too many.
  std::unordered_map<std::string, Known> ids_;
  std::int64_t first_known_ = 0;  // the lowest number in ids_
  std::unordered_map<std::string, std::int64_t> contexts_;
  std::unordered_map<std::string, std::int64_t> sources_;
  std::string key_;
  std::int64_t forgotten_times_ = 0;
  std::uint64_t new_ = 0;
};

}  // namespace

std::unique_ptr<Store> open_sqlite_store(const std::string& path, int busy_ms) {
  return std::make_unique<SqliteStore>(path, busy_ms);
}

}  // namespace lope::plugins
