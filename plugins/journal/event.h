// One line of a journal's message: what a consumer tells of one of its messages. docs/journal.md
// has the fields.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lope::plugins {

struct Event {
  // These every event has; (source, n) names it for ever.
  std::string event;
  std::string source;
  std::int64_t n = 0;
  std::int64_t time_us = 0;

  // Empty, and 0, where it does not have them. A reason is cut at 2000 bytes, a body not at all,
  // each other text at 1024; how long something took is from 0 to 30 years.
  std::string kind, host, group, queue;
  std::string message_id, parent_id, trace_id;
  std::string exchange, routing_key, content_type, type, app_id;
  std::string outcome, reason, code, worker, handler, handler_version, fate;
  std::string headers;  // an object, as JSON
  std::string body, body_encoding;
  std::int64_t attempt = 0, size = 0, waited_us = 0, ran_us = 0, delay_ms = 0, crashes = 0;
  std::int64_t timestamp = 0;
  bool redelivered = false, body_cut = false;
};

// Fills `event`, whose memory is used again. False: the line is none, and `problem` says why.
// One after `latest_us` is none: it would be the latest for ever, and never go. Fields that are not
// known are passed over.
bool parse_event(std::string_view line, Event& event, std::string& problem,
                 std::int64_t latest_us = INT64_MAX);

}  // namespace lope::plugins
