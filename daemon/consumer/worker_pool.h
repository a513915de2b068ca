// The workers of one group: started, fed, listened to, buried and replaced.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/control.h"
#include "common/event_loop.h"
#include "common/settings.h"
#include "consumer/delivery_table.h"
#include "consumer/dispatcher.h"
#include "consumer/respawn_policy.h"
#include "consumer/worker_process.h"

namespace lope::consumer {

class WorkerPool {
 public:
  // Called from collect(), flush() and tend().
  struct Events {
    std::function<void(WorkerProcess::Outcome&)> on_outcome;
    // Its messages: what was inside a handler (with how the worker ended), and what was not.
    std::function<void(WorkerProcess::Remains&, const std::string& how)> on_death;
    // By a worker that has not begun them: they are for others.
    std::function<void(std::vector<Delivery*>)> on_given_back;
    // A handler that keeps this delivery still works on it.
    std::function<void(Delivery&)> on_keep_alive;
    // The handler cannot be used: no worker is started any more.
    std::function<void(const std::string& reason)> on_refused;
    // Workers die one after another, before they are ready or with nothing inside: there are none
    // until retry(), which is due after `pause`.
    std::function<void(const std::string& reason, std::chrono::milliseconds pause)> on_crash_loop;
  };

  static Result<std::unique_ptr<WorkerPool>> create(EventLoop& loop,
                                                    const ConsumerSettings& settings,
                                                    int worker_program_fd, DeliveryTable& table,
                                                    GroupBoard& board, Events events);
  ~WorkerPool();

  void start();
  // Buries what has ended and starts what is due. Call once a turn.
  void tend();
  // It has to be called once more before the loop sleeps.
  bool tend_due() const { return tend_due_; }
  // So many workers from now on: 0 to 256. New ones start, or the last ones finish and leave.
  void scale(int workers);
  int wanted() const { return wanted_; }
  // Replaces every worker: new ones first, then the old ones finish what they have and leave.
  void restart();
  // The settings are other ones now.
  void settings_changed(ReplaceWorkers replace);
  void set_log_level(LogLevel level);
  // After on_crash_loop: workers are started again, and given up again at the next such death.
  void retry();
  bool given_up() const { return given_up_; }

  // ---- Work
  // Gives the deliveries, for one call of a handler, to the worker they should go to; false: none
  // may have more now.
  bool dispatch(std::span<Delivery* const> deliveries);
  // Gives it, alone, to a worker that has had none before, and ends that worker afterwards; false:
  // there is none now. While `want`, such workers are kept for this.
  bool probe(Delivery& delivery);
  void keep_fresh_workers(bool want) {
    roster_due_ = roster_due_ || want != keep_fresh_;
    keep_fresh_ = want;
  }
  // Is there a worker that dispatch() may give something, now or later? Not one that is still to
  // be started.
  bool may_begin_more() const;
  // Can its handler take several at once?
  bool has_batch() const { return has_batch_; }  // and that of every other worker
  void flush();
  // No delivery will name this segment of shared memory again.
  void forget(std::uint64_t segment);
  // Every outcome reported so far, through on_outcome.
  void collect();
  // Takes back what no handler has started, from all workers / from those whose running message
  // takes long while another worker is idle.
  std::vector<Delivery*> take_back();
  std::vector<Delivery*> take_back_stuck();
  // Might take_back_stuck() find something a little later?
  bool may_be_stuck() const;

  // Calls of handlers that workers have, running or given ahead.
  std::size_t calls() const;
  // As many are at work as are wanted.
  bool settled() const { return ready_ == wanted_; }
  // Deliveries with workers, and of them those that handlers keep.
  std::size_t in_flight() const;
  std::size_t held() const;
  // Asks the handlers that keep messages to flush.
  void ask_flush(FlushReason reason);
  int ready_count() const { return ready_; }
  // No worker lives, and nothing that one left behind.
  bool all_gone() const;

  // Is a worker in the middle of messages that take so little time that their outcomes are as good
  // as there?
  bool outcome_is_near() const;
  // Might a worker have outcomes that it has put off waking us for?
  bool wake_may_be_owed() const;
  // Do the messages of every worker take so little time?
  bool all_tiny() const;
  // Before and after the loop sleeps; true: an outcome is there, do not sleep.
  bool announce_sleep();
  void announce_awake();

