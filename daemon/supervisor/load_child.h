// Reads the configuration for a reload in a throw-away child, `lope` itself under another name with
// little memory and time: whatever is in the files, the supervisor goes on.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/event_loop.h"
#include "common/json.h"
#include "common/spawn.h"

namespace lope::supervisor {

inline constexpr const char* kLoadProgram = "lope-load";  // its argv[0]

class LoadChild {
 public:
  // Called once, from the event loop. It may not destroy the object.
  using Done = std::function<void(const Result<LoadReport>&)>;

  // Either reads the file `config`, or, when that is empty, only looks anew at the handlers that
  // `settings` names. `program_fd` is lope's.
  static Result<std::unique_ptr<LoadChild>> start(EventLoop& loop, int program_fd,
                                                  const std::string& config,
                                                  const Settings& settings, Done done);
  ~LoadChild();
  LoadChild(const LoadChild&) = delete;
  LoadChild& operator=(const LoadChild&) = delete;

 private:
  explicit LoadChild(Done done) : done_(std::move(done)) {}
  void read_report();
  void on_exit();
  Result<LoadReport> result();

  Done done_;
  Child child_;
  UniqueFd report_fd_;
  std::string report_;
  bool late_ = false;
  bool too_large_ = false;
  EventSource report_source_;
  EventSource exit_source_;
  EventSource timer_;
};

// The child's side: main() of lope as lope-load. Returns the exit code.
int run_load_child(const std::string& config);

}  // namespace lope::supervisor
