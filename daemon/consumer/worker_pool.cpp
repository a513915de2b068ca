#include "consumer/worker_pool.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>

#include "common/backoff.h"
#include "common/json.h"
#include "common/log.h"
#include "common/worker_settings.h"
#include "consumer/orders.h"
#include "consumer/orphans.h"
#include "consumer/roster.h"

namespace lope::consumer {

namespace {

// A handler that takes longer than this has nothing queued behind it while another worker is idle.
constexpr std::uint64_t kStuckNs = 1'000'000;
// An ending process closes its link a moment before its pidfd tells.
constexpr std::chrono::milliseconds kLinkGrace{200};
// The same for one that says that it ends: destroy() may take a little.
constexpr std::chrono::milliseconds kEndingGrace{5000};
// From SIGABRT, which leaves a core and a backtrace, to SIGKILL.
constexpr std::chrono::milliseconds kAbortGrace{1000};
constexpr std::chrono::seconds kGatherMetrics{1};
// With so much of `recycle.memory` a worker's successor is started.
constexpr double kEnough = 0.85;
// So long a group is left alone whose workers only die.
constexpr std::chrono::minutes kFailedPause{5};

}  // namespace

Result<std::unique_ptr<WorkerPool>> WorkerPool::create(EventLoop& loop,
                                                       const ConsumerSettings& settings,
                                                       int worker_program_fd, DeliveryTable& table,
                                                       GroupBoard& board, Events events) {
  std::unique_ptr<WorkerPool> pool(
      new WorkerPool(loop, settings, worker_program_fd, table, board, std::move(events)));
  auto wake = make_eventfd();
  if (!wake) return Error{wake.error()};
  pool->wake_ = std::move(*wake);
  // Each write is an edge: its count need not be read.
  auto source = loop.watch_fd(pool->wake_.get(), EPOLLIN | EPOLLET, [](std::uint32_t) {});
  if (!source) return Error{source.error()};
  pool->wake_source_ = std::move(*source);
  auto timer = loop.make_timer([] {});  // it only ends the sleep: tend() does the rest
  if (!timer) return Error{timer.error()};
  pool->timer_ = std::move(*timer);
  auto metrics = loop.make_timer([self = pool.get()] { self->gather_metrics(); });
  if (!metrics) return Error{metrics.error()};
  pool->metrics_timer_ = std::move(*metrics);
  auto child = loop.watch_signal(SIGCHLD, [self = pool.get()](int, int) { self->sweep(); });
  if (!child) return Error{child.error()};
  pool->child_source_ = std::move(*child);
  return pool;
}

WorkerPool::WorkerPool(EventLoop& loop, const ConsumerSettings& settings, int worker_program_fd,
                       DeliveryTable& table, GroupBoard& board, Events events)
    : loop_(loop),
      settings_(settings),
      worker_program_fd_(worker_program_fd),
      table_(table),
      board_(board),
      events_(std::move(events)),
      slots_(static_cast<std::size_t>(settings.group.workers)),
      wanted_(settings.group.workers),
      log_level_(settings.log.level) {
  environment_ = environment_without({kWorkerIdVariable});
}

WorkerPool::~WorkerPool() { kill_all(); }

void WorkerPool::start() {
  scale(wanted_);
  keep_roster(Clock::now());
}

void WorkerPool::scale(int workers) {
  wanted_ = workers;
  board_.workers_wanted.store(static_cast<std::uint32_t>(workers), std::memory_order_relaxed);
  roster_due_ = true;
  pauses_.clear();
}

void WorkerPool::restart() {
  for (Slot& slot : slots_) slot.outdated = slot.process != nullptr;
  roster_due_ = true;
  pauses_.clear();  // whatever they were for, this is another attempt
}

void WorkerPool::settings_changed(ReplaceWorkers replace) {
  roster_due_ = tend_due_ = true;
  if (replace != ReplaceWorkers::no) {
    board_.failed_starts.store(0, std::memory_order_relaxed);
    refused_ = has_finished_ = false;
    pauses_.clear();
  } else if (has_finished_) {
    board_.proved.store(settings_.generation, std::memory_order_relaxed);
  }
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    if (slot.process == nullptr) continue;
    // Those that were to be replaced already are of a handler before this one.
    const bool latest =
        !std::exchange(slot.outdated, slot.outdated || replace != ReplaceWorkers::no);
    if (latest && replace == ReplaceWorkers::no) slot.generation = settings_.generation;
    if (latest && replace == ReplaceWorkers::old_at_once && !slot.leaving) {
      let_go(static_cast<int>(i));
    }
    set_limits(slot);
  }
  show_generation();
}

void WorkerPool::set_log_level(LogLevel level) {
  log_level_ = level;
  for (Slot& slot : slots_) {
    if (slot.process != nullptr) slot.process->set_log_level(level);
  }
}

