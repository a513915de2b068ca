// Looks into a journal: the store that the handler `journal` writes (plugins/journal). Reading
// only, while others write.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/result.h"

namespace lope::journal {

// What a consumer has told; docs/journal.md has the fields. Empty, and 0: it did not say.
struct Event {
  std::string event, kind, host, group, queue;
  std::string message_id, parent_id, trace_id;
  std::string exchange, routing_key, content_type, type, app_id;
  std::string outcome, reason, code, worker, handler, handler_version, fate;
  std::int64_t time_us = 0, n = 0, attempt = 0, size = 0, waited_us = 0, ran_us = 0, delay_ms = 0;
  std::int64_t crashes = 0, timestamp = 0;
  bool redelivered = false;
};

// All that is known of the messages that have to do with one.
struct Story {
  std::vector<Event> events;   // by time
  std::size_t messages = 0;    // that events are of
  std::size_t left_out = 0;    // messages beyond those asked for
  bool more_left_out = false;  // and perhaps more than that, or further events of these
};

struct Search {
  std::string event = "handled";
  std::string queue = {}, outcome = {};  // empty: any
  std::int64_t from_us = 0;
  std::int64_t to_us = INT64_MAX;  // not included
  std::size_t limit = 100;
};

// A statement is given up at its deadline.
struct Limits {
  std::chrono::milliseconds time{10'000};
  std::size_t messages = 1000;
  std::size_t events = 20'000;  // of a story
};

inline constexpr const char* kTookTooLong = "it took too long";

// Each function is an error when the store does not answer, and when `limits.time` is over:
// kTookTooLong.
class Reader {
 public:
  virtual ~Reader() = default;
  // Of every message that shares the trace of the message or trace `id`, or is linked to it by
  // parents. No events: nobody has heard of `id`.
  virtual Result<Story> story(const std::string& id, const Limits& limits) = 0;
  // The latest first.
  virtual Result<std::vector<Event>> search(const Search& search, const Limits& limits) = 0;
};

// A path, or postgresql://…. Errors say what is there instead of a journal; no password is in them.
Result<std::unique_ptr<Reader>> open_journal(const std::string& store);

// For open_journal().
Result<std::unique_ptr<Reader>> open_sqlite_journal(const std::string& path);
Result<std::unique_ptr<Reader>> open_postgres_journal(const std::string& url);

// More messages than this are not even counted.
inline constexpr std::size_t kMostCounted = 100'000;

}  // namespace lope::journal
