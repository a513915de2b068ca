// The consumer process: one group's loop. Ties the session (broker) to the pool (workers), keeps
// the deliveries between them, and drains. Runs no foreign code.
#pragma once

#include <deque>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/event_loop.h"
#include "common/patience.h"
#include "common/repeated_log.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "consumer/autoscale.h"
#include "consumer/breaker.h"
#include "consumer/copies.h"
#include "consumer/dedup.h"
#include "consumer/dedup_thread.h"
#include "consumer/delivery_table.h"
#include "consumer/order.h"
#include "consumer/orders.h"
#include "consumer/publisher.h"
#include "consumer/rate.h"
#include "consumer/recollection.h"
#include "consumer/session.h"
#include "consumer/streams.h"
#include "consumer/tracer.h"
#include "consumer/witness.h"
#include "consumer/worker_pool.h"

namespace lope::consumer {

class Consumer {
 public:
  Consumer(ConsumerSettings settings, GroupBoard& board);

  // Runs until the group is drained, stopped or refused. Returns the exit code.
  int run();

 private:
  enum class Phase { running, draining, closing, ending, done };

  Result<void> set_up();
  void scale(int workers);
  void autoscale();
  void take_settings(const ConsumerSettings& next, ReplaceWorkers replace);
  void count_windows();
  void pause(bool on);
  void fail(const std::string& reason, std::chrono::milliseconds pause);
  void on_retry();
  void end_failure();
  void quiet();
  bool is_quiet() const { return paused_ || failed_; }
  void hand_back_while_quiet();
  // One round of everything; true: there is more to do at once.
  bool turn();
  // Until something happens, or only to look at signals, deaths and timers.
  void wait(bool at_once);
  bool nap();
  bool a_body_is_coming() const;

  // Deliveries
  char* on_delivery(std::uint16_t queue, std::uint64_t epoch, const IncomingDelivery& incoming);
  void on_complete(std::uint16_t queue);
  bool takes_from_stream(std::uint16_t queue, const IncomingDelivery& incoming, bool& only_compare);
  bool is_to_be_handled(Delivery& delivery);
  bool is_refused(Delivery& delivery);
  bool has_expired(Delivery& delivery, const char* reason);
  void admit(Delivery& delivery);
  void line_up_for_worker(Delivery& delivery);
  // Order
  bool keeps_order() const { return settings_.group.order.by != OrderSettings::By::none; }
  void line_up(Delivery& delivery);
  void leave_row(Delivery& delivery);
  void next_of_keys();
  void rest(Delivery& delivery, std::chrono::milliseconds delay, std::uint32_t crashes,
            Attempt attempt);
  void go_back(Delivery& delivery);
  void withdraw(std::string_view reason);
  void ask_all_to_flush();
  void advance_withdrawal();

  void on_channel_lost(std::uint16_t queue);
  void hand_out();
  void dispatch();
  void dispatch_batches();
  void drop_expired(std::size_t count);
  bool batch_is_due() const;
  bool enough_at_workers() const;
  bool rate_allows(std::size_t messages);
  void given_to_worker(Delivery& delivery);
  void probe_suspects();
  void ask_flush_when_full();
  // Back to the head of the line, in their order; those of a channel that is gone are the broker's
  // again, and dropped. Returns how many were.
  std::size_t put_back(std::vector<Delivery*> deliveries);
  std::size_t take_back();
  bool keep_body(std::uint16_t queue, const IncomingDelivery& incoming);

  // Done once
  Result<void> set_up_dedup();
  void take_dedup_answers();
  void submit_dedup();
  void claim(Delivery& delivery);
  void on_free(Delivery& delivery, bool claimed);
  void on_double(Delivery& delivery, const DedupAnswer& answer);
  void on_too_soon(Delivery& delivery, const DedupAnswer& answer);
  void wait_elsewhere(Delivery& delivery, const char* reason, std::chrono::milliseconds delay);
  void on_noted(Delivery& delivery, bool noted);
  void log_doubled(std::string_view event, const Delivery& delivery, const DedupAnswer& answer);
  void log_without_dedup(const Delivery& delivery, bool done);

  // Outcomes
  void on_outcome(WorkerProcess::Outcome& outcome);
  void done(Delivery& delivery);
  void on_death(WorkerProcess::Remains& remains, const std::string& how);
  // Why an attempt failed.
  struct Failure {
    std::string reason;
    bool crashed = false;
    std::optional<std::chrono::milliseconds> asked = {};  // the handler's word on the delay
    std::string_view outcome = "retry";                   // as the journal calls it
  };
  void retry(Delivery& delivery, const Failure& failure);
  void count_outcome(bool failed);
  void note(std::string_view failure);
  void dead_letter(Delivery& delivery, const DeadLetter& letter);
  void publish_for(Delivery& delivery, std::vector<std::string> publications);
  void publish_copy(Delivery& delivery, std::unique_ptr<Outbound> copy);
  void on_fate(std::unique_ptr<Outbound> outbound, Fate fate, const std::string& reason);
  void on_copy_failed(Delivery& delivery, std::unique_ptr<Outbound> copy, Fate fate,
                      const std::string& reason);
  void requeue_later(Delivery& delivery);
  void log_repeated(LogLevel level, std::string_view event, const Delivery& delivery,
                    const std::string& reason);
  void log_message(LogLevel level, std::string_view event, const Delivery& delivery,
                   std::string_view reason);
  Attempt attempt_of(const Delivery& delivery, std::string_view reason) const;
  Author author_of(const Delivery& delivery) const;
  bool dead_letters_by_broker(std::uint16_t queue) const;
  const std::string& home_of(std::uint16_t queue) const;
  void on_probed(std::uint16_t queue, const DeadLetterProbe& probe);
  void warn_of_parking(std::uint16_t queue, const std::string& reason);
  void check_time_limits();
  TimePoint settle_in_time(TimePoint now);
  void take_from_handler(Delivery& held, const std::string& reason);
  void arm_time_limits();
  void suspect(Delivery& delivery, std::string_view how);
  void hand_back(Delivery& delivery);
  void no_longer_held(Delivery& delivery);
  void settle(Delivery& delivery, Verdict verdict);
  void tell_broker(Delivery& delivery, Verdict verdict);
  bool is_current(const Delivery& delivery) const;
  void release(Delivery& delivery);
  bool drop_if_stale(Delivery& delivery);
  void trim_bodies();
  void hand_back_delayed_that_are_due();

