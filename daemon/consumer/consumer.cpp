#include "consumer/consumer.h"

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <csignal>
#include <numeric>

#include "common/backoff.h"
#include "common/content_type.h"
#include "common/exit_code.h"
#include "common/json.h"
#include "common/log.h"
#include "common/spawn.h"
#include "common/text.h"
#include "consumer/dedup_key.h"
#include "consumer/dedup_local.h"
#include "consumer/dedup_redis.h"
#include "consumer/relay.h"
#include "consumer/retry_policy.h"
#include "consumer/topology.h"
#include "consumer/travel.h"

namespace lope::consumer {

namespace {

// How long after the drain's deadline the broker may take to read the last settlements.
constexpr std::chrono::milliseconds kCloseGrace{500};
constexpr std::chrono::milliseconds kStuckCheck{2};
constexpr int kLastFlushes = 1000;
constexpr std::chrono::milliseconds kNotes{100};
// The memory of large bodies is kept so long for others.
constexpr std::chrono::seconds kBodiesKept{5};
// The longest that a finished outcome of tiny messages waits to be seen, and to be settled.
constexpr std::chrono::microseconds kNear{2000};
// The longest that any waits to be seen while a large body is coming.
constexpr std::chrono::microseconds kBodyIsNear{1000};
constexpr int kMostDoublings = 9;
// So many deliveries in one turn are a stream; see nap().
constexpr std::size_t kStreaming = 4;
constexpr std::chrono::nanoseconds kLongestNap{500'000};
// When workers, too, may have to wait for us: less than what they have been given ahead lasts.
constexpr std::chrono::nanoseconds kLongestNapWithWaiting{200'000};

// Of what is published and not confirmed: with more, handlers get nothing to do.
constexpr std::size_t kMostUnconfirmedBytes = 64 << 20;
// The ABI's outcomes; the consumer does not include the ABI.
constexpr std::int32_t kAck = 1;
constexpr std::int32_t kRetry = 2;
constexpr std::int32_t kReject = 3;
constexpr const char* kExpiredHere = "it expired while it waited for its turn";

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) < 0) return "localhost";
  return name;
}

void add(std::atomic<std::uint64_t>& counter, std::uint64_t count = 1) {
  counter.fetch_add(count, std::memory_order_relaxed);
}

// For the log: the publisher's name of the message, empty when it has none.
std::string message_id(const Delivery& delivery) {
  const auto view = decode_delivery(delivery.frame.bytes());
  return view ? std::string((*view)[TextProperty::message_id]) : std::string();
}

std::string name_of(const WorkerProcess::Outcome& outcome) {
  std::string name = "nothing known";
  if (outcome.not_started)
    name = "nothing: it was not begun";
  else if (outcome.refused)
    name = "nothing: its worker refuses it";
  else if (outcome.held)
    name = "HOLD";
  else if (outcome.outcome == kAck)
    name = "ACK";
  else if (outcome.outcome == kRetry)
    name = "RETRY";
  else if (outcome.outcome == kReject)
    name = "REJECT";
  return outcome.reason.empty() ? name : name + " (" + outcome.reason + ")";
}

}  // namespace

Consumer::Consumer(ConsumerSettings settings, GroupBoard& board)
    : settings_(std::move(settings)),
      board_(board),
      host_(host_name()),
      patience_(patience(settings_.broker.consumer_timeout, settings_.group.timeout)),
      breaker_(settings_.group.breaker),
      rate_(settings_.group.rate),
      receiving_(settings_.group.queues.size()),
      held_(settings_.group.queues.size()),
      probed_(settings_.group.queues.size()) {
  for (const QueueSettings& queue : settings_.group.queues) {
    has_dead_letter_exchange_.push_back(
        queue.declare && find(queue.declaration.arguments, "x-dead-letter-exchange") != nullptr);
  }
}

Result<void> Consumer::set_up() {
  auto loop = EventLoop::create();
  if (!loop) return Error{loop.error()};
  loop_ = std::move(*loop);

  Orders::Events orders_events;
  orders_events.on_drain = [this](std::optional<std::chrono::milliseconds> limit) {
    drain_within(limit.value_or(settings_.shutdown_timeout));
  };
  orders_events.on_stop = [this] { stop_now(); };
  orders_events.on_scale = [this](int workers) { scale(workers); };
  orders_events.on_restart = [this] {
    if (phase_ != Phase::running) return;
    log_info("replacing the workers", {{"group", settings_.group.name}});
    // That is what a failed group waits for, only sooner.
    if (failed_) {
      on_retry();
    } else {
      pool_->restart();
    }
  };
  orders_events.on_pause = [this](bool on) { pause(on); };
  orders_events.on_settings = [this](const ConsumerSettings& next, ReplaceWorkers replace) {
    take_settings(next, replace);
  };
  orders_events.on_trace = [this](int messages, UniqueFd output) {
    tracer_.start(messages, std::move(output));
  };
  orders_events.on_log_level = [this](LogLevel level) { pool_->set_log_level(level); };
  auto orders = Orders::create(*loop_, std::move(orders_events));
  if (!orders) return Error{orders.error()};
  orders_ = std::move(*orders);

  const auto timer = [this](EventSource& into, std::function<void()> action) -> Result<void> {
    auto made = loop_->make_timer(std::move(action));
    if (!made) return Error{made.error()};
    into = std::move(*made);
    return {};
  };
  if (auto made = timer(tick_timer_, [this] { tick_timer_.arm(Clock::now() + kProgress); });
      !made) {
    return made;
  }
  tick_timer_.arm(Clock::now());
  if (auto made = timer(autoscale_timer_, [this] { autoscale(); }); !made) return made;
  autoscale_timer_.arm(Clock::now());
  if (auto made = timer(retry_timer_, [this] { on_retry(); }); !made) return made;
  if (auto made = timer(delay_timer_, [] {}); !made) return made;
  if (auto made = timer(batch_timer_, [] {}); !made) return made;
  if (auto made = timer(bodies_timer_, [this] { trim_bodies(); }); !made) return made;
  const auto spread = [this] {
    if (phase_ == Phase::running) put_back(pool_->take_back_stuck());
  };
  if (auto made = timer(stuck_timer_, spread); !made) return made;
  if (auto made = timer(deadline_timer_, [this] { on_deadline(); }); !made) return made;
  if (auto made = timer(pause_timer_, [] {}); !made) return made;
  if (auto made = timer(positions_timer_, [this] { keep_positions(); }); !made) return made;
  if (auto made = timer(rate_timer_, [] {}); !made) return made;
  if (auto made = timer(rest_timer_, [] {}); !made) return made;
  if (auto made = timer(limit_timer_, [this] { check_time_limits(); }); !made) return made;

  Session::Events session_events;
  session_events.on_delivery = [this](std::uint16_t queue, std::uint64_t epoch,
                                      const IncomingDelivery& incoming) {
    return on_delivery(queue, epoch, incoming);
  };
  session_events.on_complete = [this](std::uint16_t queue) { on_complete(queue); };
  session_events.on_channel_lost = [this](std::uint16_t queue) { on_channel_lost(queue); };
  session_events.on_change = [] {};  // update_board() looks once a turn
  auto streams = Streams::open(settings_);
  if (!streams) return Error{streams.error()};
  streams_ = std::move(*streams);
  if (streams_->any()) {
    session_events.steps = [this](const QueueSettings& queue, bool channel_open) {
      return subscription(queue, channel_open);
    };
    session_events.on_ends_before = [this](std::uint16_t queue, std::int64_t offset) {
      on_ends_before(queue, offset);
    };
  }
  const bool parks = settings_.group.dead_letter.to == DeadLetterSettings::To::automatic &&
                     !settings_.group.auto_ack;
  session_events.on_probed = [this, parks](std::uint16_t queue, const DeadLetterProbe& probe) {
    // A broker that does not say takes nothing back of what deliveries have shown.
    if (!settings_.group.queues[queue].declare && (probe.is_no_stream() || probe.may_be_stream())) {
      no_stream_[queue] = probe.is_no_stream();
    }
    if (parks) on_probed(queue, probe);
  };
  for (const QueueSettings& queue : settings_.group.queues) {
    no_stream_.push_back(queue.declare && queue.declaration.type != "stream");
  }
  if (parks) {
    for (std::uint16_t i = 0; i < settings_.group.queues.size(); ++i) {
      const QueueSettings& queue = settings_.group.queues[i];
      if (queue.declare && !queue.stream && !has_dead_letter_exchange_[i]) {
        warn_of_parking(i, "the queue is declared without x-dead-letter-exchange");
      }
    }
  }
  const std::string connection_name =
      "lope " + settings_.group.name + " @ " + host_ + " [" + std::to_string(::getpid()) + "]";
  auto session = Session::create(*loop_, settings_.broker, connection_name, settings_.group, board_,
                                 std::move(session_events));
  if (!session) return Error{session.error()};
  session_ = std::move(*session);

  Publisher::Events publisher_events;
  publisher_events.on_fate = [this](std::unique_ptr<Outbound> outbound, Fate fate,
                                    const std::string& reason) {
    on_fate(std::move(outbound), fate, reason);
  };
  publisher_events.on_connection = [this](const Connection* connection) {
    show_broker(board_.publishes_to, connection);
  };
  publisher_events.steps_for = [this](const std::string& need) {
    const QueueSettings& first = settings_.group.queues.front();
    return steps_for(need, settings_.delays, settings_.group.dead_letter,
                     first.stream || (first.declare && first.declaration.type == "quorum"));
  };
  auto witness =
      Witness::create(*loop_, settings_, host_, board_, [this](const Delivery& delivery) {
        const HandlerIdentity& handler = pool_->handler_of(delivery);
        return HandlerName{handler.name, handler.version};
      });
  if (!witness) return Error{witness.error()};
  witness_ = std::move(*witness);
  auto publisher = Publisher::create(*loop_, settings_.broker, connection_name + " publishing",
                                     settings_.group.name, std::move(publisher_events));
  if (!publisher) return Error{publisher.error()};
  publisher_ = std::move(*publisher);
  if (witness_) publisher_->carry(witness_->lane());

  WorkerPool::Events pool_events;
  pool_events.on_outcome = [this](WorkerProcess::Outcome& outcome) { on_outcome(outcome); };
  pool_events.on_death = [this](WorkerProcess::Remains& remains, const std::string& how) {
    on_death(remains, how);
  };
  pool_events.on_given_back = [this](std::vector<Delivery*> deliveries) {
    put_back(std::move(deliveries));
  };
  pool_events.on_keep_alive = [](Delivery& delivery) { delivery.alive = Clock::now(); };
  pool_events.on_refused = [this](const std::string& reason) { refuse(reason); };
  pool_events.on_crash_loop = [this](const std::string& reason, std::chrono::milliseconds pause) {
    fail(reason, pause);
  };
  auto pool = WorkerPool::create(*loop_, settings_, kWorkerProgramFd, table_, board_,
                                 std::move(pool_events));
  if (!pool) return Error{pool.error()};
  pool_ = std::move(*pool);
  count_windows();
  if (auto made = set_up_dedup(); !made) return made;
  if (settings_.paused) pause(true);
  return {};
}

