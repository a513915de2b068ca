// A journal in PostgreSQL: one plain table, for others to ask too. Events are copied into a
// temporary table and taken over from there, so that those that are there already do no harm.
// daemon/journal/postgres_journal.cpp reads it: what is changed here has to be changed there.
#include <dlfcn.h>
#include <libpq-fe.h>
#include <poll.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <utility>

#include "postgres_url.h"
#include "store.h"

namespace lope::plugins {

namespace {

constexpr const char* kLibrary = "libpq.so.5";
constexpr int kVersion = 1;
constexpr std::size_t kSentAtOnce = 256 * 1024;
constexpr std::chrono::milliseconds kIndexPatience = std::chrono::hours(6);

// Two that begin at the same time make the tables one after the other.
constexpr const char* kSchema = R"(
SELECT pg_advisory_xact_lock(1282368613);
CREATE TABLE IF NOT EXISTS lope_journal (version integer NOT NULL);
CREATE TABLE IF NOT EXISTS lope_events (
  source text NOT NULL, n bigint NOT NULL, time_us bigint NOT NULL, event text NOT NULL, kind text,
  host text, "group" text, queue text, message_id text, parent_id text, trace_id text,
  exchange text, routing_key text, content_type text, type text, app_id text, outcome text,
  reason text, code text, worker text, handler text, handler_version text, fate text,
  headers text, body text, body_encoding text, attempt bigint, size bigint, waited_us bigint,
  ran_us bigint, delay_ms bigint, crashes bigint, timestamp bigint, redelivered boolean,
  body_cut boolean, PRIMARY KEY (source, n));
INSERT INTO lope_journal SELECT 1 WHERE NOT EXISTS (SELECT FROM lope_journal);
)";
constexpr const char* kIndexes = R"(
CREATE INDEX IF NOT EXISTS lope_events_message ON lope_events (message_id)
  WHERE message_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS lope_events_parent ON lope_events (parent_id)
  WHERE parent_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS lope_events_trace ON lope_events (trace_id) WHERE trace_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS lope_events_queue ON lope_events (queue, time_us);
CREATE INDEX IF NOT EXISTS lope_events_time ON lope_events (time_us);
)";

// As add() writes them. Further columns of the table are somebody else's.
constexpr std::string_view kColumns =
    "source, n, time_us, event, kind, host, \"group\", queue, message_id, parent_id, trace_id,"
    " exchange, routing_key, content_type, type, app_id, outcome, reason, code, worker, handler,"
    " handler_version, fate, headers, body, body_encoding, attempt, size, waited_us, ran_us,"
    " delay_ms, crashes, timestamp, redelivered, body_cut";

std::string with_columns(std::string_view before, std::string_view behind) {
  return std::string(before).append(kColumns).append(behind);
}

// libpq, loaded when there is such a journal: one in a file does without it.
struct Libpq {
  decltype(&PQconninfoParse) conninfoParse;
  decltype(&PQconninfoFree) conninfoFree;
  decltype(&PQfreemem) freemem;
  decltype(&PQputCopyEnd) putCopyEnd;
  decltype(&PQgetResult) getResult;
  decltype(&PQresultStatus) resultStatus;
  decltype(&PQresultErrorField) resultErrorField;
  decltype(&PQclear) clear;
  decltype(&PQconnectdbParams) connectdbParams;
  decltype(&PQstatus) status;
  decltype(&PQsetNoticeProcessor) setNoticeProcessor;
  decltype(&PQsetnonblocking) setnonblocking;
  decltype(&PQsocket) socket;
  decltype(&PQsendQuery) sendQuery;
  decltype(&PQflush) flush;
  decltype(&PQconsumeInput) consumeInput;
  decltype(&PQisBusy) isBusy;
  decltype(&PQntuples) ntuples;
  decltype(&PQgetvalue) getvalue;
  decltype(&PQfinish) finish;
  decltype(&PQerrorMessage) errorMessage;
  decltype(&PQcmdTuples) cmdTuples;
  decltype(&PQputCopyData) putCopyData;
  Libpq() {
    void* const library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      throw std::runtime_error(std::string("PostgreSQL: expected libpq, found: ") + ::dlerror());
    }
    find(library, "PQconninfoParse", conninfoParse);
    find(library, "PQconninfoFree", conninfoFree);
    find(library, "PQfreemem", freemem);
    find(library, "PQputCopyEnd", putCopyEnd);
    find(library, "PQgetResult", getResult);
    find(library, "PQresultStatus", resultStatus);
    find(library, "PQresultErrorField", resultErrorField);
    find(library, "PQclear", clear);
    find(library, "PQconnectdbParams", connectdbParams);
    find(library, "PQstatus", status);
    find(library, "PQsetNoticeProcessor", setNoticeProcessor);
    find(library, "PQsetnonblocking", setnonblocking);
    find(library, "PQsocket", socket);
    find(library, "PQsendQuery", sendQuery);
    find(library, "PQflush", flush);
    find(library, "PQconsumeInput", consumeInput);
    find(library, "PQisBusy", isBusy);
    find(library, "PQntuples", ntuples);
    find(library, "PQgetvalue", getvalue);
    find(library, "PQfinish", finish);
    find(library, "PQerrorMessage", errorMessage);
    find(library, "PQcmdTuples", cmdTuples);
    find(library, "PQputCopyData", putCopyData);
  }

 private:
  // It stays loaded.
  template <typename Function>
  static void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(::dlsym(library, name));
    if (function == nullptr) {
      throw std::runtime_error(std::string("PostgreSQL: expected ") + name + " in " + kLibrary +
                               ", found none");
    }
  }
};