  // Streams
  std::vector<Request> subscription(const QueueSettings& queue, bool channel_open);
  void on_ends_before(std::uint16_t queue, std::int64_t offset);
  void start_over(std::uint16_t queue, const std::string& reason);
  void keep_positions();

  // Ending
  void drain_within(std::chrono::milliseconds limit);
  void begin_drain(std::chrono::milliseconds limit);
  void stop_now();
  bool finishes_acked() const;
  // Returns how many. `acked_stays`: what is acked already is ours alone.
  std::size_t hand_back_waiting(bool acked_stays);
  void hand_back_in_drain();
  void hand_back_publishing();
  void stop_publishing(Delivery& delivery);
  void forget_publications(const Delivery& delivery);
  void log_handed_back(std::size_t messages, std::string_view reason) const;
  void advance_drain();
  void on_deadline();
  void refuse(const std::string& reason);
  void log_ledger();

  void update_board();

  ConsumerSettings settings_;
  GroupBoard& board_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Orders> orders_;
  DeliveryTable table_;
  std::unique_ptr<Streams> streams_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<WorkerPool> pool_;
  std::unique_ptr<Witness> witness_;  // before the publisher, which knows its lane; may be none
  std::unique_ptr<Publisher> publisher_;
  const std::string host_;
  Phase phase_ = Phase::running;
  bool session_started_ = false;
  bool paused_ = false;  // told so
  bool failed_ = false;  // until the next try
  std::string failure_reason_;
  bool refused_ = false;
  bool killed_ = false;     // something had to be
  bool stopped_ = false;    // at once, without a drain
  bool overtime_ = false;   // the drain's deadline is past
  bool timed_out_ = false;  // the last wait ended without an event
  int quiet_turns_ = 0;     // such waits in a row
  std::size_t delivered_in_turn_ = 0;
  std::size_t completed_in_turn_ = 0;
  std::size_t auto_ack_window_ = 0;  // the most deliveries with workers
  std::size_t nap_target_ = 0;       // deliveries that a nap is to bring
  std::uint64_t received_in_turn_ = 0;
  TimePoint turn_began_{};
  TimePoint next_note_{};
  Patience patience_;
  Breaker breaker_;
  Rate rate_;
  bool at_rate_ = false;  // the last dispatch left some waiting for it
  Autoscaler autoscaler_;
  Tracer tracer_;
  RepeatedLog repeated_;
  std::unique_ptr<Dedup> dedup_;  // nothing: the group has none
  std::unique_ptr<DedupThread> dedup_thread_;
  std::vector<DedupAnswer> dedup_answers_;  // scratch
  std::string dedup_trouble_;               // as logged
  TimePoint dedup_due_{};
  std::size_t claiming_ = 0;            // deliveries in that state
  std::size_t noting_ = 0;              // likewise
  int requeues_in_a_row_ = 0;           // of copies that could not be published
  std::size_t publishing_ = 0;          // deliveries in that state
  std::vector<Delivery*> receiving_;    // by queue
  std::deque<std::uint32_t> waiting_;   // for a worker, oldest first
  std::deque<std::uint32_t> suspects_;  // to be run alone
  KeyOrder order_;
  std::vector<std::uint32_t> freed_;                       // those before them have left
  std::set<std::pair<TimePoint, std::uint32_t>> resting_;  // by when they are due
  std::size_t behind_ = 0;
  Recollection recollection_;
  bool withdrawing_ = false;                    // what is not begun goes back in its order
  bool all_asked_ = false;                      // to settle what they keep, since the latest HOLD
  std::vector<bool> no_stream_;                 // by queue; false when that is not known
  std::vector<bool> has_dead_letter_exchange_;  // by queue; false when that is not known

  std::vector<Delivery*> batch_;        // scratch of dispatch_batches()
  std::vector<std::size_t> held_;       // by queue: how many handlers keep
  std::vector<std::string> probed_;     // by queue: why it has no dead-letter exchange, as logged
  bool flush_asked_ = false;            // since something held was settled last
  bool no_room_ = false;                // the last dispatch left some waiting
  std::vector<std::uint32_t> delayed_;  // to be handed back when due, unordered
  TimePoint deadline_{};
  GroupState reported_state_ = GroupState::starting;
  std::string reported_trouble_;
  std::uint32_t reported_ready_ = 0;

  EventSource dedup_source_;
  EventSource dedup_timer_;
  EventSource tick_timer_;
  EventSource autoscale_timer_;
  EventSource retry_timer_;
  EventSource delay_timer_;
  EventSource batch_timer_;
  EventSource bodies_timer_;
  EventSource stuck_timer_;
  EventSource limit_timer_;
  EventSource pause_timer_;
  EventSource positions_timer_;
  EventSource rate_timer_;
  EventSource rest_timer_;
  TimePoint limits_due_ = TimePoint::max();
  EventSource deadline_timer_;
};

// With the descriptors of common/spawn.h in place. Returns the exit code.
int run_consumer();

}  // namespace lope::consumer