// Said when there are as many workers of the latest settings as there should be.
void WorkerPool::show_generation() {
  if (board_.generation.load(std::memory_order_relaxed) == settings_.generation) return;
  int ready = 0;
  for (const Slot& slot : slots_) {
    if (slot.process == nullptr || slot.leaving) continue;
    if (slot.outdated) return;
    if (slot.ready && slot.generation == settings_.generation) ++ready;
  }
  if (ready < wanted_) return;
  board_.generation.store(settings_.generation, std::memory_order_relaxed);
  if (settings_.generation > 1) {
    log_info("all workers are of the latest configuration",
             {{"group", settings_.group.name}, {"generation", settings_.generation}});
  }
  Orders::report_change();
}

void WorkerPool::retry() {
  given_up_ = false;
  roster_due_ = tend_due_ = true;
  pauses_.clear();
}

int WorkerPool::free_place() {
  const auto place = std::find_if(slots_.begin(), slots_.end(),
                                  [](const Slot& slot) { return slot.process == nullptr; });
  if (place != slots_.end()) return static_cast<int>(place - slots_.begin());
  if (slots_.size() == kMaxWorkerSlots) return -1;
  slots_.emplace_back();
  return static_cast<int>(slots_.size()) - 1;
}

void WorkerPool::keep_roster(TimePoint now) {
  if (stopping_ || refused_) return;
  if (std::erase_if(pauses_, [now](TimePoint end) { return end <= now; }) > 0) roster_due_ = true;
  if (!std::exchange(roster_due_, false)) return;
  RosterPlan plan;
  do {
    std::vector<RosterEntry> entries;
    for (const Slot& slot : slots_) {
      entries.push_back({.present = slot.process != nullptr,
                         .ready = slot.ready,
                         .leaving = slot.leaving,
                         .outdated = slot.outdated});
    }
    plan = plan_roster(entries, given_up_ ? 0 : wanted_);
    for (const std::size_t index : plan.leave) let_go(static_cast<int>(index));
  } while (!plan.leave.empty());  // who leaves makes room for another
  const int starts = plan.start - static_cast<int>(pauses_.size());
  for (int i = 0; i < starts; ++i) {
    const int place = free_place();
    if (place < 0) return;  // until one of those that leave has left
    start_worker(place);
  }
  if (keep_fresh_ && plan.start == 0) make_one_fresh();
}

// Suspects wait for a worker that has had nothing. Those that there are were given something, and
// nobody's death will bring another.
void WorkerPool::make_one_fresh() {
  Slot* used = nullptr;
  for (Slot& slot : slots_) {
    if (slot.process == nullptr || slot.leaving || slot.exited) continue;
    // There is one, or there will be when this one ends or is ready.
    if (slot.probing || slot.outdated || slot.process->given() == 0) return;
    used = &slot;
  }
  if (used == nullptr) return;
  used->outdated = true;
  roster_due_ = tend_due_ = true;
}

void WorkerPool::let_go(int index) {
  Slot& slot = slots_[static_cast<std::size_t>(index)];
  slot.leaving = true;
  set_ready_count();
  show(index, WorkerState::leaving);
  log_info("worker leaves", {{"group", settings_.group.name},
                             {"worker", index},
                             {"worker_pid", slot.process->pid()},
                             {"running", slot.process->in_flight()}});
  if (auto given_back = slot.process->take_back(table_); !given_back.empty()) {
    events_.on_given_back(std::move(given_back));
  }
  ease_out(slot);
}

int WorkerPool::number_of(const HandlerIdentity& handler) {
  const auto found = std::ranges::find(handlers_, handler);
  const auto number = static_cast<int>(found - handlers_.begin());
  if (found == handlers_.end()) handlers_.push_back(handler);
  return number;
}

const HandlerIdentity& WorkerPool::handler_of(const Delivery& delivery) const {
  static const HandlerIdentity kUnknown;
  const int number = delivery.ran_by >= 0 ? delivery.ran_by : handler_;
  return number >= 0 ? handlers_[static_cast<std::size_t>(number)] : kUnknown;
}

