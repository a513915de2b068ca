#include "common/event_loop.h"

#include <sys/epoll.h>
#include <systemd/sd-event.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "common/text.h"

namespace lope {

struct EventSource::State {
  std::function<void(std::uint32_t)> on_fd;
  std::function<void(int, int)> on_signal;
  std::function<void()> on_timer;
  bool* armed = nullptr;
};

EventSource::EventSource() = default;

EventSource::EventSource(EventSource&& other) noexcept
    : source_(std::exchange(other.source_, nullptr)),
      stopped_(other.stopped_),
      state_(std::move(other.state_)),
      armed_(std::move(other.armed_)) {}

EventSource& EventSource::operator=(EventSource&& other) noexcept {
  std::swap(source_, other.source_);
  std::swap(stopped_, other.stopped_);
  std::swap(state_, other.state_);
  std::swap(armed_, other.armed_);
  return *this;
}

EventSource::~EventSource() {
  if (source_ == nullptr) return;
  sd_event_source_set_enabled(source_, SD_EVENT_OFF);
  sd_event_source_unref(source_);
}

void EventSource::stop() {
  if (source_ != nullptr) sd_event_source_set_enabled(source_, SD_EVENT_OFF);
  stopped_ = true;
}

void EventSource::set_events(std::uint32_t events) {
  sd_event_source_set_io_events(source_, events);
}

void EventSource::arm(TimePoint when) {
  const auto since_boot =
      std::chrono::duration_cast<std::chrono::microseconds>(when.time_since_epoch());
  sd_event_source_set_time(source_, static_cast<std::uint64_t>(since_boot.count()));
  sd_event_source_set_enabled(source_, SD_EVENT_ONESHOT);
  *armed_ = true;
}

void EventSource::disarm() {
  sd_event_source_set_enabled(source_, SD_EVENT_OFF);
  *armed_ = false;
}

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  sd_event* event = nullptr;
  if (const int error = sd_event_new(&event); error < 0) {
    return Error{errno_text("sd_event_new", -error)};
  }
  return std::unique_ptr<EventLoop>(new EventLoop(event));
}

EventLoop::~EventLoop() { sd_event_unref(event_); }

Result<EventSource> EventLoop::watch_fd(int fd, std::uint32_t events,
                                        std::function<void(std::uint32_t)> callback) {
  EventSource source;
  source.state_ = std::make_unique<EventSource::State>();
  source.state_->on_fd = std::move(callback);
  const auto handler = [](sd_event_source*, int, std::uint32_t revents, void* data) {
    static_cast<EventSource::State*>(data)->on_fd(revents);
    return 0;
  };
  if (const int error =
          sd_event_add_io(event_, &source.source_, fd, events, handler, source.state_.get());
      error < 0) {
    return Error{errno_text("sd_event_add_io", -error)};
  }
  return source;
}

Result<EventSource> EventLoop::watch_signal(int signal, std::function<void(int, int)> callback) {
  sigset_t mask;
  ::sigemptyset(&mask);
  ::sigaddset(&mask, signal);
  if (::sigprocmask(SIG_BLOCK, &mask, nullptr) < 0) {
    return Error{errno_text("sigprocmask", errno)};
  }
  EventSource source;
  source.state_ = std::make_unique<EventSource::State>();
  source.state_->on_signal = std::move(callback);
  const auto handler = [](sd_event_source*, const signalfd_siginfo* info, void* data) {
    static_cast<EventSource::State*>(data)->on_signal(static_cast<int>(info->ssi_signo),
                                                      static_cast<int>(info->ssi_pid));
    return 0;
  };
  if (const int error =
          sd_event_add_signal(event_, &source.source_, signal, handler, source.state_.get());
      error < 0) {
    return Error{errno_text("sd_event_add_signal", -error)};
  }
  return source;
}

Result<EventSource> EventLoop::make_timer(std::function<void()> callback) {
  EventSource source;
  source.state_ = std::make_unique<EventSource::State>();
  source.armed_ = std::make_unique<bool>(false);
  source.state_->on_timer = std::move(callback);
  source.state_->armed = source.armed_.get();
  const auto handler = [](sd_event_source*, std::uint64_t, void* data) {
    auto* state = static_cast<EventSource::State*>(data);
    *state->armed = false;
    state->on_timer();
    return 0;
  };
  // An accuracy of 1 us: the default of 250 ms is for timers that nobody waits for.
  if (const int error = sd_event_add_time(event_, &source.source_, CLOCK_MONOTONIC, 0, 1, handler,
                                          source.state_.get());
      error < 0) {
    return Error{errno_text("sd_event_add_time", -error)};
  }
  sd_event_source_set_enabled(source.source_, SD_EVENT_OFF);
  return source;
}

Result<void> EventLoop::enable_watchdog() {
  if (const int error = sd_event_set_watchdog(event_, 1); error < 0) {
    return Error{errno_text("sd_event_set_watchdog", -error)};
  }
  return {};
}

Result<void> EventLoop::run_once(std::optional<std::chrono::microseconds> timeout) {
  const std::uint64_t wait = timeout ? static_cast<std::uint64_t>(timeout->count()) : UINT64_MAX;
  if (const int error = sd_event_run(event_, wait); error < 0) {
    return Error{errno_text("sd_event_run", -error)};
  }
  return {};
}

}  // namespace lope
