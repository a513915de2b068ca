// A journal in a SQLite file, as plugins/journal/sqlite_store.cpp makes it.
#include <sqlite3.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "common/text.h"
#include "journal/journal.h"

namespace lope::journal {

namespace {

constexpr int kApplication = 0x4C6F7065;  // "Lope"
constexpr int kVersion = 1;
constexpr int kBusyMs = 2000;
constexpr int kStepsBetweenLooks = 1000;  // at the clock; a step may read a large text

// Of one function of the reader, inside which nothing is done when something went wrong.
struct Failure {
  std::string text;
};

class Statement {
 public:
  Statement(sqlite3* database, const char* sql) : database_(database) {
    sqlite3_stmt* made = nullptr;
    if (sqlite3_prepare_v2(database, sql, -1, &made, nullptr) != SQLITE_OK) {
      throw Failure{sqlite3_errmsg(database)};
    }
    statement_.reset(made);
  }
  Statement& number(std::int64_t value) {
    sqlite3_bind_int64(get(), ++place_, value);
    return *this;
  }
  Statement& text(std::string_view value) {
    sqlite3_bind_text64(get(), ++place_, value.data(), value.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
    return *this;
  }
  Statement& bytes(std::string_view value) {
    sqlite3_bind_blob64(get(), ++place_, value.data(), value.size(), SQLITE_TRANSIENT);
    return *this;
  }
  bool row() {
    const int result = sqlite3_step(get());
    if (result == SQLITE_ROW) return true;
    std::string problem = result == SQLITE_INTERRUPT ? kTookTooLong : "";
    if (result != SQLITE_DONE && problem.empty()) problem = sqlite3_errmsg(database_);
    reset();
    if (!problem.empty()) throw Failure{problem};
    return false;
  }
  void reset() {
    sqlite3_reset(get());
    place_ = 0;
  }
  std::int64_t number_at(int column) { return sqlite3_column_int64(get(), column); }
  // At most so much of it, and no part of a character.
  std::string text_at(int column, std::size_t most = kMostOfText) {
    const auto* const bytes = static_cast<const char*>(sqlite3_column_blob(get(), column));
    auto size = static_cast<std::size_t>(sqlite3_column_bytes(get(), column));
    if (bytes == nullptr) return {};
    if (size > most) {
      size = most;
      while (size > 0 && (static_cast<unsigned char>(bytes[size]) & 0xC0U) == 0x80U) --size;
    }
    return {bytes, size};
  }
  bool is_bytes(int column) { return sqlite3_column_type(get(), column) == SQLITE_BLOB; }

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };
  sqlite3_stmt* get() const { return statement_.get(); }

  sqlite3* const database_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  int place_ = 0;
};

// An id as it is kept: see plugins/journal/id_bytes.h.
std::string id_bytes(std::string_view id) {
  const bool uuid = id.size() == 36;
  if (!uuid && id.size() != 32) return {};
  std::string bytes(uuid ? 0 : 1, '\0');
  int high = -1;
  for (std::size_t i = 0; i < id.size(); ++i) {
    if (uuid && (i == 8 || i == 13 || i == 18 || i == 23)) {
      if (id[i] != '-') return {};
      continue;
    }
    const std::size_t digit = std::string_view("0123456789abcdef").find(id[i]);
    if (digit == std::string_view::npos) return {};
    if (high < 0) {
      high = static_cast<int>(digit);
    } else {
      bytes += static_cast<char>(high * 16 + static_cast<int>(digit));
      high = -1;
    }
  }
  return bytes;
}

std::string id_text(const std::string& bytes) {
  constexpr char kHex[] = "0123456789abcdef";
  const bool uuid = bytes.size() == 16;
  std::string text;
  for (std::size_t i = uuid ? 0 : 1; i < bytes.size(); ++i) {
    if (uuid && (i == 4 || i == 6 || i == 8 || i == 10)) text += '-';
    const auto byte = static_cast<unsigned char>(bytes[i]);
    text += {kHex[byte >> 4], kHex[byte & 15]};
  }
  return text;
}

constexpr const char* kEventColumns =
    "e.time, e.n, e.message, e.attempt, e.size, e.waited_us, e.ran_us, e.delay_ms, e.crashes,"
    " e.timestamp, e.routing_key, e.reason, e.context";

class SqliteReader final : public Reader {
 public:
  explicit SqliteReader(sqlite3* database) : database_(database) {}

  Result<Story> story(const std::string& id, const Limits& limits) override {
    return within<Story>(limits, [&] { return story_of(id, limits); });
  }
  Result<std::vector<Event>> search(const Search& search, const Limits& limits) override {
    return within<std::vector<Event>>(limits, [&] { return found_by(search, limits.bytes); });
  }

