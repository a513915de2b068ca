#include "supervisor/monitor_process.h"

#include <fcntl.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <iterator>
#include <utility>

#include "common/backoff.h"
#include "common/json.h"
#include "common/log.h"
#include "common/text.h"
#include "supervisor/group.h"
#include "supervisor/listen_address.h"

namespace lope::supervisor {

namespace {

constexpr Backoff kRestart{std::chrono::milliseconds(100), std::chrono::milliseconds(30'000)};
// One that has served is not waited for longer than after so many failures: under a second.
constexpr int kMostAfterService = 3;
// So many looks, about a second each; see Group's.
constexpr int kHung = 10;
constexpr std::chrono::minutes kHealthy{1};

}  // namespace

MonitorProcess::MonitorProcess(EventLoop& loop, const Settings& settings, int program_fd,
                               std::function<Result<void>(UniqueFd)> adopt)
    : loop_(loop),
      settings_{.log = settings.log, .journal = settings.monitor_journal},
      address_(*settings.monitor),
      program_fd_(program_fd),
      environment_(child_environment(settings)),
      adopt_(std::move(adopt)) {}

Result<std::unique_ptr<MonitorProcess>> MonitorProcess::create(
    EventLoop& loop, const Settings& settings, int program_fd,
    std::function<Result<void>(UniqueFd)> adopt) {
  std::unique_ptr<MonitorProcess> made(
      new MonitorProcess(loop, settings, program_fd, std::move(adopt)));
  auto timer = loop.make_timer([self = made.get()] { self->start(); });
  if (!timer) return Error{timer.error()};
  made->restart_timer_ = std::move(*timer);
  return made;
}

MonitorProcess::~MonitorProcess() {
  if (child_.pid <= 0) return;
  ::kill(child_.pid, SIGKILL);
  (void)reap(child_);
}

void MonitorProcess::look_for_hang() {
  if (child_.pid <= 0 || ++silent_ < kHung) return;
  log_error("killing a monitor that hangs", {{"monitor_pid", child_.pid}, {"still_for_s", kHung}});
  silent_ = 0;
  ::kill(child_.pid, SIGKILL);
}

void MonitorProcess::start() {
  started_at_ = Clock::now();
  silent_ = 0;
  if (auto spawned = spawn_monitor(); !spawned) start_later(spawned.error());
}

Result<void> MonitorProcess::spawn_monitor() {
  // Opened here and for each start: we can say what is wrong with it, and while no monitor runs
  // nobody waits at a socket that nobody serves.
  ListenAddress address = address_;
  auto listener = listen_on(address);
  if (!listener) return Error{listener.error()};
  auto link = make_stream_pair();
  if (!link) return Error{link.error()};
  auto json = make_memfd("lope-monitor-settings", to_json(settings_));
  if (!json) return Error{json.error()};
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null.valid()) return Error{errno_text("open /dev/null", errno)};

  SpawnOptions options;
  options.program_fd = program_fd_;
  options.argv = {"lope-monitor", to_string(address)};
  options.env = environment_;
  options.fds = {{null.get(), 0},
                 {json->get(), kSettingsFd},
                 {link->second.get(), kLinkFd},
                 {listener->get(), kListenerFd}};
  options.blocked_signals.assign(std::begin(kGroupSignals), std::end(kGroupSignals));
  auto child = spawn(options);
  if (!child) return Error{child.error()};
  auto pid_source =
      loop_.watch_fd(child->pidfd.get(), EPOLLIN, [this](std::uint32_t) { on_exit(); });
  if (!pid_source) {
    // Without it it could not be watched: it must not run.
    ::kill(child->pid, SIGKILL);
    (void)reap(*child);
    return Error{pid_source.error()};
  }
  child_ = std::move(*child);
  pid_source_ = std::move(*pid_source);
  address_ = address;
  // Without its link it ends at once, and is started again.
  if (auto adopted = adopt_(std::move(link->first)); !adopted) {
    log_warn("the monitor cannot be heard", {{"reason", adopted.error()}});
  }
  reason_.clear();
  log_info("monitor started", {{"monitor_pid", child_.pid}, {"address", to_string(address_)}});
  return {};
}

void MonitorProcess::on_exit() {
  pid_source_.stop();
  const auto end = reap(child_);
  child_ = {};
  start_later("the monitor ended: " + (end ? end->to_string() : end.error()));
}

void MonitorProcess::start_later(const std::string& reason) {
  if (Clock::now() - started_at_ >= kHealthy) failures_ = 0;
  if (std::exchange(heard_, false)) failures_ = std::min(failures_, kMostAfterService);
  const auto pause = kRestart.exponential(failures_);
  const auto delay = pause / 2 + kRestart.full_jitter(failures_, random_fraction()) / 2;
  ++failures_;
  // The same again and again, as of a port that is taken, is said once.
  log_event(reason == reason_ ? LogLevel::debug : LogLevel::warn, "monitor to be started again",
            {{"address", to_string(address_)}, {"reason", reason}, {"delay_ms", delay.count()}});
  reason_ = reason;
  restart_timer_.arm(Clock::now() + delay);
}

void MonitorProcess::signal(int signal) {
  if (child_.pid > 0) ::kill(child_.pid, signal);
}

MonitorStatus MonitorProcess::status() const {
  const bool runs = child_.pid > 0;
  return {.address = to_string(address_),
          .state = runs ? "serving" : "down",
          .reason = reason_,
          .pid = runs ? child_.pid : 0};
}

}  // namespace lope::supervisor
