// A journal in PostgreSQL: one plain table, for others to ask too. Events are copied into a
// temporary table and taken over from there, so that those that are there already do no harm.
// daemon/journal/postgres_journal.cpp reads it: what is changed here has to be changed there.
#include <dlfcn.h>
#include <libpq-fe.h>

#include <cstdlib>
#include <utility>

#include "postgres_url.h"
#include "store.h"

namespace lope::plugins {

namespace {

constexpr const char* kLibrary = "libpq.so.5";
constexpr int kVersion = 1;
constexpr std::size_t kSentAtOnce = 256 * 1024;

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
  decltype(&PQexec) exec;
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
    find(library, "PQexec", exec);
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

class PostgresStore final : public Store {
 public:
  explicit PostgresStore(std::string url) : url_(std::move(url)) {
    check_url();
    connect();
  }
  ~PostgresStore() override { disconnect(); }

  void begin() override {
    connect();
    run("BEGIN");
    run("COPY lope_incoming FROM STDIN", PGRES_COPY_IN);
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
    for (PGresult* result = pq_.getResult(connection_); result != nullptr;
         result = pq_.getResult(connection_)) {
      const bool copied = pq_.resultStatus(result) == PGRES_COMMAND_OK;
      const bool refused = is_refused(result);
      pq_.clear(result);
      if (!copied) fail("COPY", refused);
    }
    const std::uint64_t stored =
        run("INSERT INTO lope_events SELECT * FROM lope_incoming ON CONFLICT DO NOTHING");
    // When its answer is lost the events come again, and are there already.
    run("COMMIT");
    return stored;
  }

  // The next transaction begins with a new connection, but where the server has only refused what
  // this one was about.
  void roll_back() noexcept override {
    if (!std::exchange(refused_, false)) return disconnect();
    PGresult* const result = pq_.exec(connection_, "ROLLBACK");
    const bool done = pq_.resultStatus(result) == PGRES_COMMAND_OK;
    pq_.clear(result);
    if (!done) disconnect();
  }

  std::uint64_t forget(std::int64_t time_us, std::uint64_t most) override {
    connect();
    return run(
        ("DELETE FROM lope_events e USING (SELECT source, n FROM lope_events WHERE time_us < " +
         std::to_string(time_us) + " ORDER BY time_us LIMIT " + std::to_string(most) +
         ") o WHERE e.source = o.source AND e.n = o.n")
            .c_str());
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
    const char* const keys[] = {"connect_timeout", "application_name", "client_encoding", "dbname",
                                nullptr};
    const char* const values[] = {"10", "lope journal", "UTF8", url_.c_str(), nullptr};
    connection_ = pq_.connectdbParams(keys, values, 1);
    if (connection_ == nullptr) throw StoreError("PostgreSQL: out of memory");
    if (pq_.status(connection_) != CONNECTION_OK) fail("connect");
    pq_.setNoticeProcessor(
        connection_, [](void*, const char*) {}, nullptr);
    run("BEGIN");
    run(kSchema);
    check_version();
    run(kIndexes);
    run("CREATE TEMPORARY TABLE lope_incoming (LIKE lope_events) ON COMMIT DELETE ROWS");
    run("COMMIT");
  }

  void check_version() {
    PGresult* const result = pq_.exec(connection_, "SELECT version FROM lope_journal");
    const bool read = pq_.resultStatus(result) == PGRES_TUPLES_OK && pq_.ntuples(result) == 1;
    const std::string version = read ? pq_.getvalue(result, 0, 0) : "";
    pq_.clear(result);
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

  // Data that it does not take, as in an index whose rows have their limit: classes of SQLSTATE.
  bool is_refused(const PGresult* result) const {
    const char* const state = pq_.resultErrorField(result, PG_DIAG_SQLSTATE);
    const std::string_view kind = std::string_view(state == nullptr ? "" : state).substr(0, 2);
    return kind == "22" || kind == "23" || kind == "54";
  }

  [[noreturn]] void fail(const std::string& what, bool refused = false) {
    std::string problem = pq_.errorMessage(connection_);
    while (!problem.empty() && problem.back() == '\n') problem.pop_back();
    if (refused) {
      refused_ = true;
      throw RefusedError("PostgreSQL: " + what + ": " + problem);
    }
    disconnect();
    throw StoreError("PostgreSQL: " + what + ": " + problem);
  }

  // How many rows it was about.
  std::uint64_t run(const char* sql, ExecStatusType expected = PGRES_COMMAND_OK) {
    PGresult* const result = pq_.exec(connection_, sql);
    const ExecStatusType status = pq_.resultStatus(result);
    const std::uint64_t rows = std::strtoull(pq_.cmdTuples(result), nullptr, 10);
    const bool refused = is_refused(result);
    pq_.clear(result);
    if (status != expected && status != PGRES_TUPLES_OK) {
      const std::string_view text(sql);
      fail(std::string(text.substr(0, text.find_first_of("\n(", 1))), refused);
    }
    return rows;
  }

  void send() {
    if (rows_.empty()) return;
    if (pq_.putCopyData(connection_, rows_.data(), static_cast<int>(rows_.size())) != 1)
      fail("COPY");
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
  PGconn* connection_ = nullptr;
  bool refused_ = false;  // the transaction, and the connection stands
  std::string rows_;
  bool first_ = true;  // of a row's fields
};

}  // namespace

std::unique_ptr<Store> open_postgres_store(const std::string& url) {
  return std::make_unique<PostgresStore>(url);
}

}  // namespace lope::plugins
