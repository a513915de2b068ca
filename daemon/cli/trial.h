// A handler tried without a broker: a real worker process, and in the broker's place a queue in
// memory with a clock of its own. What a consumer would do with an outcome is done here by the same
// policies; what would wait for its next attempt comes at once, and the clock says how much later
// that would have been.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cli/received.h"
#include "common/event_loop.h"
#include "common/settings.h"
#include "consumer/delivery_table.h"
#include "consumer/worker_process.h"

namespace lope::cli {

struct TrialSettings {
  std::string handlers_dir;
  GroupSettings group;  // of a queue its name counts
  int attempts = 1;  // so many of a message are made, if the group's policy does not end it before
  LogLevel log_level = LogLevel::debug;
  std::int64_t max_message_bytes = 128 * 1024 * 1024;
  std::chrono::milliseconds ending_limit{30'000};  // for the handler's own end
  std::chrono::milliseconds whole_limit{0};        // of all of it, by the wall clock; 0: none
  std::vector<std::string> secret_env = {};        // variables that the handler does not get
  // Not empty: the worker runs under this program (with its arguments, the worker's own are added),
  // on our terminal, and nothing has a time limit.
  std::vector<std::string> under = {};
};

// Those of the handler, and what keeps a message from it.
enum class TrialOutcome { ack, retry, reject, hold, crash, timeout, expired, too_large, refused };
const char* to_string(TrialOutcome outcome);

// What came of one attempt.
struct TrialAttempt {
  struct Line {
    std::string source;  // "debug", "info", "warn", "error"; "stdout", "stderr"; ours: "lope"
    std::string text;
  };
  struct Publication {
    bool reply = false;
    std::string json;  // an object
  };
  std::uint32_t number = 1;          // which attempt it was
  std::chrono::milliseconds at{0};   // by the trial's clock, since it began
  std::chrono::nanoseconds took{0};  // inside the handler; of a kept message, until it settled it
  TrialOutcome outcome = TrialOutcome::ack;
  std::string reason;            // the handler's word, or how it failed; may be empty
  std::vector<Line> lines;       // said or printed in its call
  bool is_first_of_call = true;  // the others of a batch have the same lines
  std::vector<Publication> publications;
  std::string dead_code;  // one of dead_code:: when it is not handled again
  std::optional<std::chrono::milliseconds> again_after;  // when it is
};

struct TrialResult {
  std::size_t message = 0;  // its place among those that were given
  std::vector<TrialAttempt> attempts;
};

// What became of many, without a word on each.
struct TrialRate {
  std::uint64_t messages = 0;  // that were begun
  std::chrono::nanoseconds elapsed{0};
  std::vector<std::uint64_t> took_ns;  // each, ascending
  std::map<TrialOutcome, std::uint64_t> outcomes;
};

class Trial {
 public:
  static Result<std::unique_ptr<Trial>> create(TrialSettings settings);
  ~Trial();
  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;

  // Why there is no going on.
  struct Failure {
    bool refused = false;  // the handler, or its options: until somebody changes them
    bool interrupted = false;
    std::string reason;
  };
  using OnResult = std::function<void(const TrialResult&)>;
  // Each message, one call of the handler after another, to its end; then the handler's own.
  std::optional<Failure> run(std::vector<Received> messages, const OnResult& on_result);
  // The messages over and over, `count` in all, as fast as one handler instance takes them.
  std::optional<Failure> repeat(std::vector<Received> messages, std::uint64_t count,
                                TrialRate& rate);

  // From on_result: nothing more is begun.
  void stop() { interrupted_ = true; }

  // Of the handler, once it was ready.
  const consumer::HandlerIdentity& handler() const { return handler_; }
  // What the handler said and printed when there was no message, such as in create().
  const std::vector<TrialAttempt::Line>& other_lines() const { return other_lines_; }
  // How the handler's end went wrong; empty: it did not.
  const std::string& ending_trouble() const { return ending_trouble_; }

 private:
  using Milliseconds = std::chrono::milliseconds;
  using Delivery = consumer::Delivery;
  using Outcome = consumer::WorkerProcess::Outcome;

