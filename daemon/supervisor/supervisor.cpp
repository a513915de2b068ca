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

Supervisor::Supervisor(Settings settings, std::string config, const Programs& programs)
    : settings_(std::move(settings)), config_(std::move(config)), programs_(programs) {}

Result<void> Supervisor::set_up() {
  auto loop = EventLoop::create();
  if (!loop) return Error{loop.error()};
  loop_ = std::move(*loop);

  const std::pair<int, std::function<void(int, int)>> signals[] = {
      {SIGTERM, [this](int signal, int) { stop(signal); }},
      {SIGINT, [this](int signal, int) { stop(signal); }},
      {SIGQUIT, [this](int, int) { stop_now(); }},
      {SIGHUP, [this](int, int) { reload(false, std::nullopt); }},
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
  auto tend_timer = loop_->make_timer([this] { tend(); });
  if (!tend_timer) return Error{tend_timer.error()};
  tend_timer_ = std::move(*tend_timer);
  if (auto watchdog = loop_->enable_watchdog(); !watchdog) return watchdog;

  for (const GroupSettings& settings : settings_.groups) {
    auto group = make_group(settings_, settings);
    if (!group) return Error{"group '" + settings.name + "': " + group.error()};
    groups_.push_back(std::move(*group));
  }
  if (settings_.delays.relay) {
    auto relay = make_group(settings_, relay_settings(settings_.delays));
    if (!relay) return Error{"relay: " + relay.error()};
    relay_ = std::move(*relay);
  }
  return {};
}

Result<std::unique_ptr<Group>> Supervisor::make_group(const Settings& settings,
                                                      const GroupSettings& group) {
  return Group::create(*loop_, consumer_settings(settings, group), programs_,
                       child_environment(settings), [this] { look(); });
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
  watch_handlers();
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

std::optional<ControlAnswer> Supervisor::carry_out(const ControlRequest& request,
                                                   const ControlServer::Client& client) {
  static constexpr std::string_view kCommands[] = {"status",    "metrics", "stop",   "scale",
                                                   "restart",   "pause",   "resume", "reload",
                                                   "log-level", "watch"};
  const auto slip = [](std::string_view word, std::span<const std::string_view> known) {
    const std::string near = nearest(word, known);
    return near.empty() ? std::string() : ": did you mean '" + near + "'?";
  };
  const auto refused = [](std::string why) { return ControlAnswer{.error = std::move(why)}; };
  if (request.command == "status") return ControlAnswer{.status = to_json(daemon_status())};
  if (client.adopted && monitor_ != nullptr) {
    monitor_->heard();
    if (request.command == "alive") return ControlAnswer{.text = "so are we"};
  }
  if (request.command == "metrics") return ControlAnswer{.metrics = to_json(daemon_metrics())};
  if (std::ranges::find(kCommands, request.command) == std::end(kCommands)) {
    return refused("unknown command '" + escape(request.command, 64) + "'" +
                   slip(request.command, kCommands));
  }
  if (!client.may_act) {
    return refused(request.command + ": expected root or the daemon's own user, found user id " +
                   std::to_string(client.uid) + ": others may only look");
  }
  log_info("told over the control socket", {{"command", request.command},
                                            {"group", request.group},
                                            {"workers", request.workers},
                                            {"now", request.now ? "true" : "false"},
                                            {"uid", client.uid},
                                            {"client_pid", client.pid}});
  if (request.command == "stop") return stop_for(request);
  if (request.command == "reload") {
    if (phase_ != Phase::running) return refused("reload: the daemon is stopping");
    reload(false, Asker{client.id, request.wait});
    return std::nullopt;  // when it is decided
  }
  if (request.command == "log-level") return set_level(request.level);
  Group* const group = group_named(request.group);
  if (group == nullptr) {
    std::vector<std::string_view> names;
    for (const auto& each : groups_) names.push_back(each->name());
    return refused(request.command + ": no group '" + escape(request.group, 64) + "'" +
                   slip(request.group, names));
  }
  if (request.command == "watch") return trace(*group, request, client);
  return carry_out_for(*group, request);
}

ControlAnswer Supervisor::carry_out_for(Group& it, const ControlRequest& request) {
  Group* const group = &it;
  const std::string subject = "group '" + group->name() + "': ";
  if (phase_ != Phase::running) return {.error = subject + "the daemon is stopping"};
  if (group->state() == Group::State::refused) {
    return {.error = subject + "it is refused: " + group->trouble()};
  }
  if (request.command == "scale") {
    if (request.workers == 0)
      return {.error = subject + "expected a number of workers, found none"};
    if (group->scales_itself()) {
      return {.error = subject + "it has its number of workers by itself: workers: {min, max}"};
    }
    const int before = group->workers_wanted();
    group->scale(request.workers);
    return {.text = subject + std::to_string(request.workers) + " workers, before " +
                    std::to_string(before)};
  }
  if (request.command == "pause" || request.command == "resume") {
    const bool on = request.command == "pause";
    if (group->paused() == on) return {.text = subject + (on ? "paused already" : "not paused")};
    if (const std::string why = group->not_to_be_paused(); on && !why.empty()) {
      return {.error = subject + why};
    }
    group->pause(on);
    return {.text = subject + (on ? "paused: what runs is finished, the rest stays in its queue"
                                  : "resumed")};
  }
  group->restart_workers();
  return {.text = subject + "replacing its workers"};
}

ControlAnswer Supervisor::trace(Group& group, const ControlRequest& request,
                                const ControlServer::Client& client) {
  const std::string subject = "group '" + group.name() + "': ";
  if (client.attached < 0) {
    return {.error = subject + "expected a pipe with the request, to write to, found none"};
  }
  if (group.state() != Group::State::running) {
    return {.error = subject + "it does not run: " + group.trouble()};
  }
  const int messages = request.count == 0 ? 1 : request.count;
  group.send(ControlType::trace, messages, client.attached);
  return {.text = subject + "writing down the next " + std::to_string(messages) +
                  (messages == 1 ? " message" : " messages")};
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
  status.last_reload = last_reload_;
  if (!last_reload_.empty()) {
    status.last_reload_s = std::chrono::duration<double>(Clock::now() - last_reload_at_).count();
  }
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
  if (watch_ != nullptr) watch_->tend();
  if (monitor_ != nullptr) monitor_->look_for_hang();
  tend();
  tick_timer_.arm(now + kTick);
}

void Supervisor::tend() {
  for_each_process([](Group& group) { group.tend(); });
  const auto is_gone = [](const auto& group) { return !group->running(); };
  if (phase_ == Phase::running) {
    std::erase_if(leaving_, [&](const auto& group) {
      if (is_gone(group)) log_info("group is gone", {{"group", group->name()}});
      return is_gone(group);
    });
    roll_back_the_dying();
  }
  go_on_reloading();
  answer_waiting();
  judge();
}

// Not at once: groups may not come and go while one of their own callbacks runs, from where this is
// called mostly.
void Supervisor::look() { tend_timer_.arm(Clock::now()); }

void Supervisor::judge() {
  if (phase_ != Phase::running || all_refused_) {
    bool running = false;
    for_each_process([&](Group& group) { running = running || group.running(); });
    done_ = !running;
    return;
  }
  // Without somebody who looks after its file a group waits for good.
  const auto refused = [this](const auto& group) {
    if (group->running()) return false;
    return group->state() == Group::State::refused ||
           (group->state() == Group::State::waiting && !settings_.watch);
  };
  const bool reloading = reload_ != nullptr && !reload_->over();  // which may change it
  if (!reloading && std::all_of(groups_.begin(), groups_.end(), refused)) {
    log_error("every group is refused: nothing to run");
    all_refused_ = true;
    if (relay_ != nullptr) {
      relay_->stop_now();
      deadline_timer_.arm(Clock::now() + kHurried);
    }
    judge();
    return;
  }
  const bool at_work = std::all_of(groups_.begin(), groups_.end(), [&](const auto& group) {
    return group->consuming() || group->paused() || refused(group) ||
           group->state() == Group::State::waiting;
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
  for_each_process([limit](Group& group) { group.drain(limit); });
  deadline_timer_.arm(Clock::now() + limit + kKillGrace);
  look();
}

void Supervisor::stop_now() {
  stopped_now_ = true;
  phase_ = Phase::hurried;
  log_warn("stopping now: unfinished messages go back");
  notify_stopping(kHurried);
  for_each_process([](Group& group) { group.stop_now(); });
  deadline_timer_.arm(Clock::now() + kHurried);
  look();
}

void Supervisor::on_deadline() {
  for_each_process([](Group& group) {
    if (!group.running()) return;
    log_error("killing a consumer that did not end", {{"group", group.name()}});
    group.signal(SIGKILL);
  });
}

// ---- Other settings

void Supervisor::reload(bool handlers, std::optional<Asker> asker) {
  if (phase_ != Phase::running || all_refused_) {
    if (asker) control_->answer(asker->client, {.error = "reload: the daemon is stopping"});
    return;
  }
  if (reload_ != nullptr && !reload_->over()) {
    again_handlers_ = handlers && (!again_ || again_handlers_);
    again_ = true;
    if (asker) asking_again_.push_back(*asker);
    return;
  }
  if (asker) asking_.push_back(*asker);
  reload_handlers_ = handlers;
  log_info(handlers ? "looking at the handlers again" : "reading the configuration again",
           {{"file", handlers ? settings_.handlers_dir : config_}});
  reload_ = std::make_unique<Reload>(*loop_, programs_, handlers ? std::string() : config_,
                                     settings_, child_environment(settings_),
                                     [this](Reload::Verdict& verdict) { on_verdict(verdict); });
}

void Supervisor::on_verdict(Reload::Verdict& verdict) {
  for (const std::string& warning : verdict.warnings) {
    log_warn(reload_handlers_ ? "handler left alone" : "configuration", {{"reason", warning}});
  }
  std::string text;
  const bool refused = !verdict.errors.empty();
  const bool ending = phase_ != Phase::running || all_refused_;
  if (ending) {
    text = "the daemon is stopping";
  } else if (refused) {
    for (const std::string& error : verdict.errors) {
      log_error("reload refused: nothing is changed", {{"reason", error}});
      text += (text.empty() ? "" : "\n") + error;
    }
  } else {
    text = take(std::move(verdict.settings));
  }
  last_reload_ = refused ? "refused: " + text : text;
  last_reload_at_ = Clock::now();
  for (const Asker& asker : asking_) {
    if (refused || ending) {
      control_->answer(asker.client, {.error = "reload refused, nothing is changed: " + text});
    } else if (asker.wait) {
      waiting_.push_back({asker.client, true, text});
      waiting_until_ = Clock::now() + settings_.ready_timeout;
    } else {
      control_->answer(asker.client, {.text = text});
    }
  }
  asking_.clear();
  look();  // and what is to follow begins in tend()
}

// Returns what is done, for people.
std::string Supervisor::take(Settings next) {
  if (waiting_.empty()) changed_.clear();
  std::size_t unchanged = 0;
  std::string changes;
  const auto say = [&](const std::string& name, const std::string& what) {
    changes += "; " + name + ": " + what;
    changed_.push_back(name);
    log_info("group changes", {{"group", name}, {"how", what}});
  };
  if (next.control_socket != settings_.control_socket) {
    log_warn("control.socket is what it was: it changes only with a restart");
  }
  const bool other_monitor = next.monitor != settings_.monitor || next.log != settings_.log ||
                             next.monitor_journal != settings_.monitor_journal;
  if (next.log != settings_.log) {
    if (auto opened = open_log(next.log, "lope"); !opened) {
      log_error("cannot open the log", {{"reason", opened.error()}});
    }
    if (next.log.level != settings_.log.level) log_level_.reset();
    if (log_level_) set_log_level(*log_level_);
  }
  std::vector<std::unique_ptr<Group>> groups;
  for (GroupSettings& settings : next.groups) {
    const auto found = std::ranges::find_if(groups_, [&](const auto& group) {
      return group != nullptr && group->name() == settings.name;
    });
    if (found == groups_.end()) {
      auto made = make_group(next, settings);
      if (!made) {
        log_error("cannot add a group", {{"group", settings.name}, {"reason", made.error()}});
        continue;
      }
      say(settings.name, "added");
      groups.push_back(std::move(*made));
      groups.back()->start();
      continue;
    }
    const ConsumerSettings before = (*found)->from_file();
    if (take_group(*found, settings, next)) {
      say(settings.name, to_string(change_between(before, (*found)->from_file())));
    } else {
      ++unchanged;
    }
    groups.push_back(std::move(*found));
  }
  for (auto& group : groups_) {
    if (group == nullptr) continue;
    say(group->name(), "removed");
    group->drain(next.shutdown_timeout);
    leaving_.push_back(std::move(group));
  }
  groups_ = std::move(groups);

  const GroupSettings relay = relay_settings(next.delays);
  if (relay_ == nullptr && next.delays.relay) {
    if (auto made = make_group(next, relay)) {
      relay_ = std::move(*made);
      relay_->start();
    } else {
      log_error("cannot start the relay", {{"reason", made.error()}});
    }
  } else if (relay_ != nullptr && !next.delays.relay) {
    relay_->drain(next.shutdown_timeout);
    leaving_.push_back(std::move(relay_));
  } else if (relay_ != nullptr) {
    const ConsumerSettings wanted = consumer_settings(next, relay);
    const GroupChange change = change_between(relay_->from_file(), wanted);
    if (change != GroupChange::none) change_group(relay_, wanted, change, next);
  }
  const bool watched_otherwise =
      next.watch != settings_.watch || next.handlers_dir != settings_.handlers_dir;
  settings_ = std::move(next);
  if (watched_otherwise) watch_handlers();
  if (other_monitor) {
    monitor_.reset();
    if (auto made = create_monitor(); !made) {
      log_error("cannot start the monitor", {{"reason", made.error()}});
    }
    if (monitor_ != nullptr) monitor_->start();
  }
  for_each_process([this](Group& group) { group.set_log_level(log_level_); });
  std::string text = std::to_string(unchanged) + " of " + std::to_string(groups_.size()) +
                     " groups unchanged" + changes;
  log_info("reloaded", {{"result", text}});
  return text;
}

// True: it changes.
bool Supervisor::take_group(std::unique_ptr<Group>& group, GroupSettings& next,
                            const Settings& settings) {
  if (reload_handlers_ && group->has_rejected(next)) {
    next = group->from_file().group;  // until somebody asks for it
    return false;
  }
  const ConsumerSettings wanted = consumer_settings(settings, next);
  const GroupChange change = change_between(group->from_file(), wanted);
  if (change != GroupChange::none) {
    change_group(group, wanted, change, settings);
    return true;
  }
  if (reload_handlers_) return false;
  group->forget_roll_back();
  if (group->try_again()) changed_.push_back(group->name());  // as far as waiting for it goes
  return false;
}

// False: it goes on as it is.
bool Supervisor::change_group(std::unique_ptr<Group>& group, const ConsumerSettings& next,
                              GroupChange change, const Settings& settings) {
  if (change != GroupChange::consumer) {
    group->apply(next, change);
    return true;
  }
  auto made =
      Group::create(*loop_, next, programs_, child_environment(settings), [this] { look(); });
  if (!made) {
    log_error("cannot change a group", {{"group", group->name()}, {"reason", made.error()}});
    return false;
  }
  const bool old_first = group->has_to_go_before(next.group);
  (*made)->follow(std::move(group), old_first);
  group = std::move(*made);
  group->start();
  return true;
}

void Supervisor::roll_back_the_dying() {
  for (auto& group : groups_) {
    const std::string why = group->to_roll_back();
    if (why.empty()) continue;
    const std::string rejected = group->from_file().group.handler_hash;
    const ConsumerSettings previous = group->roll_back(why);
    const GroupChange change = change_between(group->from_file(), previous);
    if (change == GroupChange::consumer) {
      group->send(ControlType::pause);  // it does no more harm until the other one is there
      if (!change_group(group, previous, change, settings_)) {
        group->send(ControlType::resume);
        group->set_previous(previous);  // again soon
        continue;
      }
    } else {
      group->apply(previous, change, true);
    }
    group->set_rolled_back(why, rejected);
    const auto place = std::ranges::find(settings_.groups, group->name(), &GroupSettings::name);
    if (place != settings_.groups.end()) *place = previous.group;
  }
}

void Supervisor::watch_handlers() {
  watch_.reset();
  if (!settings_.watch) return;
  const auto matters = [this](std::string_view handler) {
    return std::ranges::find(settings_.groups, handler, &GroupSettings::handler) !=
           settings_.groups.end();
  };
  auto watch = HandlerWatch::create(*loop_, settings_.handlers_dir, matters,
                                    [this] { reload(true, std::nullopt); });
  if (watch) {
    watch_ = std::move(*watch);
  } else {
    log_error("cannot watch the folder of handlers", {{"reason", watch.error()}});
  }
}

void Supervisor::go_on_reloading() {
  if (reload_ == nullptr || !reload_->over()) return;
  reload_.reset();
  if (!std::exchange(again_, false)) return;
  asking_ = std::exchange(asking_again_, {});
  reload(std::exchange(again_handlers_, true), std::nullopt);
}

void Supervisor::answer_waiting() {
  if (waiting_.empty()) return;
  std::string unfinished;
  std::string failed;
  for (const auto& group : groups_) {
    if (std::ranges::find(changed_, group->name()) == changed_.end()) continue;
    if (unfinished.empty()) unfinished = group->unfinished();
    if (failed.empty()) failed = group->failure();
  }
  const bool late = Clock::now() >= waiting_until_;
  if (failed.empty() && !unfinished.empty() && !late && phase_ == Phase::running) return;
  ControlAnswer answer;
  if (phase_ != Phase::running) {
    answer = {.error = "the daemon is stopping"};
  } else if (!failed.empty()) {
    answer = {.error = "reloaded, but " + failed};
  } else if (!unfinished.empty()) {
    answer = {.error = "reloaded, but not all of it works within ready_timeout: " + unfinished};
  }
  for (const Asker& asker : waiting_) {
    if (answer.error.empty()) answer.text = asker.text;
    control_->answer(asker.client, answer);
  }
  waiting_.clear();
}

ControlAnswer Supervisor::set_level(const std::string& level) {
  static constexpr std::pair<std::string_view, LogLevel> kLevels[] = {{"debug", LogLevel::debug},
                                                                      {"info", LogLevel::info},
                                                                      {"warn", LogLevel::warn},
                                                                      {"error", LogLevel::error}};
  const auto found =
      std::ranges::find(kLevels, level, &std::pair<std::string_view, LogLevel>::first);
  if (found == std::end(kLevels)) {
    return {.error = "log-level: expected debug, info, warn or error, found '" + escape(level, 64) +
                     "'"};
  }
  log_level_ = found->second;
  set_log_level(found->second);
  for_each_process([&](Group& group) { group.set_log_level(found->second); });
  return {.text = "log level " + level + ", until the configuration is loaded again with another"};
}

int Supervisor::finish() {
  std::uint64_t finished = 0;
  std::uint64_t handed_back = 0;
  std::uint64_t killed = 0;
  bool badly = false;
  for (const auto* const all : {&groups_, &leaving_}) {
    for (const auto& group : *all) {
      finished += group->finished_in_drain();
      handed_back += group->handed_back_in_drain();
      killed += group->killed_in_drain();
      badly = badly || group->ended_badly();
    }
  }
  int code = badly ? kExitFailed : kExitOk;
  if (all_refused_) code = kExitRefused;
  log_info(
      "ledger",
      {{"finished", finished}, {"handed_back", handed_back}, {"killed", killed}, {"exit", code}});
  return code;
}

}  // namespace lope::supervisor
