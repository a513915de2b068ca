// The second connection to the broker, which publishes: a resource alarm that stops publishing must
// not stop acks. Opened at first use. Everything is published mandatory or as told, confirmed, many
// under way at a time, and what has to be there for it is looked for or declared before, on a
// channel of its own: one bad publication must not cost the others their confirms.
//
// When the broker closes the channel all the same, what was unconfirmed is sent again with the same
// ids: one by one, on another channel, so that the guilty one is found. After a lost connection it
// is sent again as before; who was under way on two of them goes one by one, and who was on three
// is given up, unless the broker was blocking publishers. Never blocks.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/event_loop.h"
#include "common/repeated_log.h"
#include "common/settings.h"
#include "consumer/connection.h"
#include "consumer/connector.h"
#include "consumer/journal_lane.h"
#include "consumer/queue_check.h"
#include "consumer/trace_context.h"

namespace lope::consumer {

// One thing to publish, until its fate is known.
struct Outbound {
  std::uint64_t cause = 0;  // the owner's
  int kind = 0;             // the owner's
  // What has to be there, as Publisher::Events::steps_for() understands it; empty: nothing.
  std::string need;
  // Its views point into `storage`, which the publisher does not look at, or live as long.
  Publication publication;
  std::string storage;
  std::string exchange, routing_key, expiration;  // for views of the publication, likewise
  std::string message_id;  // of the publication, wherever that has it from: a return names it
  std::chrono::milliseconds delay{0};  // on the delay ladder; for those who are told of it
  SpanId span{};                       // of its own span; zeros: it has none

 private:
  friend class Publisher;
  int connections_lost = 0;
  bool suspect = false;  // channels or connections were lost with it: it may be why
  bool returned = false;
  std::string return_reason;
};

enum class Fate {
  confirmed,
  returned,  // no queue takes it
  nacked,    // the broker refuses it: a queue is full
  refused,  // it cannot be published: what has to be there is not, or the broker closes the channel
  too_large,  // its headers fit no frame
  lost,       // with three connections
};
const char* to_string(Fate fate);

class Publisher final : private ConnectionEvents {
 public:
  struct Events {
    std::function<void(std::unique_ptr<Outbound>, Fate, const std::string& reason)> on_fate;
    // There is a connection now, or none any more. May be empty.
    std::function<void(const Connection*)> on_connection;
    // The requests after which what `need` names is there.
    std::function<std::vector<Request>(const std::string& need)> steps_for;
  };

  static Result<std::unique_ptr<Publisher>> create(EventLoop& loop, const BrokerSettings& broker,
                                                   const std::string& connection_name,
                                                   std::string group, Events events);

  void publish(std::unique_ptr<Outbound> outbound);
  // Nobody waits for the fates of this cause's publications any more: what has not been sent is not
  // sent. Calls `on_each`, which may be empty, with each of them.
  void forget(std::uint64_t cause, const std::function<void(const Outbound&)>& on_each = {});

  // Handles what has arrived, up to a bound. True: there is more.
  bool pump();
  // Sends as far as the socket takes it.
  void flush();

  // Takes this along; it is there as long as we are.
  void carry(JournalLane* journal) { journal_ = journal; }

  // Not yet confirmed.
  std::size_t pending_bytes() const { return pending_bytes_; }

  // Closes the connection in order, what is pending or not; no publish() after it.
  void close();
  bool closed() const { return state_ == State::idle; }
  void abandon();

 private:
  enum class State { idle, connecting, waiting, connected, closing };
  using Queue = std::deque<std::unique_ptr<Outbound>>;

  // A channel that publishes with confirms.
  struct Lane {
    enum class State { down, opening, confirming, open };
    ChannelNumber number = 0;
    State state = State::down;
    bool asked = false;           // the request of this state has been sent
    Queue unconfirmed;            // those confirmed out of turn are nullptr
    std::uint64_t first_tag = 1;  // of unconfirmed
    std::size_t in_flight = 0;    // of unconfirmed, those that are not nullptr
    std::uint64_t moves = 0;      // grows when the oldest is confirmed, or anything else answered
    bool waits() const { return in_flight > 0 || asked; }
  };

