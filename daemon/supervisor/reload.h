// Judges a new configuration, or new handler files, without touching anything that runs: reads it
// in one throw-away child and tries each handler that would be new in another.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/event_loop.h"
#include "common/settings.h"
#include "supervisor/handler_probe.h"
#include "supervisor/load_child.h"

namespace lope::supervisor {

// The programs that were opened at the start: what a package upgrade puts on disk does not matter.
struct Programs {
  int lope = -1;
  int consumer = -1;
  int worker = -1;
  int monitor = -1;
};

class Reload {
 public:
  struct Verdict {
    std::vector<std::string> errors;  // any: refused as a whole
    std::vector<std::string> warnings;
    Settings settings;
  };
  // Called once, from the event loop. It may not destroy the object.
  using Done = std::function<void(Verdict&)>;

  // `config` empty: only the handlers of `current`; then a group whose new handler is no good keeps
  // the one it has, with a warning. `environment`: of the children that run handlers.
  Reload(EventLoop& loop, const Programs& programs, const std::string& config,
         const Settings& current, std::vector<std::string> environment, Done done);

  bool over() const { return over_; }

 private:
  void on_loaded(const Result<LoadReport>& report);
  void choose_probes();
  void probe_some();
  void on_probed(std::size_t group, const std::string& reason);
  void keep_old(std::size_t group, const std::string& reason);
  void finish();

  EventLoop& loop_;
  const Programs programs_;
  const bool only_handlers_;
  const Settings current_;
  const std::vector<std::string> environment_;
  Done done_;
  bool over_ = false;
  Verdict verdict_;
  std::unique_ptr<LoadChild> loading_;
  std::vector<std::size_t> to_probe_;  // groups, by their place; the last comes first
  std::vector<std::unique_ptr<HandlerProbe>> probes_;
  std::size_t probing_ = 0;
};

}  // namespace lope::supervisor
