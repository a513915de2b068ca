#include "supervisor/group.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <functional>
#include <iterator>
#include <utility>

#include "common/backoff.h"
#include "common/exit_code.h"
#include "common/json.h"
#include "common/log.h"
#include "common/text.h"
#include "supervisor/handler_store.h"

namespace lope::supervisor {

ConsumerSettings consumer_settings(const Settings& settings, const GroupSettings& group) {
  ConsumerSettings consumer;
  consumer.broker = settings.broker;
  consumer.handlers_dir = settings.handlers_dir;
  consumer.shutdown_timeout = settings.shutdown_timeout;
  consumer.log = settings.log;
  consumer.delays = settings.delays;
  consumer.telemetry = settings.telemetry;
  consumer.state_dir = settings.state_dir;
  consumer.group = group;
  consumer.relay = group.name == kRelayName;
  return consumer;
}

std::vector<std::string> child_environment(const Settings& settings) {
  std::vector<std::string> left_out = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"};
  left_out.insert(left_out.end(), settings.secret_env.begin(), settings.secret_env.end());
  return environment_without(left_out);
}

namespace {

constexpr Backoff kRestart{std::chrono::milliseconds(100), std::chrono::milliseconds(30'000)};
constexpr std::chrono::minutes kHealthy{1};
// So many times in a row a consumer is started again that soon dies and has settled nothing.
constexpr int kMaxDeaths = 10;
constexpr std::chrono::minutes kFailedPause{5};
// A consumer whose loop has not turned during so many samples, about a second each, hangs. They are
// counted, not timed: when this process itself was stopped the consumer may have been, too.
constexpr int kHung = 10;
// A new handler is on trial for so long, and so many of its workers may die before any has done
// anything.
constexpr std::chrono::minutes kTrial{1};
constexpr std::uint64_t kMaxFailedStarts = 3 * kFailedStart;

std::uint64_t value(const std::atomic<std::uint64_t>& counter) {
  return counter.load(std::memory_order_relaxed);
}

// 0 when it is gone.
std::uint64_t resident_bytes(pid_t pid) {
  const UniqueFd file(
      ::open(("/proc/" + std::to_string(pid) + "/statm").c_str(), O_RDONLY | O_CLOEXEC));
  char text[128] = {};
  if (!file.valid() || ::read(file.get(), text, sizeof text - 1) <= 0) return 0;
  unsigned long size = 0;
  unsigned long resident = 0;  // in pages
  if (std::sscanf(text, "%lu %lu", &size, &resident) != 2) return 0;
  return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

HistogramCounts counts_of(const BoardHistogram& histogram) {
  HistogramCounts counts;
  std::ranges::transform(histogram.counts, std::back_inserter(counts.counts), value);
  counts.sum_s = static_cast<double>(value(histogram.sum_ns)) / 1e9;
  return counts;
}

}  // namespace

Group::Group(EventLoop& loop, ConsumerSettings settings, const Programs& programs,
             std::vector<std::string> environment, std::function<void()> on_change)
    : loop_(loop),
      settings_(std::move(settings)),
      from_file_(settings_),
      programs_(programs),
      environment_(std::move(environment)),
      on_change_(std::move(on_change)) {}

Result<std::unique_ptr<Group>> Group::create(EventLoop& loop, const ConsumerSettings& settings,
                                             const Programs& programs,
                                             std::vector<std::string> environment,
                                             std::function<void()> on_change) {
  std::unique_ptr<Group> made(
      new Group(loop, settings, programs, std::move(environment), std::move(on_change)));
  auto board = BoardMapping<GroupBoard>::create("lope-group-board", made->board_fd_);
  if (!board) return Error{board.error()};
  made->board_ = std::move(*board);
  auto timer = loop.make_timer([self = made.get()] { self->start(); });
  if (!timer) return Error{timer.error()};
  made->restart_timer_ = std::move(*timer);
  made->hold();
  return made;
}

// Only to keep it from being tidied away: without, it is there all the same for an hour.
void Group::hold() {
  copy_.reset();
  if (settings_.group.handler_copy.empty()) return;
  auto held = hold_copy(settings_.group.handler_copy);
  if (held) {
    copy_ = std::move(*held);
  } else {
    log_warn("cannot hold the copy of a handler", {{"group", name()}, {"reason", held.error()}});
  }
}

void Group::start() {
  if (stopping_ || state_ == State::running || state_ == State::refused) return;
  if (before_ != nullptr && old_first_) return;
  if (!settings_.group.handler_missing.empty()) {
    if (state_ != State::waiting) {
      log_warn("group waits for its handler",
               {{"group", name()}, {"reason", settings_.group.handler_missing}});
    }
    state_ = State::waiting;
    board_->last_error.set(settings_.group.handler_missing);
    on_change_();
    return;
  }
  state_ = State::down;
  started_at_ = Clock::now();
  settled_before_ = settled();
  still_ = 0;
  if (auto spawned = spawn_consumer(); !spawned) start_later(spawned.error());
}

Result<void> Group::spawn_consumer() {
  auto control = make_packet_pair();
  if (!control) return Error{control.error()};
  auto json = make_memfd("lope-consumer-settings", to_json(settings_));
  if (!json) return Error{json.error()};
  UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null.valid()) return Error{errno_text("open /dev/null", errno)};

  SpawnOptions options;
  options.program_fd = programs_.consumer;
  options.argv = {settings_.relay ? "lope-relay" : "lope-consumer", name()};
  options.env = environment_;
  options.fds = {{null.get(), 0},
                 {json->get(), kSettingsFd},
                 {board_fd_.get(), kScoreboardFd},
                 {control->second.get(), kLinkFd},
                 {programs_.worker, kWorkerProgramFd}};
  options.blocked_signals.assign(std::begin(kGroupSignals), std::end(kGroupSignals));
  auto child = spawn(options);
  if (!child) return Error{child.error()};
  child_ = std::move(*child);
  control_ = std::move(control->first);
  state_ = State::running;

  auto pid_source =
      loop_.watch_fd(child_.pidfd.get(), EPOLLIN, [this](std::uint32_t) { on_exit(); });
  auto control_source = loop_.watch_fd(control_.get(), EPOLLIN, [this](std::uint32_t) {
    ControlMessage message{};
    const ssize_t n = ::recv(control_.get(), &message, sizeof message, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
      control_source_.stop();  // its end is its pidfd's to tell
    }
    on_change_();
  });
  if (!pid_source || !control_source) {
    // Without them it could not be watched: it must not run.
    ::kill(child_.pid, SIGKILL);
    (void)reap(child_);
    state_ = State::down;
    return Error{!pid_source ? pid_source.error() : control_source.error()};
  }
  pid_source_ = std::move(*pid_source);
  control_source_ = std::move(*control_source);
  log_info("consumer started", {{"group", name()}, {"consumer_pid", child_.pid}});
  return {};
}

void Group::on_exit() {
  pid_source_.stop();
  control_source_.stop();
  const auto end = reap(child_);
  const std::string how = end ? end->to_string() : end.error();
  board_->workers_ready.store(0, std::memory_order_relaxed);
  clear_gauges(board_->metrics);
  for (auto* gauge : {&board_->running, &board_->held, &board_->waiting, &board_->unconfirmed,
                      &board_->behind, &board_->at_rate}) {
    gauge->store(0, std::memory_order_relaxed);
  }
  for (GroupBoard::Worker& worker : board_->workers) {
    worker.state.store(static_cast<std::uint32_t>(WorkerState::none), std::memory_order_relaxed);
  }
  board_->state.store(static_cast<std::uint32_t>(GroupState::ended), std::memory_order_relaxed);
  state_ = State::down;
  const bool clean = end && !end->signalled && end->code == kExitOk;
  const bool refused = end && !end->signalled && end->code == kExitRefused;
  if (refused && !stopping_ && value(board_->settings_taken) != settings_.generation) {
    // It has not heard of the settings that came while it was ending.
    start_later("the consumer was refused: " + board_->last_error.get());
  } else if (refused) {
    state_ = State::refused;
    log_error("group will not be started again",
              {{"group", name()}, {"reason", board_->last_error.get()}});
  } else if (stopping_) {
    if (!clean) ended_badly_ = true;
    log_event(clean ? LogLevel::info : LogLevel::warn, "consumer ended",
              {{"group", name()}, {"consumer_pid", child_.pid}, {"how", how}});
  } else {
    start_later("the consumer ended: " + how);
  }
  on_change_();
}

void Group::start_later(const std::string& reason) {
  if (Clock::now() - started_at_ >= kHealthy || settled() > settled_before_) deaths_ = 0;
  const auto pause = kRestart.exponential(deaths_);
  std::chrono::milliseconds delay =
      pause / 2 + kRestart.full_jitter(deaths_, random_fraction()) / 2;
  if (++deaths_ > kMaxDeaths) {
    state_ = State::failed;
    delay = kFailedPause;
  }
  board_->last_error.set(reason);
  log_error(state_ == State::failed ? "group failed" : "consumer to be started again",
            {{"group", name()},
             {"consumer_pid", child_.pid},
             {"reason", reason},
             {"in_a_row", deaths_},
             {"delay_ms", delay.count()}});
  restart_timer_.arm(Clock::now() + delay);
}

// Messages, for good.
std::uint64_t Group::settled() const { return value(board_->acked) + value(board_->rejected); }

void Group::look_for_hang() {
  if (before_ != nullptr) before_->look_for_hang();
  if (state_ != State::running) return;
  const std::uint64_t progress = value(board_->progress);
  still_ = progress == std::exchange(progress_, progress) ? still_ + 1 : 0;
  if (still_ < kHung) return;
  still_ = 0;
  log_error("killing a consumer that hangs",
            {{"group", name()}, {"consumer_pid", child_.pid}, {"still_for_s", kHung}});
  // Not signal(): it is to be started again.
  ::kill(child_.pid, SIGKILL);
}

GroupState Group::state_on_board() const {
  return static_cast<GroupState>(board_->state.load(std::memory_order_relaxed));
}

bool Group::consuming() const {
  return state_ == State::running && state_on_board() == GroupState::consuming;
}

std::string Group::trouble() const {
  if (consuming()) return {};
  const std::string reason = board_->last_error.get();
  if (state_ == State::refused) return "refused: " + reason;
  if (state_ == State::failed) return "failed: " + reason;
  if (state_ == State::waiting) return "waiting for its handler: " + reason;
  return reason.empty() ? "starting" : reason;
}

int Group::workers_wanted() const {
  const auto said = board_->workers_wanted.load(std::memory_order_relaxed);
  return state_ == State::running && said > 0 ? static_cast<int>(said) : settings_.group.workers;
}

void Group::scale(int workers) {
  told_.workers = settings_.group.workers = workers;
  send(ControlType::scale, workers);
}

void Group::pause(bool on) {
  told_.paused = settings_.paused = on;
  send(on ? ControlType::pause : ControlType::resume);
}

std::string Group::not_to_be_paused() const {
  for (const QueueSettings& queue : settings_.group.queues) {
    if (!queue.declare || !queue.declaration.auto_delete) continue;
    return "queue '" + queue.name +
           "' is auto_delete: without a consumer the broker would delete it with all its messages";
  }
  return {};
}

void Group::restart_workers() {
  if (state_ != State::failed) {
    send(ControlType::restart);
    return;
  }
  restart_timer_.disarm();
  start();
}

void Group::sample(TimePoint now) {
  look_for_hang();
  const Counts all = counts();
  samples_.take(now, all.delivered, all.acked + all.rejected, all.handling.counts);
  // The trial begins when all its workers are there.
  if (value(board_->generation) != settings_.generation) changed_at_ = now;
  if (previous_ != nullptr && now >= changed_at_ + kTrial) {
    previous_.reset();
    previous_copy_.reset();
  }
  tend();
}

void Group::Counts::add(const GroupBoard& board) {
  delivered += value(board.delivered);
  acked += value(board.acked);
  retried += value(board.retried);
  rejected += value(board.rejected);
  dead_lettered += value(board.dead_lettered);
  refused += value(board.refused);
  published += value(board.published);
  crashes += value(board.crashes);
  timeouts += value(board.timeouts);
  worker_deaths += value(board.worker_deaths);
  recycled += value(board.recycled);
  pauses += value(board.pauses);
  doubles += value(board.doubles);
  too_soon += value(board.too_soon);
  delayed += value(board.delayed);
  unchecked += value(board.unchecked);
  handed_back += value(board.handed_back);
  undeliverable += value(board.undeliverable);
  connections += value(board.connections);
  journal_sent += value(board.journal_sent);
  journal_confirmed += value(board.journal_confirmed);
  journal_dropped += value(board.journal_dropped);
  spans_sent += value(board.spans_sent);
  spans_dropped += value(board.spans_dropped);
  positions_not_kept += value(board.positions_not_kept);
  handling.add(board.handling);
  queued.add(board.queued);
  for (std::size_t i = 0; i < board.metrics.size(); ++i) {
    const HandlerMetrics::Metric& metric = board.metrics.all[i];
    const std::string called = metric.name.get();
    auto known = std::ranges::find(handler, called, &HandlerMetricStatus::name);
    if (known == handler.end()) {
      HandlerMetricStatus fresh;
      fresh.name = called;
      fresh.kind = metric.kind.load(std::memory_order_relaxed);
      fresh.help = metric.help.get();
      known = handler.insert(known, std::move(fresh));
    }
    known->value += metric.value.load(std::memory_order_relaxed);
    const HistogramCounts here = counts_of(metric.durations);
    known->durations.counts.resize(here.counts.size());
    std::ranges::transform(known->durations.counts, here.counts, known->durations.counts.begin(),
                           std::plus<>());
    known->durations.sum_s += here.sum_s;
  }
}

void Group::Histogram::add(const BoardHistogram& histogram) {
  for (std::size_t i = 0; i < counts.size(); ++i) counts[i] += value(histogram.counts[i]);
  sum_ns += value(histogram.sum_ns);
}

// What a consumer that has gone measured right now is over.
void Group::Counts::drop_gauges() {
  for (HandlerMetricStatus& metric : handler) {
    if (metric.kind == static_cast<std::uint32_t>(MetricKind::gauge)) metric.value = 0;
  }
}

Group::Counts Group::counts() const {
  Counts all = before_ != nullptr ? before_->counts() : earlier_;
  all.add(*board_);
  return all;
}

GroupStatus Group::status() const {
  const GroupBoard& board = *board_;
  const auto seconds_since = [now = unix_ms()](std::uint64_t then_ms) {
    return then_ms == 0 || then_ms > now ? 0.0 : static_cast<double>(now - then_ms) / 1000;
  };
  GroupStatus status;
  status.name = name();
  switch (state_) {
    case State::down: status.state = "down"; break;
    case State::waiting: status.state = "waiting"; break;
    case State::failed: status.state = "failed"; break;
    case State::refused: status.state = "refused"; break;
    case State::running: status.state = to_string(state_on_board()); break;
  }
  status.reason = board.last_error.get();
  std::size_t stream = 0;
  for (const QueueSettings& queue : settings_.group.queues) {
    status.queues.push_back(queue.name);
    if (!queue.stream || stream == board.streams.size()) continue;
    if (const std::uint64_t offset = value(board.streams[stream++]); offset > 0) {
      status.streams.push_back({queue.name, offset - 1});
    }
  }
  status.handler = settings_.group.handler;
  status.handler_name = board.handler_name.get();
  status.handler_version = board.handler_version.get();
  status.handler_file = board.handler_file.get();
  if (state_ == State::running) {
    status.consumer_pid = child_.pid;
    status.broker = board.consumes_from.address.get();
    status.cluster = board.consumes_from.cluster.get();
    status.publish_broker = board.publishes_to.address.get();
    status.publish_cluster = board.publishes_to.cluster.get();
    status.uptime_s = std::chrono::duration<double>(Clock::now() - started_at_).count();
    for (std::size_t i = 0; i < board.workers.size(); ++i) {
      const GroupBoard::Worker& worker = board.workers[i];
      const auto state = static_cast<WorkerState>(worker.state.load(std::memory_order_relaxed));
      if (state == WorkerState::none) continue;
      const pid_t pid = worker.pid.load(std::memory_order_relaxed);
      status.workers.push_back({.index = static_cast<int>(i),
                                .pid = pid,
                                .state = to_string(state),
                                .uptime_s = seconds_since(value(worker.started_ms)),
                                .given = value(worker.given),
                                .rss_bytes = resident_bytes(pid)});
    }
  }
  status.note = note_;
  if (scales_itself()) {
    status.workers_min = static_cast<std::uint64_t>(settings_.group.workers);
    status.workers_max = static_cast<std::uint64_t>(settings_.group.workers_max);
  }
  status.workers_wanted = static_cast<std::uint64_t>(workers_wanted());
  status.workers_ready = board.workers_ready.load(std::memory_order_relaxed);
  status.running = value(board.running);
  status.held = value(board.held);
  status.waiting = value(board.waiting);
  status.unconfirmed = value(board.unconfirmed);
  status.behind = value(board.behind);
  status.at_rate = value(board.at_rate);
  status.rate_limit = settings_.group.rate.per_second;
  status.rate_in = samples_.rate_in();
  status.rate_out = samples_.rate_out();
  status.handling_p50_ms = samples_.handling_ms(0.5);
  status.handling_p99_ms = samples_.handling_ms(0.99);
  const Counts all = counts();
  status.delivered = all.delivered;
  status.acked = all.acked;
  status.retried = all.retried;
  status.rejected = all.rejected;
  status.dead_lettered = all.dead_lettered;
  status.refused = all.refused;
  status.published = all.published;
  status.crashes = all.crashes;
  status.timeouts = all.timeouts;
  status.worker_deaths = all.worker_deaths;
  status.recycled = all.recycled;
  status.pauses = all.pauses;
  status.doubles = all.doubles;
  status.too_soon = all.too_soon;
  status.delayed = all.delayed;
  status.unchecked = all.unchecked;
  status.handed_back = all.handed_back;
  status.undeliverable = all.undeliverable;
  status.connections = all.connections;
  status.journal_sent = all.journal_sent;
  status.journal_confirmed = all.journal_confirmed;
  status.journal_dropped = all.journal_dropped;
  status.spans_sent = all.spans_sent;
  status.spans_dropped = all.spans_dropped;
  status.positions_not_kept = all.positions_not_kept;
  if (const std::uint64_t failed_ms = value(board.last_failure_ms); failed_ms != 0) {
    status.last_failure = board.last_failure.get();
    status.last_failure_s = seconds_since(failed_ms);
  }
  return status;
}

GroupMetrics Group::metrics() const {
  Counts all = counts();
  const auto told = [](const Histogram& histogram) {
    return HistogramCounts{{histogram.counts.begin(), histogram.counts.end()},
                           static_cast<double>(histogram.sum_ns) / 1e9};
  };
  return {.handling = told(all.handling),
          .queued = told(all.queued),
          .handler = std::move(all.handler)};
}

void Group::send(ControlType type, std::int64_t value, int fd) {
  if (state_ != State::running) return;
  const ControlMessage message{type, 0, value};
  if (send_with_fd(control_.get(), &message, sizeof message, fd, MSG_DONTWAIT) >= 0) return;
  if (errno != EAGAIN && errno != ENOBUFS) return;  // it is at its end, which its pidfd tells
  log_error("killing a consumer that does not read what it is told",
            {{"group", name()}, {"consumer_pid", child_.pid}});
  ::kill(child_.pid, SIGKILL);
}

bool Group::running() const {
  return state_ == State::running || (before_ != nullptr && before_->running());
}

bool Group::ended_badly() const {
  return ended_badly_ || (before_ != nullptr && before_->ended_badly());
}

std::uint64_t Group::of_drain(std::atomic<std::uint64_t> GroupBoard::*counter) const {
  return value((*board_).*counter) + (before_ != nullptr ? before_->of_drain(counter) : 0);
}

void Group::set_stopping() {
  stopping_ = true;
  if (before_ != nullptr) before_->set_stopping();
}

void Group::drain(std::chrono::milliseconds limit) {
  set_stopping();
  send(ControlType::drain, limit.count());
  if (before_ != nullptr) before_->drain(limit);
}

void Group::stop_now() {
  set_stopping();
  send(ControlType::stop);
  if (before_ != nullptr) before_->stop_now();
}

// ---- Other settings

void Group::set_settings(const ConsumerSettings& from_file) {
  const bool same_workers = from_file.group.workers == from_file_.group.workers &&
                            from_file.group.workers_max == from_file_.group.workers_max;
  if (!same_workers) told_.workers.reset();
  const std::uint64_t generation = settings_.generation + 1;
  from_file_ = from_file;
  settings_ = from_file;
  settings_.generation = generation;
  settings_.paused = told_.paused;
  if (told_.workers) settings_.group.workers = *told_.workers;
  if (told_.log_level) settings_.log.level = *told_.log_level;
}

// What it had before the first of several changes that have not proved good.
void Group::keep_previous(const ConsumerSettings& settings) {
  changed_at_ = Clock::now();
  const bool proved_good = value(board_->proved) == settings_.generation;
  if (previous_ != nullptr && !proved_good) return;
  if (!settings.group.handler_missing.empty()) return;
  previous_ = std::make_unique<ConsumerSettings>(settings);
  previous_copy_.reset();
  if (settings.group.handler_copy.empty()) return;
  if (auto held = hold_copy(settings.group.handler_copy)) previous_copy_ = std::move(*held);
}

void Group::apply(const ConsumerSettings& from_file, GroupChange change, bool rolls_back) {
  auto replace = ReplaceWorkers::no;
  if (change == GroupChange::workers) {
    replace = rolls_back ? ReplaceWorkers::old_at_once : ReplaceWorkers::new_first;
    keep_previous(from_file_);
    board_->failed_starts.store(0, std::memory_order_relaxed);
  }
  set_settings(from_file);
  hold();
  forget_roll_back();
  if (state_ == State::running) {
    tell_settings(replace);
    return;
  }
  deaths_ = 0;
  restart_timer_.disarm();
  if (state_ == State::refused) state_ = State::down;
  start();
}

void Group::tell_settings(ReplaceWorkers replace) {
  auto json = make_memfd("lope-consumer-settings", to_json(settings_));
  if (json) {
    send(ControlType::settings, static_cast<std::int64_t>(replace), json->get());
    return;
  }
  log_error("killing a consumer that cannot be told of its settings",
            {{"group", name()}, {"reason", json.error()}});
  ::kill(child_.pid, SIGKILL);  // the next one gets them
}

bool Group::try_again() {
  if (state_ != State::refused) return false;
  state_ = State::down;
  deaths_ = 0;
  start();
  return true;
}

void Group::follow(std::unique_ptr<Group> old, bool old_first) {
  const ConsumerSettings next = from_file_;
  from_file_ = old->from_file_;
  told_ = old->told_;
  settings_.generation = old->settings_.generation;
  set_settings(next);
  if (value(old->board_->proved) != old->settings_.generation) {
    previous_ = std::move(old->previous_);
    previous_copy_ = std::move(old->previous_copy_);
  }
  keep_previous(old->from_file_);
  samples_ = old->samples_;
  before_ = std::move(old);
  old_first_ = old_first;
}

bool Group::has_to_go_before(const GroupSettings& next) const {
  return one_at_a_time(from_file_.group, next) ||
         (before_ != nullptr && before_->has_to_go_before(next));
}

void Group::tend() {
  if (before_ == nullptr || stopping_) return;
  before_->tend();
  const bool ready = consuming() || (state_ == State::running && settings_.paused);
  if (!before_draining_ && (old_first_ || ready)) {
    before_draining_ = true;
    log_info("draining the old consumer",
             {{"group", name()}, {"consumer_pid", before_->child_.pid}});
    before_->drain(settings_.shutdown_timeout);
  }
  // One that has died and is about to be started again still counts.
  const bool over =
      before_->stopping_ || before_->state_ == State::refused || before_->state_ == State::waiting;
  if (over && !before_->running()) {
    earlier_ = before_->counts();
    earlier_.drop_gauges();
    ended_badly_ = ended_badly_ || before_->ended_badly();
    before_.reset();
    log_info("the old consumer has left", {{"group", name()}});
    if (old_first_) start();
  }
}

std::string Group::unfinished() const {
  if (state_ == State::waiting || state_ == State::refused) return {};  // no wait will help
  if (before_ != nullptr && !before_draining_) return name() + ": its old consumer is still there";
  if (!consuming() && !settings_.paused) return name() + ": " + trouble();
  if (settings_.relay || value(board_->generation) == settings_.generation) return {};
  return name() + ": its old workers are still there";
}

std::string Group::failure() const {
  if (!note_.empty()) return "group '" + name() + "': " + note_;
  // What the board says of a consumer that has not taken the latest settings yet is old.
  const bool failed_now = state_ == State::running && state_on_board() == GroupState::failed &&
                          value(board_->settings_taken) == settings_.generation;
  const bool failed = state_ == State::refused || state_ == State::failed || failed_now;
  return failed ? "group '" + name() + "': " + trouble() : std::string();
}

void Group::set_log_level(std::optional<LogLevel> level) {
  if (before_ != nullptr) before_->set_log_level(level);
  told_.log_level = level;
  const LogLevel now = level.value_or(from_file_.log.level);
  if (now == settings_.log.level) return;
  settings_.log.level = now;
  send(ControlType::log_level, static_cast<std::int64_t>(now));
}

std::string Group::to_roll_back() const {
  if (previous_ == nullptr) return {};
  if (state_ == State::refused) return "it is refused: " + board_->last_error.get();
  if (value(board_->failed_starts) < kMaxFailedStarts) return {};
  return "its new workers die at once: " + board_->last_failure.get();
}

ConsumerSettings Group::roll_back(const std::string& why) {
  const std::unique_ptr<ConsumerSettings> previous = std::move(previous_);
  log_error("rolled back", {{"group", name()},
                            {"reason", why},
                            {"handler", previous->group.handler},
                            {"file", previous->group.handler_copy}});
  return *previous;
}

void Group::set_rolled_back(const std::string& why, std::string rejected_hash) {
  previous_.reset();
  previous_copy_.reset();
  note_ = "rolled back: " + why;
  rejected_hash_ = std::move(rejected_hash);
}

void Group::forget_roll_back() {
  note_.clear();
  rejected_hash_.clear();
}

void Group::signal(int signal) {
  if (before_ != nullptr) before_->signal(signal);
  if (state_ != State::running) return;
  if (signal == SIGKILL) ended_badly_ = true;
  ::kill(child_.pid, signal);
}

}  // namespace lope::supervisor
