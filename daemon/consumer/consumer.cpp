#include "consumer/consumer.h"

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "common/exit_code.h"
#include "common/log.h"
#include "common/settings_json.h"
#include "common/spawn.h"
#include "common/text.h"
#include "consumer/retry_policy.h"

namespace lope::consumer {

namespace {

// How long after the drain's deadline the broker may take to read the last settlements.
constexpr std::chrono::milliseconds kCloseGrace{500};
constexpr std::chrono::milliseconds kStuckCheck{2};
constexpr int kLastFlushes = 1000;
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

// The ABI's outcomes; the consumer does not include the ABI.
constexpr std::int32_t kAck = 1;
constexpr std::int32_t kRetry = 2;
constexpr std::int32_t kReject = 3;

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

}  // namespace

Consumer::Consumer(const ConsumerSettings& settings, GroupBoard& board)
    : settings_(settings),
      board_(board),
      receiving_(settings.group.queues.size()),
      held_(settings.group.queues.size()) {}

Result<void> Consumer::set_up() {
  auto loop = EventLoop::create();
  if (!loop) return Error{loop.error()};
  loop_ = std::move(*loop);

  int next_signal = 0;
  const auto on_signal = [&](int signal, std::function<void(int, int)> action) -> Result<void> {
    auto source = loop_->watch_signal(signal, std::move(action));
    if (!source) return Error{source.error()};
    signal_sources_[next_signal++] = std::move(*source);
    return {};
  };
  const auto drain = [this](int, int) { begin_drain(settings_.shutdown_timeout); };
  for (const auto& [signal, action] :
       std::initializer_list<std::pair<int, std::function<void(int, int)>>>{
           {SIGTERM, drain},
           {SIGINT, drain},
           {SIGQUIT, [this](int, int) { stop_now(); }},
           {SIGHUP, [](int, int) {}},
           {SIGUSR1, [](int, int) {
              if (auto reopened = reopen_log(); !reopened) {
                log_error("cannot open the log file again", {{"reason", reopened.error()}});
              }
            }}}) {
    if (auto set = on_signal(signal, action); !set) return set;
  }

  const auto timer = [this](EventSource& into, std::function<void()> action) -> Result<void> {
    auto made = loop_->make_timer(std::move(action));
    if (!made) return Error{made.error()};
    into = std::move(*made);
    return {};
  };
  for (const QueueSettings& queue : settings_.group.queues) {
    nap_target_ += static_cast<std::size_t>(queue.prefetch) / 5;
    auto_ack_window_ += static_cast<std::size_t>(queue.prefetch);
  }
  const int calls = settings_.group.workers * settings_.group.threads * settings_.group.batch_size;
  auto_ack_window_ = std::max(auto_ack_window_, static_cast<std::size_t>(calls));
  nap_target_ = std::min<std::size_t>(nap_target_, 64);
  if (auto made = timer(delay_timer_, [] {}); !made) return made;
  if (auto made = timer(batch_timer_, [] {}); !made) return made;
  if (auto made = timer(bodies_timer_, [this] { trim_bodies(); }); !made) return made;
  if (auto made = timer(stuck_timer_, [this] { put_back(pool_->take_back_stuck()); }); !made) {
    return made;
  }
  if (auto made = timer(deadline_timer_, [this] { on_deadline(); }); !made) return made;

  auto control = loop_->watch_fd(kLinkFd, EPOLLIN, [this](std::uint32_t) { read_control(); });
  if (!control) return Error{control.error()};
  control_source_ = std::move(*control);

  Session::Events session_events;
  session_events.on_delivery = [this](std::uint16_t queue, std::uint64_t epoch,
                                      const IncomingDelivery& incoming) {
    return on_delivery(queue, epoch, incoming);
  };
  session_events.on_complete = [this](std::uint16_t queue) { on_complete(queue); };
  session_events.on_channel_lost = [this](std::uint16_t queue) { on_channel_lost(queue); };
  session_events.on_change = [] {};  // update_board() looks once a turn
  auto session = Session::create(*loop_, settings_.broker,
                                 "lope " + settings_.group.name + " @ " + host_name() + " [" +
                                     std::to_string(::getpid()) + "]",
                                 settings_.group, board_, std::move(session_events));
  if (!session) return Error{session.error()};
  session_ = std::move(*session);

  WorkerPool::Events pool_events;
  pool_events.on_outcome = [this](WorkerProcess::Outcome& outcome) { on_outcome(outcome); };
  pool_events.on_death = [this](WorkerProcess::Remains& remains, const std::string& how) {
    on_death(remains, how);
  };
  pool_events.on_refused = [this](const std::string& reason) { refuse(reason); };
  auto pool = WorkerPool::create(*loop_, settings_, kWorkerProgramFd, table_, board_,
                                 std::move(pool_events));
  if (!pool) return Error{pool.error()};
  pool_ = std::move(*pool);
  return {};
}

int Consumer::run() {
  // The other counters are the group's; these are this process's.
  for (auto* counter :
       {&board_.finished_in_drain, &board_.handed_back_in_drain, &board_.killed_in_drain}) {
    counter->store(0, std::memory_order_relaxed);
  }
  if (auto done = set_up(); !done) {
    log_error("cannot start the consumer", {{"reason", done.error()}});
    set_last_error(board_, done.error());
    return kExitTemporary;
  }
  pool_->start();
  while (phase_ != Phase::done) {
    const bool more = turn();
    if (phase_ != Phase::done) wait(more);
  }
  board_.state.store(static_cast<std::uint32_t>(GroupState::ended), std::memory_order_relaxed);
  report_change();
  if (refused_) return kExitRefused;
  return killed_ ? kExitFailed : kExitOk;
}

bool Consumer::turn() {
  add(board_.progress);
  delivered_in_turn_ = 0;
  completed_in_turn_ = 0;
  const std::uint64_t received = session_->received();
  pool_->announce_awake();
  pool_->collect();
  pool_->tend();
  if (!waiting_.empty()) hand_out();  // reading takes a while
  if (!session_started_ && pool_->ready_count() > 0 && phase_ == Phase::running) {
    session_started_ = true;
    session_->start();
  }
  const bool more = session_->pump();
  // A connection that was lost takes its count with it.
  received_in_turn_ = std::max(session_->received(), received) - received;
  hand_out();
  pool_->collect();
  // These outcomes made room: nothing else may wake us for it.
  if (!waiting_.empty() || !suspects_.empty()) hand_out();
  ask_flush_when_full();
  hand_back_delayed_that_are_due();  // arms the timer too, also for what was collected just now
  // What is finished is settled together with what is about to be, or what a body that is about to
  // be complete will bring.
  session_->flush(!more && (timed_out_ || !(pool_->outcome_is_near() || a_body_is_coming())));
  advance_drain();
  update_board();
  if (table_.bodies().has_free() && !bodies_timer_.armed()) {
    bodies_timer_.arm(Clock::now() + kBodiesKept);
  }
  if (pool_->may_be_stuck() && !stuck_timer_.armed()) {
    stuck_timer_.arm(Clock::now() + kStuckCheck);
  }
  return more;
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

char* Consumer::on_delivery(std::uint16_t queue, std::uint64_t epoch,
                            const IncomingDelivery& incoming) {
  add(board_.delivered);
  ++delivered_in_turn_;
  const std::uint64_t tag = incoming.view.delivery_tag;
  if (incoming.from_stream) {
    // Streams know no reject and no requeue: nothing here could be settled as its handler says.
    if (phase_ == Phase::running) {
      refuse("queue '" + settings_.group.queues[queue].name +
             "': it is a stream: stream queues are not available in this version");
    }
    return nullptr;
  }
  if (phase_ != Phase::running) {  // crossed our cancel
    add(board_.handed_back);
    add(board_.handed_back_in_drain);
    session_->finish(queue, tag, Verdict::hand_back);
    return nullptr;
  }
  if (incoming.body_size > static_cast<std::uint64_t>(settings_.group.max_body_bytes)) {
    log_warn("message rejected", {{"group", settings_.group.name},
                                  {"queue", settings_.group.queues[queue].name},
                                  {"message_id", incoming.view[TextProperty::message_id]},
                                  {"reason", "its body is larger than max_body"},
                                  {"expected_at_most", settings_.group.max_body_bytes},
                                  {"found", incoming.body_size}});
    add(board_.rejected);
    session_->finish(queue, tag, Verdict::reject);
    return nullptr;
  }
  Delivery& delivery = table_.allocate();
  delivery.state = Delivery::State::receiving;
  delivery.queue = queue;
  delivery.epoch = epoch;
  delivery.tag = tag;
  delivery.redelivered = (incoming.view.flags & kDeliveryRedelivered) != 0;
  DeliveryView view = incoming.view;
  view[TextProperty::queue] = settings_.group.queues[queue].name;
  receiving_[queue] = &delivery;
  if (incoming.body_size >= kSharedBody) delivery.body = table_.bodies().take(incoming.body_size);
  if (delivery.body == nullptr) return encode_delivery(view, incoming.body_size, delivery.frame);
  view.segment = delivery.body->id;
  encode_delivery(view, incoming.body_size, delivery.frame);
  return delivery.body->data;
}

void Consumer::on_complete(std::uint16_t queue) {
  Delivery& delivery = *std::exchange(receiving_[queue], nullptr);
  if (phase_ != Phase::running) {
    settle(delivery, Verdict::hand_back);
    return;
  }
  ++completed_in_turn_;
  delivery.state = Delivery::State::waiting;
  if (settings_.group.batch_size > 1) delivery.since = Clock::now();
  waiting_.push_back(delivery.index);
}

void Consumer::on_channel_lost(std::uint16_t queue) {
  // What no handler has begun is the broker's again; what runs goes on, and its outcome is dropped.
  if (pool_ == nullptr) return;
  pool_->collect();
  std::size_t dropped = put_back(pool_->take_back());
  const auto drop = [&](std::uint32_t index) {
    Delivery& delivery = table_.at(index);
    if (delivery.queue != queue || delivery.settled) return false;  // auto_ack: it is ours alone
    table_.free(delivery);
    ++dropped;
    return true;
  };
  std::erase_if(waiting_, drop);
  std::erase_if(delayed_, drop);
  std::erase_if(suspects_, drop);
  if (receiving_[queue] != nullptr) {
    table_.free(*std::exchange(receiving_[queue], nullptr));
    ++dropped;
  }
  std::size_t running = 0;
  table_.for_each([&](const Delivery& delivery) {
    const bool at_worker =
        delivery.state == Delivery::State::at_worker || delivery.state == Delivery::State::held;
    if (delivery.queue == queue && at_worker) ++running;
  });
  if (dropped + running > 0) {
    log_warn("deliveries go back to the broker", {{"group", settings_.group.name},
                                                  {"queue", settings_.group.queues[queue].name},
                                                  {"not_begun", dropped},
                                                  {"running", running}});
  }
}

void Consumer::hand_out() {
  dispatch();
  pool_->flush();
}

void Consumer::dispatch() {
  if (phase_ != Phase::running) return;
  no_room_ = false;
  probe_suspects();
  if (settings_.group.batch_size > 1 && pool_->has_batch()) {
    dispatch_batches();
    return;
  }
  while (!waiting_.empty()) {
    Delivery* const delivery = &table_.at(waiting_.front());
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
  while (waiting_.size() >= size || batch_is_due()) {
    batch_.clear();
    for (std::size_t i = 0; i < std::min(size, waiting_.size()); ++i) {
      batch_.push_back(&table_.at(waiting_[i]));
    }
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

// What is acked when it is handed over does not count in the broker's window, but has to be
// bounded: a handler may keep it.
bool Consumer::enough_at_workers() const {
  return settings_.group.auto_ack && pool_->in_flight() >= auto_ack_window_;
}

// Of one that is not full.
bool Consumer::batch_is_due() const {
  if (waiting_.empty()) return false;
  if (Clock::now() >= table_.at(waiting_.front()).since + settings_.group.batch_wait) return true;
  // Or when it cannot become fuller.
  if (pool_->in_flight() > pool_->held()) return false;
  for (std::uint16_t queue = 0; queue < settings_.group.queues.size(); ++queue) {
    if (!session_->window_full(queue)) return false;
  }
  return true;
}

void Consumer::given_to_worker(Delivery& delivery) {
  if (!settings_.group.auto_ack || delivery.settled) return;
  delivery.settled = true;
  add(board_.acked);
  session_->finish(delivery.queue, delivery.tag, Verdict::ack);
}

void Consumer::probe_suspects() {
  pool_->keep_fresh_workers(!suspects_.empty());
  while (!suspects_.empty() && pool_->probe(table_.at(suspects_.front()))) suspects_.pop_front();
  if (suspects_.empty()) pool_->keep_fresh_workers(false);
}

// When handlers keep so much that nothing more can come, they hear of it: once, until something is
// settled.
void Consumer::ask_flush_when_full() {
  if (flush_asked_ || phase_ != Phase::running || pool_->held() == 0) return;
  bool full = no_room_ && pool_->held() == pool_->in_flight();
  for (std::size_t queue = 0; queue < held_.size(); ++queue) {
    full = full || held_[queue] >= static_cast<std::size_t>(settings_.group.queues[queue].prefetch);
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
  std::sort(deliveries.begin(), deliveries.end(),
            [](const Delivery* a, const Delivery* b) { return a->sequence > b->sequence; });
  std::size_t stale = 0;
  for (Delivery* delivery : deliveries) {
    if (!delivery->settled && !session_->current(delivery->queue, delivery->epoch)) {
      table_.free(*delivery);
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

// ---- Outcomes

bool Consumer::drop_if_stale(Delivery& delivery) {
  if (delivery.settled || session_->current(delivery.queue, delivery.epoch)) return false;
  add(board_.stale_outcomes);
  log_warn("outcome dropped",
           {{"group", settings_.group.name},
            {"queue", settings_.group.queues[delivery.queue].name},
            {"delivery_tag", delivery.tag},
            {"message_id", message_id(delivery)},
            {"reason", "its channel is gone: the message may be handled twice"}});
  table_.free(delivery);
  return true;
}

void Consumer::on_outcome(WorkerProcess::Outcome& outcome) {
  Delivery& delivery = *outcome.delivery;
  if (outcome.not_started) {
    put_back({&delivery});
    return;
  }
  if (outcome.held) {
    ++held_[delivery.queue];
    return;
  }
  no_longer_held(delivery);
  if (drop_if_stale(delivery)) return;
  if (phase_ != Phase::running) add(board_.finished_in_drain);
  const auto because = [&outcome](std::string_view what) {
    return outcome.reason.empty() ? std::string(what) : std::string(what) + ": " + outcome.reason;
  };
  switch (outcome.outcome) {
    case kAck:
      retries_in_a_row_ = 0;
      settle(delivery, Verdict::ack);
      return;
    case kReject:
      retries_in_a_row_ = 0;
      log_warn("message rejected", {{"group", settings_.group.name},
                                    {"queue", settings_.group.queues[delivery.queue].name},
                                    {"handler", settings_.group.handler},
                                    {"delivery_tag", delivery.tag},
                                    {"message_id", message_id(delivery)},
                                    {"reason", because("the handler rejected it")}});
      settle(delivery, Verdict::reject);
      return;
    case kRetry: retry(delivery, because("the handler asked for it")); return;
    case 0: retry(delivery, because("the handler gave no outcome")); return;
    default:
      retry(delivery,
            because("the handler gave an unknown outcome, " + std::to_string(outcome.outcome)));
      return;
  }
}

void Consumer::on_death(WorkerProcess::Remains& remains, const std::string& how) {
  const bool several = remains.running.size() > 1 && phase_ == Phase::running;
  std::sort(remains.running.begin(), remains.running.end(),
            [](const Delivery* a, const Delivery* b) { return a->sequence < b->sequence; });
  for (Delivery* delivery : remains.running) {
    no_longer_held(*delivery);
    if (drop_if_stale(*delivery)) continue;
    if (several && !delivery->settled) {
      suspect(*delivery, how);
    } else {
      retry(*delivery, "its worker died: " + how);
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

void Consumer::retry(Delivery& delivery, std::string_view reason) {
  const auto delay = requeue_delay(retries_in_a_row_++);
  log_warn(delivery.settled ? "message given up (auto_ack)" : "message retried",
           {{"group", settings_.group.name},
            {"handler", settings_.group.handler},
            {"queue", settings_.group.queues[delivery.queue].name},
            {"delivery_tag", delivery.tag},
            {"message_id", message_id(delivery)},
            {"redelivered", delivery.redelivered ? "true" : "false"},
            {"reason", reason},
            {"delay_ms", delivery.settled ? 0 : delay.count()}});
  add(board_.retried);
  if (delivery.settled || phase_ != Phase::running) {
    settle(delivery, Verdict::requeue);
    return;
  }
  delivery.state = Delivery::State::delayed;
  delivery.worker = -1;
  delivery.sequence = 0;
  delivery.due = Clock::now() + delay;
  table_.drop_message(delivery);
  delayed_.push_back(delivery.index);
}

void Consumer::settle(Delivery& delivery, Verdict verdict) {
  if (!delivery.settled) {
    session_->finish(delivery.queue, delivery.tag, verdict);
    switch (verdict) {
      case Verdict::ack: add(board_.acked); break;
      case Verdict::reject: add(board_.rejected); break;
      case Verdict::requeue: break;  // counted when it was decided
      case Verdict::hand_back:
        add(board_.handed_back);
        add(board_.handed_back_in_drain);
        break;
    }
  }
  table_.free(delivery);
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

// ---- Ending

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
  put_back(pool_->take_back());
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

void Consumer::hand_back_waiting() {
  // What no handler has begun, and what waits for another attempt, is somebody else's now.
  for (const std::uint32_t index : waiting_) hand_back(table_.at(index));
  waiting_.clear();
  for (const std::uint32_t index : suspects_) hand_back(table_.at(index));
  suspects_.clear();
  for (const std::uint32_t index : delayed_) settle(table_.at(index), Verdict::requeue);
  delayed_.clear();
}

void Consumer::advance_drain() {
  if (phase_ == Phase::running || phase_ == Phase::done) return;
  hand_back_waiting();
  for (Delivery* kept : pool_->end_idle()) {
    no_longer_held(*kept);
    if (!drop_if_stale(*kept)) hand_back(*kept);
  }
  session_->flush(true);

  if (phase_ == Phase::draining && session_->cancelled() && pool_->in_flight() == 0 &&
      session_->flushed()) {
    session_->close();
    phase_ = Phase::closing;
    session_->flush(true);
  }
  if (phase_ == Phase::closing && session_->closed()) phase_ = Phase::ending;
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
    log_ledger();
    phase_ = Phase::done;
    return;
  }
  overtime_ = true;
  deadline_timer_.arm(Clock::now() + kCloseGrace);
  pool_->collect();
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
  hand_back_waiting();
  const std::size_t running = pool_->in_flight();
  log_info("stopping now", {{"group", settings_.group.name}, {"running", running}});
  if (running > 0) {
    killed_ = true;
    add(board_.killed_in_drain, running);
  }
  pool_->kill_all();
  session_->abandon();
  // Only to reap them, and to end what they leave behind.
  phase_ = Phase::ending;
  overtime_ = true;
  deadline_timer_.arm(Clock::now() + kCloseGrace);
}

void Consumer::refuse(const std::string& reason) {
  log_error("group refused", {{"group", settings_.group.name}, {"reason", reason}});
  set_last_error(board_, reason);
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

void Consumer::read_control() {
  ControlMessage message{};
  const ssize_t n = ::recv(kLinkFd, &message, sizeof message, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n != sizeof message) {  // our supervisor is gone, and with it our reason to be
    control_source_.stop();
    stop_now();
    return;
  }
  switch (message.type) {
    case ControlType::drain:
      begin_drain(std::chrono::milliseconds(message.value));
      // A nearer deadline counts, a farther one does not.
      if (const auto sooner = Clock::now() + std::chrono::milliseconds(message.value);
          sooner < deadline_ && !overtime_) {
        deadline_ = sooner;
        deadline_timer_.arm(deadline_);
      }
      break;
    case ControlType::stop: stop_now(); break;
    case ControlType::changed: break;  // ours
  }
}

void Consumer::update_board() {
  GroupState state = GroupState::starting;
  std::string trouble;
  if (phase_ != Phase::running) {
    state = GroupState::draining;
  } else if (pool_->ready_count() == 0) {
    trouble = "no worker is ready";
  } else if (!session_->consuming()) {
    state = GroupState::connecting;
    trouble = session_->trouble();
  } else {
    state = GroupState::consuming;
  }
  const auto ready = board_.workers_ready.load(std::memory_order_relaxed);
  if (state == reported_state_ && trouble == reported_trouble_ && ready == reported_ready_) return;
  reported_state_ = state;
  reported_trouble_ = trouble;
  reported_ready_ = ready;
  board_.state.store(static_cast<std::uint32_t>(state), std::memory_order_relaxed);
  if (!refused_) set_last_error(board_, trouble);
  report_change();
}

void Consumer::report_change() {
  const ControlMessage message{ControlType::changed};
  // Best effort: a supervisor that has not read the last one will look at the board all the same.
  [[maybe_unused]] const ssize_t n =
      ::send(kLinkFd, &message, sizeof message, MSG_DONTWAIT | MSG_NOSIGNAL);
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
  const auto settings = consumer_settings_from_json(*json);
  if (!settings) {
    ::dprintf(STDERR_FILENO, "lope-consumer: settings: %s\n", settings.error().c_str());
    return kExitTemporary;
  }
  ::close(kSettingsFd);
  if (auto opened = open_log(settings->log, "lope-consumer"); !opened) {
    ::dprintf(STDERR_FILENO, "lope-consumer: log: %s\n", opened.error().c_str());
    return kExitTemporary;
  }
  Consumer consumer(*settings, **board);
  return consumer.run();
}

}  // namespace lope::consumer
