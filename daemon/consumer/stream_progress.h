// How far a group has come in one stream. A stream forgets nothing and keeps no account of its
// readers, so we do: the highest offset that came, and those up to it that are not settled.
// Everything else up to there is. Pure.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/settings.h"

namespace lope::consumer {

// Offsets are those of the stream, from 0 on; -1: none.
struct StreamPosition {
  struct Range {
    std::int64_t first = 0, last = 0;
    friend bool operator==(const Range&, const Range&) = default;
  };
  StreamOffset begin;       // where reading begins while nothing has come
  std::int64_t seen = -1;   // the highest that came
  std::vector<Range> open;  // up to there, not settled; ascending
  std::uint64_t print = 0;  // of the message at resume_at(); 0: not known
  // Reading goes on with this one: the first that is not settled, or, to see that the stream is
  // still the same, the last that is.
  std::int64_t resume_at() const { return open.empty() ? seen : open.front().first; }
  friend bool operator==(const StreamPosition&, const StreamPosition&) = default;
};

// As it is kept in a file: lines for people, and a sum over them.
std::string position_text(std::string_view stream, const StreamPosition& position);
Result<StreamPosition> parse_position(std::string_view text);

// What a message is known by when it comes again. Begun with its properties, ended with its body,
// of which only the first part counts.
std::uint64_t begin_print(std::string_view message_id, std::string_view routing_key,
                          std::uint64_t timestamp, std::uint64_t body_size);
std::uint64_t end_print(std::uint64_t begun, std::string_view body);

class StreamProgress {
 public:
  explicit StreamProgress(const StreamPosition& position);

  // What the broker's clock may be behind ours.
  static constexpr std::int64_t kClockMargin_s = 120;

  // A subscription begins: from here. What comes after `next` or `last` was asked for must not be
  // passed over when nothing has come by the end of this subscription: later ones begin at this
  // time, less the margin.
  StreamOffset subscribe(std::int64_t now_s);
  // It goes on where another has stopped: a stream that ends before that is not the same.
  bool resumes() const { return seen_ >= 0; }

  enum class Arrival {
    take,
    compare,  // settled or in hand; taken only to be compared, or for its print
    skip,     // settled or in hand
  };
  Arrival arrived(std::int64_t offset);
  // Messages that the stream has dropped, by its retention, before they could be read: how many
  // the latest arrived() has found.
  std::int64_t lost() const { return lost_; }

  // All of a message that was not skipped is here. False: it is not the one that had this offset.
  bool complete(std::int64_t offset, std::uint64_t print);

  // Of one that was taken: it is done with, or it has to come again. The first counts.
  void settled(std::int64_t offset);
  void given_back(std::int64_t offset);

  // The stream is another one: all of it is read, once subscribe() was called.
  void start_over();

  StreamPosition position() const;
  // The lowest offset that is not settled, or what comes next; -1 while nothing has come.
  std::int64_t next() const;
  std::int64_t seen() const { return seen_; }
  // How many it remembers, settled ones that lie between others among them.
  std::size_t entries() const { return entries_.size(); }
  // Grows whenever position() becomes another.
  std::uint64_t changes() const { return changes_; }

 private:
  enum class State : std::uint8_t { in_hand, given_back, settled };
  struct Entry {
    std::int64_t offset;
    std::uint64_t print;
    State state;
  };
  Entry* find(std::int64_t offset);
  void forget_settled();
  const Entry* first_open() const { return entries_.empty() ? nullptr : &entries_.front(); }

  StreamOffset begin_;
  std::int64_t seen_ = -1;
  std::uint64_t seen_print_ = 0;
  std::deque<Entry> entries_;  // ascending; the first is not settled
  std::size_t settled_ = 0;    // of them
  std::uint64_t changes_ = 0;

  // Of the present subscription.
  bool over_ = false;   // what still comes of it is nobody's
  bool first_ = false;  // nothing has come yet
  std::int64_t resumed_at_ = -1;
  bool comparing_ = false;      // the message at resumed_at_ is on its way
  std::uint64_t expected_ = 0;  // its print
  std::int64_t lost_ = 0;
};

}  // namespace lope::consumer