using ResultPtr = std::unique_ptr<PGresult, decltype(&PQclear)>;

// What a server says to what it is given.
enum class Refusal { none, of_event, by_table };

class PostgresStore final : public Store {
 public:
  PostgresStore(std::string url, std::chrono::milliseconds patience)
      : url_(std::move(url)), usual_patience_(patience) {
    check_url();
    connect();
  }
  ~PostgresStore() override { disconnect(); }

  void begin() override {
    connect();
    run("BEGIN");
    run(with_columns("COPY lope_incoming (", ") FROM STDIN"), PGRES_COPY_IN);
    rows_.clear();
  }

  void add(const Event& event) override {
    first_ = true;
    text(event.source);
    number(event.n);
    number(event.time_us);
    for (const std::string* const field : {&event.event,
                                           &event.kind,
                                           &event.host,
                                           &event.group,
                                           &event.queue,
                                           &event.message_id,
                                           &event.parent_id,
                                           &event.trace_id,
                                           &event.exchange,
                                           &event.routing_key,
                                           &event.content_type,
                                           &event.type,
                                           &event.app_id,
                                           &event.outcome,
                                           &event.reason,
                                           &event.code,
                                           &event.worker,
                                           &event.handler,
                                           &event.handler_version,
                                           &event.fate,
                                           &event.headers,
                                           &event.body,
                                           &event.body_encoding}) {
      text(*field);
    }
    for (const std::int64_t value : {event.attempt, event.size, event.waited_us, event.ran_us,
                                     event.delay_ms, event.crashes, event.timestamp}) {
      number(value);
    }
    flag(event.redelivered);
    flag(event.body_cut);
    rows_ += '\n';
    if (rows_.size() >= kSentAtOnce) send();
  }

  std::uint64_t commit() override {
    send();
    if (pq_.putCopyEnd(connection_, nullptr) != 1) fail("COPY");
    const ResultPtr copied = last_result("COPY");
    if (pq_.resultStatus(copied.get()) != PGRES_COMMAND_OK) {
      fail("COPY", refusal_of(copied.get()));
    }
    const std::uint64_t stored =
        run(with_columns("INSERT INTO lope_events (", ")") +
            with_columns(" SELECT ", " FROM lope_incoming ON CONFLICT DO NOTHING"));
    // When its answer is lost the events come again, and are there already.
    run("COMMIT");
    return stored;
  }

  // The next transaction begins with a new connection, but where the server has only refused what
  // this one was about.
  void roll_back() noexcept override {
    if (!std::exchange(refused_, false)) return disconnect();
    try {
      run("ROLLBACK");
    } catch (const std::exception&) {
      disconnect();
    }
  }

