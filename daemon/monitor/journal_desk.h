// Questions about the journal, answered on a thread of their own, one after another: the monitor's
// loop never waits for a disk or a server.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/event_loop.h"
#include "common/fd.h"
#include "common/repeated_log.h"
#include "journal/journal.h"
#include "monitor/http.h"

namespace lope::monitor {

class JournalDesk {
 public:
  using Answered = std::function<void(std::uint64_t id, const HttpAnswer& answer)>;

  // `answered` is called by the loop. `store` may be empty: each answer says so then.
  static Result<std::unique_ptr<JournalDesk>> create(EventLoop& loop, std::string store,
                                                     Answered answered);
  JournalDesk(const JournalDesk&) = delete;
  JournalDesk& operator=(const JournalDesk&) = delete;
  // Waits for the question that is being answered, which has its time limit.
  ~JournalDesk();

  static bool knows(std::string_view path);
  // Answered now, when it cannot be asked, or later.
  void ask(std::uint64_t id, const HttpRequest& request);

 private:
  struct Question {
    std::uint64_t id;
    bool whole_trace;
    std::string message;  // empty: a search
    journal::Search search;
  };

  JournalDesk(std::string store, Answered answered);
  static Result<Question> question_of(std::uint64_t id, const HttpRequest& request);
  void run();
  // Why the store does not answer, for the log alone when that may show where it is.
  HttpAnswer answer_for(const Question& question, std::string& trouble) const;
  HttpAnswer unanswered(const std::string& reason, std::string& trouble) const;
  void hand_over();

  struct Answer {
    std::uint64_t id;
    HttpAnswer answer;
    std::string trouble;  // empty: none
  };

  const std::string store_;
  const Answered answered_;
  RepeatedLog repeated_;
  UniqueFd wake_;
  EventSource source_;

  std::mutex mutex_;
  std::condition_variable asked_;
  bool stop_ = false;               // under mutex_
  std::deque<Question> questions_;  // under mutex_
  std::vector<Answer> answers_;     // under mutex_
  std::thread thread_;
};

}  // namespace lope::monitor
