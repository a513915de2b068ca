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

  // Empty, and 0, where it does not have them.
  std::string kind, host, group, queue;
  std::string message_id, parent_id, trace_id;  // cut at 1024 bytes
  std::string exchange, routing_key, content_type, type, app_id;
  std::string outcome, reason, code, worker, handler, handler_version, fate;
  std::string headers;  // an object, as JSON
  std::string body, body_encoding;
  std::int64_t attempt = 0, size = 0, waited_us = 0, ran_us = 0, delay_ms = 0, crashes = 0;
  std::int64_t timestamp = 0;
  bool redelivered = false, body_cut = false;
};

// Fills `event`, whose memory is used again. False: the line is none, and `problem` says why.
// Fields that are not known are passed over.
bool parse_event(std::string_view line, Event& event, std::string& problem);

}  // namespace lope::plugins