void Consumer::count_windows() {
  nap_target_ = auto_ack_window_ = 0;
  for (const QueueSettings& queue : settings_.group.queues) {
    nap_target_ += static_cast<std::size_t>(queue.prefetch) / 5;
    auto_ack_window_ += static_cast<std::size_t>(queue.prefetch);
  }
  const int calls = pool_->wanted() * settings_.group.threads * settings_.group.batch_size;
  auto_ack_window_ = std::max(auto_ack_window_, static_cast<std::size_t>(calls));
  nap_target_ = std::min<std::size_t>(nap_target_, 64);
}

void Consumer::scale(int workers) {
  if (phase_ != Phase::running || workers == pool_->wanted()) return;
  log_info("scaling",
           {{"group", settings_.group.name}, {"workers", workers}, {"before", pool_->wanted()}});
  pool_->scale(workers);
  count_windows();
}

void Consumer::autoscale() {
  const GroupSettings& group = settings_.group;
  if (group.workers_max <= group.workers || phase_ != Phase::running) return;
  const TimePoint now = Clock::now();
  autoscale_timer_.arm(now + Autoscaler::kInterval);
  if (is_quiet() || breaker_.paused(now)) return;
  const int wanted =
      autoscaler_.decide({.wanted = pool_->wanted(),
                          .min = group.workers,
                          .max = group.workers_max,
                          .threads = group.threads,
                          .settled = pool_->settled(),
                          .full = no_room_ && !waiting_.empty() && !enough_at_workers(),
                          .calls = static_cast<int>(pool_->calls())},
                         now);
  scale(wanted);
}

// The supervisor sends only what can be changed while messages run; for the rest it starts another
// consumer.
void Consumer::take_settings(const ConsumerSettings& next, ReplaceWorkers replace) {
  if (phase_ != Phase::running) return;
  const bool replaces = replace != ReplaceWorkers::no;
  log_info("configuration changed", {{"group", settings_.group.name},
                                     {"generation", next.generation},
                                     {"workers", replaces ? "to be replaced" : "stay"}});
  if (next.log.level != settings_.log.level) {
    set_log_level(next.log.level);
    pool_->set_log_level(next.log.level);
  }
  if (next.group.breaker != settings_.group.breaker) breaker_ = Breaker(next.group.breaker);
  if (next.group.rate != settings_.group.rate) rate_.change(next.group.rate);
  settings_ = next;
  patience_ = patience(settings_.broker.consumer_timeout, settings_.group.timeout);
  if (dedup_ != nullptr) dedup_->take_settings(settings_.group);
  if (settings_.group.workers_max > settings_.group.workers) {
    autoscale_timer_.arm(Clock::now());
  } else {
    scale(settings_.group.workers);
  }
  pool_->settings_changed(replace);
  count_windows();
  if (failed_ && replaces) pool_->retry();
  limit_timer_.arm(Clock::now());  // it may be over already
  update_board();
  board_.settings_taken.store(settings_.generation, std::memory_order_release);
}

// ---- Being quiet: no message begins, and none comes. What runs finishes.

void Consumer::pause(bool on) {
  if (phase_ != Phase::running || on == paused_) return;
  log_info(on ? "paused" : "resumed", {{"group", settings_.group.name}});
  paused_ = on;
  quiet();
}

void Consumer::fail(const std::string& reason, std::chrono::milliseconds pause) {
  if (phase_ != Phase::running) return;
  log_error("group failed",
            {{"group", settings_.group.name}, {"reason", reason}, {"retry_ms", pause.count()}});
  failed_ = true;
  failure_reason_ = reason;
  retry_timer_.arm(Clock::now() + pause);
  quiet();
}

void Consumer::on_retry() {
  if (phase_ != Phase::running || !failed_) return;
  log_info("trying a failed group again", {{"group", settings_.group.name}});
  pool_->retry();
}

void Consumer::end_failure() {
  if (!failed_ || pool_->given_up() || pool_->ready_count() == 0) return;
  failed_ = false;
  quiet();
}

void Consumer::quiet() {
  if (!is_quiet()) {
    session_->resume();
    return;
  }
  pool_->collect();
  put_back(pool_->take_back());
  // The broker would delete an auto-delete queue, and all that is in it.
  const auto goes_with_us = [](const QueueSettings& queue) {
    return queue.declare && queue.declaration.auto_delete;
  };
  if (std::ranges::any_of(settings_.group.queues, goes_with_us)) return;
  session_->pause();
  if (keeps_order()) withdraw(paused_ ? "the group is paused" : "the group has failed");
}

// What no handler has begun is for others, now that it cannot come straight back to us. What is
// acked already is ours alone.
void Consumer::hand_back_while_quiet() {
  if (phase_ != Phase::running || !session_->paused() || !session_->quiet()) return;
  const std::size_t count = hand_back_waiting(true);
  if (count == 0) return;
  log_info("messages handed back",
           {{"group", settings_.group.name},
            {"messages", count},
            {"reason", paused_ ? "the group is paused" : "the group has failed"}});
}

int Consumer::run() {
  // The other counters are the group's; these are this process's.
  for (auto* counter :
       {&board_.finished_in_drain, &board_.handed_back_in_drain, &board_.killed_in_drain}) {
    counter->store(0, std::memory_order_relaxed);
  }
  clear_gauges(board_.metrics);
  if (auto done = set_up(); !done) {
    log_error("cannot start the consumer", {{"reason", done.error()}});
    board_.last_error.set(done.error());
    return kExitTemporary;
  }
  board_.settings_taken.store(settings_.generation, std::memory_order_relaxed);
  pool_->start();
  while (phase_ != Phase::done) {
    const bool more = turn();
    if (phase_ != Phase::done) wait(more);
  }
  if (streams_->any()) {
    if (const std::string trouble = streams_->keep_now(); !trouble.empty()) {
      log_error("cannot keep the position in a stream",
                {{"group", settings_.group.name}, {"reason", trouble}});
    }
  }
  if (dedup_ != nullptr) {
    table_.for_each([this](const Delivery& delivery) { dedup_->over(delivery); });
    submit_dedup();
  }
  dedup_thread_.reset();
  board_.state.store(static_cast<std::uint32_t>(GroupState::ended), std::memory_order_relaxed);
  Orders::report_change();
  if (refused_) return kExitRefused;
  return killed_ ? kExitFailed : kExitOk;
}

bool Consumer::turn() {
  add(board_.progress);
  delivered_in_turn_ = 0;
  completed_in_turn_ = 0;
  const std::uint64_t received = session_->received();
  turn_began_ = Clock::now();
  pool_->announce_awake();
  pool_->collect();
  if (dedup_ != nullptr) take_dedup_answers();
  pool_->tend();
  end_failure();
  if (!waiting_.empty()) hand_out();  // reading takes a while
  if (!session_started_ && pool_->ready_count() > 0 && phase_ == Phase::running) {
    session_started_ = true;
    session_->start();
  }
  bool more = session_->pump();
  more = publisher_->pump() || more;
  // A connection that was lost takes its count with it.
  received_in_turn_ = std::max(session_->received(), received) - received;
  hand_out();
  pool_->collect();
  hand_back_while_quiet();
  // These outcomes made room: nothing else may wake us for it.
  if (!waiting_.empty() || !suspects_.empty() || !freed_.empty()) hand_out();
  hand_back_delayed_that_are_due();  // arms the timer too, also for what was collected just now
  if (witness_) witness_->tend(turn_began_);
  if (dedup_ != nullptr) submit_dedup();
  ask_flush_when_full();
  publisher_->flush();
  if (withdrawing_) advance_withdrawal();
  // What is finished is settled together with what is about to be, or what a body that is about to
  // be complete will bring.
  session_->flush(!more && (timed_out_ || !(pool_->outcome_is_near() || a_body_is_coming())));
  advance_drain();
  update_board();
  arm_time_limits();
  if (streams_->any() && !positions_timer_.armed() && streams_->due()) {
    positions_timer_.arm(turn_began_ + Streams::kInterval);
  }
  if (table_.bodies().has_free() && !bodies_timer_.armed()) {
    bodies_timer_.arm(Clock::now() + kBodiesKept);
  }
  if (phase_ == Phase::running && pool_->may_be_stuck() && !stuck_timer_.armed()) {
    stuck_timer_.arm(Clock::now() + kStuckCheck);
  }
  return more || pool_->tend_due() || !freed_.empty();
}

void Consumer::wait(bool at_once) {
  std::optional<std::chrono::microseconds> limit;
  if (at_once || nap()) {
    limit = std::chrono::microseconds(0);
  } else if (a_body_is_coming()) {
    session_->wake_for_body();
    limit = kBodyIsNear;  // and outcomes wait as long: workers need not wake us
  } else {
    session_->wake_for_anything();
    if (pool_->announce_sleep()) {
      limit = std::chrono::microseconds(0);
    } else if (pool_->outcome_is_near() || pool_->wake_may_be_owed()) {
      // A worker with tiny messages does not wake us for each. If one of them takes long after all,
      // this finds what was finished before it; more and more rarely, while nothing comes.
      limit = kNear * (1 << std::min(quiet_turns_, kMostDoublings));
    }
  }
  const TimePoint end = limit ? Clock::now() + *limit : TimePoint::max();
  if (auto ran = loop_->run_once(limit); !ran) {
    log_error("the event loop failed", {{"reason", ran.error()}});
    std::abort();  // our parent starts us again
  }
  timed_out_ = limit && limit->count() > 0 && Clock::now() >= end;
  quiet_turns_ = timed_out_ ? quiet_turns_ + 1 : 0;
}

// A large one, whose next part will wake us soon; and what finishes meanwhile makes room for
// nothing, neither here nor at the broker.
bool Consumer::a_body_is_coming() const {
  if (timed_out_ || !waiting_.empty() || !suspects_.empty() || phase_ != Phase::running) {
    return false;
  }
  bool coming = false;
  for (std::uint16_t queue = 0; queue < receiving_.size(); ++queue) {
    if (receiving_[queue] != nullptr && receiving_[queue]->body != nullptr) {
      coming = true;
    } else if (session_->window_left(queue) == 0) {
      return false;
    }
  }
  return coming;
}

// While messages stream in and take next to no time, being woken for every few of them costs more
// than they do. Then we wait for a part of the window to arrive, as a network card does that holds
// its interrupts back, and never so long that the broker has to wait for us. Workers do not wake us
// meanwhile. True: slept.
bool Consumer::nap() {
  const bool many = delivered_in_turn_ >= kStreaming;
  const bool large = completed_in_turn_ > 0 && a_body_is_coming();  // one right behind the other
  if ((!many && !large) || phase_ != Phase::running || !pool_->all_tiny()) return false;
  std::size_t target = 0;
  for (std::uint16_t queue = 0; queue < receiving_.size(); ++queue) {
    target += session_->window_left(queue);
  }
  target = std::min(target, nap_target_);
  if (target == 0) return false;
  const std::uint64_t mean = received_in_turn_ / std::max<std::size_t>(delivered_in_turn_, 1);
  return session_->sleep(mean * target, waiting_.empty() ? kLongestNap : kLongestNapWithWaiting);
}

// ---- Deliveries

// A message that is too large for its handler is a dead letter. Where the broker makes it one it
// need not be read; otherwise somebody has to carry it. False: it is dropped unread.
bool Consumer::keep_body(std::uint16_t queue, const IncomingDelivery& incoming) {
  if (incoming.body_size <= static_cast<std::uint64_t>(settings_.group.max_body_bytes)) return true;
  log_warn("message rejected", {{"group", settings_.group.name},
                                {"queue", settings_.group.queues[queue].name},
                                {"message_id", incoming.view[TextProperty::message_id]},
                                {"reason", "its body is larger than max_body"},
                                {"expected_at_most", settings_.group.max_body_bytes},
                                {"found", incoming.body_size}});
  if (!settings_.group.auto_ack && !dead_letters_by_broker(queue)) return true;
  if (witness_) {
    witness_->refused_unread(queue, incoming.view, incoming.body_size, dead_code::kTooLarge,
                             "its body is larger than max_body");
  }
  add(board_.rejected);
  return false;
}

