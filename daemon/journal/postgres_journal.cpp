// A journal in PostgreSQL, as plugins/journal/postgres_store.cpp makes it. libpq is loaded when
// there is such a journal to look into: the other commands start without it and what it brings.
#include "journal/journal.h"

#ifdef LOPE_WITH_POSTGRESQL
#include <dlfcn.h>
#include <libpq-fe.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <unordered_set>
#include <utility>

#include "common/postgres_url.h"
#include "common/text.h"

namespace lope::journal {

namespace {

constexpr int kVersion = 1;
constexpr const char* kLibrary = "libpq.so.5";

struct Library {
  decltype(&PQconnectdbParams) connect;
  decltype(&PQconninfoParse) parse;
  decltype(&PQconninfoFree) free_parsed;
  decltype(&PQfreemem) free_memory;
  decltype(&PQfinish) finish;
  decltype(&PQstatus) status;
  decltype(&PQerrorMessage) error;
  decltype(&PQsetnonblocking) set_nonblocking;
  decltype(&PQsocket) socket;
  decltype(&PQsendQueryParams) send;
  decltype(&PQsetSingleRowMode) set_single_rows;
  decltype(&PQflush) flush;
  decltype(&PQconsumeInput) consume;
  decltype(&PQisBusy) busy;
  decltype(&PQgetResult) next;
  decltype(&PQresultStatus) result_status;
  decltype(&PQresultErrorField) error_field;
  decltype(&PQntuples) rows;
  decltype(&PQgetvalue) value;
  decltype(&PQgetlength) length;
  decltype(&PQclear) clear;
};

// Stays loaded.
Result<Library> load_library() {
  void* const handle = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return Error{std::string("expected libpq, found: ") + ::dlerror()};
  Library library{};
  bool all = true;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(handle, name));
    all = all && function != nullptr;
  };
  find(library.connect, "PQconnectdbParams");
  find(library.parse, "PQconninfoParse");
  find(library.free_parsed, "PQconninfoFree");
  find(library.free_memory, "PQfreemem");
  find(library.finish, "PQfinish");
  find(library.status, "PQstatus");
  find(library.error, "PQerrorMessage");
  find(library.set_nonblocking, "PQsetnonblocking");
  find(library.socket, "PQsocket");
  find(library.send, "PQsendQueryParams");
  find(library.set_single_rows, "PQsetSingleRowMode");
  find(library.flush, "PQflush");
  find(library.consume, "PQconsumeInput");
  find(library.busy, "PQisBusy");
  find(library.next, "PQgetResult");
  find(library.result_status, "PQresultStatus");
  find(library.error_field, "PQresultErrorField");
  find(library.rows, "PQntuples");
  find(library.value, "PQgetvalue");
  find(library.length, "PQgetlength");
  find(library.clear, "PQclear");
  if (!all) return Error{std::string(kLibrary) + ": expected the functions of libpq, found less"};
  return library;
}

// Of one function of the reader.
struct Failure {
  std::string text;
};

std::string one_line(std::string_view text) {
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  return escape(text, 512);
}

class Rows {
 public:
  Rows(const Library& library, PGresult* result) : library_(library), result_(result) {}
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;
  ~Rows() { library_.clear(result_); }
  int size() const { return library_.rows(result_); }
  std::string text(int row, int column) const {
    return {library_.value(result_, row, column),
            static_cast<std::size_t>(library_.length(result_, row, column))};
  }
  std::int64_t number(int row, int column) const {
    const std::string value = text(row, column);
    std::int64_t number = 0;
    std::from_chars(value.data(), value.data() + value.size(), number);
    return number;
  }

 private:
  const Library& library_;
  PGresult* const result_;
};

using Texts = std::vector<std::string>;

std::string array_of(const Texts& list) {
  std::string array = "{";
  for (const std::string& text : list) {
    if (array.size() > 1) array += ',';
    array += '"';
    for (const char c : text) {
      if (c == '"' || c == '\\') array += '\\';
      array += c;
    }
    array += '"';
  }
  return array + "}";
}

