// One worker as its consumer sees it: the process, the link, the shared board, what it prints, and
// which deliveries are with it. Mechanism only; WorkerPool and Consumer decide.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
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
  bool has_batch = false, has_flush = false;
  bool operator==(const HandlerIdentity&) const = default;
};

class WorkerProcess {
 public:
  // Called from the event loop. They may not destroy the object.
  struct Events {
    std::function<void(const HandlerIdentity&)> on_ready;
    std::function<void(bool refused, std::string_view reason)> on_failed;
    std::function<void(LogLevel, std::string_view text)> on_log;
    std::function<void(std::uint64_t sequence)> on_keep_alive;  // of a held delivery
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
    LogLevel log_level = LogLevel::info;
    // Not empty: the program is this one, which runs the worker, such as a debugger. It gets our
    // terminal, and its signals.
    std::vector<std::string> under = {};
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
  // Queues frames for the link, each under a new sequence: one delivery, or a batch that a single
  // handler call is to get.
  void give(DeliveryTable& table, std::span<Delivery* const> deliveries);
  // No delivery will name this segment of shared memory again.
  void forget(std::uint64_t segment);
  // Writes what is queued, as far as the link takes it.
  void flush(DeliveryTable& table);
  // Hears what it has said and printed by now, as far as it goes.
  void listen();
  // Every outcome reported since the last call. `reason` is the handler's explanation, or empty.
  // Entries about deliveries that are not with this worker (taken back, or scribbled) are left out.
  struct Outcome {
    Delivery* delivery;
    std::int32_t outcome;
    bool not_started;           // taken back before its handler saw it: `outcome` says nothing
    bool held;                  // its handler keeps it, the outcome is to come
    bool settled;               // it was held
    bool refused;               // no handler has seen it: `outcome` is a Refusal
    std::uint64_t duration_ns;  // a message, in the handler
    std::string reason;
    std::optional<std::chrono::milliseconds> retry_after;  // the handler's wish
    std::vector<std::string> publications;                 // payloads of publish frames; of an ack
  };
  bool next_outcome(DeliveryTable& table, Outcome& outcome, bool after_death = false);
  // Takes back what no handler has started. What is inside a handler, or only half on the link,
  // stays and will be reported. Call next_outcome() until it is dry before acting on the result.
  std::vector<Delivery*> take_back(DeliveryTable& table);
  // After its death and the last next_outcome(): what was inside a handler, and what was not.
  struct Remains {
    std::vector<Delivery*> running;
    std::vector<Delivery*> waiting;
    bool flushing = false;  // a thread was in flush()
    std::string ended;      // why we ended it: those are guilty that are `late`, nobody else
  };
  Remains remains(DeliveryTable& table);
  // Deliveries with it, those that are held among them.
  std::size_t in_flight() const { return outstanding_; }
  std::size_t held() const { return held_; }
  // Handler calls that it has been given and that have not ended: a batch is one.
  std::size_t calls() const { return calls_; }
  // Given to it and not finally reported: at most kMaxOwed.
  std::size_t owed() const { return owed_; }
  // Outcomes that it has reported.
  std::uint64_t reported() const { return reader_.count(); }
  // Ever given to it.
  std::uint64_t given() const { return given_; }
  // From what it said when it was ready.
  void set_can_flush(bool can) { can_flush_ = can; }
  // What deliveries get as their ran_by.
  void set_handler(int handler) { handler_ = handler; }
  // Threads that are in flush().
  std::size_t flushing() const;
  // Calls that wait behind others here and that take_back() would give back.
  bool has_queued() const { return calls_ + flushing() > threads_ + (front_half_sent() ? 1u : 0u); }
  // When the longest running call of a handler began, in monotonic ns; 0 when none runs.
  std::uint64_t oldest_start_ns() const;

