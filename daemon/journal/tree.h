// The messages of a story as a tree: each with its attempts, below the one whose handler published
// it. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "journal/journal.h"

namespace lope::journal {

// A delivery, and what became of it.
struct Attempt {
  std::string group, queue, host;
  std::string worker = {}, handler = {}, handler_version = {};
  std::string outcome = {};  // empty: nobody has said what became of it
  std::string reason = {}, code = {};
  std::int64_t number = 0;
  std::int64_t received_us = 0;  // since 1970; 0: not known
  std::int64_t handled_us = 0;   // since 1970; 0: not over
  std::int64_t waited_us = 0, ran_us = 0, delay_ms = 0, crashes = 0;
  bool redelivered = false;
};

struct Publishing {
  std::string kind;  // "publication", "retry", "waiting", "dead_letter"
  std::string exchange, routing_key, fate;
  std::int64_t time_us = 0, delay_ms = 0;
};

struct Message {
  std::string id, parent_id, type, content_type, app_id;
  std::int64_t size = 0;
  std::vector<Publishing> published;  // by time
  std::vector<Attempt> attempts;      // by time
  std::vector<std::size_t> children;  // places in Tree::messages
  int level = 0;
};

struct Tree {
  std::string trace_id;
  std::vector<Message> messages;  // each before its children, which follow in the order of time
  std::size_t left_out = 0;
  bool more_left_out = false;  // as in Story
  std::int64_t begin_us = 0, end_us = 0;
};

Tree make_tree(const Story& story);

// "ack", "retry", …: of its latest attempt; "waiting" when nothing was heard since it was
// published.
std::string state_of(const Message& message);

// For people: a line for each attempt, times from the beginning. Text of others is harmless.
std::string to_text(const Tree& tree);
// One object, on one line.
std::string to_json(const Tree& tree);
std::string to_json(const std::vector<Event>& events);

}  // namespace lope::journal