// What is too long for a reader does not leave the server.
std::string event_columns() {
  std::string columns;
  for (const TextField& field : kTextFields) {
    const std::size_t most = field.member == &Event::reason ? kMostOfReason : kMostOfText;
    columns += "left(\"" + std::string(field.name) + "\", " + std::to_string(most) + "), ";
  }
  return columns +
         "time_us, n, attempt, size, waited_us, ran_us, delay_ms, crashes, timestamp,"
         " CASE WHEN redelivered THEN 1 ELSE 0 END";
}

class PostgresReader final : public Reader {
 public:
  PostgresReader(Library library, std::string url) : library_(library), url_(std::move(url)) {}
  ~PostgresReader() override { disconnect(); }

  Result<Story> story(const std::string& id, const Limits& limits) override {
    return within<Story>(limits, [&] { return story_of(id, limits); });
  }
  Result<std::vector<Event>> search(const Search& search, const Limits& limits) override {
    return within<std::vector<Event>>(limits, [&] { return found_by(search, limits.bytes); });
  }
  // A journal that this version knows is there.
  Result<void> look(const Limits& limits) {
    const auto looked = within<bool>(limits, [this] {
      if (rows_of("SELECT to_regclass('lope_journal') IS NOT NULL AND"
                  " to_regclass('lope_events') IS NOT NULL",
                  {})
              ->text(0, 0) != "t") {
        throw Failure{"expected a journal, found a database without one"};
      }
      const auto version = rows_of("SELECT version FROM lope_journal", {});
      const std::int64_t number = version->size() == 1 ? version->number(0, 0) : 0;
      if (number != kVersion) {
        throw Failure{"expected a journal of version " + std::to_string(kVersion) +
                      ", found one of version " + std::to_string(number)};
      }
      return true;
    });
    if (!looked) return Error{looked.error()};
    return {};
  }

 private:
  // Everything is read as it was at one moment.
  template <typename T, typename Function>
  Result<T> within(const Limits& limits, Function function) {
    try {
      deadline_ = limits.until;
      connect();
      result_of("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", {});
      statement_time_ = std::chrono::hours(24);
      T result = function();
      if (connection_ != nullptr) result_of("COMMIT", {});
      return result;
    } catch (const Failure& failure) {
      disconnect();
      return Error{failure.text};
    }
  }

  void connect() {
    if (connection_ != nullptr) return;
    // libpq's own words have pieces of the URL.
    char* words = nullptr;
    PQconninfoOption* const parsed = library_.parse(url_.c_str(), &words);
    const bool fits = parsed != nullptr;
    library_.free_parsed(parsed);
    library_.free_memory(words);
    if (!fits) throw Failure{"expected a URL that libpq reads, found another"};
    const auto left = std::chrono::duration_cast<std::chrono::seconds>(time_left());
    // Of each address; two of them are tried in time. libpq knows no less than 2 s.
    const std::string patience = std::to_string(std::clamp<std::int64_t>(left.count() / 2, 2, 5));
    // What the URL says itself counts more.
    const char* const keys[] = {"connect_timeout",  "application_name", "client_encoding",
                                "tcp_user_timeout", "keepalives_idle",  "keepalives_interval",
                                "keepalives_count", "dbname",           nullptr};
    // A server that vanishes is noticed within some seconds.
    const char* const values[] = {patience.c_str(), "lope", "UTF8", "5000", "2", "2", "2",
                                  url_.c_str(),     nullptr};
    connection_ = library_.connect(keys, values, 1);
    if (connection_ == nullptr) throw Failure{"out of memory"};
    if (library_.status(connection_) != CONNECTION_OK ||
        library_.set_nonblocking(connection_, 1) != 0) {
      fail();
    }
  }
  void disconnect() {
    if (connection_ != nullptr) library_.finish(connection_);
    connection_ = nullptr;
  }

  [[noreturn]] void fail() { throw Failure{one_line(library_.error(connection_))}; }

