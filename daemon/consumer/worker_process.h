// One worker as its consumer sees it: the process, the link, the shared board, what it prints, and
// which deliveries are with it. Mechanism only; WorkerPool and Consumer decide.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/event_loop.h"
#include "common/link.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "common/spawn.h"
#include "consumer/delivery_table.h"
#include "consumer/output_reader.h"

namespace lope::consumer {

// What a worker said about itself when it was ready.
struct HandlerIdentity {
  std::string name, version, path;
};

class WorkerProcess {
 public:
  // Called from the event loop. They may not destroy the object.
  struct Events {
    std::function<void(const HandlerIdentity&)> on_ready;
    std::function<void(bool refused, std::string_view reason)> on_failed;
    std::function<void(LogLevel, std::string_view text)> on_log;
    std::function<void(bool is_stderr, std::string_view line)> on_output;
    // The link is at its end or damaged while the process lives.
    std::function<void(std::string_view reason)> on_link_lost;
    std::function<void()> on_exit;  // the pidfd is readable
  };

  struct Start {
    int slot = 0;  // its place in the pool: Delivery::worker
    int threads = 1;
    int program_fd = -1;
    int wake_fd = -1;
    std::string title;          // argv[1]: "hello/0"
    std::string settings_json;  // WorkerSettings
    std::vector<std::string> environment;
  };
  static Result<std::unique_ptr<WorkerProcess>> start(EventLoop& loop, const Start& start,
                                                      Events events);
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  pid_t pid() const { return child_.pid; }
  const std::string& id() const { return id_; }  // see orphans.h
  WorkerBoard& board() { return *board_; }
  WorkerStage stage() const;
  TimePoint started_at() const { return started_at_; }

  // ---- Deliveries
  // Queues the delivery's frame for the link, under a new sequence.
  void give(DeliveryTable& table, Delivery& delivery);
  // Writes what is queued, as far as the link takes it.
  void flush(DeliveryTable& table);
  // Every outcome reported since the last call. `reason` is the handler's explanation, or empty.
  // Entries about deliveries that are not with this worker (taken back, or scribbled) are left out.
  struct Outcome {
    Delivery* delivery;
    std::int32_t outcome;
    bool not_started;  // taken back before its handler saw it: `outcome` says nothing
    std::uint64_t duration_ns;
    std::string reason;
  };
  bool next_outcome(DeliveryTable& table, Outcome& outcome, bool after_death = false);
  // Takes back what no handler has started. What is inside a handler, or only half on the link,
  // stays and will be reported. Call next_outcome() until it is dry before acting on the result.
  std::vector<Delivery*> take_back(DeliveryTable& table);
  // After its death and the last next_outcome(): what was inside a handler, and what was not.
  struct Remains {
    std::vector<Delivery*> running;
    std::vector<Delivery*> waiting;
  };
  Remains remains(DeliveryTable& table);
  // Deliveries with it.
  std::size_t in_flight() const { return outstanding_.size(); }
  // Given to its link and not yet read from its ring: what the ring must have room for.
  std::size_t unreported() const { return given_ - reader_.count(); }
  // Deliveries that wait behind others here and that take_back() would give back.
  bool has_queued() const {
    return outstanding_.size() > threads_ + (sent_of_first_ > 0 ? 1u : 0u);
  }
  // When the longest running handler call began, in monotonic ns; 0 when none runs.
  std::uint64_t oldest_start_ns() const;

  // ---- Sleeping: the worker writes to the wake descriptor only while this is set.
  // Returns true when an outcome is already there: then do not sleep.
  bool announce_sleep();
  void announce_awake();

  // ---- Ending
  void set_stopping();
  // Asks it to end: the link's end of file.
  void close_link();
  bool link_closed() const { return link_closed_; }
  void kill(int signal);
  // Reads what it still printed and reaps it. Once, after on_exit.
  Result<ChildEnd> bury();

 private:
  WorkerProcess(int slot, int threads, Events events)
      : slot_(slot), threads_(static_cast<std::size_t>(threads)), events_(std::move(events)) {}
  void read_link();
  bool read_link_once();
  void read_output(bool is_stderr);
  bool is_in_slot(std::uint64_t sequence) const;
  void forget(const Delivery& delivery);

  const int slot_;
  const std::size_t threads_;
  Events events_;
  Child child_;
  UniqueFd link_;
  UniqueFd output_[2];
  OutputReader output_reader_[2];
  BoardMapping<WorkerBoard> board_;
  OutcomeReader reader_;
  FrameReader frames_;
  TimePoint started_at_;
  std::string id_;
  bool link_closed_ = false;

  std::vector<std::uint32_t> outstanding_;  // delivery indices, in the order given
  std::deque<std::uint32_t> unsent_;        // of them, those not wholly on the link
  std::size_t sent_of_first_ = 0;           // bytes of unsent_.front() already written
  std::uint64_t given_ = 0;
  std::unordered_map<std::uint64_t, std::string> explanations_;

  EventSource link_source_;
  EventSource pid_source_;
  EventSource output_source_[2];
};

}  // namespace lope::consumer
