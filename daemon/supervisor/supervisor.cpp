#include "supervisor/supervisor.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <span>

#include "common/control_path.h"
#include "common/exit_code.h"
#include "common/log.h"
#include "common/text.h"
#include "supervisor/notify.h"

namespace lope::supervisor {

namespace {

// How long after a consumer's own deadline it is given to be gone.
constexpr std::chrono::milliseconds kKillGrace{800};
constexpr std::chrono::seconds kTick{1};
// What a second TERM leaves.
constexpr std::chrono::milliseconds kHurried{1000};

// Its queue is declared with the ladder's end. A name that no group can have.
GroupSettings relay_settings(const DelaySettings& delays) {
  constexpr int kPrefetch = 500;
  GroupSettings relay;
  relay.name = kRelayName;
  relay.workers = 0;
  QueueSettings queue;
  queue.name = delays.prefix + ".due";
  queue.prefetch = kPrefetch;
  relay.queues.push_back(std::move(queue));
  return relay;
}

}  // namespace

void lead_process_group() {
  if (::getpgrp() == ::getpid()) return;
  const UniqueFd terminal(::open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY));
  if (terminal.valid() && ::tcgetpgrp(terminal.get()) == ::getpgrp()) return;
  // Fails only for a session leader, which leads its group already.
  (void)::setpgid(0, 0);
}

Supervisor::Supervisor(const Settings& settings, std::string config, const Programs& programs)
    : settings_(settings), config_(std::move(config)), programs_(programs) {}

Result<void> Supervisor::set_up() {
  auto loop = EventLoop::create();
  if (!loop) return Error{loop.error()};
  loop_ = std::move(*loop);

  const std::pair<int, std::function<void(int, int)>> signals[] = {
      {SIGTERM, [this](int signal, int) { stop(signal); }},
      {SIGINT, [this](int signal, int) { stop(signal); }},
      {SIGQUIT, [this](int, int) { stop_now(); }},
      {SIGHUP, [](int, int) { log_warn("reload is not available in this version"); }},
      {SIGUSR1, [this](int, int) {
         if (auto reopened = reopen_log(); !reopened) {
           log_error("cannot open the log file again", {{"reason", reopened.error()}});
         }
         for_each_process([](Group& group) { group.signal(SIGUSR1); });
         if (monitor_ != nullptr) monitor_->signal(SIGUSR1);
       }}};
  for (std::size_t i = 0; i < std::size(signals); ++i) {
    auto source = loop_->watch_signal(signals[i].first, signals[i].second);
    if (!source) return Error{source.error()};
    signal_sources_[i] = std::move(*source);
  }
  auto deadline = loop_->make_timer([this] { on_deadline(); });
  if (!deadline) return Error{deadline.error()};
  deadline_timer_ = std::move(*deadline);
  auto ready = loop_->make_timer([this] { on_ready_timeout(); });
  if (!ready) return Error{ready.error()};
  ready_timer_ = std::move(*ready);
  auto tick = loop_->make_timer([this] { on_tick(); });
  if (!tick) return Error{tick.error()};
  tick_timer_ = std::move(*tick);
  if (auto watchdog = loop_->enable_watchdog(); !watchdog) return watchdog;

  for (const GroupSettings& settings : settings_.groups) {
    auto group = Group::create(*loop_, settings_, settings, programs_.consumer, programs_.worker,
                               [this] { look(); });
    if (!group) return Error{"group '" + settings.name + "': " + group.error()};
    groups_.push_back(std::move(*group));
  }
  if (settings_.delays.relay) {
    auto relay = Group::create(*loop_, settings_, relay_settings(settings_.delays),
                               programs_.consumer, programs_.worker, [this] { look(); });
    if (!relay) return Error{"relay: " + relay.error()};
    relay_ = std::move(*relay);
  }
  return {};
}

int Supervisor::run() {
  ::prctl(PR_SET_DUMPABLE, 0);  // it has the broker's password
  raise_descriptor_limit();     // many may ask for its status
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGUSR2, SIG_IGN);
  if (auto done = set_up(); !done) {
    log_error("cannot start", {{"reason", done.error()}});
    return kExitTemporary;
  }
  if (!serve_control()) return kExitRefused;
  if (auto done = create_monitor(); !done) {
    log_error("cannot start", {{"reason", "monitor: " + done.error()}});
    return kExitTemporary;
  }
  log_info("starting",
           {{"version", LOPE_VERSION}, {"groups", groups_.size()}, {"process_group", ::getpgrp()}});
  ready_timer_.arm(Clock::now() + settings_.ready_timeout);
  for_each_process([](Group& group) { group.start(); });
  if (monitor_ != nullptr) monitor_->start();
  on_tick();
  while (!done_) {
    if (auto ran = loop_->run_once(std::nullopt); !ran) {
      log_error("the event loop failed", {{"reason", ran.error()}});
      return kExitFailed;
    }
  }
  return finish();
}

