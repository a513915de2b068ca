// The event loop of supervisor and consumer: descriptors, signals and timers over sd-event, which
// only this file pair knows. Callbacks run inside run_once(), on the thread that made the loop.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "common/clock.h"
#include "common/result.h"

struct sd_event;
struct sd_event_source;

namespace lope {

// A watch; ends with the object.
class EventSource {
 public:
  EventSource();
  EventSource(EventSource&& other) noexcept;
  EventSource& operator=(EventSource&& other) noexcept;
  ~EventSource();
  explicit operator bool() const { return source_ != nullptr; }

  // No callback any more. Unlike the destructor, also allowed inside the source's own callback.
  void stop();
  bool stopped() const { return stopped_; }

  // Of a descriptor: EPOLLIN, EPOLLOUT or both.
  void set_events(std::uint32_t events);
  // Of a timer: runs the callback once, then.
  void arm(TimePoint when);
  void disarm();
  // Of a timer.
  bool armed() const { return armed_ != nullptr && *armed_; }

 private:
  friend class EventLoop;
  struct State;
  sd_event_source* source_ = nullptr;
  bool stopped_ = false;
  // Stable in memory: the library holds its address.
  std::unique_ptr<State> state_;
  std::unique_ptr<bool> armed_;
};

class EventLoop {
 public:
  static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // `callback` gets the epoll events that happened. `fd` stays the caller's; drop the source first.
  Result<EventSource> watch_fd(int fd, std::uint32_t events,
                               std::function<void(std::uint32_t)> callback);
  // Blocks the signal in this process and takes it here. Callback: number, sender's pid.
  Result<EventSource> watch_signal(int signal, std::function<void(int, int)> callback);
  Result<EventSource> make_timer(std::function<void()> callback);
  // Answers systemd's watchdog from this loop, when the service has one.
  Result<void> enable_watchdog();

  // Waits at most `timeout` (nothing: for ever) for an event and handles what is there.
  Result<void> run_once(std::optional<std::chrono::microseconds> timeout);

 private:
  explicit EventLoop(sd_event* event) : event_(event) {}
  sd_event* event_;
};

}  // namespace lope
