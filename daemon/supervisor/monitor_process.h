// lope-monitor as the supervisor sees it: a process that serves what it may ask over its link, and
// that is started again when it ends. No group depends on it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/event_loop.h"
#include "common/settings.h"
#include "common/spawn.h"
#include "common/status.h"

namespace lope::supervisor {

class MonitorProcess {
 public:
  // `settings.monitor` says where it serves. `adopt` gets our end of its link, each time it is
  // started. The program's descriptor stays the caller's.
  static Result<std::unique_ptr<MonitorProcess>> create(
      EventLoop& loop, const Settings& settings, int program_fd,
      std::function<Result<void>(UniqueFd)> adopt);
  MonitorProcess(const MonitorProcess&) = delete;
  MonitorProcess& operator=(const MonitorProcess&) = delete;
  ~MonitorProcess();

  // What keeps it from starting, a port that is taken for example, is logged, and tried again with
  // back-off, as is one that has ended.
  void start();
  void signal(int signal);
  // It has said something over its link, which it does each few seconds.
  void heard() {
    heard_ = true;
    silent_ = 0;
  }
  // About each second. Kills one that hangs.
  void look_for_hang();
  MonitorStatus status() const;

 private:
  MonitorProcess(EventLoop& loop, const Settings& settings, int program_fd,
                 std::function<Result<void>(UniqueFd)> adopt);
  Result<void> spawn_monitor();
  void on_exit();
  void start_later(const std::string& reason);

  EventLoop& loop_;
  const MonitorSettings settings_;
  ListenAddress address_;  // its port is the one it has been given, once it has
  const int program_fd_;
  const std::vector<std::string> environment_;
  std::function<Result<void>(UniqueFd)> adopt_;
  int failures_ = 0;    // in a row
  bool heard_ = false;  // since it was started
  int silent_ = 0;      // looks since it was heard
  std::string reason_;
  TimePoint started_at_{};
  Child child_;  // without a pid: none runs
  EventSource pid_source_;
  EventSource restart_timer_;
};

}  // namespace lope::supervisor