  // ---- Time limits
  // Ends the workers whose handler calls have lasted too long, with SIGABRT and a little later with
  // SIGKILL; what is inside such a call is marked late. So are those ended that do not begin what
  // they were given, for as long. Returns when to look again.
  TimePoint end_late(std::chrono::nanoseconds limit);
  // Ends a worker over one delivery that is inside a call, in the same way. `reason` is for the log
  // and the message.
  void end_over(Delivery& delivery, const std::string& reason, std::chrono::milliseconds limit);
  // Takes a held delivery from its handler.
  void revoke(Delivery& held);
  // What the worker said about its handler that has had this delivery; of one that none has had,
  // the latest that was ready.
  const HandlerIdentity& handler_of(const Delivery& delivery) const;

  // ---- Ending
  // From now on the dead are not replaced, and handlers hear stopping().
  void set_stopping();
  // Asks the workers that have nothing to do to end, and those that only keep messages to flush for
  // the last time. Returns what they still kept after that.
  std::vector<Delivery*> end_idle();
  // SIGKILLs what still lives; returns how many processes.
  int kill_all();

 private:
  struct Slot {
    std::unique_ptr<WorkerProcess> process;
    bool ready = false;
    bool exited = false;
    bool hung = false;         // killed because it did not become ready in time
    bool probing = false;      // has one delivery, alone, and no other after it
    bool outdated = false;     // to be replaced
    bool leaving = false;      // gets nothing more, and ends when what it has is done
    bool flush_asked = false;  // while leaving
    MetricsShare metrics;      // what of its handlers' metrics is on the group's board
    std::string link_trouble;  // set: to be killed, unless it ends by itself before…
    TimePoint kill_at{};       // … then
    std::string ended;         // set: why it was ended, by a time limit
    std::string failure;       // what it said before it ended
    bool refused = false;
    bool has_batch = false;        // its handler
    std::uint64_t generation = 0;  // of the settings that it was started with
    double mean_ns = -1;
    // It has calls and is inside none: since when, and what it had reported by then.
    TimePoint deaf_since = TimePoint::max();
    std::uint64_t deaf_at = 0;
    // When it is to be replaced.
    std::uint64_t last_given = 0;
    std::uint64_t last_bytes = 0;
    TimePoint last_moment{};
  };

  WorkerPool(EventLoop& loop, const ConsumerSettings& settings, int worker_program_fd,
             DeliveryTable& table, GroupBoard& board, Events events);
  void start_worker(int index);
  int free_place();
  void keep_roster(TimePoint now);
  void set_limits(Slot& slot) const;
  int number_of(const HandlerIdentity& handler);
  void recycle(int index, TimePoint now);
  bool has_all_its_memory(const Slot& slot) const;
  void let_go(int index);
  void ease_out(Slot& slot);
  void make_one_fresh();
  void bury(int index);
  void set_ready_count();
  void show_generation();
  void count_failed_start(const Slot& slot, const WorkerDeath& death);
  void show(int index, WorkerState state);
  void show_given(std::size_t index);
  void gather_metrics();
  void sweep();
  WorkerLoad load(const Slot& slot) const;
  static bool is_tiny(const Slot& slot);
  TimePoint end_deaf(std::size_t index, TimePoint now, std::chrono::milliseconds limit);
  void retire(Slot& slot);
  // `thread`: whose call it is over; -1: nobody's alone.
  void end(int index, const std::string& reason, std::chrono::milliseconds limit, int thread);
  bool cannot_stay(const Slot& slot) const;
  // For destroy().
  std::chrono::milliseconds leaving_grace() const;

  EventLoop& loop_;
  const ConsumerSettings& settings_;
  const int worker_program_fd_;
  DeliveryTable& table_;
  GroupBoard& board_;
  Events events_;
  UniqueFd wake_;
  std::vector<std::string> environment_;
  std::vector<Slot> slots_;
  int wanted_;
  bool tend_due_ = false;
  bool roster_due_ = true;  // something has changed in it
  RespawnHistory history_;
  std::vector<TimePoint> pauses_;  // for each, one worker fewer is started until then
  std::vector<WorkerLoad> loads_;  // scratch of dispatch()
  std::size_t first_choice_ = 0;
  int ready_ = 0;
  bool ever_ready_ = false;  // a worker of this group has been ready
  bool stopping_ = false;
  bool refused_ = false;
  bool given_up_ = false;      // until retry()
  bool has_finished_ = false;  // a worker of the latest settings, a message
  bool has_batch_ = false;
  bool keep_fresh_ = false;
  std::vector<HandlerIdentity> handlers_;  // each once: what workers have loaded
  int handler_ = -1;                       // of them, the latest
  LogLevel log_level_;
  std::size_t orphans_ = 0;  // killed by the last sweep, not yet reaped
  EventSource wake_source_;
  EventSource timer_;
  EventSource metrics_timer_;
  EventSource child_source_;
};

}  // namespace lope::consumer