  // A message, until its end.
  struct Entry {
    Received message;
    TrialResult result;
    bool alone = false;  // its next attempt, in a worker that has no other
    bool is_first_of_call = true;
    std::shared_ptr<std::vector<TrialAttempt::Line>> lines;  // of its call
    std::vector<TrialAttempt::Line> earlier_lines;           // of calls that were not charged
    std::uint32_t made = 0;
    TimePoint given{};
    TrialAttempt attempt;  // the one that is under way
  };
  // How an attempt ended that was no ack.
  struct Ending {
    TrialOutcome outcome;
    std::string reason;
    std::optional<Milliseconds> asked = {};
    std::string_view code = {};  // of one that is refused
  };

  explicit Trial(TrialSettings settings);
  Result<void> set_up();
  bool has_limits() const { return settings_.under.empty(); }
  std::optional<Failure> go_on(const std::function<bool()>& done,
                               const std::function<void()>& feed);
  bool start_worker();
  void fail(bool refused, std::string reason);
  void wait(bool for_call);
  TimePoint next_look();

  void feed();
  bool has_room(std::size_t size) const;
  bool use_up();
  void give(const std::vector<Entry*>& entries);
  Delivery& deliver(Entry& entry);
  void settle_held(bool at_last);
  void collect(bool after_death = false);
  void on_outcome(Outcome& outcome);
  void on_death();
  void charge(std::vector<Delivery*> running, bool flushing, const std::string& how);
  void end_late();
  void hear(std::string source, std::string_view text);
  void end_worker();
  void bury_worker();
  void sweep();

  void finish(Delivery& delivery, const Ending& ending, std::vector<std::string> publications = {});
  void put_back(Delivery& delivery, const std::string& why_alone = {});
  void send_again(Entry& entry, const Delivery& delivery, Milliseconds delay, const Ending& ending);
  void over(Entry& entry);
  Entry& entry_of(const Delivery& delivery) { return *entries_by_delivery_.at(delivery.index); }
  std::uint64_t unix_now_ms() const;

  const TrialSettings settings_;
  UniqueFd program_;
  UniqueFd wake_;
  std::unique_ptr<EventLoop> loop_;
  consumer::DeliveryTable table_;
  std::unique_ptr<consumer::WorkerProcess> process_;
  consumer::HandlerIdentity handler_;

  std::vector<std::unique_ptr<Entry>> entries_;
  std::multimap<Milliseconds, Entry*> queue_;  // by when they are due
  std::unordered_map<std::uint32_t, Entry*> entries_by_delivery_;
  OnResult on_result_;
  TrialRate* rate_ = nullptr;  // while repeating
  std::size_t unfinished_ = 0;
  std::uint64_t last_tag_ = 0;
  Milliseconds now_{0};  // the trial's clock, since it began
  std::uint64_t began_unix_ms_ = 0;

  bool ready_ = false;
  bool exited_ = false;
  int deaths_in_vain_ = 0;  // in a row: with no message inside
  bool flush_asked_ = false;
  bool probing_ = false;      // the worker has had one alone, and gets no other
  std::string ended_;         // why we ended the worker
  std::string link_trouble_;  // why we are about to, unless it ends by itself
  std::string said_failed_;
  bool said_refused_ = false;
  TimePoint quiet_since_{};
  TimePoint ready_due_ = TimePoint::max();
  TimePoint kill_at_ = TimePoint::max();
  TimePoint ends_at_ = TimePoint::max();  // all of it
  TimePoint last_over_{};                 // when a message was
  TimePoint last_given_{};
  std::shared_ptr<std::vector<TrialAttempt::Line>>
      lines_;  // of the latest call; nullptr: it is over
  std::vector<TrialAttempt::Line> other_lines_;
  std::string ending_trouble_;
  std::optional<Failure> failure_;
  bool interrupted_ = false;

  EventSource wake_source_, interrupt_source_, terminate_source_, hang_up_source_, child_source_;
};

}  // namespace lope::cli
