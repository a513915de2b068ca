// One group as the supervisor sees it: its consumer process, the board it shares with it, and when
// it is started again. A group that needs another consumer is followed by another Group, which has
// this one until it is drained.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/control.h"
#include "common/event_loop.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "common/spawn.h"
#include "common/status.h"
#include "supervisor/group_change.h"
#include "supervisor/reload.h"
#include "supervisor/samples.h"

namespace lope::supervisor {

// The relay is run as a group without workers, by this name.
inline constexpr const char* kRelayName = "(relay)";

// What the consumer of one group gets, by the file.
ConsumerSettings consumer_settings(const Settings& settings, const GroupSettings& group);
// Of those below: neither passwords nor the line to systemd are for them.
std::vector<std::string> child_environment(const Settings& settings);

class Group {
 public:
  // `waiting`: for its handler's file.
  enum class State { down, running, waiting, failed, refused };

  // `on_change`: look at this group again. Called from the event loop.
  static Result<std::unique_ptr<Group>> create(EventLoop& loop, const ConsumerSettings& settings,
                                               const Programs& programs,
                                               std::vector<std::string> environment,
                                               std::function<void()> on_change);
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  const std::string& name() const { return settings_.group.name; }
  State state() const { return state_; }
  // A process of it, or of one that it follows, is there.
  bool running() const;
  const GroupBoard& board() const { return *board_; }
  int workers_wanted() const;
  bool scales_itself() const { return settings_.group.workers_max > settings_.group.workers; }
  // Of this consumer and of those that follow it.
  void scale(int workers);
  void pause(bool on);
  bool paused() const { return settings_.paused; }
  // Why it cannot be paused; empty when it can.
  std::string not_to_be_paused() const;
  // A failed one: now, not only when its time has come.
  void restart_workers();
  bool consuming() const;
  // Why it is not; empty when it is.
  std::string trouble() const;

  // About each second. Kills a consumer that hangs.
  void sample(TimePoint now);
  GroupStatus status() const;
  GroupMetrics metrics() const;

  // A consumer that cannot be started is tried again with back-off, like one that died.
  void start();
  // From now on nothing is started again.
  void set_stopping();
  void drain(std::chrono::milliseconds limit);
  void stop_now();
  void send(ControlType type, std::int64_t value = 0, int fd = -1);
  void signal(int signal);
  // Its consumer had to be killed, or killed workers itself.
  bool ended_badly() const;
  std::uint64_t finished_in_drain() const { return of_drain(&GroupBoard::finished_in_drain); }
  std::uint64_t handed_back_in_drain() const { return of_drain(&GroupBoard::handed_back_in_drain); }
  std::uint64_t killed_in_drain() const { return of_drain(&GroupBoard::killed_in_drain); }

  // ---- Other settings
  // As the file has them.
  const ConsumerSettings& from_file() const { return from_file_; }
  // Takes what change_between() does not call a change of consumers. `rolls_back`: the workers that
  // it has are no good.
  void apply(const ConsumerSettings& from_file, GroupChange change, bool rolls_back = false);
  // For those. Takes over what was told to the old one; it is drained when this one consumes, or
  // before this one starts.
  void follow(std::unique_ptr<Group> old, bool old_first);
  // The old one: is it to go, or gone? Call when something has changed.
  void tend();
  // A refused one: again, the cause may be gone.
  bool try_again();
  // One of its consumers has a queue that `next` cannot have as long as it is there.
  bool has_to_go_before(const GroupSettings& next) const;
  // Everything is as the latest settings say; otherwise what is missing.
  std::string unfinished() const;
  // Why it will not work as it should: refused, failed, rolled back. Empty: it does, or may still.
  std::string failure() const;
  // Why it should go back to the settings before the latest; empty: it should not, or has none.
  std::string to_roll_back() const;
  // Those. From then on the handler that it has now is not taken unasked.
  ConsumerSettings roll_back(const std::string& why);
  bool has_rejected(const GroupSettings& next) const {
    return !rejected_hash_.empty() && next.handler_hash == rejected_hash_;
  }
  // When they could not be taken.
  void set_previous(const ConsumerSettings& previous) {
    previous_ = std::make_unique<ConsumerSettings>(previous);
  }
  // After that, with the hash of the handler's file that was no good.
  void set_rolled_back(const std::string& why, std::string rejected_hash);
  // That it was rolled back is over: the file says what it has.
  void forget_roll_back();
  // Nothing: the level of its settings.
  void set_log_level(std::optional<LogLevel> level);

 private:
  Group(EventLoop& loop, ConsumerSettings settings, const Programs& programs,
        std::vector<std::string> environment, std::function<void()> on_change);
  Result<void> spawn_consumer();
  void on_exit();
  void start_later(const std::string& reason);
  void look_for_hang();
  std::uint64_t settled() const;
  GroupState state_on_board() const;
  void hold();
  void set_settings(const ConsumerSettings& from_file);
  void keep_previous(const ConsumerSettings& settings);
  void tell_settings(ReplaceWorkers replace);
  std::uint64_t of_drain(std::atomic<std::uint64_t> GroupBoard::*counter) const;

  struct Histogram {
    Samples::Counts counts{};
    std::uint64_t sum_ns = 0;
    void add(const BoardHistogram& histogram);
  };
  // Counted since the daemon started, by the consumers before this one.
  struct Counts {
    std::uint64_t delivered = 0, acked = 0, retried = 0, rejected = 0, dead_lettered = 0;
    std::uint64_t refused = 0;
    std::uint64_t published = 0, crashes = 0, timeouts = 0, worker_deaths = 0, recycled = 0;
    std::uint64_t doubles = 0, too_soon = 0, delayed = 0, unchecked = 0;
    std::uint64_t pauses = 0, handed_back = 0, undeliverable = 0, connections = 0;
    std::uint64_t journal_sent = 0, journal_confirmed = 0, journal_dropped = 0;
    std::uint64_t spans_sent = 0, spans_dropped = 0;
    std::uint64_t positions_not_kept = 0;
    Histogram handling, queued;
    std::vector<HandlerMetricStatus> handler;
    void add(const GroupBoard& board);
    void drop_gauges();
  };
  Counts counts() const;

  EventLoop& loop_;
  ConsumerSettings settings_;  // the file's, with what was told
  ConsumerSettings from_file_;
  // By commands; as long as the file says nothing else.
  struct Told {
    std::optional<int> workers;
    std::optional<LogLevel> log_level;
    bool paused = false;
  } told_;
  const Programs programs_;
  std::vector<std::string> environment_;
  std::function<void()> on_change_;
  BoardMapping<GroupBoard> board_;
  UniqueFd board_fd_;
  State state_ = State::down;
  bool stopping_ = false;
  bool ended_badly_ = false;
  int deaths_ = 0;                    // in a row, soon and with nothing settled
  std::uint64_t settled_before_ = 0;  // messages, when the consumer was started
  std::uint64_t progress_ = 0;        // as last seen
  int still_ = 0;                     // samples since it was seen to grow
  TimePoint started_at_{};
  Samples samples_;
  Child child_;
  UniqueFd control_;
  EventSource control_source_;
  EventSource pid_source_;
  EventSource restart_timer_;

  std::unique_ptr<Group> before_;  // until it is drained
  bool old_first_ = false;
  bool before_draining_ = false;
  Counts earlier_;
  UniqueFd copy_;  // held, of its handler
  // For a minute after its handler has changed.
  std::unique_ptr<ConsumerSettings> previous_;
  UniqueFd previous_copy_;
  TimePoint changed_at_{};
  std::string note_;
  std::string rejected_hash_;
};

}  // namespace lope::supervisor
