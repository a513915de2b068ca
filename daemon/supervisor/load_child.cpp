#include "supervisor/load_child.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <iterator>

#include "common/exit_code.h"
#include "common/log.h"
#include "common/text.h"
#include "supervisor/handler_store.h"
#include "supervisor/settings_loader.h"
#include "supervisor/standard_folder.h"

namespace lope::supervisor {

namespace {

constexpr std::chrono::seconds kLimit{60};
// Each group's schema is in it. It is parsed between two turns of the supervisor's loop.
constexpr int kMaxReportMiB = 256;
constexpr std::size_t kMaxReport = std::size_t{kMaxReportMiB} << 20;
constexpr rlim_t kCpuSeconds = 30;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr rlim_t kMemory = rlim_t{4} << 30;  // a handler's file is read whole
#endif

void limit_this_process() {
  const rlimit cpu{kCpuSeconds, kCpuSeconds};
  ::setrlimit(RLIMIT_CPU, &cpu);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const rlimit memory{kMemory, kMemory};
  ::setrlimit(RLIMIT_AS, &memory);
#endif
}

LoadReport load(const std::string& config) {
  LoadReport report;
  if (config.empty()) {
    const auto json = read_all_at(kSettingsFd);
    auto settings = json ? settings_from_json(*json) : Result<Settings>(Error{json.error()});
    if (settings) {
      report.settings = std::move(*settings);
    } else {
      report.errors.push_back(settings.error());
    }
  } else {
    LoadedSettings loaded = load_settings(config);
    for (const ConfigProblem& problem : loaded.errors) report.errors.push_back(problem.to_string());
    for (const ConfigProblem& problem : loaded.warnings) {
      report.warnings.push_back(problem.to_string());
    }
    report.settings = std::move(loaded.settings);
    if (report.errors.empty()) {
      // Where it cannot be written is better known before anybody tries.
      if (auto opened = open_log(report.settings.log, "lope"); !opened) {
        report.errors.push_back("log: " + opened.error());
      }
    }
  }
  if (!report.errors.empty()) return report;
  for (std::string& trouble : keep_handlers(report.settings, default_cache_dir())) {
    report.warnings.push_back(std::move(trouble));
  }
  tidy_copies(default_cache_dir());
  return report;
}

}  // namespace

int run_load_child(const std::string& config) {
  ::prctl(PR_SET_DUMPABLE, 0);  // it has the broker's password
  limit_this_process();
  const std::string text = to_json(load(config));
  std::size_t written = 0;
  while (written < text.size()) {
    const ssize_t n = ::write(kReportFd, text.data() + written, text.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return kExitFailed;
    written += static_cast<std::size_t>(n);
  }
  return kExitOk;
}

Result<std::unique_ptr<LoadChild>> LoadChild::start(EventLoop& loop, int program_fd,
                                                    const std::string& config,
                                                    const Settings& settings, Done done) {
  std::unique_ptr<LoadChild> made(new LoadChild(std::move(done)));
  auto pipe = make_pipe();
  if (!pipe) return Error{pipe.error()};
  if (auto set = set_nonblocking(pipe->first.get(), true); !set) return Error{set.error()};
  auto json = make_memfd("lope-settings", config.empty() ? to_json(settings) : std::string());
  if (!json) return Error{json.error()};
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid()) return Error{errno_text("open /dev/null", errno)};
  SpawnOptions options;
  options.program_fd = program_fd;
  options.argv = {kLoadProgram, config};
  options.env = environment_without({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"});
  options.fds = {{null.get(), STDIN_FILENO},
                 {null.get(), STDOUT_FILENO},
                 {null.get(), STDERR_FILENO},
                 {json->get(), kSettingsFd},
                 {pipe->second.get(), kReportFd}};
  // What stops the daemon ends it by way of us.
  options.blocked_signals.assign(std::begin(kGroupSignals), std::end(kGroupSignals));
  auto child = spawn(options);
  if (!child) return Error{child.error()};
  made->child_ = std::move(*child);
  made->report_fd_ = std::move(pipe->first);
  LoadChild* const self = made.get();
  auto report = loop.watch_fd(self->report_fd_.get(), EPOLLIN,
                              [self](std::uint32_t) { self->read_report(); });
  if (!report) return Error{report.error()};
  made->report_source_ = std::move(*report);
  auto exit =
      loop.watch_fd(self->child_.pidfd.get(), EPOLLIN, [self](std::uint32_t) { self->on_exit(); });
  if (!exit) return Error{exit.error()};
  made->exit_source_ = std::move(*exit);
  auto timer = loop.make_timer([self] {
    if (self->child_.pid <= 0) return;
    self->late_ = true;
    ::kill(self->child_.pid, SIGKILL);
  });
  if (!timer) return Error{timer.error()};
  made->timer_ = std::move(*timer);
  made->timer_.arm(Clock::now() + kLimit);
  return made;
}

LoadChild::~LoadChild() {
  if (child_.pid < 0) return;
  ::kill(child_.pid, SIGKILL);
  (void)reap(child_);
}

void LoadChild::read_report() {
  char bytes[65536];
  while (!too_large_) {
    const ssize_t n = ::read(report_fd_.get(), bytes, sizeof bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      if (n == 0) report_source_.stop();
      return;
    }
    report_.append(bytes, static_cast<std::size_t>(n));
    too_large_ = report_.size() > kMaxReport;
  }
  report_source_.stop();
  report_ = {};
  if (child_.pid > 0) ::kill(child_.pid, SIGKILL);  // it may wait for us to read on
}

void LoadChild::on_exit() {
  read_report();
  exit_source_.stop();
  timer_.disarm();
  const Result<LoadReport> ended = result();
  const Done done = std::move(done_);
  done(ended);
}

Result<LoadReport> LoadChild::result() {
  const auto end = reap(child_);
  child_.pid = -1;
  if (too_large_) {
    return Error{"expected a configuration of at most " + std::to_string(kMaxReportMiB) +
                 " MiB, found a larger one: each group has its schema's text (a start takes it)"};
  }
  if (late_) {
    return Error{"expected the configuration to be read within " + std::to_string(kLimit.count()) +
                 " s, found that it was not"};
  }
  if (!end) return Error{end.error()};
  if (end->signalled || end->code != kExitOk) {
    return Error{"the child that reads the configuration ended by " + end->to_string()};
  }
  return load_report_from_json(report_);
}

}  // namespace lope::supervisor
