// What a process below the supervisor is told: by signals and over its control socket. And how it
// says that its board is worth a look.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "common/event_loop.h"

namespace lope::consumer {

class Orders {
 public:
  struct Events {
    // Finish within this, and leave. Told again with less time: hurry.
    std::function<void(std::chrono::milliseconds limit)> on_drain;
    // Leave now: told so, or the supervisor is gone.
    std::function<void()> on_stop;
    // Of a group; a relay has neither.
    std::function<void(int workers)> on_scale;
    std::function<void()> on_restart;
  };
  // `limit`: of a drain that a signal asks for.
  static Result<std::unique_ptr<Orders>> create(EventLoop& loop, std::chrono::milliseconds limit,
                                                Events events);
  static void report_change();

 private:
  explicit Orders(Events events) : events_(std::move(events)) {}
  void read_control();

  Events events_;
  EventSource signal_sources_[5];
  EventSource control_source_;
};

}  // namespace lope::consumer
