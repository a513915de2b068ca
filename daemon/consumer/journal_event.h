// The journal's events as lines of JSON: what came, what became of it, what was published for it.
// Pure. The format is docs/journal.md's.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/link.h"

namespace lope::consumer {

// Which message it is about, and which it came from. Views, cut where they are longer than this.
inline constexpr std::size_t kMostOfId = 255;
struct MessageIds {
  std::string_view message = {}, parent = {}, trace = {};
};
// Of a delivery, whose `view` may be that of its frame. A message without an id goes by the one
// that Lope has given it; one without a trace begins its own.
MessageIds ids_of(const DeliveryView& view);
// Of a publication with this id and these headers, made by HeaderWriter.
MessageIds ids_of(std::string_view message_id, std::string_view headers);

// What every event says.
struct EventHead {
  std::string_view origin = {};  // a piece of JSON, made by event_origin()
  std::uint64_t number = 0;
  std::uint64_t time_us = 0;
  MessageIds ids = {};
  std::uint32_t attempt = 1;
};
// Who says it, and of which queue.
std::string event_origin(std::string_view source, std::string_view host, std::string_view group,
                         std::string_view queue);

struct ReceivedEvent {
  const DeliveryView& view;
  std::uint64_t size = 0;
  bool headers = false;
  std::span<const std::string> secret_headers =
      {};  // those whose name holds one of these are not shown
  bool body = false;
  std::string_view bytes = {};  // of the body
  std::size_t max_body = 0;
};
struct HandledEvent {
  std::string_view outcome;
  std::string_view reason = {};
  std::string_view code = {};   // of a dead letter
  std::int64_t waited_us = -1;  // below 0: not known, as the next
  std::int64_t ran_us = -1;
  std::string_view worker = {}, handler = {}, handler_version = {};
  std::uint32_t crashes = 0;
  std::int64_t delay_ms = 0;
};
struct PublishedEvent {
  std::string_view kind;
  std::string_view exchange = {}, routing_key = {};
  std::uint64_t size = 0;
  std::int64_t delay_ms = 0;
  std::string_view fate = {};
};

// Each appends a line with its newline.
void append_event(std::string& out, const EventHead& head, const ReceivedEvent& event);
void append_event(std::string& out, const EventHead& head, const HandledEvent& event);
void append_event(std::string& out, const EventHead& head, const PublishedEvent& event);

}  // namespace lope::consumer
