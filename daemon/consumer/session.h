// The group's life with the broker: connect and reconnect, one channel a queue and the steps that
// bring each to consuming, deliveries in, settlements out. Never blocks.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/event_loop.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "consumer/connection.h"
#include "consumer/connector.h"
#include "consumer/dead_letter_probe.h"
#include "consumer/queue_check.h"
#include "consumer/settlement.h"

namespace lope::consumer {

// The node of a connection, nullptr for none, for all to see.
void show_broker(GroupBoard::Broker& told, const Connection* connection);

class Session final : private ConnectionEvents {
 public:
  struct Events {
    // Where the body goes; nullptr drops it (then the delivery has been finished).
    std::function<char*(std::uint16_t queue, std::uint64_t epoch, const IncomingDelivery&)>
        on_delivery;
    // The delivery begun last on this queue is complete.
    std::function<void(std::uint16_t queue)> on_complete;
    // The queue's channel is gone: its unsettled deliveries are the broker's again.
    std::function<void(std::uint16_t queue)> on_channel_lost;
    // The requests that bring a queue to consuming; nothing: subscription_steps().
    std::function<std::vector<Request>(const QueueSettings& queue, bool channel_open)> steps;
    // A stream seems to end before the message that its subscription was to go on with: nothing has
    // come, though its last part, which begins at `offset`, is there.
    std::function<void(std::uint16_t queue, std::int64_t offset)> on_ends_before;
    // Set: each queue is asked for its dead-letter exchange before it is consumed from.
    std::function<void(std::uint16_t queue, const DeadLetterProbe&)> on_probed;
    // Something that the board or the supervisor should know of has changed.
    std::function<void()> on_change;
  };

  static Result<std::unique_ptr<Session>> create(EventLoop& loop, const BrokerSettings& broker,
                                                 const std::string& connection_name,
                                                 const GroupSettings& group, GroupBoard& board,
                                                 Events events);

  // Begins to connect, and to consume from every queue. Once.
  void start();
  // Handles what has arrived, up to a bound. True: there is more.
  bool pump();
  // Is the channel that the delivery came on still there?
  bool current(std::uint16_t queue, std::uint64_t epoch) const {
    return channels_[queue].epoch == epoch;
  }
  // Are so many of its deliveries unsettled that the broker sends no more?
  bool window_full(std::uint16_t queue) const {
    const Channel& channel = channels_[queue];
    return channel.settlement.unfinished() >= static_cast<std::size_t>(channel.settings.prefetch);
  }
  // How many deliveries the broker may still send, as far as it knows.
  std::size_t window_left(std::uint16_t queue) const {
    const Channel& channel = channels_[queue];
    const std::size_t unsettled = channel.settlement.unfinished() + channel.settlement.pending();
    const auto prefetch = static_cast<std::size_t>(channel.settings.prefetch);
    return prefetch > unsettled ? prefetch - unsettled : 0;
  }
  // Settles a delivery of the current epoch, at the next flush(). A stream only hears that there is
  // room for another, whatever became of this one: it knows no more.
  void finish(std::uint16_t queue, std::uint64_t tag, Verdict verdict);
  // Sends settlements and requests as far as the socket takes them. `all` false: only settlements
  // that are many enough.
  void flush(bool all);

  // Every queue consuming?
  bool consuming() const;
  // Why not, one queue's reason; empty when consuming.
  std::string trouble() const;

  // Bytes that have come over this connection.
  std::uint64_t received() const { return connection_ == nullptr ? 0 : connection_->received(); }
  // Sleeps until about `bytes` have come, at most for `limit`; false: it cannot.
  bool sleep(std::size_t bytes, std::chrono::nanoseconds limit);
  // Before a wait in the event loop; that for a body must have a limit.
  void wake_for_anything();
  void wake_for_body();

  // For a group that keeps an order. Closes the connection in order, see close(), and opens
  // another: what is not settled is back in its old places then, before any other consumer gets the
  // next.
  void renew();
  // Or about to be closed.
  bool connected() const { return state_ == State::connected || state_ == State::closing; }

  // Ends consuming on all queues, until resume(). What was delivered can be settled meanwhile, and
  // the connection stays, or comes back when it is lost. Also before start().
  void pause();
  void resume();
  bool paused() const { return paused_; }
  // All that pause() is to bring has happened, but where the broker still owes the answer to a
  // subscription that was begun: when that comes, it is ended.
  bool quiet() const;
  // Begins a queue's subscription anew. One that has ended is about to begin, or not to.
  void subscribe_again(std::uint16_t queue);
  // Ends consuming on all queues and does not begin again. In a group that keeps an order, those
  // that consume do so until close(): a single active consumer that is cancelled lets the next one
  // begin while ours still runs something, and what is handed back singly has another place.
  void cancel();
  // All that cancel() is to bring has happened: close() may follow.
  bool ending() const { return keeps_order_ || cancelled(); }
  // No delivery can arrive any more.
  bool cancelled() const;
  // Everything finished has been written to the socket.
  bool flushed() const;
  // Closes the connection in order: the broker has then read all that was written, and the queues
  // have what was settled. For that it waits half of what is left until `deadline`, and 2 s at
  // most; called again, a shorter time counts. Returns how long that is.
  std::chrono::milliseconds close(TimePoint deadline);
  bool closed() const { return state_ == State::closed; }
  // Drops the connection at once; unsettled deliveries go back.
  void abandon();

 private:
  enum class State { idle, connecting, waiting, connected, closing, closed };