void WorkerPool::start_worker(int index) {
  Slot& slot = slots_[static_cast<std::size_t>(index)];
  slot.ready = slot.exited = slot.hung = slot.refused = slot.probing = false;
  slot.leaving = slot.outdated = slot.flush_asked = false;
  slot.link_trouble.clear();
  slot.failure.clear();
  slot.mean_ns = -1;
  slot.deaf_since = TimePoint::max();

  WorkerProcess::Start start;
  start.slot = index;
  start.threads = settings_.group.threads;
  start.program_fd = worker_program_fd_;
  start.wake_fd = wake_.get();
  start.title = settings_.group.name + "/" + std::to_string(index);
  start.settings_json = to_json(worker_settings(settings_.group, settings_.handlers_dir,
                                                settings_.broker.max_message_bytes, index));
  start.environment = environment_;
  start.log_level = log_level_;

  WorkerProcess::Events events;
  events.on_ready = [this, index](const HandlerIdentity& handler) {
    Slot& it = slots_[static_cast<std::size_t>(index)];
    if (it.ready) return;
    it.ready = true;
    ever_ready_ = true;
    roster_due_ = true;
    if (it.leaving) it.kill_at = Clock::now() + leaving_grace();
    it.has_batch = handler.has_batch;
    handler_ = number_of(handler);
    it.process->set_handler(handler_);
    board_.handler_name.set(handler.name);
    board_.handler_version.set(handler.version);
    board_.handler_file.set(handler.path);
    show(index, it.leaving ? WorkerState::leaving : WorkerState::ready);
    it.process->set_can_flush(handler.has_flush);
    gather_metrics();
    set_ready_count();
    log_info("worker ready", {{"group", settings_.group.name},
                              {"worker", index},
                              {"worker_pid", it.process->pid()},
                              {"handler", handler.name},
                              {"version", handler.version},
                              {"file", handler.path}});
  };
  events.on_failed = [this, index](bool refused, std::string_view reason) {
    Slot& it = slots_[static_cast<std::size_t>(index)];
    it.failure = reason;
    it.refused = refused;
  };
  events.on_log = [this, index](LogLevel level, std::string_view text) {
    log_event(level, "handler says",
              {{"group", settings_.group.name}, {"worker", index}, {"text", text}});
  };
  events.on_keep_alive = [this, index](std::uint64_t sequence) {
    Delivery* const delivery = table_.find(sequence);
    if (delivery != nullptr && delivery->worker == index) events_.on_keep_alive(*delivery);
  };
  events.on_output = [this, index](bool is_stderr, std::string_view line) {
    log_event(is_stderr ? LogLevel::warn : LogLevel::info, "handler printed",
              {{"group", settings_.group.name},
               {"worker", index},
               {"stream", is_stderr ? "stderr" : "stdout"},
               {"text", line}});
  };
  events.on_link_lost = [this, index](std::string_view reason) {
    Slot& it = slots_[static_cast<std::size_t>(index)];
    it.link_trouble = reason;
    const bool ending = !it.failure.empty() || it.process->stage() == WorkerStage::ending;
    it.kill_at = Clock::now() + (ending ? kEndingGrace : kLinkGrace);
  };
  events.on_exit = [this, index] { slots_[static_cast<std::size_t>(index)].exited = true; };

  auto started = WorkerProcess::start(loop_, start, std::move(events));
  if (!started) {
    // A passing lack of resources: the pauses of an idle death are right for it.
    const auto pause = kMaxDeathsNeverReady * std::chrono::milliseconds(200);
    log_error("cannot start a worker", {{"group", settings_.group.name},
                                        {"worker", index},
                                        {"reason", started.error()},
                                        {"retry_ms", pause.count()}});
    pauses_.push_back(Clock::now() + pause);
    roster_due_ = true;
    return;
  }
  slot.process = std::move(*started);
  slot.generation = settings_.generation;
  GroupBoard::Worker& shown = board_.workers[static_cast<std::size_t>(index)];
  shown.given.store(0, std::memory_order_relaxed);
  shown.started_ms.store(unix_ms(), std::memory_order_relaxed);
  shown.pid.store(slot.process->pid(), std::memory_order_relaxed);
  show(index, WorkerState::starting);
  set_limits(slot);
}

// Each a little earlier than the settings say, at random: those that started together do not leave
// together. With memory there has to be time for the successor to get ready.
void WorkerPool::set_limits(Slot& slot) const {
  const RecycleSettings& limits = settings_.group.recycle;
  const double share = 1 - random_fraction() / 10;
  slot.last_given = static_cast<std::uint64_t>(std::ceil(limits.messages * share));
  slot.last_bytes =
      static_cast<std::uint64_t>(static_cast<double>(limits.memory_bytes) * kEnough * share);
  slot.last_moment = TimePoint::max();
  if (limits.age.count() > 0) {
    slot.last_moment = slot.process->started_at() +
                       std::chrono::duration_cast<Clock::duration>(limits.age * share);
  }
}

