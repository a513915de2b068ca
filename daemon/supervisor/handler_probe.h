// Tries a group's handler in a worker process of its own that gets no message: it is loaded and
// created with the group's options, and destroyed. What it may do wrong it does there. Of a group
// that waits for its handler the schema is tried.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/event_loop.h"
#include "common/link.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "common/spawn.h"

namespace lope::supervisor {

class HandlerProbe {
 public:
  // Called once, from the event loop: empty, or why the handler cannot be used. It may not destroy
  // the object.
  using Done = std::function<void(const std::string& reason)>;

  static Result<std::unique_ptr<HandlerProbe>> start(EventLoop& loop, int worker_program_fd,
                                                     const Settings& settings,
                                                     const GroupSettings& group,
                                                     const std::vector<std::string>& environment,
                                                     Done done);
  ~HandlerProbe();
  HandlerProbe(const HandlerProbe&) = delete;
  HandlerProbe& operator=(const HandlerProbe&) = delete;

 private:
  HandlerProbe(const Settings& settings, const GroupSettings& group, Done done);
  bool read_link();
  Result<ChildEnd> end_all();
  void on_ready();
  void on_exit();
  void on_timer();

  const std::string group_;
  const std::string handler_;  // its path
  const bool only_schema_;
  const std::chrono::milliseconds limit_;
  Done done_;
  Child child_;
  UniqueFd link_;
  BoardMapping<WorkerBoard> board_;
  FrameReader frames_;
  std::string failure_;
  int reads_ = 0;
  bool ready_ = false;
  bool late_ = false;
  EventSource link_source_;
  EventSource exit_source_;
  EventSource timer_;
};

}  // namespace lope::supervisor