  // Of the time for all of it; none: it is given up.
  std::chrono::milliseconds time_left() const {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline_ - Clock::now());
    if (left.count() <= 0) throw Failure{kTookTooLong};
    return left;
  }

  // A server may be there and say nothing.
  void wait(short events) {
    pollfd descriptor{library_.socket(connection_), events, 0};
    constexpr std::chrono::milliseconds kMost = std::chrono::hours(1);
    while (true) {
      const int ready =
          ::poll(&descriptor, 1, static_cast<int>(std::min(time_left(), kMost).count()));
      if (ready > 0) return;
      if (ready < 0 && errno != EINTR) throw Failure{errno_text("poll", errno)};
    }
  }

  void send(const char* sql, const Texts& values) {
    std::vector<const char*> raw;
    for (const std::string& value : values) raw.push_back(value.c_str());
    if (library_.send(connection_, sql, static_cast<int>(raw.size()), nullptr, raw.data(), nullptr,
                      nullptr, 0) != 1) {
      fail();
    }
  }

  // The next result of what was sent; nullptr: there is no other.
  std::unique_ptr<Rows> receive() {
    int unsent = library_.flush(connection_);
    while (unsent != 0 || library_.busy(connection_) != 0) {
      if (unsent < 0) fail();
      wait(unsent != 0 ? POLLIN | POLLOUT : POLLIN);
      if (library_.consume(connection_) != 1) fail();
      unsent = library_.flush(connection_);
    }
    PGresult* const result = library_.next(connection_);
    if (result == nullptr) return nullptr;
    auto rows = std::make_unique<Rows>(library_, result);
    switch (library_.result_status(result)) {
      case PGRES_TUPLES_OK:
      case PGRES_SINGLE_TUPLE:
      case PGRES_COMMAND_OK: return rows;
      default: break;
    }
    const char* const state = library_.error_field(result, PG_DIAG_SQLSTATE);
    if (state != nullptr && std::string_view(state) == "57014") throw Failure{kTookTooLong};
    fail();
  }

  std::unique_ptr<Rows> result_of(const char* sql, const Texts& values) {
    send(sql, values);
    auto rows = receive();
    if (!rows) fail();
    while (receive() != nullptr) continue;
    return rows;
  }

  // A server gives a statement up by itself, too.
  void limit_statement() {
    const auto left = time_left();
    if (left >= statement_time_ * 9 / 10) return;
    result_of(("SET LOCAL statement_timeout = " + std::to_string(left.count())).c_str(), {});
    statement_time_ = left;
  }

  std::unique_ptr<Rows> rows_of(const char* sql, const Texts& values) {
    limit_statement();
    return result_of(sql, values);
  }

  // One after another, for as long as `most_bytes` are enough for their texts. False: they were
  // not.
  bool read_events(const char* sql, const Texts& values, std::size_t most_bytes,
                   std::vector<Event>& events) {
    limit_statement();
    send(sql, values);
    library_.set_single_rows(connection_);
    std::size_t bytes = 0;
    while (const auto rows = receive()) {
      for (int row = 0; row < rows->size(); ++row) {
        Event event = event_of(*rows, row);
        bytes += text_bytes(event);
        if (bytes > most_bytes) {
          disconnect();  // the rest would have to be read
          return false;
        }
        events.push_back(std::move(event));
      }
    }
    return true;
  }

  Story story_of(const std::string& id, const Limits& limits) {
    Story story;
    const Texts messages = related(id, story.more_left_out);
    const std::size_t taken = std::min(limits.messages, messages.size());
    const Texts asked(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(taken));
    const std::string sql = "SELECT " + event_columns() +
                            " FROM lope_events WHERE message_id = ANY($1::text[])"
                            " ORDER BY time_us, source, n LIMIT " +
                            std::to_string(limits.events + 1);
    if (!read_events(sql.c_str(), {array_of(asked)}, limits.bytes, story.events)) {
      story.more_left_out = true;
    }
    if (story.events.size() > limits.events) {
      story.events.pop_back();
      story.more_left_out = true;
    }
    story.messages = taken;
    story.left_out = messages.size() - taken;
    return story;
  }

  // As SqliteReader::related(). Only messages that there are events of.
  Texts related(const std::string& asked, bool& more) {
    std::unordered_set<std::string> seen, traces = {asked};
    Texts line, found;
    for (std::string at = asked; !at.empty() && seen.insert(at).second;) {
      const auto rows = rows_of(
          "SELECT min(parent_id), min(trace_id), count(*) FROM lope_events WHERE message_id = $1",
          {at});
      if (rows->number(0, 2) == 0) break;
      line.push_back(at);
      if (const std::string trace = rows->text(0, 1); !trace.empty()) traces.insert(trace);
      at = rows->text(0, 0);
    }
    found.assign(line.rbegin(), line.rend());
    seen.insert(found.begin(), found.end());
    const auto add_all = [&](const char* column, const Texts& of) {
      Texts added;
      const auto rows = rows_of(("SELECT message_id FROM lope_events WHERE " + std::string(column) +
                                 " = ANY($1::text[]) AND message_id IS NOT NULL GROUP BY message_id"
                                 " ORDER BY min(time_us) LIMIT " +
                                 std::to_string(kMostCounted))
                                    .c_str(),
                                {array_of(of)});
      for (int row = 0; row < rows->size(); ++row) {
        if (found.size() >= kMostCounted) {
          more = true;
          break;
        }
        std::string id = rows->text(row, 0);
        if (!seen.insert(id).second) continue;
        added.push_back(id);
        found.push_back(std::move(id));
      }
      return added;
    };
    // The message that a trace began with has its name, and need not say so.
    for (const char* const column : {"message_id", "trace_id"}) {
      add_all(column, Texts(traces.begin(), traces.end()));
    }
    for (Texts next = found.empty() ? Texts{asked} : found; !next.empty() && !more;) {
      next = add_all("parent_id", next);
    }
    return found;
  }

  std::vector<Event> found_by(const Search& search, std::size_t most_bytes) {
    const std::string sql = "SELECT " + event_columns() +
                            " FROM lope_events WHERE event = $1 AND time_us >= $2 AND time_us < $3"
                            " AND ($4 = '' OR queue = $4) AND ($5 = '' OR outcome = $5)"
                            " ORDER BY time_us DESC LIMIT " +
                            std::to_string(search.limit);
    std::vector<Event> events;
    read_events(sql.c_str(),
                {search.event, std::to_string(search.from_us), std::to_string(search.to_us),
                 search.queue, search.outcome},
                most_bytes, events);
    return events;
  }

  static Event event_of(const Rows& rows, int row) {
    Event event;
    int column = 0;
    for (const TextField& field : kTextFields) event.*field.member = rows.text(row, column++);
    for (std::int64_t* const field :
         {&event.time_us, &event.n, &event.attempt, &event.size, &event.waited_us, &event.ran_us,
          &event.delay_ms, &event.crashes, &event.timestamp}) {
      *field = rows.number(row, column++);
    }
    event.redelivered = rows.number(row, column) != 0;
    return event;
  }

  const Library library_;
  const std::string url_;
  PGconn* connection_ = nullptr;
  TimePoint deadline_{};
  std::chrono::milliseconds statement_time_{};  // that the server gives each statement now
};

}  // namespace

Result<std::unique_ptr<Reader>> open_postgres_journal(const std::string& url,
                                                      const Limits& limits) {
  if (const auto unfit = unfit_in_postgres_url(url); !unfit.empty()) {
    return Error{"journal in PostgreSQL: the URL: " + std::string(unfit)};
  }
  const auto library = load_library();
  if (!library) return Error{"journal in PostgreSQL: " + library.error()};
  auto reader = std::make_unique<PostgresReader>(*library, url);
  if (const auto looked = reader->look(limits); !looked) {
    return Error{"journal in PostgreSQL: " + looked.error()};
  }
  return std::unique_ptr<Reader>(std::move(reader));
}

}  // namespace lope::journal

#else

namespace lope::journal {

Result<std::unique_ptr<Reader>> open_postgres_journal(const std::string&, const Limits&) {
  return Error{"journal in PostgreSQL: this build has no PostgreSQL"};
}

}  // namespace lope::journal
#endif