  std::uint64_t forget(std::int64_t time_us, std::uint64_t most) override {
    connect();
    return run(
        "DELETE FROM lope_events e USING (SELECT source, n FROM lope_events WHERE time_us < " +
        std::to_string(time_us) + " ORDER BY time_us LIMIT " + std::to_string(most) +
        ") o WHERE e.source = o.source AND e.n = o.n");
  }

 private:
  // Of one that it does not read libpq shows pieces, which may be its password's.
  void check_url() const {
    std::string unfit(unfit_in_postgres_url(url_));
    char* words = nullptr;
    PQconninfoOption* const parsed = pq_.conninfoParse(url_.c_str(), &words);
    if (parsed == nullptr && unfit.empty()) unfit = "expected one that libpq reads, found another";
    pq_.conninfoFree(parsed);
    pq_.freemem(words);
    if (!unfit.empty()) throw std::runtime_error("PostgreSQL: the URL: " + unfit);
  }

  void connect() {
    if (connection_ != nullptr) return;
    // What the URL says itself counts more.
    const char* const keys[] = {"connect_timeout",  "application_name", "client_encoding",
                                "tcp_user_timeout", "keepalives_idle",  "keepalives_interval",
                                "keepalives_count", "dbname",           nullptr};
    // A server that vanishes is noticed within some seconds.
    const char* const values[] = {"10", "lope journal", "UTF8", "5000", "2", "2",
                                  "2",  url_.c_str(),   nullptr};
    connection_ = pq_.connectdbParams(keys, values, 1);
    if (connection_ == nullptr) throw StoreError("PostgreSQL: out of memory");
    if (pq_.status(connection_) != CONNECTION_OK) fail("connect");
    if (pq_.setnonblocking(connection_, 1) != 0) fail("connect");
    pq_.setNoticeProcessor(
        connection_, [](void*, const char*) {}, nullptr);
    // The server gives up first, so that it does not go on with what nobody waits for.
    patience_ = usual_patience_;
    const std::string most = std::to_string((patience_ * 9 / 10).count());
    run("SET statement_timeout = " + most);
    run("SET lock_timeout = " + most);
    run("BEGIN");
    run(kSchema);
    check_version();
    run("CREATE TEMPORARY TABLE lope_incoming ON COMMIT DELETE ROWS AS SELECT " +
        std::string(kColumns) + " FROM lope_events WITH NO DATA");
    make_indexes();
    run("COMMIT");
  }

  // Of a table that is there already and large that takes as long as it takes.
  void make_indexes() {
    run("SET LOCAL statement_timeout = 0");
    patience_ = kIndexPatience;
    run(kIndexes);
    patience_ = usual_patience_;
  }

  void check_version() {
    const ResultPtr result = ask("SELECT version FROM lope_journal");
    const bool read =
        pq_.resultStatus(result.get()) == PGRES_TUPLES_OK && pq_.ntuples(result.get()) == 1;
    const std::string version = read ? pq_.getvalue(result.get(), 0, 0) : "";
    if (!read) fail("lope_journal");
    if (version == std::to_string(kVersion)) return;
    disconnect();
    throw std::runtime_error("PostgreSQL: expected a journal of version " +
                             std::to_string(kVersion) + ", found one of version " + version);
  }

  void disconnect() noexcept {
    if (connection_ != nullptr) pq_.finish(connection_);
    connection_ = nullptr;
  }

  // By the classes of SQLSTATE. The journal's own table has no constraint that an event could
  // violate: somebody has given it one, or partitions that are not there.
  Refusal refusal_of(const PGresult* result) const {
    const char* const state = pq_.resultErrorField(result, PG_DIAG_SQLSTATE);
    const std::string_view code = state == nullptr ? "" : state;
    if (code == "22P04") return Refusal::none;  // how it was copied, not what
    const std::string_view kind = code.substr(0, 2);
    if (kind == "22" || kind == "54") return Refusal::of_event;
    return kind == "23" ? Refusal::by_table : Refusal::none;
  }

  [[noreturn]] void fail(const std::string& what, Refusal refusal = Refusal::none) {
    std::string problem = pq_.errorMessage(connection_);
    while (!problem.empty() && problem.back() == '\n') problem.pop_back();
    problem.insert(0, "PostgreSQL: " + what + ": ");
    if (refusal != Refusal::none) {
      refused_ = true;
      throw RefusedError(problem, refusal == Refusal::of_event);
    }
    disconnect();
    throw StoreError(problem);
  }