  // ---- Held messages
  // Asks every thread to flush.
  void ask_flush(FlushReason reason);
  // The same for the last time, at a drain: then each thread reports that it has.
  void ask_last_flush();
  // A drain's last flush was asked for; every thread has carried it out, and keeps nothing any
  // more.
  bool last_flush_asked() const { return last_flush_asked_; }
  bool last_flush_done() const { return last_flush_asked_ && flushed_ >= threads_; }
  // Then: what was still held is ours again.
  std::vector<Delivery*> take_held(DeliveryTable& table);
  // Takes one from its handler, which hears of it when it settles it.
  void revoke(Delivery& held);

  // ---- Time limits
  // What is inside calls that have lasted longer than `limit_ns` since they began, or since
  // keep_alive(), all in monotonic ns. `thread`: whose call has been late the longest; -1: none is.
  // `flush`: one of the calls is of flush(). `next_ns`: when to look again for those that are not
  // late yet; 0: none runs.
  struct Late {
    std::vector<Delivery*> deliveries;
    int thread = -1;
    bool flush = false;
    std::uint64_t next_ns = 0;
  };
  Late late(DeliveryTable& table, std::uint64_t now_ns, std::uint64_t limit_ns) const;

  // ---- Sleeping: the worker writes to the wake descriptor only while this is set.
  // Returns true when an outcome is already there: then do not sleep.
  bool announce_sleep();
  void announce_awake();

  // ---- Ending
  void set_stopping();
  // What its handlers say below this nobody hears.
  void set_log_level(LogLevel level);
  std::size_t threads() const { return threads_; }
  // Asks it to end: the link's end of file.
  void close_link();
  bool link_closed() const { return link_closed_; }
  void kill(int signal);
  // Whose call it is in; -1: nobody's.
  int thread_of(const Delivery& delivery) const;
  // SIGABRT to this thread, so that what it leaves behind tells of that; to any, if there is none
  // such.
  void abort_thread(int thread);
  // Reads what it still printed and reaps it. Once, after on_exit.
  Result<ChildEnd> bury();

 private:
  WorkerProcess(int slot, int threads, Events events)
      : slot_(slot), threads_(static_cast<std::size_t>(threads)), events_(std::move(events)) {}
  // What is to be written to the link.
  struct Unsent {
    FrameType type;
    std::uint64_t value;     // a delivery's index, otherwise the frame's sequence
    int segment_fd = -1;     // of a segment
    std::uint64_t size = 0;  // of a segment
    bool is_delivery() const { return type == FrameType::delivery; }
  };
  void read_link();
  bool read_link_once();
  void read_output(bool is_stderr);
  bool is_in_slot(std::uint64_t sequence) const;
  void call_over(Delivery& delivery);
  bool front_half_sent() const;
  ssize_t send_deliveries(DeliveryTable& table);
  ssize_t send_control(const Unsent& control);
  static Delivery& delivery_of(DeliveryTable& table, const Unsent& unsent);
  static std::size_t size_of(DeliveryTable& table, const Unsent& unsent);

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
  int handler_ = -1;

  // Of a batch that is with it.
  struct Batch {
    std::size_t unfinished = 0;  // 0: this place is free
    bool begun = false;          // a frame of it is on the link
  };
  std::vector<Batch> batches_;
  std::size_t outstanding_ = 0;
  std::size_t held_ = 0;
  std::size_t calls_ = 0;
  std::size_t owed_ = 0;
  std::uint64_t given_ = 0;
  std::size_t flushed_ = 0;  // threads that have carried out the last flush
  bool last_flush_asked_ = false;
  bool can_flush_ = false;
  // Not wholly on the link, in order.
  std::vector<Unsent> unsent_;
  std::size_t next_unsent_ = 0;                 // before it all are sent
  std::size_t sent_of_first_ = 0;               // bytes of the next one already written
  std::unordered_set<std::uint64_t> segments_;  // that it has been told of
  struct Explanation {
    std::optional<std::chrono::milliseconds> retry_after;
    std::string text;
  };
  std::unordered_map<std::uint64_t, Explanation> explanations_;
  std::unordered_map<std::uint64_t, std::vector<std::string>> publications_;
  std::size_t published_bytes_ = 0;  // in publications_

  EventSource link_source_;
  EventSource pid_source_;
  EventSource output_source_[2];
};

}  // namespace lope::consumer