void WorkerPool::recycle(int index, TimePoint now) {
  Slot& slot = slots_[static_cast<std::size_t>(index)];
  if (!slot.ready || slot.leaving || slot.probing) return;
  WorkerProcess& process = *slot.process;
  const std::uint64_t bytes = process.board().resident_bytes.load(std::memory_order_relaxed);
  if (!slot.outdated) {
    const char* reason = nullptr;
    if (slot.last_given != 0 && process.given() >= slot.last_given) reason = "messages";
    if (slot.last_bytes != 0 && bytes >= slot.last_bytes) reason = "memory";
    if (now >= slot.last_moment) reason = "age";
    if (reason == nullptr) return;
    slot.outdated = roster_due_ = true;
    board_.recycled.fetch_add(1, std::memory_order_relaxed);
    log_info("worker to be replaced", {{"group", settings_.group.name},
                                       {"worker", index},
                                       {"worker_pid", process.pid()},
                                       {"reason", reason},
                                       {"messages", process.given()},
                                       {"resident_bytes", bytes}});
  }
  if (has_all_its_memory(slot) && process.has_queued()) {
    events_.on_given_back(process.take_back(table_));
  }
}

bool WorkerPool::has_all_its_memory(const Slot& slot) const {
  const auto most = static_cast<std::uint64_t>(settings_.group.recycle.memory_bytes);
  return most != 0 && slot.process->board().resident_bytes.load(std::memory_order_relaxed) >= most;
}

void WorkerPool::show(int index, WorkerState state) {
  board_.workers[static_cast<std::size_t>(index)].state.store(static_cast<std::uint32_t>(state),
                                                              std::memory_order_relaxed);
}

void WorkerPool::show_given(std::size_t index) {
  board_.workers[index].given.store(slots_[index].process->given(), std::memory_order_relaxed);
}

// Each second, where a handler has any.
void WorkerPool::gather_metrics() {
  bool any = false;
  for (Slot& slot : slots_) {
    if (slot.process == nullptr) continue;
    const HandlerMetrics& metrics = slot.process->board().metrics;
    slot.metrics.update(metrics, board_.metrics);
    any = any || metrics.size() > 0;
  }
  if (any) metrics_timer_.arm(Clock::now() + kGatherMetrics);
}

void WorkerPool::set_ready_count() {
  ready_ = static_cast<int>(std::count_if(
      slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.ready && !slot.leaving; }));
  board_.workers_ready.store(static_cast<std::uint32_t>(ready_), std::memory_order_relaxed);
  has_batch_ = ready_ > 0 && std::ranges::all_of(slots_, [](const Slot& slot) {
                 return !slot.ready || slot.leaving || slot.has_batch;
               });
  show_generation();
}

// The new workers of a reload die, and none has done anything. A message that has taken down others
// before may be to blame, but not for long: they may have been of these.
void WorkerPool::count_failed_start(const Slot& slot, const WorkerDeath& death) {
  if (slot.generation != settings_.generation || has_finished_) return;
  board_.failed_starts.fetch_add(death.had_message && death.known ? 1 : kFailedStart,
                                 std::memory_order_relaxed);
  Orders::report_change();
}

bool WorkerPool::cannot_stay(const Slot& slot) const {
  // One that is asked to leave before it is ready has until start_timeout.
  if (slot.process->link_closed()) {
    return (slot.probing || (slot.leaving && slot.ready)) && !stopping_;
  }
  return !slot.link_trouble.empty();
}

void WorkerPool::tend() {
  const TimePoint now = Clock::now();
  tend_due_ = false;
  const bool recycles = settings_.group.recycle != RecycleSettings{} && !stopping_;
  TimePoint next = TimePoint::max();
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    if (slot.process == nullptr) continue;
    if (slot.exited) {
      bury(static_cast<int>(i));
      continue;
    }
    if (slot.leaving && !stopping_) ease_out(slot);
    if (recycles) {
      recycle(static_cast<int>(i), now);
      if (!slot.outdated) next = std::min(next, slot.last_moment);
    }
    if (slot.hung || !cannot_stay(slot)) continue;
    // It lives, but cannot be talked to, or was asked to end.
    if (now < slot.kill_at) {
      next = std::min(next, slot.kill_at);
    } else {
      const std::string reason = !slot.process->link_closed() ? slot.link_trouble
                                 : slot.probing
                                     ? "it does not end after the message that it ran alone"
                                     : "it does not end after its last message";
      log_error("killing a worker", {{"group", settings_.group.name},
                                     {"worker", i},
                                     {"worker_pid", slot.process->pid()},
                                     {"reason", reason}});
      slot.process->kill(SIGKILL);
      slot.kill_at = TimePoint::max();
    }
  }
  keep_roster(now);
  for (const TimePoint end : pauses_) next = std::min(next, end);
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    if (slot.process == nullptr || slot.ready || slot.exited || slot.hung) continue;
    const TimePoint limit = slot.process->started_at() + settings_.group.start_timeout;
    if (now < limit) {
      next = std::min(next, limit);
    } else {
      slot.hung = true;
      log_error("killing a worker", {{"group", settings_.group.name},
                                     {"worker", i},
                                     {"worker_pid", slot.process->pid()},
                                     {"reason", "not ready within start_timeout"},
                                     {"limit_ms", settings_.group.start_timeout.count()},
                                     {"stage", to_string(slot.process->stage())}});
      slot.process->kill(SIGKILL);
    }
  }
  if (next != TimePoint::max()) timer_.arm(next);
}