char* Consumer::on_delivery(std::uint16_t queue, std::uint64_t epoch,
                            const IncomingDelivery& incoming) {
  add(board_.delivered);
  ++delivered_in_turn_;
  const std::uint64_t tag = incoming.view.delivery_tag;
  const bool from_stream = streams_->of(queue) != nullptr;
  // A stream's have it all.
  if (!from_stream && incoming.stream_offset < 0) no_stream_[queue] = true;
  // Anybody can write that header.
  const bool has_offset = incoming.stream_offset >= 0 && !no_stream_[queue];
  if (from_stream != has_offset) {
    // Streams know no reject and no requeue, and others no offset: nothing here could be settled as
    // its handler says.
    if (phase_ == Phase::running) {
      refuse("queue '" + settings_.group.queues[queue].name + "': " +
             (from_stream ? "expected a stream, as 'type: stream' says, found a queue"
                          : "it is a stream: expected 'type: stream', found none"));
    }
    return nullptr;
  }
  if (phase_ != Phase::running) {  // crossed our cancel
    add(board_.handed_back);
    add(board_.handed_back_in_drain);
    if (!keeps_order()) session_->finish(queue, tag, Verdict::hand_back);
    return nullptr;
  }
  bool only_compare = false;
  if (from_stream && !takes_from_stream(queue, incoming, only_compare)) return nullptr;
  if (!only_compare && !keep_body(queue, incoming)) {
    session_->finish(queue, tag, Verdict::reject);
    if (from_stream) streams_->of(queue)->settled(incoming.stream_offset);
    return nullptr;
  }
  Delivery& delivery = table_.allocate();
  delivery.state = Delivery::State::receiving;
  delivery.queue = queue;
  delivery.epoch = epoch;
  delivery.tag = tag;
  delivery.redelivered = (incoming.view.flags & kDeliveryRedelivered) != 0;
  delivery.arrived = turn_began_;
  delivery.properties.assign_size(incoming.properties.size());
  std::copy(incoming.properties.begin(), incoming.properties.end(), delivery.properties.data());
  DeliveryView view = incoming.view;
  delivery.offset = from_stream ? incoming.stream_offset : -1;
  delivery.only_compared = only_compare;
  if (from_stream) {
    delivery.print = begin_print(view[TextProperty::message_id], view[TextProperty::routing_key],
                                 view.timestamp, incoming.body_size);
  }
  const std::uint64_t since_ms = take_travel(view, delivery);
  if (since_ms != 0 && delivery.attempt == 1 && !delivery.redelivered) {
    const std::uint64_t now_ms = view.received_unix_ns / 1'000'000;
    board_.queued.add((now_ms - std::min(now_ms, since_ms)) * 1'000'000);
  }
  view[TextProperty::queue] = settings_.group.queues[queue].name;
  if (witness_) witness_->arrives(delivery, view);
  receiving_[queue] = &delivery;
  if (tracer_.active()) tracer_.begin(delivery, view);
  delivery.body_size = incoming.body_size;
  if (incoming.body_size >= kSharedBody) delivery.body = table_.bodies().take(incoming.body_size);
  if (delivery.body != nullptr) view.segment = delivery.body->id;
  char* const to = encode_delivery(view, incoming.body_size, delivery.frame);
  return delivery.body_at = delivery.body != nullptr ? delivery.body->data : to;
}

void Consumer::on_complete(std::uint16_t queue) {
  Delivery& delivery = *std::exchange(receiving_[queue], nullptr);
  if (phase_ != Phase::running) {
    settle(delivery, Verdict::hand_back);
    return;
  }
  ++completed_in_turn_;
  if (delivery.offset >= 0 && !is_to_be_handled(delivery)) return;
  if (keeps_order()) line_up(delivery);
  if (witness_) witness_->received(delivery);
  if (is_refused(delivery)) return;
  admit(delivery);
}

// Is it none for a handler? Then it is a dead letter now.
bool Consumer::is_refused(Delivery& delivery) {
  const auto refuse = [&](std::string_view code, const std::string& reason) {
    dead_letter(delivery, {code, reason, delivery.attempt - 1, delivery.crashes});
    return true;
  };
  if (has_expired(delivery, "it came after its expiration")) return true;
  if (delivery.body_size > static_cast<std::uint64_t>(settings_.group.max_body_bytes)) {
    return refuse(dead_code::kTooLarge, "its body is larger than max_body");
  }
  if (const auto& accept = settings_.group.content.accept; !accept.empty()) {
    const auto view = decode_delivery(delivery.frame.bytes());
    const std::string_view type = view ? (*view)[TextProperty::content_type] : std::string_view();
    if (!is_accepted(accept, type)) {
      add(board_.refused);
      return refuse(dead_code::kContentType, unaccepted_text(accept, type));
    }
  }
  return false;
}

// Then it is a dead letter now.
bool Consumer::has_expired(Delivery& delivery, const char* reason) {
  if (delivery.expires_ms == 0 || delivery.expires_ms > unix_ms()) return false;
  dead_letter(delivery, {dead_code::kExpired, reason, delivery.attempt - 1, delivery.crashes});
  return true;
}

// On its way to a worker; not before it is the first of its key, and due. Nor does it claim what it
// does once before: those before it may wait for that very claim.
void Consumer::admit(Delivery& delivery) {
  if (!order_.is_first(delivery.index)) {
    delivery.state = Delivery::State::behind;
    ++behind_;
    return;
  }
  if (keeps_order() && delivery.due > turn_began_) {
    delivery.state = Delivery::State::resting;
    resting_.emplace(delivery.due, delivery.index);
    return;
  }
  if (dedup_ != nullptr) {
    claim(delivery);
  } else {
    line_up_for_worker(delivery);
  }
}

void Consumer::line_up_for_worker(Delivery& delivery) {
  delivery.state = Delivery::State::waiting;
  if (settings_.group.batch_size > 1) delivery.since = Clock::now();
  waiting_.push_back(delivery.index);
}

void Consumer::on_channel_lost(std::uint16_t queue) {
  streams_->not_short(queue);
  // What no handler has begun is the broker's again; what runs goes on, and its outcome is dropped.
  if (pool_ == nullptr) return;
  pool_->collect();
  if (keeps_order()) {
    table_.for_each([&](const Delivery& delivery) {
      if (delivery.queue == queue && !delivery.earlier.empty()) recollection_.keep(delivery);
    });
  }
  std::size_t dropped = take_back();
  std::size_t running = 0;
  std::size_t unconfirmed = 0;
  const auto goes = [&](std::uint32_t index) {
    const Delivery& delivery = table_.at(index);
    return delivery.queue == queue && !delivery.settled;  // auto_ack: it is ours alone
  };
  std::erase_if(waiting_, goes);
  std::erase_if(delayed_, goes);
  std::erase_if(suspects_, goes);
  if (receiving_[queue] != nullptr) {
    release(*std::exchange(receiving_[queue], nullptr));
    ++dropped;
  }
  table_.for_each([&](Delivery& delivery) {
    if (delivery.queue != queue) return;
    switch (delivery.state) {
      case Delivery::State::free:
      case Delivery::State::receiving: return;
      case Delivery::State::at_worker:
      case Delivery::State::held: ++running; return;
      case Delivery::State::publishing:
        if (delivery.settled || delivery.offset >= 0) return;
        stop_publishing(delivery);
        ++unconfirmed;
        break;
      case Delivery::State::noting:
        if (delivery.offset >= 0) return;
        --noting_;
        break;
      case Delivery::State::claiming:
        --claiming_;
        ++dropped;
        break;
      case Delivery::State::waiting:
      case Delivery::State::suspect:
      case Delivery::State::delayed:
      case Delivery::State::behind:
      case Delivery::State::resting:
        if (delivery.settled) return;
        ++dropped;
        break;
    }
    release(delivery);
  });
  if (withdrawing_) add(board_.handed_back, dropped);
  if (dropped + running + unconfirmed > 0) {
    log_event(withdrawing_ ? LogLevel::info : LogLevel::warn, "deliveries go back to the broker",
              {{"group", settings_.group.name},
               {"queue", settings_.group.queues[queue].name},
               {"not_begun", dropped},
               {"running", running},
               {"unconfirmed", unconfirmed}});
  }
}

// ---- Order: of one key one message after another, whatever becomes of each. What cannot be
// handled here goes back to its old place, for which the broker has to get it with all behind it at
// once: with the end of its channel, and nothing running.

// To the end of its key's row. Where it was tried here before, that counts.
void Consumer::line_up(Delivery& delivery) {
  const auto view = decode_delivery(delivery.frame.bytes());
  if (!view) return;
  if (const auto key = order_key(settings_.group.order, *view)) order_.join(delivery.index, *key);
  if (!delivery.redelivered) return;
  auto tried = recollection_.take(delivery);
  if (!tried) return;
  delivery.attempt = tried->attempt;
  delivery.crashes = tried->crashes;
  delivery.earlier = std::move(tried->earlier);
  delivery.due = tried->due;
  set_attempt(delivery.frame, delivery.attempt, delivery.crashes);
}

void Consumer::leave_row(Delivery& delivery) {
  if (delivery.state == Delivery::State::behind) --behind_;
  if (delivery.state == Delivery::State::resting) resting_.erase({delivery.due, delivery.index});
  if (const auto next = order_.leave(delivery.index)) freed_.push_back(*next);
}

// Those whose turn it is by now.
void Consumer::next_of_keys() {
  while (!resting_.empty() && resting_.begin()->first <= turn_began_) {
    Delivery& delivery = table_.at(resting_.begin()->second);
    resting_.erase(resting_.begin());
    delivery.state = Delivery::State::waiting;
    if (witness_) witness_->again(delivery);
    if (!has_expired(delivery, "it expired before its next attempt")) admit(delivery);
  }
  for (std::size_t i = 0; i < freed_.size(); ++i) {  // which grows where one is done with at once
    const std::uint32_t index = freed_[i];
    Delivery& delivery = table_.at(index);
    // It may have gone meanwhile, and its place may be another's.
    if (delivery.state != Delivery::State::behind || !order_.is_first(index)) continue;
    --behind_;
    delivery.state = Delivery::State::waiting;
    if (!has_expired(delivery, kExpiredHere)) admit(delivery);
  }
  freed_.clear();
  if (!resting_.empty()) rest_timer_.arm(resting_.begin()->first);
}

// Until its next attempt, which is here: a copy would let those behind it pass.
void Consumer::rest(Delivery& delivery, std::chrono::milliseconds delay, std::uint32_t crashes,
                    Attempt attempt) {
  if (phase_ != Phase::running) {
    settle(delivery, Verdict::requeue);
    return;
  }
  if (delivery.earlier.size() == kHistoryKept) delivery.earlier.erase(delivery.earlier.begin());
  // As if it had gone away and come again: others of its dedup key may run, and min_interval
  // counts.
  if (dedup_ != nullptr) dedup_->over(delivery);
  delivery.earlier.push_back(std::move(attempt));
  ++delivery.attempt;
  delivery.crashes = crashes;
  set_attempt(delivery.frame, delivery.attempt, crashes);
  delivery.worker = -1;
  delivery.sequence = 0;
  delivery.alone = false;
  delivery.due = Clock::now() + delay;
  delivery.state = Delivery::State::resting;
  resting_.emplace(delivery.due, delivery.index);
  rest_timer_.arm(resting_.begin()->first);
}

