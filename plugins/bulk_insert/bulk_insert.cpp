// Keeps messages, and writes many of them to SQLite in one transaction: an example of LOPE_HOLD and
// flush(). A message is acked once the transaction that holds its row is on disk.
#include <sqlite3.h>

#include <chrono>
#include <lope/handler.hpp>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr lope_option kOptions[] = {
    lope::required("database", "path of the SQLite file; made when it is not there"),
    lope::defaulted("table", "messages", "made when it is not there"),
    lope::defaulted("rows", "500", "write when so many are kept", LOPE_UINT64),
    lope::defaulted("busy_ms", "5000", "how long to wait for another writer", LOPE_UINT64),
    lope::kEndOfOptions};

std::string quoted(std::string_view name) {
  std::string text = "\"";
  for (const char c : name) {
    text += c;
    if (c == '"') text += c;
  }
  return text + '"';
}

class Database {
 public:
  Database(const std::string& path, int busy_ms) {
    sqlite3* handle = nullptr;
    const int opened = sqlite3_open(path.c_str(), &handle);
    handle_.reset(handle);
    if (opened != SQLITE_OK) fail("open " + path);
    sqlite3_busy_timeout(handle_.get(), busy_ms);
  }

  void run(const std::string& sql) {
    if (sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) fail(sql);
  }
  // Without a word when there is no transaction any more.
  void roll_back() noexcept { sqlite3_exec(handle_.get(), "ROLLBACK", nullptr, nullptr, nullptr); }
  sqlite3* get() const { return handle_.get(); }
  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error(what + ": " + sqlite3_errmsg(handle_.get()));
  }

 private:
  struct Close {
    void operator()(sqlite3* handle) const { sqlite3_close(handle); }
  };
  std::unique_ptr<sqlite3, Close> handle_;
};

class BulkInsert final : public lope::Handler {
 public:
  explicit BulkInsert(lope::Host host)
      : host_(host),
        rows_(host.option_as<std::size_t>("rows")),
        database_(host.option_as<std::string>("database"), host.option_as<int>("busy_ms")) {
    const std::string table = quoted(host.option_as<std::string>("table"));
    database_.run("PRAGMA journal_mode = WAL");
    database_.run("CREATE TABLE IF NOT EXISTS " + table +
                  " (message_id TEXT UNIQUE, queue TEXT, routing_key TEXT, content_type TEXT,"
                  " received_ms INTEGER, body BLOB)");
    // A message that comes again is there already: that makes handling it twice harmless.
    const std::string sql = "INSERT OR IGNORE INTO " + table + " VALUES (?, ?, ?, ?, ?, ?)";
    sqlite3_stmt* insert = nullptr;
    if (sqlite3_prepare_v2(database_.get(), sql.c_str(), -1, &insert, nullptr) != SQLITE_OK) {
      database_.fail(sql);
    }
    insert_.reset(insert);
  }

  lope::Outcome handle(const lope::Message& message) override {
    // A kept message stays valid: nothing need be copied.
    kept_.push_back(message);
    if (kept_.size() >= rows_) write();
    return lope::Outcome::hold;
  }

  void flush(lope::FlushReason) override {
    if (!kept_.empty()) write();
  }

 private:
  void write() {
    std::string failure;
    try {
      database_.run("BEGIN IMMEDIATE");
      for (const lope::Message& message : kept_) insert(message);
      database_.run("COMMIT");
    } catch (const std::exception& error) {
      failure = error.what();
      database_.roll_back();
      host_.error(std::to_string(kept_.size()) + " rows not written: " + failure);
    }
    const std::vector<lope::Message> settled = std::exchange(kept_, {});
    for (const lope::Message& message : settled) {
      host_.settle(message.id(), failure.empty() ? lope::Outcome::ack : lope::Outcome::retry);
    }
  }

  void insert(const lope::Message& message) {
    sqlite3_stmt* const row = insert_.get();
    const auto text = [row](int place, std::string_view value) {
      if (value.empty()) {
        sqlite3_bind_null(row, place);
      } else {
        sqlite3_bind_text64(row, place, value.data(), value.size(), SQLITE_STATIC, SQLITE_UTF8);
      }
    };
    text(1, message.message_id());
    text(2, message.queue());
    text(3, message.routing_key());
    text(4, message.content_type());
    sqlite3_bind_int64(
        row, 5,
        std::chrono::duration_cast<std::chrono::milliseconds>(message.received().time_since_epoch())
            .count());
    sqlite3_bind_blob64(row, 6, message.body_text().data(), message.body_text().size(),
                        SQLITE_STATIC);
    const int done = sqlite3_step(row);
    sqlite3_reset(row);
    if (done != SQLITE_DONE) database_.fail("insert");
  }

  struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };

  const lope::Host host_;
  const std::size_t rows_;
  Database database_;
  std::unique_ptr<sqlite3_stmt, Finalize> insert_;  // goes before the database
  std::vector<lope::Message> kept_;
};

}  // namespace

LOPE_HANDLER_WITH(BulkInsert, "bulk_insert", "1.0.0",
                  "writes messages to SQLite, many in one transaction", kOptions)