void WorkerPool::bury(int index) {
  Slot& slot = slots_[static_cast<std::size_t>(index)];
  WorkerProcess& process = *slot.process;
  const WorkerStage stage = process.stage();
  const auto end = process.bury();
  // What its handlers had finished counts as finished.
  WorkerProcess::Outcome outcome;
  while (process.next_outcome(table_, outcome, true)) events_.on_outcome(outcome);
  WorkerProcess::Remains remains = process.remains(table_);
  remains.ended = slot.ended;

  const std::string how = end ? end->to_string() : end.error();
  const auto age =
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - process.started_at());
  const bool retired = (slot.probing || slot.leaving) && process.link_closed() && !stopping_;
  const bool asked = process.link_closed() || stopping_;
  std::string next = "none: the group ends";
  std::string refusal;
  if (retired) {
    next = slot.leaving ? "none: it has left" : "a new worker at once";
  } else if (!asked) {
    const WorkerDeath death{
        .was_ready = slot.ready,
        .had_message = !remains.running.empty(),
        .worked = slot.mean_ns >= 0,
        .known = std::all_of(remains.running.begin(), remains.running.end(),
                             [](const Delivery* inside) { return inside->crashes > 0; }),
        .explained = !slot.failure.empty(),
        .beside = history_.is_beside(process.started_at(), Clock::now()),
        .age = age,
        .hung = slot.hung};
    count_failed_start(slot, death);
    // What has worked in this group is not given up for a refusal or a shortage that may pass.
    history_.ever_ready = history_.ever_ready || ever_ready_;
    const auto delay = respawn_delay(history_, death, wanted_, random_fraction());
    if (slot.refused && !ever_ready_) {
      refusal = slot.failure;
    } else if (!delay && slot.hung) {
      refusal = "handler '" + settings_.handlers_dir + "/" + settings_.group.handler +
                ".so': expected to become ready within start_timeout (" +
                std::to_string(settings_.group.start_timeout.count()) +
                " ms), found its worker hanging " + std::to_string(kMaxHangsNeverReady) +
                " times in a row, at last " + to_string(stage);
    } else if (!delay) {
      refusal = "handler '" + settings_.handlers_dir + "/" + settings_.group.handler +
                ".so': expected to become ready, found its worker dead " +
                std::to_string(kMaxDeathsNeverReady) + " times in a row, at last by " + how +
                " while " + to_string(stage) +
                (slot.failure.empty() ? std::string() : ": " + slot.failure);
    } else if (slot.leaving) {
      next = "none: it was leaving";
    } else {
      if (delay->count() > 0) pauses_.push_back(Clock::now() + *delay);
      next = delay->count() == 0 ? "a new worker at once"
                                 : "a new worker in " + std::to_string(delay->count()) + " ms";
    }
    if (!refusal.empty()) next = "none: the group is refused";
  }
  const bool loops =
      refusal.empty() && !given_up_ && !refused_ && history_.idle_deaths > kMaxIdleDeaths;
  if (loops) {
    given_up_ = true;
    next = "none: the group has failed";
  }
  const bool clean = end && !end->signalled && end->code == 0 && asked;
  log_event(clean ? LogLevel::info : LogLevel::warn, "worker ended",
            {{"group", settings_.group.name},
             {"worker", index},
             {"worker_pid", process.pid()},
             {"how", how},
             {"stage", to_string(stage)},
             {"age_ms", age.count()},
             {"running", remains.running.size()},
             {"waiting", remains.waiting.size()},
             {"reason", slot.failure},
             {"next", next}});
  if (!clean && !(asked && slot.leaving)) {
    board_.worker_deaths.fetch_add(1, std::memory_order_relaxed);
    note_failure(board_, "worker " + std::to_string(index) + " ended by " + how + " while " +
                             to_string(stage) +
                             (slot.failure.empty() ? std::string() : ": " + slot.failure));
  }
  show(index, WorkerState::none);
  slot.metrics.update(process.board().metrics, board_.metrics);
  slot.metrics.retire(board_.metrics);
  slot.process.reset();
  slot.ready = slot.exited = slot.leaving = slot.outdated = false;
  slot.ended.clear();
  roster_due_ = true;
  set_ready_count();
  sweep();
  const std::string said = std::exchange(slot.failure, {});
  events_.on_death(remains, how);
  if (!refusal.empty() && !refused_) {
    refused_ = true;
    events_.on_refused(refusal);
  }
  if (loops) {
    events_.on_crash_loop("its workers died " + std::to_string(history_.idle_deaths) +
                              " times in a row before they were ready or with nothing inside, at "
                              "last by " +
                              how + " while " + to_string(stage) +
                              (said.empty() ? "" : ": " + said),
                          kFailedPause);
  }
}