// In the place of a hand-back: it is the channel's until that ends.
void Consumer::go_back(Delivery& delivery) {
  if (!delivery.earlier.empty()) recollection_.keep(delivery);
  withdraw("a message cannot stay here");
}

// Ends with the channels' end, when nothing runs any more.
void Consumer::withdraw(std::string_view reason) {
  if (withdrawing_ || phase_ != Phase::running) return;
  withdrawing_ = true;
  log_info("giving messages back in their order",
           {{"group", settings_.group.name}, {"reason", reason}});
  ask_all_to_flush();
}

void Consumer::ask_all_to_flush() {
  all_asked_ = true;
  pool_->ask_flush(FlushReason::window_full);
}

void Consumer::advance_withdrawal() {
  if (phase_ != Phase::running) return;
  if (!session_->connected()) {  // by now it has ended
    withdrawing_ = false;
    return;
  }
  if (pool_->in_flight() > 0) put_back(pool_->take_back());
  if (pool_->held() > 0 && pool_->held() == pool_->in_flight() && !all_asked_) {
    ask_all_to_flush();
    pool_->flush();
  }
  if (pool_->in_flight() > 0 || publishing_ + noting_ > 0) return;
  session_->flush(true);
  if (session_->flushed()) session_->renew();
}

void Consumer::hand_out() {
  if (keeps_order()) next_of_keys();
  dispatch();
  pool_->flush();
}

void Consumer::dispatch() {
  at_rate_ = false;
  if (phase_ != Phase::running) {
    if (!finishes_acked()) return;
    hand_back_in_drain();  // all but these
  } else if (is_quiet() || withdrawing_) {
    return;
  } else if (breaker_.paused(turn_began_)) {
    no_room_ = false;
    pause_timer_.arm(breaker_.resumes_at());
    return;
  }
  no_room_ = false;
  probe_suspects();
  if (settings_.group.batch_size > 1 && pool_->has_batch()) {
    dispatch_batches();
    return;
  }
  while (drop_expired(1), !waiting_.empty()) {
    Delivery* const delivery = &table_.at(waiting_.front());
    if (!rate_allows(1)) return;
    if (enough_at_workers() || !pool_->dispatch({&delivery, 1})) {
      no_room_ = true;
      return;
    }
    waiting_.pop_front();
    given_to_worker(*delivery);
  }
}

void Consumer::dispatch_batches() {
  const auto size = static_cast<std::size_t>(settings_.group.batch_size);
  while (drop_expired(size), waiting_.size() >= size || batch_is_due()) {
    batch_.clear();
    for (std::size_t i = 0; i < std::min(size, waiting_.size()); ++i) {
      batch_.push_back(&table_.at(waiting_[i]));
    }
    if (!rate_allows(batch_.size())) return;
    if (enough_at_workers() || !pool_->dispatch(batch_)) {
      no_room_ = true;
      return;
    }
    waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(batch_.size()));
    for (Delivery* delivery : batch_) given_to_worker(*delivery);
  }
  if (!waiting_.empty()) {
    batch_timer_.arm(table_.at(waiting_.front()).since + settings_.group.batch_wait);
  }
}

// Of the first `count` that wait for a worker, those whose time is over by now are dead letters.
void Consumer::drop_expired(std::size_t count) {
  for (std::size_t i = 0; i < std::min(count, waiting_.size());) {
    Delivery& delivery = table_.at(waiting_[i]);
    if (delivery.expires_ms == 0 || delivery.expires_ms > unix_ms()) {
      ++i;
      continue;
    }
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    has_expired(delivery, kExpiredHere);
  }
}

// May so many begin now? If not, it is looked at again when they may.
bool Consumer::rate_allows(std::size_t messages) {
  if (!rate_.limited() || rate_.allows(messages, Clock::now())) return true;
  at_rate_ = true;
  rate_timer_.arm(rate_.due(messages));
  return false;
}

// What is acked when it is handed over does not count in the broker's window, but has to be
// bounded: a handler may keep it.
bool Consumer::enough_at_workers() const {
  // Handlers that publish faster than the broker confirms get nothing more to do meanwhile.
  if (publisher_->pending_bytes() > kMostUnconfirmedBytes) return true;
  return settings_.group.auto_ack && pool_->in_flight() >= auto_ack_window_;
}

// Of one that is not full.
bool Consumer::batch_is_due() const {
  if (waiting_.empty()) return false;
  if (phase_ != Phase::running) return true;
  if (Clock::now() >= table_.at(waiting_.front()).since + settings_.group.batch_wait) return true;
  // Or when it cannot become fuller.
  if (pool_->in_flight() > pool_->held()) return false;
  for (std::uint16_t queue = 0; queue < settings_.group.queues.size(); ++queue) {
    if (!session_->window_full(queue)) return false;
  }
  return true;
}

void Consumer::given_to_worker(Delivery& delivery) {
  if (dedup_ != nullptr) dedup_->begun(delivery);
  delivery.began = turn_began_;  // or a little later, as its outcome will tell
  rate_.take(1);
  if (tracer_.active()) {
    tracer_.step(delivery, "given to worker " + std::to_string(delivery.worker));
  }
  if (!settings_.group.auto_ack || delivery.settled) return;
  delivery.settled = true;
  add(board_.acked);
  tell_broker(delivery, Verdict::ack);
}

void Consumer::probe_suspects() {
  pool_->keep_fresh_workers(!suspects_.empty());
  while (!suspects_.empty() && rate_allows(1) && pool_->probe(table_.at(suspects_.front()))) {
    Delivery& suspect = table_.at(suspects_.front());
    suspects_.pop_front();
    given_to_worker(suspect);
  }
  if (suspects_.empty()) pool_->keep_fresh_workers(false);
}

// When handlers keep so much that nothing more can come, they hear of it: once, until something is
// settled.
void Consumer::ask_flush_when_full() {
  if (flush_asked_ || pool_->held() == 0) return;
  if (phase_ != Phase::running && waiting_.empty()) return;  // a drain has its own
  const bool all_held = pool_->held() == pool_->in_flight();
  bool full = no_room_ && all_held;
  // The rest of a window may wait for what is kept, too: all behind it in their order.
  const bool rests = all_held && waiting_.empty() && suspects_.empty() && freed_.empty() &&
                     publishing_ == 0 && (dedup_ == nullptr || !dedup_->asking());
  for (std::uint16_t queue = 0; queue < held_.size(); ++queue) {
    const auto prefetch = static_cast<std::size_t>(settings_.group.queues[queue].prefetch);
    full = full || held_[queue] >= prefetch ||
           (rests && receiving_[queue] == nullptr && session_->window_full(queue));
  }
  if (!full) return;
  flush_asked_ = true;
  pool_->ask_flush(FlushReason::window_full);
  pool_->flush();
}

void Consumer::trim_bodies() {
  for (const std::uint64_t id : table_.bodies().trim(Clock::now() - kBodiesKept)) pool_->forget(id);
  pool_->flush();
}

std::size_t Consumer::put_back(std::vector<Delivery*> deliveries) {
  rate_.give_back(deliveries.size());
  std::sort(deliveries.begin(), deliveries.end(),
            [](const Delivery* a, const Delivery* b) { return a->sequence > b->sequence; });
  std::size_t stale = 0;
  for (Delivery* delivery : deliveries) {
    if (dedup_ != nullptr && delivery->worker >= 0) dedup_->not_begun(*delivery);
    if (!delivery->settled && !is_current(*delivery)) {
      release(*delivery);
      ++stale;
      continue;
    }
    delivery->state = delivery->alone ? Delivery::State::suspect : Delivery::State::waiting;
    delivery->worker = -1;
    delivery->sequence = 0;
    (delivery->alone ? suspects_ : waiting_).push_front(delivery->index);
  }
  return stale;
}

// ---- Done once

Result<void> Consumer::set_up_dedup() {
  const DedupSettings& settings = settings_.group.dedup;
  if (settings.key == DedupSettings::Key::none) return {};
  std::function<std::unique_ptr<DedupStore>()> make;
  if (settings.store == DedupSettings::Store::local) {
    make = [folder = settings_.state_dir + "/dedup/" + settings_.group.name] {
      return std::make_unique<DedupLocal>(folder);
    };
  } else {
    make = [url = settings.redis_url, group = settings_.group.name] {
      return std::make_unique<DedupRedis>(url, group);
    };
  }
  auto thread = DedupThread::start(std::move(make));
  if (!thread) return Error{thread.error()};
  dedup_thread_ = std::move(*thread);
  // It only wakes: the turn takes them.
  auto source = loop_->watch_fd(dedup_thread_->event_fd(), EPOLLIN, [](std::uint32_t) {});
  if (!source) return Error{source.error()};
  dedup_source_ = std::move(*source);
  auto timer = loop_->make_timer([] {});  // submit_dedup() looks once a turn
  if (!timer) return Error{timer.error()};
  dedup_timer_ = std::move(*timer);

  Dedup::Events events;
  events.on_free = [this](Delivery& delivery, bool claimed) { on_free(delivery, claimed); };
  events.on_double = [this](Delivery& delivery, const DedupAnswer& answer) {
    on_double(delivery, answer);
  };
  events.on_too_soon = [this](Delivery& delivery, const DedupAnswer& answer) {
    on_too_soon(delivery, answer);
  };
  events.on_wait = [this](Delivery& delivery, const char* reason, std::chrono::milliseconds delay) {
    wait_elsewhere(delivery, reason, delay);
  };
  events.on_noted = [this](Delivery& delivery, bool noted) { on_noted(delivery, noted); };
  dedup_ = std::make_unique<Dedup>(settings_.group, std::move(events));
  return {};
}

void Consumer::take_dedup_answers() {
  dedup_answers_.clear();
  std::string trouble;
  dedup_thread_->take(dedup_answers_, trouble);
  if (dedup_answers_.empty()) return;
  dedup_->take(dedup_answers_, trouble, turn_began_);
}

void Consumer::submit_dedup() {
  const TimePoint next = dedup_->tend(turn_began_);
  if (std::vector<DedupOp>& ops = dedup_->to_submit(turn_began_); !ops.empty()) {
    dedup_thread_->submit(ops, dedup_->times());
  }
  if (!dedup_timer_.armed() || next < dedup_due_) dedup_timer_.arm(dedup_due_ = next);
  if (dedup_->trouble() == dedup_trouble_) return;
  if (dedup_->trouble().empty()) {
    log_info("dedup store works again", {{"group", settings_.group.name}});
  } else if (dedup_trouble_.empty()) {
    const bool runs = settings_.group.dedup.on_store_failure == DedupSettings::OnStoreFailure::run;
    log_warn("dedup store fails",
             {{"group", settings_.group.name},
              {"reason", dedup_->trouble()},
              {"then", runs ? "messages run without dedup" : "messages wait (on_store_failure)"}});
  }
  dedup_trouble_ = dedup_->trouble();
}

