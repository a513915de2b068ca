// What a process below the supervisor is told: by signals and over its control socket. And how it
// says that its board is worth a look.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>

#include "common/control.h"
#include "common/event_loop.h"
#include "common/fd.h"
#include "common/settings.h"

namespace lope::consumer {

class Orders {
 public:
  struct Events {
    // Finish within this, or else within shutdown_timeout, and leave. Told again with less time:
    // hurry.
    std::function<void(std::optional<std::chrono::milliseconds> limit)> on_drain;
    // Leave now: told so, or the supervisor is gone.
    std::function<void()> on_stop;
    // Of a group; a relay has neither.
    std::function<void(int workers)> on_scale;
    std::function<void()> on_restart;
    std::function<void(bool)> on_pause;
    std::function<void(const ConsumerSettings&, ReplaceWorkers)> on_settings;
    std::function<void(LogLevel)> on_log_level;
    std::function<void(int messages, UniqueFd output)> on_trace;
  };
  static Result<std::unique_ptr<Orders>> create(EventLoop& loop, Events events);
  static void report_change();

 private:
  explicit Orders(Events events) : events_(std::move(events)) {}
  void read_control();
  void take_settings(int fd, ReplaceWorkers replace);

  Events events_;
  EventSource signal_sources_[5];
  EventSource control_source_;
};

}  // namespace lope::consumer
