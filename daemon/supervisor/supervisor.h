// The parent of all: starts one consumer a group, starts again what dies, passes signals on, talks
// to systemd. No threads, no AMQP, no handler code.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/event_loop.h"
#include "common/settings.h"
#include "common/status.h"
#include "supervisor/control_server.h"
#include "supervisor/group.h"
#include "supervisor/handler_watch.h"
#include "supervisor/monitor_process.h"
#include "supervisor/reload.h"

namespace lope::supervisor {

class Supervisor {
 public:
  // The programs' descriptors, from open_program(), stay the caller's. `config`: the file's path.
  Supervisor(Settings settings, std::string config, const Programs& programs);

  // Runs until it is told to stop, or no group is left that could run. Returns the exit code.
  int run();

 private:
  enum class Phase { running, draining, hurried };

  Result<void> set_up();
  bool serve_control();
  Result<void> create_monitor();
  std::optional<ControlAnswer> carry_out(const ControlRequest& request,
                                         const ControlServer::Client& client);
  ControlAnswer carry_out_for(Group& group, const ControlRequest& request);
  Group* group_named(const std::string& name);
  ControlAnswer stop_for(const ControlRequest& request);
  ControlAnswer trace(Group& group, const ControlRequest& request,
                      const ControlServer::Client& client);
  ControlAnswer set_level(const std::string& level);

  // ---- Other settings
  struct Asker {
    std::uint64_t client;
    bool wait;              // until what is new works
    std::string text = {};  // what it is told then
  };
  // `handlers`: only their files. Nothing when it is asked for by a signal or by the files.
  void reload(bool handlers, std::optional<Asker> asker);
  void on_verdict(Reload::Verdict& verdict);
  std::string take(Settings next);
  bool take_group(std::unique_ptr<Group>& group, GroupSettings& next, const Settings& settings);
  Result<std::unique_ptr<Group>> make_group(const Settings& settings, const GroupSettings& group);
  bool change_group(std::unique_ptr<Group>& group, const ConsumerSettings& next, GroupChange change,
                    const Settings& settings);
  void roll_back_the_dying();
  void watch_handlers();
  void go_on_reloading();
  void answer_waiting();
  void tend();
  DaemonStatus daemon_status() const;
  DaemonMetrics daemon_metrics() const;
  void on_tick();
  void stop(int signal);
  void stop_now();
  void look();   // soon, at the groups:
  void judge();  // ready? all gone? status?
  void on_deadline();
  void on_ready_timeout();
  std::string status() const;
  int finish();

  Settings settings_;
  const std::string config_;
  const TimePoint started_at_ = Clock::now();
  const Programs programs_;
  std::unique_ptr<EventLoop> loop_;
  // Calls f(Group&) for each group, and for the relay.
  template <typename F>
  void for_each_process(F f) {
    for (const auto& group : groups_) f(*group);
    for (const auto& group : leaving_) f(*group);
    if (relay_ != nullptr) f(*relay_);
  }

  std::vector<std::unique_ptr<Group>> groups_;   // in the order of the file
  std::vector<std::unique_ptr<Group>> leaving_;  // that the file has no more; drained
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
  EventSource tend_timer_;

  std::unique_ptr<HandlerWatch> watch_;
  std::unique_ptr<Reload> reload_;
  bool reload_handlers_ = false;      // the one that runs is of handlers only
  std::vector<Asker> asking_;         // for the one that runs
  bool again_ = false;                // another one is to follow
  bool again_handlers_ = true;        // of handlers only
  std::vector<Asker> asking_again_;   // for that one
  std::vector<Asker> waiting_;        // until what is new works
  std::vector<std::string> changed_;  // the groups that they wait for
  TimePoint waiting_until_{};
  std::optional<LogLevel> log_level_;  // told, until the file says something else
  std::string last_reload_;
  TimePoint last_reload_at_{};
};

// Makes this process the leader of its own group, unless it is one, or sits on a terminal as part
// of the foreground job: then Ctrl-C must go on reaching all of it.
void lead_process_group();

}  // namespace lope::supervisor
