// mode: coprocess. A program that gets messages as lines and answers them as lines, many at a
// time. A thread of its own does all of it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <lope/handler.hpp>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "arguments.h"
#include "json_lines.h"
#include "line_log.h"
#include "measures.h"
#include "process.h"
#include "settings.h"

namespace lope::plugins {

class Coprocess {
 public:
  // Starts it. Throws InvalidConfiguration, std::system_error. `settings` outlives it.
  Coprocess(const Host& host, const ExecSettings& settings);
  Coprocess(const Coprocess&) = delete;
  Coprocess& operator=(const Coprocess&) = delete;
  // Ends it, after drain().
  ~Coprocess();

  // [in-call] The message is to be held. Throws Retry once drain() was called.
  void take(const Message& message);
  // Waits until what was sent has its outcome and the program has ended. What was not sent stays
  // held.
  void drain();

 private:
  using Clock = std::chrono::steady_clock;

  struct Waiting {
    Message message;
    std::string head;
    Clock::time_point since;
  };
  struct InTheAir {
    Waiting waiting;  // as it was: it waits again when nothing of it is written in the end
    Clock::time_point since;
    std::uint64_t begin;  // of its line, counted from the first byte for this process
  };

  void run();
  bool step();
  void start();
  void send();
  bool is_ours(const Waiting& next, Clock::time_point now);
  void take_back_unwritten();
  void receive();
  void take_line(std::string_view line);
  void refuse_line();
  void read_errors();
  void look_at_time();
  void end_at(Clock::time_point due, const char* why);
  void end_now(const char* why);
  void send_signal();
  void ended();
  void retry_all(const std::string& why);
  void settle(const Message& message, Outcome outcome, const std::string& reason,
              Clock::time_point since);
  void complain(const std::string& text);
  Clock::time_point limit_of(const InTheAir& oldest) const;
  Clock::time_point limit_of(const Waiting& oldest) const;
  Clock::time_point next_due();
  void wait();

  const Host host_;
  const ExecSettings& settings_;
  const Measures measures_;
  Arguments arguments_;
  Fd wake_;

  // The thread's.
  std::optional<Process> process_;
  Fd in_, out_, err_;
  std::deque<Waiting> waiting_;
  std::unordered_map<std::uint64_t, InTheAir> in_the_air_;
  std::deque<std::uint64_t> sent_;  // oldest first; those that are answered among them
  std::string outgoing_;            // lines
  std::size_t written_ = 0;         // of these
  std::uint64_t begin_ = 0;         // of these, counted as InTheAir::begin
  std::string incoming_;            // the part of a line that is there
  std::vector<char> buffer_;
  LineLog errors_;
  Clock::time_point second_{};  // since when errors_ and complaints_ are counted
  std::size_t complaints_ = 0;
  bool has_answered_ = false;  // the one that runs
  Clock::time_point last_answer_{}, last_end_{};
  std::string why_not_;  // there is none
  int next_signal_ = 0;  // SIGTERM, then SIGKILL; 0: there is no reason for one
  const char* why_end_ = nullptr;
  Clock::time_point signal_due_ = Clock::time_point::max();
  Clock::time_point start_due_ = Clock::time_point::min();
  std::chrono::milliseconds pause_{0};

  std::mutex mutex_;  // guards the rest
  std::condition_variable over_;
  std::vector<Waiting> arrived_;
  bool asleep_ = false;
  bool draining_ = false;
  bool is_over_ = false;
  std::thread thread_;
};

}  // namespace lope::plugins
