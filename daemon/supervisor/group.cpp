#include "supervisor/group.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <iterator>

#include "common/backoff.h"
#include "common/exit_code.h"
#include "common/json.h"
#include "common/log.h"
#include "common/text.h"

namespace lope::supervisor {

namespace {

constexpr Backoff kRestart{std::chrono::milliseconds(100), std::chrono::milliseconds(30'000)};
constexpr std::chrono::minutes kHealthy{1};

ConsumerSettings consumer_settings(const Settings& settings, const GroupSettings& group) {
  ConsumerSettings consumer;
  consumer.broker = settings.broker;
  consumer.handlers_dir = settings.handlers_dir;
  consumer.shutdown_timeout = settings.shutdown_timeout;
  consumer.log = settings.log;
  consumer.delays = settings.delays;
  consumer.group = group;
  consumer.relay = group.name == kRelayName;
  return consumer;
}

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

std::vector<std::string> child_environment(const Settings& settings) {
  std::vector<std::string> left_out = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"};
  left_out.insert(left_out.end(), settings.secret_env.begin(), settings.secret_env.end());
  return environment_without(left_out);
}

Group::Group(EventLoop& loop, const Settings& settings, const GroupSettings& group,
             int consumer_program_fd, int worker_program_fd, std::function<void()> on_change)
    : loop_(loop),
      settings_(consumer_settings(settings, group)),
      consumer_program_fd_(consumer_program_fd),
      worker_program_fd_(worker_program_fd),
      environment_(child_environment(settings)),
      on_change_(std::move(on_change)) {}

Result<std::unique_ptr<Group>> Group::create(EventLoop& loop, const Settings& settings,
                                             const GroupSettings& group, int consumer_program_fd,
                                             int worker_program_fd,
                                             std::function<void()> on_change) {
  std::unique_ptr<Group> made(new Group(loop, settings, group, consumer_program_fd,
                                        worker_program_fd, std::move(on_change)));
  auto board = BoardMapping<GroupBoard>::create("lope-group-board", made->board_fd_);
  if (!board) return Error{board.error()};
  made->board_ = std::move(*board);
  auto timer = loop.make_timer([self = made.get()] { self->start(); });
  if (!timer) return Error{timer.error()};
  made->restart_timer_ = std::move(*timer);
  return made;
}

void Group::start() {
  if (stopping_ || state_ != State::down) return;
  started_at_ = Clock::now();
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
  options.program_fd = consumer_program_fd_;
  options.argv = {settings_.relay ? "lope-relay" : "lope-consumer", name()};
  options.env = environment_;
  options.fds = {{null.get(), 0},
                 {json->get(), kSettingsFd},
                 {board_fd_.get(), kScoreboardFd},
                 {control->second.get(), kLinkFd},
                 {worker_program_fd_, kWorkerProgramFd}};
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
  for (auto* gauge : {&board_->running, &board_->held, &board_->waiting, &board_->unconfirmed}) {
    gauge->store(0, std::memory_order_relaxed);
  }
  for (GroupBoard::Worker& worker : board_->workers) {
    worker.state.store(static_cast<std::uint32_t>(WorkerState::none), std::memory_order_relaxed);
  }
  board_->state.store(static_cast<std::uint32_t>(GroupState::ended), std::memory_order_relaxed);
  state_ = State::down;
  const bool clean = end && !end->signalled && end->code == kExitOk;
  const bool refused = end && !end->signalled && end->code == kExitRefused;
  if (refused) {
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
  if (Clock::now() - started_at_ >= kHealthy) deaths_ = 0;
  const auto pause = kRestart.exponential(deaths_);
  const auto delay = pause / 2 + kRestart.full_jitter(deaths_, random_fraction()) / 2;
  ++deaths_;
  board_->last_error.set(reason);
  log_error("consumer to be started again", {{"group", name()},
                                             {"consumer_pid", child_.pid},
                                             {"reason", reason},
                                             {"delay_ms", delay.count()}});
  restart_timer_.arm(Clock::now() + delay);
}

bool Group::consuming() const {
  return state_ == State::running && board_->state.load(std::memory_order_relaxed) ==
                                         static_cast<std::uint32_t>(GroupState::consuming);
}

std::string Group::trouble() const {
  if (consuming()) return {};
  const std::string reason = board_->last_error.get();
  if (state_ == State::refused) return "refused: " + reason;
  return reason.empty() ? "starting" : reason;
}

void Group::scale(int workers) {
  settings_.group.workers = workers;
  send(ControlType::scale, workers);
}

void Group::sample(TimePoint now) {
  Samples::Counts handling{};
  std::ranges::transform(board_->handling.counts, handling.begin(), value);
  samples_.take(now, value(board_->delivered), value(board_->acked) + value(board_->rejected),
                handling);
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
    case State::refused: status.state = "refused"; break;
    case State::running:
      status.state =
          to_string(static_cast<GroupState>(board.state.load(std::memory_order_relaxed)));
      break;
  }
  if (!consuming()) status.reason = board.last_error.get();
  for (const QueueSettings& queue : settings_.group.queues) status.queues.push_back(queue.name);
  status.handler = settings_.group.handler;
  status.handler_name = board.handler_name.get();
  status.handler_version = board.handler_version.get();
  status.handler_file = board.handler_file.get();
  if (state_ == State::running) {
    status.consumer_pid = child_.pid;
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
  status.workers_wanted = static_cast<std::uint64_t>(workers_wanted());
  status.workers_ready = board.workers_ready.load(std::memory_order_relaxed);
  status.running = value(board.running);
  status.held = value(board.held);
  status.waiting = value(board.waiting);
  status.unconfirmed = value(board.unconfirmed);
  status.rate_in = samples_.rate_in();
  status.rate_out = samples_.rate_out();
  status.handling_p50_ms = samples_.handling_ms(0.5);
  status.handling_p99_ms = samples_.handling_ms(0.99);
  status.delivered = value(board.delivered);
  status.acked = value(board.acked);
  status.retried = value(board.retried);
  status.rejected = value(board.rejected);
  status.dead_lettered = value(board.dead_lettered);
  status.published = value(board.published);
  status.crashes = value(board.crashes);
  status.timeouts = value(board.timeouts);
  status.worker_deaths = value(board.worker_deaths);
  status.recycled = value(board.recycled);
  status.pauses = value(board.pauses);
  status.handed_back = value(board.handed_back);
  status.undeliverable = value(board.undeliverable);
  status.connections = value(board.connections);
  if (const std::uint64_t failed_ms = value(board.last_failure_ms); failed_ms != 0) {
    status.last_failure = board.last_failure.get();
    status.last_failure_s = seconds_since(failed_ms);
  }
  return status;
}

GroupMetrics Group::metrics() const {
  GroupMetrics metrics{.handling = counts_of(board_->handling),
                       .queued = counts_of(board_->queued)};
  for (std::size_t i = 0; i < board_->metrics.size(); ++i) {
    const HandlerMetrics::Metric& metric = board_->metrics.all[i];
    metrics.handler.push_back({.name = metric.name.get(),
                               .kind = metric.kind.load(std::memory_order_relaxed),
                               .help = metric.help.get(),
                               .value = metric.value.load(std::memory_order_relaxed),
                               .durations = counts_of(metric.durations)});
  }
  return metrics;
}

void Group::send(ControlType type, std::int64_t value) {
  if (state_ != State::running) return;
  const ControlMessage message{type, 0, value};
  // Fails only for a consumer that is at its end, which its pidfd tells.
  [[maybe_unused]] const ssize_t n =
      ::send(control_.get(), &message, sizeof message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void Group::signal(int signal) {
  if (state_ != State::running) return;
  if (signal == SIGKILL) ended_badly_ = true;
  ::kill(child_.pid, signal);
}

}  // namespace lope::supervisor