 private:
  // Everything is read as it was at one moment.
  template <typename T, typename Function>
  Result<T> within(const Limits& limits, Function function) {
    deadline_ = limits.until;
    sqlite3_progress_handler(get(), kStepsBetweenLooks, &SqliteReader::is_late, this);
    ids_.clear();
    contexts_.clear();
    Result<T> result = Error{""};
    try {
      run("BEGIN");
      result = function();
    } catch (const Failure& failure) {
      result = Error{failure.text};
    }
    sqlite3_progress_handler(get(), 0, nullptr, nullptr);
    if (sqlite3_get_autocommit(get()) == 0) {
      sqlite3_exec(get(), "ROLLBACK", nullptr, nullptr, nullptr);
    }
    return result;
  }
  static int is_late(void* self) {
    return Clock::now() >= static_cast<SqliteReader*>(self)->deadline_ ? 1 : 0;
  }

  void run(const char* sql) {
    if (sqlite3_exec(get(), sql, nullptr, nullptr, nullptr) != SQLITE_OK) {
      throw Failure{sqlite3_errmsg(get())};
    }
  }

  std::int64_t number_of(const std::string& id) {
    Statement find(get(), "SELECT id FROM ids WHERE name = ?");
    const std::string bytes = id_bytes(id);
    bytes.empty() ? find.text(id) : find.bytes(bytes);
    return find.row() ? find.number_at(0) : 0;
  }

  Story story_of(const std::string& id, const Limits& limits) {
    Story story;
    const std::int64_t asked = number_of(id);
    if (asked == 0) return story;
    const std::vector<std::int64_t> messages = related(asked, story.more_left_out);
    Statement of_message(get(), ("SELECT " + std::string(kEventColumns) +
                                 " FROM events e WHERE e.message = ? ORDER BY e.time, e.n LIMIT ?")
                                    .c_str());
    std::size_t bytes = 0;
    for (const std::int64_t message : messages) {
      const bool full = story.messages == limits.messages || bytes >= limits.bytes;
      const std::size_t room = full ? 0 : limits.events - story.events.size();
      of_message.number(message).number(static_cast<std::int64_t>(room + 1));
      const std::size_t before = story.events.size();
      bool any = false;
      while (of_message.row()) {
        any = true;
        if (story.events.size() - before == room || bytes >= limits.bytes) {
          story.more_left_out = story.more_left_out || story.messages < limits.messages;
          break;
        }
        story.events.push_back(event_of(of_message));
        bytes += text_bytes(story.events.back());
      }
      of_message.reset();
      if (any) ++(story.events.size() == before ? story.left_out : story.messages);
    }
    std::ranges::stable_sort(story.events, {}, &Event::time_us);
    return story;
  }

  // Who shares a trace with it, its ancestors, and everybody's descendants. Ancestors first.
  std::vector<std::int64_t> related(std::int64_t asked, bool& more) {
    Statement links(get(), "SELECT parent, trace FROM ids WHERE id = ?");
    Statement children(get(), "SELECT id FROM ids WHERE parent = ? ORDER BY id");
    Statement members(get(), "SELECT id FROM ids WHERE trace = ? ORDER BY id");
    std::vector<std::int64_t> line;  // from it up to its first ancestor
    std::unordered_set<std::int64_t> seen, traces;
    for (std::int64_t at = asked; at != 0 && seen.insert(at).second;) {
      line.push_back(at);
      std::int64_t parent = 0;
      links.number(at);
      if (links.row()) {
        parent = links.number_at(0);
        traces.insert(links.number_at(1));
        links.reset();
      }
      at = parent;
    }
    traces.insert(asked);
    traces.erase(0);
    std::vector<std::int64_t> found(line.rbegin(), line.rend());
    const auto add_all = [&](Statement& query, std::int64_t of) {
      query.number(of);
      while (query.row()) {
        if (found.size() >= kMostCounted) {
          more = true;
          query.reset();
          return;
        }
        if (seen.insert(query.number_at(0)).second) found.push_back(query.number_at(0));
      }
    };
    for (const std::int64_t trace : traces) {
      // The message that a trace began with has its name, and need not say so.
      if (seen.insert(trace).second) found.push_back(trace);
      add_all(members, trace);
    }
    for (std::size_t i = 0; i < found.size(); ++i) add_all(children, found[i]);
    return found;
  }

  std::vector<Event> found_by(const Search& search, std::size_t most_bytes) {
    std::string sql = "SELECT id FROM contexts WHERE event = ?1";
    if (!search.queue.empty()) sql += " AND queue = ?2";
    if (!search.outcome.empty()) sql += " AND outcome = ?3";
    Statement contexts(get(), sql.c_str());
    contexts.text(search.event).text(search.queue).text(search.outcome);
    // Each context's latest, of which only those are read that can be among the latest of all.
    Statement latest(get(), ("SELECT " + std::string(kEventColumns) +
                             " FROM events e INDEXED BY events_context WHERE e.context = ? AND"
                             " e.time >= ? AND e.time < ? ORDER BY e.time DESC")
                                .c_str());
    const auto later = [](const Event& a, const Event& b) { return a.time_us > b.time_us; };
    std::vector<Event> heap;  // the earliest on top
    while (contexts.row()) {
      latest.number(contexts.number_at(0)).number(search.from_us).number(search.to_us);
      while (latest.row()) {
        if (heap.size() == search.limit) {
          if (heap.empty() || latest.number_at(0) <= heap.front().time_us) break;
          std::ranges::pop_heap(heap, later);
          heap.pop_back();
        }
        heap.push_back(event_of(latest));
        std::ranges::push_heap(heap, later);
      }
      latest.reset();
    }
    std::ranges::sort_heap(heap, later);
    std::size_t bytes = 0;
    const auto beyond = std::ranges::find_if(heap, [&](const Event& event) {
      bytes += text_bytes(event);
      return bytes > most_bytes;
    });
    heap.erase(beyond, heap.end());
    return heap;
  }