  struct Channel {
    enum class State { down, setting_up, consuming, cancelling, cancelled, securing };
    QueueSettings settings;
    State state = State::down;
    bool open = false;        // on the broker's side
    bool settled = false;     // anything for good, since it was opened
    std::uint64_t epoch = 0;  // grows with every channel opened
    std::vector<Request> steps;
    std::size_t step = 0;
    bool step_sent = false;
    TimePoint step_sent_at{};
    Settlement settlement;
    TimePoint finished_since{};  // of what is not flushed, the oldest
    std::string consumer_tag;
    // The second consumer of a stream, see add_lookout().
    enum class Lookout { none, out, to_cancel };
    Lookout lookout = Lookout::none;
    bool from_stream = false;  // what was delivered last
    bool first_came = false;   // of this subscription
    bool again = false;        // it is to end once it has begun, and to begin anew
    TimePoint ends_before_at =
        TimePoint::max();        // when nothing has come by then but for the lookout
    std::int64_t last_part = 0;  // where what it got was
    int failures = 0;            // set-ups in a row that failed
    TimePoint retry_at{};        // while down: not before
    std::string trouble;         // why it is down, as logged
    std::optional<DeadLetterProbe> probe;
    std::size_t probe_before = 0;    // which step
    std::uint64_t subscription = 0;  // grows with each one begun
    struct Check {
      QueueCheck policy;
      std::vector<Request> steps;  // those that are not answered yet
      bool sent = false;           // the first of them
      bool open = false;           // its channel
      bool refused = false;        // by the broker, for this subscription
      bool has_step_to_send() const { return !steps.empty() && !sent; }
    } check;
    Suspicion suspicion;
    bool left = false;  // silent at every address, or to the end: nobody waits for its answer
    bool has_step_to_send() const {
      return lookout == Lookout::to_cancel ||
             (!step_sent && (state == State::setting_up || state == State::cancelling ||
                             state == State::securing));
    }
    bool keeps_end_waiting() const {
      return state == State::setting_up || state == State::cancelling;
    }
    bool probe_is_next() const {
      return probe.has_value() && state == State::setting_up && step == probe_before;
    }
  };

  struct OutgoingOp {
    std::uint16_t queue;
    std::uint64_t epoch;
    SettleOp op;
  };

  Session(EventLoop& loop, const GroupSettings& group, GroupBoard& board, Events events);

  static ChannelNumber number(std::uint16_t queue) {
    return static_cast<ChannelNumber>(queue + 1u);
  }
  Channel* channel(ChannelNumber number);
  std::uint16_t queue_of(const Channel& channel) const;

  void connect();
  void on_connect_ended();
  void drop_connection();
  void connection_lost(const std::string& reason);
  void void_connection();
  void renewed();
  void begin_subscription(Channel& channel);
  void end_subscription(Channel& channel);
  // No channel is to consume.
  bool is_to_be_quiet() const { return cancelling_ || paused_; }
  void subscription_failed(Channel& channel, const std::string& reason);
  void channel_lost(Channel& channel);
  void void_channel(Channel& channel);
  void send_steps();
  void not_secured(const Channel& channel, const std::string& reason) const;
  Channel* probed_now();
  Channel* answered_probe();
  void send_probe(Channel& channel);
  void probe_ended(Channel& channel, bool last);
  bool is_for_lookout(Channel& channel, const IncomingDelivery& delivery);
  // The channel that probes use, one after another.
  ChannelNumber probe_number() const { return static_cast<ChannelNumber>(channels_.size() + 1); }
  // The channel that a queue's check uses.
  ChannelNumber check_number(std::uint16_t queue) const {
    return static_cast<ChannelNumber>(probe_number() + 1u + queue);
  }
  Channel* checked(ChannelNumber number);
  void check_queues();
  std::string unanswered(Channel& channel);
  bool probe_unanswered();
  void leave(Channel& channel, const std::string& reason);
  void answers(Channel& channel);
  void forget_slow_set_ups();
  void send_check(Channel& channel);
  void send_ops();
  void on_timer();
  void arm_timer();
  void watch_socket();

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
  GroupBoard& board_;
  Events events_;
  const std::string group_;
  const bool keeps_order_;
  State state_ = State::idle;
  bool renewing_ = false;
  bool cancelling_ = false;
  bool paused_ = false;
  std::vector<Channel> channels_;
  std::unique_ptr<Connector> connector_;
  std::unique_ptr<Connection> connection_;
  std::chrono::milliseconds tick_{0};  // of the heartbeat; 0: none
  TimePoint next_tick_{};
  bool check_due_ = false;        // of the queues, once everything that has come is read
  std::size_t slow_set_ups_ = 0;  // connections in a row that were given up for one
  TimePoint set_up_at_{};         // when the latest step of any was answered
  bool may_move_ = false;         // to another address, if this one is no good
  bool may_ask_ = false;          // queues for a sign of life
  int attempts_ = 0;              // since the last connection
  TimePoint connected_at_{};
  std::string protocol_error_;  // found inside pump(), which is no place to end the connection
  TimePoint reconnect_at_{};
  TimePoint down_since_{};
  std::string connect_trouble_;
  std::vector<std::string> reported_;  // reasons logged since the last connection
  std::vector<OutgoingOp> outgoing_;
  std::size_t outgoing_sent_ = 0;
  TimePoint answered_by_{};  // since cancel(): what is not answered then is left
  TimePoint secured_by_{};   // while closing: not later
  bool close_sent_ = false;
  bool probe_open_ = false;
  bool probe_asked_ = false;
  std::pair<std::uint16_t, std::uint64_t> probe_for_;  // queue and subscription of what was asked
  std::uint64_t probes_sent_ = 0;
  std::optional<std::uint64_t> probe_seen_;  // the one not answered at the latest tick
  std::vector<SettleOp> ops_;                // scratch
  bool readable_ = false;

  EventSource connector_source_;
  EventSource socket_source_;
  EventSource timer_;
};

}  // namespace lope::consumer