// Before it is in the line for a worker.
void Consumer::claim(Delivery& delivery) {
  std::string key;
  std::string_view id;
  const auto view = decode_delivery(delivery.frame.bytes());
  if (view) {
    id = (*view)[TextProperty::message_id];
    key = dedup_key(settings_.group.dedup, *view, body_of(delivery, *view));
  }
  if (key.empty()) {
    add(board_.unchecked);
    log_repeated(LogLevel::warn, "message run without dedup", delivery,
                 settings_.group.dedup.key == DedupSettings::Key::header
                     ? "it has no header '" + settings_.group.dedup.header + "' with a single value"
                     : "it has no message_id");
    line_up_for_worker(delivery);
    return;
  }
  delivery.state = Delivery::State::claiming;
  ++claiming_;
  if (settings_.group.dedup.key == DedupSettings::Key::message_id) id = {};  // the key tells it
  dedup_->claim(delivery, std::move(key), id, turn_began_);
}

void Consumer::on_free(Delivery& delivery, bool claimed) {
  --claiming_;
  if (!claimed) log_without_dedup(delivery, false);
  line_up_for_worker(delivery);
}

void Consumer::on_double(Delivery& delivery, const DedupAnswer& answer) {
  --claiming_;
  add(board_.doubles);
  tracer_.step(delivery, "a double: it was done already");
  log_doubled("message is a double", delivery, answer);
  if (witness_) witness_->handled(delivery, {.outcome = "double"});
  settle(delivery, Verdict::ack);
}

void Consumer::on_too_soon(Delivery& delivery, const DedupAnswer& answer) {
  --claiming_;
  add(board_.too_soon);
  tracer_.step(delivery, "dropped: too soon after another with its key");
  log_doubled("message dropped within min_interval", delivery, answer);
  settle(delivery, Verdict::ack);
}

void Consumer::log_doubled(std::string_view event, const Delivery& delivery,
                           const DedupAnswer& answer) {
  const std::string id = message_id(delivery);
  const bool same = settings_.group.dedup.key == DedupSettings::Key::message_id;
  log_info(event, {{"group", settings_.group.name},
                   {"queue", settings_.group.queues[delivery.queue].name},
                   {"delivery_tag", delivery.tag},
                   {"message_id", id},
                   {"done_message_id", same ? id : answer.id},
                   {"done_ago_ms", static_cast<std::int64_t>(unix_ms()) - answer.done_ms}});
}

// It gives up its place in the window, for the attempt that it came with.
void Consumer::wait_elsewhere(Delivery& delivery, const char* reason,
                              std::chrono::milliseconds delay) {
  --claiming_;
  tracer_.step(delivery, std::string("waits elsewhere: ") + reason);
  log_debug("message waits", {{"group", settings_.group.name},
                              {"delivery_tag", delivery.tag},
                              {"message_id", message_id(delivery)},
                              {"reason", reason},
                              {"delay_ms", delay.count()}});
  publish_copy(delivery, waiting_copy(settings_.delays, delivery, home_of(delivery.queue), delay));
}

void Consumer::on_noted(Delivery& delivery, bool noted) {
  --noting_;
  if (!noted) log_without_dedup(delivery, true);
  settle(delivery, Verdict::ack);
}

// Its store fails.
void Consumer::log_without_dedup(const Delivery& delivery, bool done) {
  add(board_.unchecked);
  log_repeated(LogLevel::warn, done ? "message done and not noted" : "message run without dedup",
               delivery, dedup_->trouble());
}

// ---- Outcomes

bool Consumer::drop_if_stale(Delivery& delivery) {
  if (delivery.settled || is_current(delivery)) return false;
  add(board_.stale_outcomes);
  log_warn("outcome dropped",
           {{"group", settings_.group.name},
            {"queue", settings_.group.queues[delivery.queue].name},
            {"delivery_tag", delivery.tag},
            {"message_id", message_id(delivery)},
            {"reason", "its channel is gone: the message may be handled twice"}});
  if (witness_) {
    witness_->handled(delivery, {.outcome = "lost", .reason = "its channel is gone"});
  }
  release(delivery);
  return true;
}

void Consumer::on_outcome(WorkerProcess::Outcome& outcome) {
  Delivery& delivery = *outcome.delivery;
  if (outcome.not_started) {
    put_back({&delivery});
    return;
  }
  if (tracer_.active()) {
    tracer_.step(delivery, "its handler says " + name_of(outcome) + ", after " +
                               std::to_string(outcome.duration_ns / 1000) + " us inside");
  }
  if (!outcome.settled && !outcome.refused) board_.handling.add(outcome.duration_ns);
  if (witness_) witness_->ran(delivery, outcome.duration_ns, outcome.held, outcome.settled);
  if (outcome.held) {
    ++held_[delivery.queue];
    all_asked_ = false;
    delivery.alive = turn_began_;
    return;
  }
  no_longer_held(delivery);
  // It comes again, and is not to be done again. What a refusal says is no outcome.
  if (dedup_ != nullptr && !outcome.refused && outcome.outcome == kAck &&
      outcome.publications.empty() && !is_current(delivery)) {
    dedup_->done(delivery, turn_began_);
  }
  if (drop_if_stale(delivery)) return;
  if (outcome.refused) {
    add(board_.refused);
    dead_letter(delivery, {code_of(static_cast<Refusal>(outcome.outcome)), outcome.reason,
                           delivery.attempt - 1, delivery.crashes});
    return;
  }
  const auto because = [&outcome](std::string_view what) {
    return outcome.reason.empty() ? std::string(what) : std::string(what) + ": " + outcome.reason;
  };
  switch (outcome.outcome) {
    case kAck:
      if (outcome.publications.empty()) {
        done(delivery);
      } else {
        publish_for(delivery, std::move(outcome.publications));
      }
      return;
    case kReject:
      count_outcome(false);
      dead_letter(delivery, {dead_code::kRejected, because("the handler rejected it"),
                             delivery.attempt, delivery.crashes});
      return;
    case kRetry:
      retry(delivery, {because("the handler asked for it"), false, outcome.retry_after});
      return;
    case 0: retry(delivery, {because("the handler gave no outcome")}); return;
    default:
      retry(delivery,
            {because("the handler gave an unknown outcome, " + std::to_string(outcome.outcome))});
      return;
  }
}

// Its handler said ACK, and all that was published for it is confirmed.
void Consumer::done(Delivery& delivery) {
  count_outcome(false);
  if (witness_) witness_->handled(delivery, {.outcome = "ack", .crashes = delivery.crashes});
  if (dedup_ != nullptr) {
    switch (dedup_->done(delivery, turn_began_)) {
      case Dedup::Noting::nothing: break;
      case Dedup::Noting::begun:
        delivery.state = Delivery::State::noting;
        delivery.worker = -1;
        ++noting_;
        tracer_.step(delivery, "done, which is being noted");
        return;
      case Dedup::Noting::failed: log_without_dedup(delivery, true); break;
    }
  }
  settle(delivery, Verdict::ack);
}

void Consumer::on_death(WorkerProcess::Remains& remains, const std::string& how) {
  std::sort(remains.running.begin(), remains.running.end(),
            [](const Delivery* a, const Delivery* b) { return a->sequence < b->sequence; });
  // Of whom one has brought it about. Whoever ran beside a late one has not, however it died then.
  const auto is_late = [](const Delivery* delivery) { return delivery->late; };
  const bool ended = !remains.ended.empty();
  auto guilty = ended ? std::count_if(remains.running.begin(), remains.running.end(), is_late)
                      : static_cast<std::ptrdiff_t>(remains.running.size());
  if (!ended && remains.flushing) ++guilty;
  for (Delivery* delivery : remains.running) {
    no_longer_held(*delivery);
    if (drop_if_stale(*delivery)) continue;
    const bool late = std::exchange(delivery->late, false);
    if (killed_ || stopped_) {  // it was we who ended it, and counted it
      if (!delivery->settled && !keeps_order()) tell_broker(*delivery, Verdict::hand_back);
      release(*delivery);
    } else if (phase_ != Phase::running && guilty > 1) {
      hand_back(*delivery);  // nobody can be charged any more
    } else if (ended && !late) {
      remains.waiting.push_back(delivery);  // beside a late one
      rate_.take(1);                        // it had begun, and does so once more
      delivery->worker = -1;                // put_back() tells it by that from what had not
    } else if (guilty > 1 && !delivery->settled && !delivery->alone) {
      suspect(*delivery, how);
    } else if (late) {
      add(board_.timeouts);
      if (witness_) witness_->ended(*delivery);
      retry(*delivery, {.reason = remains.ended, .outcome = "timeout"});
    } else {
      add(board_.crashes);
      if (witness_) witness_->ended(*delivery);
      retry(*delivery, {.reason = "its worker died: " + how, .crashed = true, .outcome = "crash"});
    }
  }
  put_back(std::move(remains.waiting));
}

// One of several that were inside a worker when it died. Only one of them can be guilty: each is
// run again, from our own copy, alone in a fresh worker. Who dies then is charged.
void Consumer::suspect(Delivery& delivery, std::string_view how) {
  log_warn("message to be run again, alone",
           {{"group", settings_.group.name},
            {"handler", settings_.group.handler},
            {"queue", settings_.group.queues[delivery.queue].name},
            {"delivery_tag", delivery.tag},
            {"message_id", message_id(delivery)},
            {"reason", "its worker died with several inside: " + std::string(how)}});
  delivery.state = Delivery::State::suspect;
  delivery.alone = true;
  delivery.worker = -1;
  delivery.sequence = 0;
  suspects_.push_back(delivery.index);
}

void Consumer::no_longer_held(Delivery& delivery) {
  if (delivery.state != Delivery::State::held) return;
  delivery.state = Delivery::State::at_worker;
  --held_[delivery.queue];
  flush_asked_ = false;
}

void Consumer::log_message(LogLevel level, std::string_view event, const Delivery& delivery,
                           std::string_view reason) {
  log_event(level, event,
            {{"group", settings_.group.name},
             {"handler", settings_.group.handler},
             {"queue", settings_.group.queues[delivery.queue].name},
             {"delivery_tag", delivery.tag},
             {"message_id", message_id(delivery)},
             {"attempt", delivery.attempt},
             {"reason", reason}});
}

// Once a minute for each reason: when copies cannot be published, it is each message's trouble.
void Consumer::log_repeated(LogLevel level, std::string_view event, const Delivery& delivery,
                            const std::string& reason) {
  const std::size_t count = repeated_.count(std::string(event) + reason, turn_began_);
  if (count == 0) return;
  const std::string times = " (" + std::to_string(count) + " messages since this was last said)";
  log_message(level, event, delivery, count == 1 ? reason : reason + times);
}

Attempt Consumer::attempt_of(const Delivery& delivery, std::string_view reason) const {
  std::string worker = settings_.group.name;
  if (delivery.ran_at >= 0) worker += "/" + std::to_string(delivery.ran_at);
  return {delivery.attempt, unix_ms(), worker + " on " + host_, std::string(reason)};
}

Author Consumer::author_of(const Delivery& delivery) const {
  const HandlerIdentity& handler = pool_->handler_of(delivery);
  return {settings_.group.name, handler.name, handler.version, handler.path, host_};
}

