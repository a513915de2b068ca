// The parent of all: starts one consumer a group, starts again what dies, passes signals on, talks
// to systemd. No threads, no AMQP, no handler code.
#pragma once

#include <memory>
#include <vector>

#include "common/event_loop.h"
#include "common/settings.h"
#include "common/status.h"
#include "supervisor/control_server.h"
#include "supervisor/group.h"
#include "supervisor/monitor_process.h"

namespace lope::supervisor {

class Supervisor {
 public:
  // From open_program(); they stay the caller's.
  struct Programs {
    int consumer = -1;
    int worker = -1;
    int monitor = -1;  // needed when `settings.monitor` says where it serves
  };
  // `config`: the file's path.
  Supervisor(const Settings& settings, std::string config, const Programs& programs);

  // Runs until it is told to stop, or no group is left that could run. Returns the exit code.
  int run();

 private:
  enum class Phase { running, draining, hurried };

  Result<void> set_up();
  bool serve_control();
  Result<void> create_monitor();
  ControlAnswer carry_out(const ControlRequest& request, const ControlServer::Client& client);
  Group* group_named(const std::string& name);
  ControlAnswer stop_for(const ControlRequest& request);
  DaemonStatus daemon_status() const;
  DaemonMetrics daemon_metrics() const;
  void on_tick();
  void stop(int signal);
  void stop_now();
  void look();  // at the groups: ready? all gone? status?
  void on_deadline();
  void on_ready_timeout();
  std::string status() const;
  int finish();

  const Settings& settings_;
  const std::string config_;
  const TimePoint started_at_ = Clock::now();
  const Programs programs_;
  std::unique_ptr<EventLoop> loop_;
  // Calls f(Group&) for each group, and for the relay.
  template <typename F>
  void for_each_process(F f) {
    for (const auto& group : groups_) f(*group);
    if (relay_ != nullptr) f(*relay_);
  }

  std::vector<std::unique_ptr<Group>> groups_;
  std::unique_ptr<Group> relay_;  // forwards what is due; no group is late because of it
  Phase phase_ = Phase::running;
  bool done_ = false;
  bool stopped_now_ = false;
  bool all_refused_ = false;
  bool ready_ = false;      // said so
  bool was_ready_ = false;  // every group at work, as last seen
  std::string last_status_;
  EventSource signal_sources_[5];
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<MonitorProcess> monitor_;  // none unless it is configured
  EventSource deadline_timer_;
  EventSource tick_timer_;
  EventSource ready_timer_;
};

// Makes this process the leader of its own group, unless it is one, or sits on a terminal as part
// of the foreground job: then Ctrl-C must go on reaching all of it.
void lead_process_group();

}  // namespace lope::supervisor
