// Looks into a journal: the store that the handler `journal` writes (plugins/journal). Reading
// only, while others write.
#pragma once

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

// For one question, opening the store among it. What is not answered in time is given up.
struct Limits {
  TimePoint until = Clock::now() + std::chrono::seconds(10);
  std::size_t messages = 1000;
  std::size_t events = 20'000;     // of a story
  std::size_t bytes = 16U << 20U;  // that the texts of events have; of a search the latest are kept
};

inline constexpr const char* kTookTooLong = "it took too long";

// Each function is an error when the store does not answer, and when `limits.until` is over:
// kTookTooLong. Of an event's reason at most kMostOfReason characters are read, of each other text
// kMostOfText.
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
Result<std::unique_ptr<Reader>> open_journal(const std::string& store, const Limits& limits);

// For open_journal().
Result<std::unique_ptr<Reader>> open_sqlite_journal(const std::string& path);
Result<std::unique_ptr<Reader>> open_postgres_journal(const std::string& url, const Limits& limits);

inline constexpr std::size_t kMostOfReason = 2000;
inline constexpr std::size_t kMostOfText = 1024;
struct TextField {
  const char* name;  // as a store calls its column
  std::string Event::*member;
};
inline constexpr TextField kTextFields[] = {
    {"event", &Event::event},
    {"kind", &Event::kind},
    {"host", &Event::host},
    {"group", &Event::group},
    {"queue", &Event::queue},
    {"message_id", &Event::message_id},
    {"parent_id", &Event::parent_id},
    {"trace_id", &Event::trace_id},
    {"exchange", &Event::exchange},
    {"routing_key", &Event::routing_key},
    {"content_type", &Event::content_type},
    {"type", &Event::type},
    {"app_id", &Event::app_id},
    {"outcome", &Event::outcome},
    {"reason", &Event::reason},
    {"code", &Event::code},
    {"worker", &Event::worker},
    {"handler", &Event::handler},
    {"handler_version", &Event::handler_version},
    {"fate", &Event::fate},
};
// Of all the texts of an event.
std::size_t text_bytes(const Event& event);

// More messages than this are not even counted.
inline constexpr std::size_t kMostCounted = 100'000;

}  // namespace lope::journal
