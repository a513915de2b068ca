// One group as the supervisor sees it: its consumer process, the board it shares with it, and when
// it is started again.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/control.h"
#include "common/event_loop.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "common/spawn.h"
#include "common/status.h"
#include "supervisor/samples.h"

namespace lope::supervisor {

// The relay is run as a group without workers, by this name.
inline constexpr const char* kRelayName = "(relay)";

// For what the supervisor starts: without passwords, and without the line to systemd.
std::vector<std::string> child_environment(const Settings& settings);

class Group {
 public:
  enum class State { down, running, refused };

  // `on_change`: look at this group again. Called from the event loop.
  static Result<std::unique_ptr<Group>> create(EventLoop& loop, const Settings& settings,
                                               const GroupSettings& group, int consumer_program_fd,
                                               int worker_program_fd,
                                               std::function<void()> on_change);
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  const std::string& name() const { return settings_.group.name; }
  State state() const { return state_; }
  const GroupBoard& board() const { return *board_; }
  int workers_wanted() const { return settings_.group.workers; }
  // Of this consumer and of those that follow it.
  void scale(int workers);
  bool consuming() const;
  // Why it is not; empty when it is.
  std::string trouble() const;

  // About each second.
  void sample(TimePoint now);
  GroupStatus status() const;
  GroupMetrics metrics() const;

  // A consumer that cannot be started is tried again with back-off, like one that died.
  void start();
  // From now on nothing is started again.
  void set_stopping() { stopping_ = true; }
  void send(ControlType type, std::int64_t value = 0);
  void signal(int signal);
  // Its consumer had to be killed, or killed workers itself.
  bool ended_badly() const { return ended_badly_; }

 private:
  Group(EventLoop& loop, const Settings& settings, const GroupSettings& group,
        int consumer_program_fd, int worker_program_fd, std::function<void()> on_change);
  Result<void> spawn_consumer();
  void on_exit();
  void start_later(const std::string& reason);

  EventLoop& loop_;
  ConsumerSettings settings_;
  const int consumer_program_fd_;
  const int worker_program_fd_;
  const std::vector<std::string> environment_;
  std::function<void()> on_change_;
  BoardMapping<GroupBoard> board_;
  UniqueFd board_fd_;
  State state_ = State::down;
  bool stopping_ = false;
  bool ended_badly_ = false;
  int deaths_ = 0;  // in a row, each soon after its start
  TimePoint started_at_{};
  Samples samples_;
  Child child_;
  UniqueFd control_;
  EventSource control_source_;
  EventSource pid_source_;
  EventSource restart_timer_;
};

}  // namespace lope::supervisor