  // What has to be there for publications, one after another.
  struct Search {
    enum class State { down, opening, open };
    State state = State::down;
    bool asked = false;
    std::deque<std::string> needs;  // the first is being looked for
    std::vector<Request> steps;     // of the first
    std::size_t sent = 0, answered = 0;
    std::uint64_t moves = 0;  // grows with every answer
    bool waits() const {
      return state == State::opening ? asked : !steps.empty() && sent > answered;
    }
  };

  // For how many ticks in a row something is waited for, and does not move.
  struct Still {
    int ticks = 0;
    std::uint64_t seen = 0;
    void tick(bool waits, std::uint64_t moves) {
      const bool same = std::exchange(seen, moves) == moves;
      ticks = waits && same ? ticks + 1 : 0;
    }
  };

  Publisher(EventLoop& loop, std::string group, Events events);

  void connect();
  void on_connect_ended();
  void drop_connection();
  void connection_lost(const std::string& reason);
  void on_timer();
  void arm_timer();
  std::string stands_still();
  void watch_socket();
  void route(std::unique_ptr<Outbound> outbound);
  void line_up(std::unique_ptr<Outbound> outbound);
  void route_again(Queue outbounds);
  void miss(const std::string& need, const std::string& reason);
  void need_met();
  void need_failed(const std::string& reason);
  void open_lane(Lane& lane);
  void send_search();
  void send_ready();
  void send_suspects();
  void send_on(Lane& lane, std::unique_ptr<Outbound> outbound);
  void reset_lane(Lane& lane);
  void conclude(std::unique_ptr<Outbound> outbound, Fate fate, const std::string& reason);
  void conclude_all(Queue outbounds, Fate fate, const std::string& reason);
  void take_unconfirmed(Lane& lane, Queue& into);
  Lane* lane_of(ChannelNumber number);

  // ConnectionEvents
  void on_ok(ChannelNumber number, Reply reply, std::string_view text) override;
  char* on_delivery(const IncomingDelivery& delivery) override;
  void on_body(ChannelNumber number) override;
  void on_cancelled(ChannelNumber number, std::string_view consumer_tag) override;
  void on_channel_closed(ChannelNumber number, int code, std::string_view text) override;
  void on_returned(const ReturnedPublication& publication) override;
  void on_confirmed(ChannelNumber number, std::uint64_t tag, bool multiple, bool ack) override;
  void on_blocked(std::string_view reason) override;
  void on_unblocked() override;

  EventLoop& loop_;
  Events events_;
  const std::string group_;
  State state_ = State::idle;
  bool ending_ = false;
  bool close_sent_ = false;
  std::unique_ptr<Connector> connector_;
  std::unique_ptr<Connection> connection_;
  bool readable_ = false;
  std::string blocked_;  // the broker's reason
  TimePoint connected_at_{};
  TimePoint reconnect_at_{};
  std::chrono::milliseconds tick_{0};
  TimePoint next_tick_{};
  std::uint64_t answers_ = 0;  // confirms, and whatever else came on our channels
  Still all_still_;
  std::array<Still, 4> still_;  // each for itself: lanes, search, journal
  Suspicion suspicion_;         // that a node is cut off, though it answers something
  int ticks_calm_ = 0;          // in a row without any of still_
  std::vector<std::string> reported_;

  Lane main_;     // everything
  Lane careful_;  // suspects, one at a time
  Search search_;
  JournalLane* journal_ = nullptr;
  std::set<std::string> there_;  // needs that are met
  struct Missing {
    TimePoint until;
    std::string reason;
  };
  // Needs that were not, a moment ago, and exchanges that refused a publication.
  std::unordered_map<std::string, Missing> missing_;
  std::unordered_map<std::string, Queue> searching_;  // what waits for each need
  Queue ready_;
  Queue suspects_;
  Queue concluding_;  // the rest, while the owner hears of one
  RepeatedLog repeated_;
  std::size_t pending_ = 0;
  std::size_t pending_bytes_ = 0;

  EventSource connector_source_;
  EventSource socket_source_;
  EventSource timer_;
};

}  // namespace lope::consumer
