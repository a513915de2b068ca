// The journal's channel of the connection that publishes: messages of many events each, sent
// behind everything else that is published, with or without confirms, and never waited for. What
// cannot be sent is kept, up to a bound, and then given up and counted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/repeated_log.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "consumer/connection.h"

namespace lope::consumer {

class JournalLane {
 public:
  static constexpr std::size_t kMostBytes = 16 << 20;
  // Without confirms: what could not be sent for so long is given up.
  static constexpr std::chrono::seconds kKept{10};
  static constexpr std::chrono::seconds kLookAgain{5};  // for an exchange that was not there

  // All three have to live as long.
  JournalLane(const JournalSettings& settings, const std::string& group, GroupBoard& board)
      : settings_(settings), group_(group), board_(board) {}

  // A body of `events` lines.
  void add(std::string body, std::uint32_t events, TimePoint now);
  // Is there something to send?
  bool has_work() const { return !waiting_.empty(); }
  // Everything has been sent, and confirmed where that is asked for.
  bool empty() const { return waiting_.empty() && unconfirmed_.empty(); }
  // For an answer to what was sent; and what grows whenever the oldest of that is answered.
  bool waits() const { return (asked_ && state_ != State::open) || !unconfirmed_.empty(); }
  std::uint64_t moves() const { return moves_; }
  // Nothing is sent before this.
  TimePoint not_before() const { return not_before_; }
  // Gives up what has waited for too long.
  void tend(TimePoint now);
  // Gives up everything.
  void give_up(std::string_view reason);

  // ---- The publisher's
  // As far as the connection's buffer is below `limit`.
  void send(Connection& connection, ChannelNumber number, std::size_t limit);
  void on_ok(Reply reply);
  void on_closed(const std::string& reason);
  void on_returned(std::string_view message_id, const std::string& reason);
  void on_confirmed(std::uint64_t tag, bool multiple, bool ack);
  void on_connection_lost();

 private:
  enum class State { down, opening, looking, confirming, open };
  struct Batch {
    std::string body;
    std::string message_id;
    std::uint32_t events = 0;
    TimePoint made{};
    std::uint64_t tag = 0;
    bool sent = false;  // at least once
    bool returned = false;
    int closed = 0;  // channels that were closed with it as the oldest
  };

  void enter(State state);
  void reset();
  void drop(const Batch& batch, std::string_view reason);
  void take_back_unconfirmed();

  const JournalSettings& settings_;
  const std::string& group_;
  GroupBoard& board_;
  State state_ = State::down;
  bool asked_ = false;  // the request of this state has been sent
  TimePoint not_before_{};
  std::string trouble_;  // why nothing is sent; empty: the connection is to blame
  std::deque<Batch> waiting_;
  std::deque<Batch> unconfirmed_;  // ascending tags
  std::size_t bytes_ = 0;          // in both
  std::uint64_t next_tag_ = 1;
  std::uint64_t moves_ = 0;
  RepeatedLog repeated_;
};

}  // namespace lope::consumer