  Event event_of(Statement& row) {
    Event event = context_of(row.number_at(12));
    event.time_us = row.number_at(0);
    event.n = row.number_at(1);
    if (const std::int64_t message = row.number_at(2); message != 0) {
      const Id id = id_of(message);
      event.message_id = id.name;
      if (id.parent != 0) event.parent_id = id_of(id.parent).name;
      if (id.trace != 0) event.trace_id = id_of(id.trace).name;
    }
    event.attempt = row.number_at(3);
    event.size = row.number_at(4);
    event.waited_us = row.number_at(5);
    event.ran_us = row.number_at(6);
    event.delay_ms = row.number_at(7);
    event.crashes = row.number_at(8);
    event.timestamp = row.number_at(9);
    event.routing_key = row.text_at(10);
    event.reason = row.text_at(11, kMostOfReason);
    return event;
  }

  struct Id {
    std::string name;
    std::int64_t parent = 0, trace = 0;
  };
  Id id_of(std::int64_t number) {
    if (const auto known = ids_.find(number); known != ids_.end()) return known->second;
    Id id;
    Statement query(get(), "SELECT name, parent, trace FROM ids WHERE id = ?");
    if (query.number(number).row()) {
      id.name = query.is_bytes(0) ? id_text(query.text_at(0)) : query.text_at(0);
      id.parent = query.number_at(1);
      id.trace = query.number_at(2);
    }
    return ids_[number] = std::move(id);
  }

  const Event& context_of(std::int64_t number) {
    if (const auto known = contexts_.find(number); known != contexts_.end()) return known->second;
    Event& event = contexts_[number];
    Statement query(get(),
                    "SELECT event, kind, host, \"group\", queue, exchange, content_type, type,"
                    " app_id, outcome, code, worker, handler, handler_version, fate, redelivered"
                    " FROM contexts WHERE id = ?");
    if (!query.number(number).row()) return event;
    int column = 0;
    for (std::string* const field :
         {&event.event, &event.kind, &event.host, &event.group, &event.queue, &event.exchange,
          &event.content_type, &event.type, &event.app_id, &event.outcome, &event.code,
          &event.worker, &event.handler, &event.handler_version, &event.fate}) {
      *field = query.text_at(column++);
    }
    event.redelivered = query.number_at(column) != 0;
    return event;
  }

  struct Close {
    void operator()(sqlite3* database) const { sqlite3_close(database); }
  };
  sqlite3* get() const { return database_.get(); }

  std::unique_ptr<sqlite3, Close> database_;
  TimePoint deadline_{};
  std::unordered_map<std::int64_t, Id> ids_;
  std::unordered_map<std::int64_t, Event> contexts_;
};

}  // namespace

Result<std::unique_ptr<Reader>> open_sqlite_journal(const std::string& path) {
  const auto fail = [&](const std::string& text) {
    return Error{"journal '" + escape(path, 256) + "': " + text};
  };
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return fail("expected a file, found none");
    return fail(errno_text("stat", errno));
  }
  if (!S_ISREG(status.st_mode)) return fail("expected a file, found something else");
  sqlite3* database = nullptr;
  const int opened = sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READONLY, nullptr);
  auto reader = std::make_unique<SqliteReader>(database);
  if (opened != SQLITE_OK) return fail(sqlite3_errmsg(database));
  sqlite3_busy_timeout(database, kBusyMs);
  try {
    const auto number = [database](const char* sql) {
      Statement query(database, sql);
      return query.row() ? query.number_at(0) : 0;
    };
    if (number("PRAGMA application_id") != kApplication) {
      return fail("expected a journal, found another kind of database");
    }
    if (const std::int64_t version = number("PRAGMA user_version"); version != kVersion) {
      return fail("expected a journal of version " + std::to_string(kVersion) +
                  ", found one of version " + std::to_string(version));
    }
  } catch (const Failure& failure) {
    switch (sqlite3_errcode(database)) {
      case SQLITE_NOTADB: return fail("expected a journal, found no SQLite file");
      case SQLITE_CANTOPEN:
      case SQLITE_READONLY:
        return fail(failure.text +
                    ": to read it while others write needs permission to write in its folder");
      default: return fail(failure.text);
    }
  }
  return std::unique_ptr<Reader>(std::move(reader));
}

}  // namespace lope::journal