void Consumer::retry(Delivery& delivery, const Failure& failure) {
  count_outcome(true);
  note(failure.reason);
  const auto tell = [&](std::string_view outcome, std::uint32_t crashes,
                        const RetryDecision& decision) {
    if (!witness_) return;
    witness_->handled(delivery, {.outcome = outcome,
                                 .reason = failure.reason,
                                 .code = decision.dead_code,
                                 .crashes = crashes,
                                 .delay = decision.delay});
  };
  if (delivery.settled) {
    tell(failure.outcome, delivery.crashes, {});
    log_message(LogLevel::warn, "message given up (auto_ack)", delivery, failure.reason);
    release(delivery);
    return;
  }
  const std::uint32_t crashes = delivery.crashes + (failure.crashed ? 1 : 0);
  const RetryDecision decision =
      decide_retry(settings_.group.retry, settings_.group.crashes,
                   {delivery.attempt, crashes, failure.crashed, failure.asked}, random_fraction());
  const bool dead = !decision.dead_code.empty();
  tell(dead && failure.outcome == "retry" ? "dead" : failure.outcome, crashes, decision);
  if (dead) {
    dead_letter(delivery, {decision.dead_code, failure.reason, delivery.attempt, crashes});
    return;
  }
  add(board_.retried);
  if (tracer_.active()) {
    tracer_.step(delivery, "another attempt in " + std::to_string(decision.delay.count()) +
                               " ms: " + failure.reason);
  }
  log_warn("message retried", {{"group", settings_.group.name},
                               {"handler", settings_.group.handler},
                               {"queue", settings_.group.queues[delivery.queue].name},
                               {"delivery_tag", delivery.tag},
                               {"message_id", message_id(delivery)},
                               {"attempt", delivery.attempt},
                               {"crashes", crashes},
                               {"reason", failure.reason},
                               {"delay_ms", decision.delay.count()}});
  if (keeps_order()) {
    rest(delivery, decision.delay, crashes, attempt_of(delivery, failure.reason));
    return;
  }
  publish_copy(delivery, retry_copy(settings_.delays, delivery, home_of(delivery.queue),
                                    decision.delay, crashes, attempt_of(delivery, failure.reason)));
}

// Where it goes for another attempt, and comes from when it is a dead letter. All who read a stream
// would get what is put into it.
const std::string& Consumer::home_of(std::uint16_t queue) const {
  const QueueSettings& from = settings_.group.queues[queue];
  return from.stream ? from.retry_queue : from.name;
}

void Consumer::on_probed(std::uint16_t queue, const DeadLetterProbe& probe) {
  using Answer = DeadLetterProbe::Answer;
  const bool there = probe.answer() == Answer::there;
  has_dead_letter_exchange_[queue] = there;
  if (there) {
    probed_[queue].clear();
    return;
  }
  std::string reason = "the queue has no dead-letter exchange that could be seen";
  if (probe.answer() == Answer::unknown)
    reason = "the broker does not say whether the queue has a dead-letter exchange";
  if (probe.answer() == Answer::missing) {
    reason = "its dead-letter exchange '" + escape(probe.exchange(), 256) + "' does not exist";
  }
  warn_of_parking(queue, reason);
}

void Consumer::warn_of_parking(std::uint16_t queue, const std::string& reason) {
  if (std::exchange(probed_[queue], reason) == reason) return;
  const std::string& name = settings_.group.queues[queue].name;
  log_warn("no dead-letter exchange",
           {{"group", settings_.group.name},
            {"queue", name},
            {"reason", reason},
            {"then", "what is given up goes to queue '" + parking_queue(name) + "'"},
            {"to_change", "dead_letter; if a policy sets one: dead_letter: broker"}});
}

// A group whose messages fail slows down by itself.
void Consumer::count_outcome(bool failed) {
  const auto pause = breaker_.outcome(failed, turn_began_);
  if (!pause) return;
  add(board_.pauses);
  log_warn("pausing", {{"group", settings_.group.name},
                       {"reason", "nearly every message fails"},
                       {"failed", pause->failed},
                       {"of", pause->outcomes},
                       {"pause_ms", pause->length.count()}});
}

// For the board. Not each of thousands: nobody could read them.
void Consumer::note(std::string_view failure) {
  if (turn_began_ < next_note_) return;
  next_note_ = turn_began_ + kNotes;
  note_failure(board_, failure);
}

// Does the broker take a rejected message to somewhere, as far as we know?
bool Consumer::dead_letters_by_broker(std::uint16_t queue) const {
  if (settings_.group.queues[queue].stream) return false;
  switch (settings_.group.dead_letter.to) {
    case DeadLetterSettings::To::broker: return true;
    case DeadLetterSettings::To::exchange: return false;
    case DeadLetterSettings::To::automatic: return has_dead_letter_exchange_[queue];
  }
  return false;
}

void Consumer::dead_letter(Delivery& delivery, const DeadLetter& letter) {
  const bool by_broker = dead_letters_by_broker(delivery.queue);
  const bool parking = settings_.group.dead_letter.to == DeadLetterSettings::To::automatic;
  const std::string& queue = home_of(delivery.queue);
  note(letter.reason);
  if (witness_) {
    witness_->handled(delivery, {.outcome = letter.code == dead_code::kRejected ? "reject" : "dead",
                                 .reason = letter.reason,
                                 .code = letter.code,
                                 .crashes = letter.crashes});
  }
  if (tracer_.active()) {
    tracer_.step(delivery, "a dead letter, " + std::string(letter.code) + ": " + letter.reason);
  }
  log_warn(letter.code == dead_code::kRejected ? "message rejected" : "message given up",
           {{"group", settings_.group.name},
            {"handler", settings_.group.handler},
            {"queue", queue},
            {"delivery_tag", delivery.tag},
            {"message_id", message_id(delivery)},
            {"code", letter.code},
            {"reason", letter.reason},
            {"attempts", letter.attempts},
            {"crashes", letter.crashes},
            {"to", delivery.settled ? "nowhere: auto_ack"
                   : by_broker      ? "the queue's dead-letter exchange"
                   : parking        ? "queue " + parking_queue(queue)
                                    : "dead_letter"}});
  if (by_broker || delivery.settled) {
    settle(delivery, Verdict::reject);
    return;
  }
  publish_copy(delivery,
               dead_letter_copy(settings_.group.dead_letter, parking, delivery, queue, letter,
                                author_of(delivery), attempt_of(delivery, letter.reason)));
}

// ---- Publishing

// Its outcome is an ack, once all of these are confirmed.
void Consumer::publish_for(Delivery& delivery, std::vector<std::string> publications) {
  delivery.state = Delivery::State::publishing;
  delivery.worker = -1;
  ++publishing_;
  if (tracer_.active()) {
    tracer_.step(delivery, "its handler's publications, " + std::to_string(publications.size()) +
                               ", wait for the broker's confirms");
  }
  const std::uint64_t cause = table_.new_sequence(delivery);
  delivery.unconfirmed = static_cast<std::uint32_t>(publications.size());
  for (std::string& each : publications) {
    auto outbound = publication_for(settings_.delays, std::move(each));
    if (!outbound) {
      auto damaged = std::make_unique<Outbound>();
      damaged->cause = cause;
      on_fate(std::move(damaged), Fate::refused, outbound.error());
      return;
    }
    (*outbound)->cause = cause;
    if (witness_) witness_->publishes(delivery, **outbound);
    publisher_->publish(std::move(*outbound));
    if (table_.find(cause) == nullptr) return;  // one of them has failed at once
  }
}

void Consumer::publish_copy(Delivery& delivery, std::unique_ptr<Outbound> copy) {
  if (delivery.state != Delivery::State::publishing) ++publishing_;
  delivery.state = Delivery::State::publishing;
  delivery.worker = -1;
  delivery.unconfirmed = 1;
  copy->cause = table_.new_sequence(delivery);
  if (witness_) witness_->publishes(delivery, *copy);
  publisher_->publish(std::move(copy));
}

void Consumer::on_fate(std::unique_ptr<Outbound> outbound, Fate fate, const std::string& reason) {
  Delivery* const delivery = table_.find(outbound->cause);
  if (delivery == nullptr || delivery->state != Delivery::State::publishing) return;
  const auto kind = static_cast<CopyKind>(outbound->kind);
  if (witness_) {
    std::string said = to_string(fate);
    if (!reason.empty()) said += ": " + reason;
    witness_->published(*delivery, *outbound, said);
  }
  if (fate == Fate::confirmed) {
    add(kind == CopyKind::publication ? board_.published
        : kind == CopyKind::retry     ? board_.copied
        : kind == CopyKind::waiting   ? board_.delayed
                                      : board_.dead_lettered);
    if (--delivery->unconfirmed > 0) return;
    --publishing_;
    tracer_.step(*delivery, "all that was published for it is confirmed");
    if (kind == CopyKind::publication) {
      done(*delivery);
    } else {
      requeues_in_a_row_ = 0;
      settle(*delivery, Verdict::ack);
    }
    return;
  }
  if (kind != CopyKind::publication) {
    on_copy_failed(*delivery, std::move(outbound), fate, reason);
    return;
  }
  // The others are published or not: the next attempt publishes them all again.
  forget_publications(*delivery);
  const Publication& publication = outbound->publication;
  const std::string to = publication.exchange.empty()
                             ? "queue '" + escape(publication.routing_key, 128) + "'"
                             : "exchange '" + escape(publication.exchange, 128) + "', key '" +
                                   escape(publication.routing_key, 128) + "'";
  --publishing_;
  delivery->state = Delivery::State::at_worker;  // as if its handler had just said so
  retry(*delivery, {"what it published to " + to + " was " + to_string(fate) + ": " + reason});
}

// A copy of the message itself could not be published. It is still the broker's; nothing is lost.
void Consumer::on_copy_failed(Delivery& delivery, std::unique_ptr<Outbound> copy, Fate fate,
                              const std::string& reason) {
  const auto kind = static_cast<CopyKind>(copy->kind);
  const std::string why = std::string(to_string(fate)) + ": " + reason;
  if (next_best(*copy, fate, home_of(delivery.queue))) {
    log_repeated(LogLevel::warn, "its copy could not be published, trying another way", delivery,
                 why);
    publish_copy(delivery, std::move(copy));
    return;
  }
  if (kind == CopyKind::retry && fate == Fate::too_large) {
    --publishing_;
    delivery.state = Delivery::State::at_worker;  // as if its handler had just ended
    dead_letter(delivery, {dead_code::kTooLarge,
                           "with the headers of another attempt it fits no frame: " + reason,
                           delivery.attempt, delivery.crashes});
    return;
  }
  if (kind == CopyKind::waiting) {
    log_repeated(LogLevel::error, "cannot send a message away to wait", delivery, why);
  } else {
    log_repeated(LogLevel::error,
                 kind == CopyKind::retry ? "cannot publish a message for another attempt"
                                         : "cannot publish a dead letter",
                 delivery, why);
  }
  requeue_later(delivery);
}

// Back to its queue, after a while.
void Consumer::requeue_later(Delivery& delivery) {
  --publishing_;
  delivery.worker = -1;
  delivery.sequence = 0;
  if (phase_ != Phase::running) {
    settle(delivery, Verdict::requeue);
    return;
  }
  const auto delay = requeue_delay(requeues_in_a_row_++);
  delivery.state = Delivery::State::delayed;
  delivery.due = Clock::now() + delay;
  if (!keeps_order()) {
    if (witness_) witness_->over(delivery);  // its ids are in what is dropped
    table_.drop_message(delivery);
  }
  delayed_.push_back(delivery.index);
}

// ---- Time limits