void WorkerPool::sweep() {
  std::vector<LiveWorker> live;
  for (const Slot& slot : slots_) {
    if (slot.process != nullptr) live.push_back({slot.process->pid(), slot.process->id()});
  }
  orphans_ = sweep_orphans(live);
}

WorkerLoad WorkerPool::load(const Slot& slot) const {
  WorkerLoad load;
  if (slot.process == nullptr) return load;
  load.ready = slot.ready && !slot.exited && !slot.process->link_closed() &&
               slot.link_trouble.empty() && !slot.probing && !slot.leaving &&
               !has_all_its_memory(slot) && !(keep_fresh_ && slot.process->given() == 0);
  load.threads = static_cast<int>(slot.process->threads());
  load.calls = slot.process->calls();
  load.flushing = slot.process->flushing();
  load.owed = slot.process->owed();
  load.mean_ns = slot.mean_ns * (has_batch_ ? settings_.group.batch_size : 1);
  return load;
}

bool WorkerPool::dispatch(std::span<Delivery* const> deliveries) {
  // Starting elsewhere each time shares messages evenly among workers that are equally idle.
  const std::size_t count = slots_.size();
  if (count == 0) return false;
  loads_.clear();
  std::size_t calls = 0;
  bool any_leaves = false;  // with a call, and another comes in its place
  for (std::size_t i = 0; i < count; ++i) {
    const Slot& slot = slots_[(first_choice_ + i) % count];
    loads_.push_back(load(slot));
    calls += loads_.back().calls;
    any_leaves = any_leaves || (slot.leaving && slot.outdated && loads_.back().calls > 0);
    if (slot.leaving && !slot.outdated) calls -= loads_.back().calls;  // one fewer from now on
  }
  // While the old finish, the new take over one call at a time: there are never more than without.
  const int limit = wanted_ * settings_.group.threads;
  if (any_leaves && calls >= static_cast<std::size_t>(limit)) return false;
  const int choice = choose_worker(loads_, deliveries.size());
  if (choice < 0) return false;
  const std::size_t index = (first_choice_ + static_cast<std::size_t>(choice)) % count;
  first_choice_ = (index + 1) % count;
  slots_[index].process->give(table_, deliveries);
  show_given(index);
  return true;
}

bool WorkerPool::may_begin_more() const {
  return std::ranges::any_of(slots_, [this](const Slot& slot) {
    return slot.process != nullptr && !slot.exited && !slot.hung && !slot.leaving &&
           !slot.probing && slot.link_trouble.empty() && !slot.process->link_closed() &&
           !has_all_its_memory(slot);
  });
}

bool WorkerPool::probe(Delivery& delivery) {
  const auto fresh = std::find_if(slots_.begin(), slots_.end(), [](const Slot& slot) {
    return slot.process != nullptr && slot.ready && !slot.leaving && !slot.exited &&
           slot.link_trouble.empty() && !slot.process->link_closed() && slot.process->given() == 0;
  });
  if (fresh == slots_.end()) return false;
  fresh->probing = true;
  Delivery* const alone[] = {&delivery};
  fresh->process->give(table_, alone);
  show_given(static_cast<std::size_t>(fresh - slots_.begin()));
  return true;
}

void WorkerPool::forget(std::uint64_t segment) {
  for (Slot& slot : slots_) {
    if (slot.process != nullptr) slot.process->forget(segment);
  }
}

void WorkerPool::flush() {
  for (Slot& slot : slots_) {
    if (slot.process != nullptr) slot.process->flush(table_);
  }
}

void WorkerPool::collect() {
  WorkerProcess::Outcome outcome;
  for (Slot& slot : slots_) {
    if (slot.process == nullptr) continue;
    while (slot.process->next_outcome(table_, outcome)) {
      if (!outcome.not_started && !outcome.settled) {
        if (!has_finished_ && slot.generation == settings_.generation) {
          has_finished_ = true;
          board_.proved.store(settings_.generation, std::memory_order_relaxed);
        }
        slot.mean_ns = updated_mean(slot.mean_ns, outcome.duration_ns);
      }
      events_.on_outcome(outcome);
      if (slot.probing && outcome.held) {
        slot.process->ask_flush(FlushReason::window_full);  // it gets nothing more
        slot.process->flush(table_);
      }
      retire(slot);
      tend_due_ = tend_due_ || slot.leaving;
    }
  }
}