Result<void> Supervisor::create_monitor() {
  if (!settings_.monitor) return {};
  auto monitor =
      MonitorProcess::create(*loop_, settings_, programs_.monitor,
                             [this](UniqueFd link) { return control_->adopt(std::move(link)); });
  if (!monitor) return Error{monitor.error()};
  monitor_ = std::move(*monitor);
  return {};
}

// False: nothing may be started.
bool Supervisor::serve_control() {
  auto server = ControlServer::create(
      *loop_, [this](const ControlRequest& request, const ControlServer::Client& client) {
        return carry_out(request, client);
      });
  if (!server) {
    log_error("cannot start", {{"reason", "control socket: " + server.error()}});
    return false;
  }
  control_ = std::move(*server);
  const bool chosen = !settings_.control_socket.empty();
  const std::string path = chosen ? settings_.control_socket : default_control_socket();
  if (path.empty()) {
    log_info("no control socket", {{"reason",
                                    "neither control.socket nor LOPE_SOCKET nor "
                                    "XDG_RUNTIME_DIR says where"}});
    return true;
  }
  // The folder is made where only its last part is missing, as /run/lope is after a boot.
  const std::size_t slash = path.rfind('/');
  if (slash != std::string::npos && slash > 0) (void)::mkdir(path.substr(0, slash).c_str(), 0755);
  bool taken = false;
  const auto listening = control_->listen(path, taken);
  if (listening) return true;
  if (chosen || taken) {
    log_error("cannot start", {{"reason", "control socket: " + listening.error()}});
    return false;
  }
  log_warn("no control socket", {{"reason", listening.error()}});
  return true;
}

Group* Supervisor::group_named(const std::string& name) {
  const auto found =
      std::ranges::find_if(groups_, [&](const auto& group) { return group->name() == name; });
  return found == groups_.end() ? nullptr : found->get();
}

ControlAnswer Supervisor::carry_out(const ControlRequest& request,
                                    const ControlServer::Client& client) {
  static constexpr std::string_view kCommands[] = {"status", "metrics", "stop", "scale", "restart"};
  const auto slip = [](std::string_view word, std::span<const std::string_view> known) {
    const std::string near = nearest(word, known);
    return near.empty() ? std::string() : ": did you mean '" + near + "'?";
  };
  if (request.command == "status") return {.status = to_json(daemon_status())};
  if (request.command == "metrics") return {.metrics = to_json(daemon_metrics())};
  if (std::ranges::find(kCommands, request.command) == std::end(kCommands)) {
    return {.error = "unknown command '" + escape(request.command, 64) + "'" +
                     slip(request.command, kCommands)};
  }
  if (!client.may_act) {
    return {.error = request.command + ": expected root or the daemon's own user, found user id " +
                     std::to_string(client.uid) + ": others may only look"};
  }
  log_info("told over the control socket", {{"command", request.command},
                                            {"group", request.group},
                                            {"workers", request.workers},
                                            {"now", request.now ? "true" : "false"},
                                            {"uid", client.uid},
                                            {"client_pid", client.pid}});
  if (request.command == "stop") return stop_for(request);
  Group* const group = group_named(request.group);
  if (group == nullptr) {
    std::vector<std::string_view> names;
    for (const auto& each : groups_) names.push_back(each->name());
    return {.error = request.command + ": no group '" + escape(request.group, 64) + "'" +
                     slip(request.group, names)};
  }
  const std::string subject = "group '" + group->name() + "': ";
  if (phase_ != Phase::running) return {.error = subject + "the daemon is stopping"};
  if (group->state() == Group::State::refused) {
    return {.error = subject + "it is refused: " + group->trouble()};
  }
  if (request.command == "scale") {
    if (request.workers == 0)
      return {.error = subject + "expected a number of workers, found none"};
    const int before = group->workers_wanted();
    group->scale(request.workers);
    return {.text = subject + std::to_string(request.workers) + " workers, before " +
                    std::to_string(before)};
  }
  group->send(ControlType::restart);
  return {.text = subject + "replacing its workers"};
}

ControlAnswer Supervisor::stop_for(const ControlRequest& request) {
  if (request.now) {
    if (!stopped_now_) stop_now();
    return {.text = "stopping now: unfinished messages go back"};
  }
  // Who asks again goes on waiting; to hurry it there is `now`.
  if (phase_ != Phase::running) return {.text = "stopping already"};
  stop(SIGTERM);
  return {.text = "stopping within " + std::to_string(settings_.shutdown_timeout.count()) + " ms"};
}

DaemonStatus Supervisor::daemon_status() const {
  DaemonStatus status;
  status.version = LOPE_VERSION;
  status.pid = ::getpid();
  status.state = phase_ == Phase::running ? "running" : "stopping";
  status.uptime_s = std::chrono::duration<double>(Clock::now() - started_at_).count();
  status.config = config_;
  for (const auto& group : groups_) status.groups.push_back(group->status());
  if (relay_ != nullptr) status.relay.push_back(relay_->status());
  if (monitor_ != nullptr) status.monitor.push_back(monitor_->status());
  return status;
}