  // A server may be there and say nothing.
  void wait(const std::string& what, short events) {
    pollfd descriptor{pq_.socket(connection_), events, 0};
    const auto until = std::chrono::steady_clock::now() + patience_;
    while (true) {
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
      const int ready =
          left.count() <= 0 ? 0 : ::poll(&descriptor, 1, static_cast<int>(left.count()));
      if (ready > 0) return;
      if (ready < 0 && errno == EINTR) continue;
      disconnect();
      throw StoreError("PostgreSQL: " + what + ": the server did not answer in time");
    }
  }

  void flush(const std::string& what) {
    for (int unsent = pq_.flush(connection_); unsent != 0; unsent = pq_.flush(connection_)) {
      if (unsent < 0) fail(what);
      wait(what, POLLIN | POLLOUT);
      if (pq_.consumeInput(connection_) != 1) fail(what);
    }
  }

  // Of what was sent; of a COPY that it may begin.
  ResultPtr last_result(const std::string& what) {
    flush(what);
    ResultPtr last(nullptr, pq_.clear);
    while (true) {
      while (pq_.isBusy(connection_) != 0) {
        wait(what, POLLIN);
        if (pq_.consumeInput(connection_) != 1) fail(what);
      }
      PGresult* const result = pq_.getResult(connection_);
      if (result == nullptr) break;
      last.reset(result);
      if (pq_.resultStatus(result) == PGRES_COPY_IN) break;
    }
    if (!last) fail(what);
    return last;
  }

  static std::string name_of(const std::string& sql) {
    std::string name = sql.substr(0, sql.find_first_of("\n(", 1));
    if (name.back() == ' ') name.pop_back();
    return name;
  }

  ResultPtr ask(const std::string& sql) {
    if (pq_.sendQuery(connection_, sql.c_str()) != 1) fail(name_of(sql));
    return last_result(name_of(sql));
  }

  // How many rows it was about.
  std::uint64_t run(const std::string& sql, ExecStatusType expected = PGRES_COMMAND_OK) {
    const ResultPtr result = ask(sql);
    const ExecStatusType status = pq_.resultStatus(result.get());
    if (status != expected && status != PGRES_TUPLES_OK) {
      fail(name_of(sql), refusal_of(result.get()));
    }
    return std::strtoull(pq_.cmdTuples(result.get()), nullptr, 10);
  }

  void send() {
    if (rows_.empty()) return;
    if (pq_.putCopyData(connection_, rows_.data(), static_cast<int>(rows_.size())) != 1)
      fail("COPY");
    flush("COPY");
    rows_.clear();
  }

  // Fields of COPY's text format.
  void separate() {
    if (!first_) rows_ += '\t';
    first_ = false;
  }
  void number(std::int64_t value) {
    separate();
    rows_ += value == 0 ? "\\N" : std::to_string(value);
  }
  void flag(bool value) {
    separate();
    rows_ += value ? "t" : "\\N";
  }
  void text(const std::string& value) {
    separate();
    if (value.empty()) {
      rows_ += "\\N";
      return;
    }
    for (const char c : value) {
      switch (c) {
        case '\\': rows_ += "\\\\"; break;
        case '\t': rows_ += "\\t"; break;
        case '\n': rows_ += "\\n"; break;
        case '\r': rows_ += "\\r"; break;
        case '\0': rows_ += "\xEF\xBF\xBD"; break;  // no text of PostgreSQL can have it
        default: rows_ += c;
      }
    }
  }

  const Libpq pq_;
  const std::string url_;
  const std::chrono::milliseconds usual_patience_;
  std::chrono::milliseconds patience_{};  // with the server now
  PGconn* connection_ = nullptr;
  bool refused_ = false;  // the transaction, and the connection stands
  std::string rows_;
  bool first_ = true;  // of a row's fields
};

}  // namespace

std::unique_ptr<Store> open_postgres_store(const std::string& url,
                                           std::chrono::milliseconds patience) {
  return std::make_unique<PostgresStore>(url, patience);
}

}  // namespace lope::plugins