// A worker that gets nothing more, when it is done with what it had.
void WorkerPool::retire(Slot& slot) {
  if (!slot.probing && !slot.leaving) return;
  if (slot.process->in_flight() > 0 || slot.process->link_closed()) return;
  slot.process->close_link();
  slot.kill_at = Clock::now() + (slot.leaving ? leaving_grace() : kEndingGrace);
  tend_due_ = true;
  show(static_cast<int>(&slot - slots_.data()), WorkerState::leaving);
}

std::vector<Delivery*> WorkerPool::take_back() {
  std::vector<Delivery*> all;
  for (Slot& slot : slots_) {
    if (slot.process == nullptr) continue;
    const std::vector<Delivery*> taken = slot.process->take_back(table_);
    all.insert(all.end(), taken.begin(), taken.end());
    retire(slot);
  }
  return all;
}

bool WorkerPool::may_be_stuck() const {
  bool idle = false;
  bool queued = false;
  for (const Slot& slot : slots_) {
    if (slot.process == nullptr || !slot.ready || slot.leaving) continue;
    idle = idle || slot.process->calls() + slot.process->flushing() < slot.process->threads();
    queued = queued || slot.process->has_queued();
  }
  return idle && queued;
}

std::vector<Delivery*> WorkerPool::take_back_stuck() {
  std::vector<Delivery*> all;
  if (!may_be_stuck()) return all;
  const std::uint64_t now = monotonic_ns();
  for (Slot& slot : slots_) {
    if (slot.process == nullptr || !slot.process->has_queued()) continue;
    const std::uint64_t started = slot.process->oldest_start_ns();
    if (started == 0 || now - started < kStuckNs) continue;
    const std::vector<Delivery*> taken = slot.process->take_back(table_);
    all.insert(all.end(), taken.begin(), taken.end());
    // It gets nothing ahead again until its messages have shown to be short.
    if (slot.process->flushing() == 0) {
      slot.mean_ns = std::max(slot.mean_ns, static_cast<double>(now - started));
    }
  }
  return all;
}

std::size_t WorkerPool::held() const {
  std::size_t count = 0;
  for (const Slot& slot : slots_) {
    if (slot.process != nullptr) count += slot.process->held();
  }
  return count;
}

void WorkerPool::ask_flush(FlushReason reason) {
  for (Slot& slot : slots_) {
    if (slot.process != nullptr && slot.process->held() > 0) slot.process->ask_flush(reason);
  }
}

std::size_t WorkerPool::calls() const {
  std::size_t count = 0;
  for (const Slot& slot : slots_) {
    if (slot.process != nullptr) count += slot.process->calls();
  }
  return count;
}

std::size_t WorkerPool::in_flight() const {
  std::size_t count = 0;
  for (const Slot& slot : slots_) {
    if (slot.process != nullptr) count += slot.process->in_flight();
  }
  return count;
}

bool WorkerPool::all_gone() const {
  return orphans_ == 0 && std::all_of(slots_.begin(), slots_.end(),
                                      [](const Slot& slot) { return slot.process == nullptr; });
}

bool WorkerPool::is_tiny(const Slot& slot) {
  return slot.mean_ns >= 0 && slot.mean_ns < static_cast<double>(kTinyCallNs);
}

bool WorkerPool::outcome_is_near() const {
  return std::any_of(slots_.begin(), slots_.end(), [](const Slot& slot) {
    return slot.process != nullptr && slot.process->calls() > 0 && is_tiny(slot);
  });
}

bool WorkerPool::wake_may_be_owed() const {
  return settings_.group.threads == 1 &&
         std::any_of(slots_.begin(), slots_.end(), [](const Slot& slot) {
           return slot.process != nullptr && slot.process->calls() > 1;
         });
}

bool WorkerPool::all_tiny() const {
  return std::all_of(slots_.begin(), slots_.end(), [](const Slot& slot) {
    return slot.process == nullptr || !slot.ready || is_tiny(slot);
  });
}

bool WorkerPool::announce_sleep() {
  bool more = false;
  for (Slot& slot : slots_) {
    if (slot.process != nullptr && slot.process->announce_sleep()) more = true;
  }
  return more;
}

void WorkerPool::announce_awake() {
  for (Slot& slot : slots_) {
    if (slot.process != nullptr) slot.process->announce_awake();
  }
}