DaemonMetrics Supervisor::daemon_metrics() const {
  DaemonMetrics metrics{.status = daemon_status(), .groups = {}};
  for (const auto& group : groups_) metrics.groups.push_back(group->metrics());
  if (relay_ != nullptr) metrics.groups.push_back(relay_->metrics());
  return metrics;
}

void Supervisor::on_tick() {
  const TimePoint now = Clock::now();
  for_each_process([now](Group& group) { group.sample(now); });
  tick_timer_.arm(now + kTick);
}

void Supervisor::look() {
  if (phase_ != Phase::running || all_refused_) {
    bool running = false;
    for_each_process(
        [&](Group& group) { running = running || group.state() == Group::State::running; });
    done_ = !running;
    return;
  }
  const auto refused = [](const auto& group) { return group->state() == Group::State::refused; };
  if (std::all_of(groups_.begin(), groups_.end(), refused)) {
    log_error("every group is refused: nothing to run");
    all_refused_ = true;
    if (relay_ != nullptr) {
      relay_->set_stopping();
      relay_->send(ControlType::stop);
      deadline_timer_.arm(Clock::now() + kHurried);
    }
    look();
    return;
  }
  const bool at_work = std::all_of(groups_.begin(), groups_.end(), [&](const auto& group) {
    return group->consuming() || refused(group);
  });
  const std::string status_now = status();
  if (at_work && !was_ready_) {
    std::uint64_t workers = 0;
    for (const auto& group : groups_) workers += group->board().workers_ready.load();
    log_info("ready", {{"groups", groups_.size()}, {"workers", workers}, {"status", status_now}});
  }
  was_ready_ = at_work;
  if (at_work && !ready_) {
    ready_ = true;
    ready_timer_.disarm();
    notify_ready(status_now);
  } else if (status_now != last_status_) {
    notify_status(status_now);
  }
  last_status_ = status_now;
}

void Supervisor::on_ready_timeout() {
  if (ready_) return;
  // A broker that is down at boot must not make the unit fail in a loop.
  ready_ = true;
  log_warn("not ready in time, going on", {{"status", status()}});
  notify_ready(status());
}

std::string Supervisor::status() const {
  std::size_t consuming = 0;
  std::uint64_t workers = 0;
  int wanted = 0;
  std::string missing;
  for (const auto& group : groups_) {
    if (group->consuming()) ++consuming;
    workers += group->board().workers_ready.load(std::memory_order_relaxed);
    wanted += group->workers_wanted();
    if (const std::string trouble = group->trouble(); !trouble.empty()) {
      missing += "; " + group->name() + ": " + trouble;
    }
  }
  return std::to_string(consuming) + " of " + std::to_string(groups_.size()) +
         " groups consuming, " + std::to_string(workers) + " of " + std::to_string(wanted) +
         " workers ready" + missing;
}

void Supervisor::stop(int signal) {
  std::chrono::milliseconds limit = settings_.shutdown_timeout;
  if (phase_ == Phase::running) {
    phase_ = Phase::draining;
    log_info("stopping", {{"signal", signal}, {"limit_ms", limit.count()}});
    ready_timer_.disarm();
    notify_stopping(limit + kKillGrace + std::chrono::seconds(5));
  } else if (phase_ == Phase::draining) {
    phase_ = Phase::hurried;
    limit = std::min(limit, kHurried);
    log_warn("stopping at once: told a second time", {{"limit_ms", limit.count()}});
  } else {
    return;
  }
  for_each_process([limit](Group& group) {
    group.set_stopping();
    group.send(ControlType::drain, limit.count());
  });
  deadline_timer_.arm(Clock::now() + limit + kKillGrace);
  look();
}

void Supervisor::stop_now() {
  stopped_now_ = true;
  phase_ = Phase::hurried;
  log_warn("stopping now: unfinished messages go back");
  notify_stopping(kHurried);
  for_each_process([](Group& group) {
    group.set_stopping();
    group.send(ControlType::stop);
  });
  deadline_timer_.arm(Clock::now() + kHurried);
  look();
}

void Supervisor::on_deadline() {
  for_each_process([](Group& group) {
    if (group.state() != Group::State::running) return;
    log_error("killing a consumer that did not end", {{"group", group.name()}});
    group.signal(SIGKILL);
  });
}

int Supervisor::finish() {
  std::uint64_t finished = 0;
  std::uint64_t handed_back = 0;
  std::uint64_t killed = 0;
  bool badly = false;
  for (const auto& group : groups_) {
    finished += group->board().finished_in_drain.load();
    handed_back += group->board().handed_back_in_drain.load();
    killed += group->board().killed_in_drain.load();
    badly = badly || group->ended_badly();
  }
  int code = badly ? kExitFailed : kExitOk;
  if (all_refused_) code = kExitRefused;
  log_info(
      "ledger",
      {{"finished", finished}, {"handed_back", handed_back}, {"killed", killed}, {"exit", code}});
  return code;
}

}  // namespace lope::supervisor