void Consumer::arm_time_limits() {
  TimePoint due = TimePoint::max();
  if (settings_.group.timeout.count() > 0 && pool_->in_flight() > 0) {
    due = turn_began_ + settings_.group.timeout;
  }
  if (settings_.broker.consumer_timeout.count() > 0 && table_.in_use() > 0) {
    due = std::min(due, turn_began_ + patience_.waited);
  }
  if (due == TimePoint::max() || (limit_timer_.armed() && due >= limits_due_)) return;
  limits_due_ = due;
  limit_timer_.arm(due);
}

void Consumer::check_time_limits() {
  pool_->collect();
  const TimePoint now = Clock::now();
  TimePoint next = TimePoint::max();
  const auto limit = settings_.group.timeout;
  if (limit.count() > 0) {
    next = pool_->end_late(limit);
    // A handler that keeps a message only loses it.
    table_.for_each([&](Delivery& delivery) {
      if (delivery.state != Delivery::State::held || delivery.late) return;
      if (delivery.alive + limit > now) {
        next = std::min(next, delivery.alive + limit);
        return;
      }
      take_from_handler(delivery, "timeout: its handler has kept it for longer than " +
                                      std::to_string(limit.count()) + " ms");
    });
  }
  if (settings_.broker.consumer_timeout.count() > 0) next = std::min(next, settle_in_time(now));
  if (next == TimePoint::max()) return;
  limits_due_ = next;
  limit_timer_.arm(next);
}

// Before the broker closes the channel over what it has waited for too long. Returns when to look
// again.
TimePoint Consumer::settle_in_time(TimePoint now) {
  const Patience& limits = patience_;
  const auto is_over = [&](const Delivery& delivery, std::chrono::milliseconds limit) {
    return !delivery.settled && delivery.arrived + limit <= now;
  };
  // Those that wait at a worker for their turn come back; those inside a handler stay there.
  bool ahead = false;
  table_.for_each([&](Delivery& delivery) {
    ahead = ahead || (delivery.state == Delivery::State::at_worker && !delivery.late &&
                      is_over(delivery, limits.waited));
  });
  if (ahead) put_back(pool_->take_back());

  std::size_t handed_back = 0;
  const auto overdue = [&](std::uint32_t index) {
    Delivery& delivery = table_.at(index);
    if (!is_over(delivery, limits.stays())) return false;
    ++handed_back;
    settle(delivery, Verdict::hand_back);
    return true;
  };
  std::erase_if(waiting_, overdue);
  std::erase_if(suspects_, overdue);
  std::erase_if(delayed_, [&](std::uint32_t index) {
    if (!is_over(table_.at(index), limits.worked)) return false;
    settle(table_.at(index), Verdict::requeue);
    return true;
  });
  if (claiming_ + noting_ > 0) {
    table_.for_each([&](Delivery& delivery) {
      if (delivery.state == Delivery::State::claiming && is_over(delivery, limits.stays())) {
        --claiming_;
        ++handed_back;
        settle(delivery, Verdict::hand_back);
      } else if (delivery.state == Delivery::State::noting && is_over(delivery, limits.published)) {
        on_noted(delivery, false);
      }
    });
  }
  table_.for_each([&](const Delivery& delivery) {
    const bool stays =
        delivery.state == Delivery::State::behind || delivery.state == Delivery::State::resting;
    if (stays && is_over(delivery, limits.stays())) {
      withdraw("they have waited for nearly as long as the broker's consumer_timeout");
    }
  });
  const std::string too_long =
      "timeout: it was worked on for nearly as long as the broker's consumer_timeout";
  table_.for_each([&](Delivery& delivery) {
    if (delivery.state == Delivery::State::publishing && is_over(delivery, limits.published)) {
      stop_publishing(delivery);
      ++handed_back;
      settle(delivery, Verdict::hand_back);
    } else if (!is_over(delivery, limits.worked) || delivery.late) {
      return;
    } else if (delivery.state == Delivery::State::held) {
      take_from_handler(delivery, too_long);
    } else if (delivery.state == Delivery::State::at_worker) {
      pool_->end_over(delivery, too_long, limits.worked);  // it is inside a call
    }
  });
  log_handed_back(handed_back,
                  "they have waited for nearly as long as the broker's consumer_timeout");
  TimePoint next = TimePoint::max();
  table_.for_each([&](Delivery& delivery) {
    if (delivery.settled || delivery.late) return;
    for (const auto span : {limits.waited, limits.worked, limits.published}) {
      if (delivery.arrived + span <= now) continue;
      next = std::min(next, delivery.arrived + span);
      break;
    }
  });
  return next;
}

void Consumer::take_from_handler(Delivery& held, const std::string& reason) {
  pool_->revoke(held);
  no_longer_held(held);
  if (drop_if_stale(held)) return;
  add(board_.timeouts);
  if (witness_) witness_->ended(held);
  retry(held, {.reason = reason, .outcome = "timeout"});
}

void Consumer::release(Delivery& delivery) {
  if (witness_) witness_->over(delivery);
  if (keeps_order()) leave_row(delivery);
  tracer_.end(delivery);
  if (dedup_ != nullptr) dedup_->over(delivery);
  if (delivery.offset >= 0 && !delivery.only_compared) {
    streams_->of(delivery.queue)->given_back(delivery.offset);  // unless it is settled
  }
  table_.free(delivery);
}

void Consumer::settle(Delivery& delivery, Verdict verdict) {
  tracer_.step(delivery, to_string(verdict));
  const bool finished = verdict == Verdict::ack || verdict == Verdict::reject;
  if (witness_ && finished) witness_->handled(delivery, {.outcome = "skipped"});
  if (finished && phase_ != Phase::running) add(board_.finished_in_drain);
  const bool comes_again_by_us = delivery.offset >= 0 && !finished && !delivery.settled;
  if (!delivery.settled) {
    if (keeps_order() && !finished) {
      go_back(delivery);
    } else {
      tell_broker(delivery, verdict);
    }
    switch (verdict) {
      case Verdict::ack: add(board_.acked); break;
      case Verdict::reject: add(board_.rejected); break;
      case Verdict::requeue: break;  // counted when it was decided
      case Verdict::hand_back:
        add(board_.handed_back);
        if (phase_ != Phase::running || stopped_) add(board_.handed_back_in_drain);
        break;
    }
  }
  const std::uint16_t queue = delivery.queue;
  release(delivery);
  if (comes_again_by_us && phase_ == Phase::running) session_->subscribe_again(queue);
}

// What came on a channel that is gone is the broker's again. Not so a stream's: that a message was
// handled counts wherever it came from, and what comes again meanwhile is known to be in hand.
bool Consumer::is_current(const Delivery& delivery) const {
  return delivery.offset >= 0 || session_->current(delivery.queue, delivery.epoch);
}

void Consumer::tell_broker(Delivery& delivery, Verdict verdict) {
  if (delivery.offset >= 0) {
    const bool finished = verdict == Verdict::ack || verdict == Verdict::reject;
    if (finished) streams_->of(delivery.queue)->settled(delivery.offset);
  }
  // A stream's, or what was one's until that was made anew: its tag may be another's by now.
  if (!session_->current(delivery.queue, delivery.epoch)) return;
  session_->finish(delivery.queue, delivery.tag, verdict);
}

void Consumer::hand_back_delayed_that_are_due() {
  if (delayed_.empty()) return;
  const TimePoint now = Clock::now();
  TimePoint next = TimePoint::max();
  std::erase_if(delayed_, [&](std::uint32_t index) {
    Delivery& delivery = table_.at(index);
    if (delivery.due > now) {
      next = std::min(next, delivery.due);
      return false;
    }
    settle(delivery, Verdict::requeue);
    return true;
  });
  if (next != TimePoint::max()) delay_timer_.arm(next);
}

// ---- Streams

// Whether a message is to be handled, or at least looked at. Otherwise the stream hears that there
// is room.
bool Consumer::takes_from_stream(std::uint16_t queue, const IncomingDelivery& incoming,
                                 bool& only_compare) {
  StreamProgress& progress = *streams_->of(queue);
  streams_->not_short(queue);
  const auto arrival = progress.arrived(incoming.stream_offset);
  if (progress.lost() > 0) {
    log_error("a stream has dropped messages before they were read",
              {{"group", settings_.group.name},
               {"queue", settings_.group.queues[queue].name},
               {"messages", progress.lost()},
               {"next_offset", incoming.stream_offset}});
  }
  only_compare = arrival == StreamProgress::Arrival::compare;
  if (arrival != StreamProgress::Arrival::skip) return true;
  session_->finish(queue, incoming.view.delivery_tag, Verdict::ack);
  return false;
}

// All of it is here.
bool Consumer::is_to_be_handled(Delivery& delivery) {
  const std::string_view body(delivery.body_at, delivery.body_size);
  const bool same =
      streams_->of(delivery.queue)->complete(delivery.offset, end_print(delivery.print, body));
  if (same && !delivery.only_compared) return true;
  const std::string offset = std::to_string(delivery.offset);
  session_->finish(delivery.queue, delivery.tag, Verdict::ack);
  if (!same) start_over(delivery.queue, "the message at offset " + offset + " is another one");
  release(delivery);
  return false;
}

// From where this group is to go on. With a lookout where that is known to be in the stream.
std::vector<Request> Consumer::subscription(const QueueSettings& queue, bool channel_open) {
  const auto& queues = settings_.group.queues;
  const auto found = std::ranges::find(queues, queue.name, &QueueSettings::name);
  StreamProgress* const progress = streams_->of(static_cast<std::uint16_t>(found - queues.begin()));
  if (progress == nullptr) return subscription_steps(queue, channel_open);
  QueueSettings from = queue;
  const bool resumes = progress->resumes();
  from.offset = progress->subscribe(static_cast<std::int64_t>(unix_ms() / 1000));
  std::vector<Request> steps = subscription_steps(from, channel_open);
  if (resumes) add_lookout(steps, queue);
  return steps;
}

void Consumer::on_ends_before(std::uint16_t queue, std::int64_t offset) {
  const std::string& name = settings_.group.queues[queue].name;
  const StreamProgress& progress = *streams_->of(queue);
  const std::string reason = "its last part begins at offset " + std::to_string(offset) + ", and " +
                             std::to_string(progress.seen()) + " was read already";
  const TimePoint now = Clock::now();
  if (streams_->stays_short(queue, now)) {
    start_over(queue, reason);
    return;
  }
  if (repeated_.count("short " + name, now) > 0) {
    log_warn("a stream ends before the message to go on with",
             {{"group", settings_.group.name},
              {"queue", name},
              {"reason", reason},
              {"then", "it is waited for, in case a replica is behind"}});
  }
  session_->subscribe_again(queue);
}

// It was deleted and made again. What was handled was of the old one.
void Consumer::start_over(std::uint16_t queue, const std::string& reason) {
  log_warn("another stream of the same name: all of it is read",
           {{"group", settings_.group.name},
            {"queue", settings_.group.queues[queue].name},
            {"reason", reason}});
  streams_->not_short(queue);
  streams_->of(queue)->start_over();
  table_.for_each([queue](Delivery& delivery) {
    if (delivery.queue == queue) delivery.offset = -1;
  });
  session_->subscribe_again(queue);
}

void Consumer::keep_positions() {
  const std::string trouble = streams_->keep();
  if (trouble.empty()) return;
  add(board_.positions_not_kept);
  if (repeated_.count(trouble, Clock::now()) == 0) return;
  log_error("cannot keep the position in a stream",
            {{"group", settings_.group.name},
             {"reason", trouble},
             {"then", "messages that were handled come again after a restart"}});
}