TimePoint WorkerPool::end_late(std::chrono::nanoseconds limit) {
  const TimePoint now = Clock::now();
  const std::uint64_t now_ns = monotonic_ns();
  TimePoint next = TimePoint::max();
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    if (slot.process == nullptr || slot.exited || !slot.link_trouble.empty()) continue;
    if (slot.process->in_flight() > 0) next = std::min(next, now + limit);
    const auto late = slot.process->late(table_, now_ns, static_cast<std::uint64_t>(limit.count()));
    if (late.next_ns != 0) {
      next = std::min(next, now + std::chrono::nanoseconds(late.next_ns - now_ns));
    }
    if (late.thread < 0) {
      next = std::min(next, end_deaf(i, now, std::chrono::ceil<std::chrono::milliseconds>(limit)));
      continue;
    }
    for (Delivery* delivery : late.deliveries) delivery->late = true;
    if (late.flush) {
      table_.for_each([i](Delivery& delivery) {
        if (delivery.state == Delivery::State::held && delivery.worker == static_cast<int>(i)) {
          delivery.late = true;
        }
      });
    }
    const auto limit_ms = std::chrono::duration_cast<std::chrono::milliseconds>(limit);
    end(static_cast<int>(i),
        std::string(late.flush ? "timeout: flush() of its handler" : "timeout: its handler") +
            " took longer than " + std::to_string(limit_ms.count()) + " ms",
        limit_ms, late.thread);
  }
  return next;
}

// A process that was stopped, or whose own threads are all stuck outside of any call: nothing of
// what it was given has begun, so nobody is charged.
TimePoint WorkerPool::end_deaf(std::size_t index, TimePoint now, std::chrono::milliseconds limit) {
  Slot& slot = slots_[index];
  const bool deaf = slot.process->calls() > 0 && slot.process->oldest_start_ns() == 0;
  if (!deaf) slot.deaf_since = TimePoint::max();
  if (!deaf) return TimePoint::max();
  const std::uint64_t reported = slot.process->reported();
  if (slot.deaf_since == TimePoint::max() || slot.deaf_at != reported) {
    slot.deaf_since = now;
    slot.deaf_at = reported;
  }
  if (now < slot.deaf_since + limit) return slot.deaf_since + limit;
  end(static_cast<int>(index),
      "timeout: it has not begun what it was given within " + std::to_string(limit.count()) + " ms",
      limit, -1);
  return TimePoint::max();
}

void WorkerPool::end_over(Delivery& delivery, const std::string& reason,
                          std::chrono::milliseconds limit) {
  const Slot& slot = slots_[static_cast<std::size_t>(delivery.worker)];
  if (slot.process == nullptr || slot.exited) return;
  delivery.late = true;
  if (slot.link_trouble.empty()) {
    end(delivery.worker, reason, limit, slot.process->thread_of(delivery));
  }
}

void WorkerPool::end(int index, const std::string& reason, std::chrono::milliseconds limit,
                     int thread) {
  Slot& slot = slots_[static_cast<std::size_t>(index)];
  log_error("ending a worker", {{"group", settings_.group.name},
                                {"worker", index},
                                {"worker_pid", slot.process->pid()},
                                {"reason", reason},
                                {"limit_ms", limit.count()}});
  slot.ended = reason;
  slot.link_trouble = "it did not end at SIGABRT";
  slot.kill_at = Clock::now() + kAbortGrace;
  timer_.arm(slot.kill_at);
  slot.process->abort_thread(thread);
}

void WorkerPool::revoke(Delivery& held) {
  WorkerProcess& process = *slots_[static_cast<std::size_t>(held.worker)].process;
  process.revoke(held);
  process.flush(table_);
}

void WorkerPool::set_stopping() {
  stopping_ = true;
  for (Slot& slot : slots_) {
    if (slot.process != nullptr) slot.process->set_stopping();
  }
}

std::vector<Delivery*> WorkerPool::end_idle() {
  std::vector<Delivery*> kept;
  for (Slot& slot : slots_) {
    if (slot.process == nullptr) continue;
    WorkerProcess& process = *slot.process;
    if (process.held() > 0 && process.held() == process.in_flight()) {
      if (!process.last_flush_asked()) {
        process.ask_last_flush();
        process.flush(table_);
      } else if (process.last_flush_done()) {
        const std::vector<Delivery*> taken = process.take_held(table_);
        kept.insert(kept.end(), taken.begin(), taken.end());
      }
    }
    if (process.in_flight() == 0) process.close_link();
  }
  return kept;
}

// Unlike at a drain nobody is in a hurry: what a handler keeps it settles when it likes, within the
// time limits.
void WorkerPool::ease_out(Slot& slot) {
  WorkerProcess& process = *slot.process;
  if (!slot.flush_asked && process.held() > 0 && process.held() == process.in_flight()) {
    slot.flush_asked = true;
    process.ask_flush(FlushReason::window_full);
    process.flush(table_);
  }
  retire(slot);
}

std::chrono::milliseconds WorkerPool::leaving_grace() const {
  return std::max(kEndingGrace, settings_.shutdown_timeout);
}

int WorkerPool::kill_all() {
  int count = 0;
  for (Slot& slot : slots_) {
    if (slot.process == nullptr) continue;
    slot.process->kill(SIGKILL);
    ++count;
  }
  return count;
}

}  // namespace lope::consumer