// ---- Ending

void Consumer::drain_within(std::chrono::milliseconds limit) {
  begin_drain(limit);
  // A nearer deadline counts, a farther one does not.
  if (const auto sooner = Clock::now() + limit; sooner < deadline_ && !overtime_) {
    deadline_ = sooner;
    deadline_timer_.arm(deadline_);
    if (phase_ == Phase::closing) session_->close(deadline_);
  }
}

void Consumer::begin_drain(std::chrono::milliseconds limit) {
  if (phase_ != Phase::running) return;
  phase_ = Phase::draining;
  log_info("draining", {{"group", settings_.group.name},
                        {"running_or_queued", pool_->in_flight()},
                        {"waiting", waiting_.size()},
                        {"limit_ms", limit.count()}});
  deadline_ = Clock::now() + limit;
  deadline_timer_.arm(deadline_);
  pool_->set_stopping();
  session_->cancel();
  pool_->collect();
  take_back();
}

// What no handler has begun, from all workers, as put_back() says. Once we drain, what is acked
// already stays there: it is begun all the same.
std::size_t Consumer::take_back() {
  if (settings_.group.auto_ack && phase_ != Phase::running) return 0;
  return put_back(pool_->take_back());
}

// What is acked already nobody else can do: while there is time and a worker it is begun even in a
// drain.
bool Consumer::finishes_acked() const {
  return settings_.group.auto_ack && phase_ == Phase::draining && !overtime_ && !stopped_ &&
         pool_->may_begin_more();
}

void Consumer::hand_back(Delivery& delivery) {
  if (delivery.settled) {
    log_warn("message given up (auto_ack)", {{"group", settings_.group.name},
                                             {"delivery_tag", delivery.tag},
                                             {"message_id", message_id(delivery)},
                                             {"reason", "the daemon stops"}});
  }
  settle(delivery, Verdict::hand_back);
}

// What no handler has begun, and what waits for another attempt, is somebody else's now.
std::size_t Consumer::hand_back_waiting(bool acked_stays) {
  std::size_t count = 0;
  for (std::deque<std::uint32_t>* const line : {&waiting_, &suspects_}) {
    std::erase_if(*line, [&](std::uint32_t index) {
      Delivery& delivery = table_.at(index);
      if (acked_stays && delivery.settled) return false;
      hand_back(delivery);
      ++count;
      return true;
    });
  }
  for (const std::uint32_t index : delayed_) settle(table_.at(index), Verdict::requeue);
  delayed_.clear();
  if (claiming_ == 0) return count;
  count += std::exchange(claiming_, 0);
  table_.for_each([&](Delivery& delivery) {
    if (delivery.state == Delivery::State::claiming) hand_back(delivery);
  });
  return count;
}

void Consumer::hand_back_in_drain() {
  hand_back_waiting(finishes_acked());
  if (behind_ == 0 && resting_.empty()) return;
  table_.for_each([&](Delivery& delivery) {
    if (delivery.state == Delivery::State::behind || delivery.state == Delivery::State::resting) {
      hand_back(delivery);
    }
  });
}

// Nobody waits for its confirms any more.
void Consumer::stop_publishing(Delivery& delivery) {
  forget_publications(delivery);
  --publishing_;
}

void Consumer::forget_publications(const Delivery& delivery) {
  publisher_->forget(delivery.sequence, [&](const Outbound& outbound) {
    if (witness_) witness_->published(delivery, outbound, "not waited for");
  });
}

void Consumer::log_handed_back(std::size_t messages, std::string_view reason) const {
  if (messages == 0) return;
  log_warn("messages handed back",
           {{"group", settings_.group.name}, {"messages", messages}, {"reason", reason}});
}

// What the broker has not confirmed in time.
void Consumer::hand_back_publishing() {
  std::size_t count = 0;
  table_.for_each([&](Delivery& delivery) {
    if (delivery.state == Delivery::State::noting) on_noted(delivery, false);
    if (delivery.state != Delivery::State::publishing) return;
    stop_publishing(delivery);
    ++count;
    hand_back(delivery);
  });
  log_handed_back(count,
                  "the broker has not confirmed what was published for them by the end of "
                  "shutdown_timeout");
}

void Consumer::advance_drain() {
  if (phase_ == Phase::running || phase_ == Phase::done) return;
  hand_back_in_drain();
  if (waiting_.empty()) {  // otherwise it is for these workers
    for (Delivery* kept : pool_->end_idle()) {
      no_longer_held(*kept);
      if (!drop_if_stale(*kept)) hand_back(*kept);
    }
  }
  session_->flush(true);

  if (phase_ == Phase::draining && session_->ending() && waiting_.empty() &&
      pool_->in_flight() == 0 && (publishing_ + noting_ == 0 || overtime_) && session_->flushed()) {
    if (witness_ && !overtime_ && !witness_->finish(Clock::now())) {
      publisher_->flush();  // with what that has just passed on
      if (!witness_->finish(Clock::now())) return;
    }
    if (witness_) witness_->abandon();
    session_->close(deadline_);
    if (overtime_) {
      publisher_->abandon();
    } else {
      publisher_->close();
    }
    phase_ = Phase::closing;
    session_->flush(true);
  }
  if (phase_ == Phase::closing && session_->closed() && publisher_->closed()) {
    phase_ = Phase::ending;
  }
  if (phase_ == Phase::ending && pool_->all_gone()) {
    log_ledger();
    phase_ = Phase::done;
  }
}

void Consumer::on_deadline() {
  if (phase_ == Phase::done) return;
  if (overtime_) {  // the broker did not take our last words, or a process cannot be reaped
    log_error("ending without an orderly close", {{"group", settings_.group.name}});
    killed_ = true;
    session_->abandon();
    publisher_->abandon();
    log_ledger();
    phase_ = Phase::done;
    return;
  }
  overtime_ = true;
  deadline_ = Clock::now() + kCloseGrace;
  deadline_timer_.arm(deadline_);
  if (phase_ == Phase::closing) session_->close(deadline_);
  pool_->collect();
  hand_back_publishing();
  const std::size_t running = pool_->in_flight();
  const int processes = pool_->kill_all();
  if (processes > 0) {
    killed_ = true;
    add(board_.killed_in_drain, running);
    log_error("killed at the end of shutdown_timeout",
              {{"group", settings_.group.name}, {"processes", processes}, {"messages", running}});
  }
}

void Consumer::stop_now() {
  if (phase_ == Phase::done || stopped_) return;
  stopped_ = true;
  pool_->set_stopping();
  pool_->collect();
  // What is finished is finished, as far as the socket takes it at once.
  for (int i = 0; i < kLastFlushes && !session_->flushed(); ++i) session_->flush(true);
  // The rest goes back with the connection.
  put_back(pool_->take_back());
  hand_back_in_drain();
  const std::size_t running = pool_->in_flight();
  log_info("stopping now", {{"group", settings_.group.name}, {"running", running}});
  if (running > 0) {
    killed_ = true;
    add(board_.killed_in_drain, running);
  }
  pool_->kill_all();
  session_->abandon();
  publisher_->abandon();
  if (witness_) witness_->abandon();
  // Only to reap them, and to end what they leave behind.
  phase_ = Phase::ending;
  overtime_ = true;
  deadline_timer_.arm(Clock::now() + kCloseGrace);
}

void Consumer::refuse(const std::string& reason) {
  log_error("group refused", {{"group", settings_.group.name}, {"reason", reason}});
  board_.last_error.set(reason);
  refused_ = true;
  begin_drain(settings_.shutdown_timeout);
}

void Consumer::log_ledger() {
  log_info("drained", {{"group", settings_.group.name},
                       {"finished", board_.finished_in_drain.load()},
                       {"handed_back", board_.handed_back_in_drain.load()},
                       {"killed", board_.killed_in_drain.load()},
                       {"acked_in_all", board_.acked.load()}});
}

// ---- The supervisor

void Consumer::update_board() {
  GroupState state = GroupState::starting;
  std::string trouble;
  if (phase_ != Phase::running) {
    state = GroupState::draining;
  } else if (failed_ && pool_->given_up()) {
    state = GroupState::failed;
    trouble = failure_reason_;
  } else if (paused_) {
    state = GroupState::paused;
    trouble = "paused";
  } else if (pool_->ready_count() == 0) {
    trouble = "no worker is ready";
  } else if (!session_->consuming()) {
    state = GroupState::connecting;
    trouble = session_->trouble();
  } else {
    state = GroupState::consuming;
    if (dedup_ != nullptr) trouble = dedup_->trouble();
  }
  const std::size_t here =
      waiting_.size() + suspects_.size() + delayed_.size() + claiming_ + behind_ + resting_.size();
  const auto receiving = receiving_.size() - static_cast<std::size_t>(std::count(
                                                 receiving_.begin(), receiving_.end(), nullptr));
  const auto set = [](std::atomic<std::uint64_t>& gauge, std::size_t value) {
    gauge.store(value, std::memory_order_relaxed);
  };
  set(board_.running, table_.in_use() - here - receiving - publishing_ - noting_);
  set(board_.held, std::accumulate(held_.begin(), held_.end(), std::size_t{0}));
  set(board_.waiting, here);
  set(board_.unconfirmed, publishing_ + noting_);
  set(board_.behind, behind_);
  set(board_.at_rate, at_rate_ ? 1 : 0);
  if (streams_->any()) streams_->show(board_);
  const auto ready = board_.workers_ready.load(std::memory_order_relaxed);
  if (state == reported_state_ && trouble == reported_trouble_ && ready == reported_ready_) return;
  reported_state_ = state;
  reported_trouble_ = trouble;
  reported_ready_ = ready;
  board_.state.store(static_cast<std::uint32_t>(state), std::memory_order_relaxed);
  if (!refused_) board_.last_error.set(trouble);
  Orders::report_change();
}

int run_consumer() {
  ::prctl(PR_SET_NAME, "lope-consumer");
  ::prctl(PR_SET_DUMPABLE, 0);         // it has the broker's password
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // what a dead worker leaves behind is ours to end
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGUSR2, SIG_IGN);  // a group-wide one is not for us
  const auto board = BoardMapping<GroupBoard>::open(kScoreboardFd);
  std::string trouble;
  if (!board) trouble = board.error();
  const auto json = read_all_at(kSettingsFd);
  if (!json) trouble = json.error();
  if (!trouble.empty()) {
    ::dprintf(STDERR_FILENO, "lope-consumer: %s\n", trouble.c_str());
    return kExitTemporary;
  }
  auto settings = consumer_settings_from_json(*json);
  if (!settings) {
    ::dprintf(STDERR_FILENO, "lope-consumer: settings: %s\n", settings.error().c_str());
    return kExitTemporary;
  }
  ::close(kSettingsFd);
  if (settings->relay) ::prctl(PR_SET_NAME, "lope-relay");
  if (auto opened = open_log(settings->log, settings->relay ? "lope-relay" : "lope-consumer");
      !opened) {
    ::dprintf(STDERR_FILENO, "lope-consumer: log: %s\n", opened.error().c_str());
    return kExitTemporary;
  }
  if (settings->relay) {
    Relay relay(*settings, **board);
    return relay.run();
  }
  Consumer consumer(std::move(*settings), **board);
  return consumer.run();
}

}  // namespace lope::consumer
