#include "consumer/orders.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <iterator>
#include <utility>

#include "common/json.h"
#include "common/log.h"
#include "common/spawn.h"

namespace lope::consumer {

Result<std::unique_ptr<Orders>> Orders::create(EventLoop& loop, Events events) {
  std::unique_ptr<Orders> orders(new Orders(std::move(events)));
  Orders* const self = orders.get();
  const auto drain = [self](int, int) { self->events_.on_drain(std::nullopt); };
  const std::pair<int, std::function<void(int, int)>> signals[] = {
      {SIGTERM, drain},
      {SIGINT, drain},
      {SIGQUIT, [self](int, int) { self->events_.on_stop(); }},
      {SIGHUP, [](int, int) {}},
      {SIGUSR1, [](int, int) {
         if (auto reopened = reopen_log(); !reopened) {
           log_error("cannot open the log file again", {{"reason", reopened.error()}});
         }
       }}};
  for (std::size_t i = 0; i < std::size(signals); ++i) {
    auto source = loop.watch_signal(signals[i].first, signals[i].second);
    if (!source) return Error{source.error()};
    orders->signal_sources_[i] = std::move(*source);
  }
  auto control = loop.watch_fd(kLinkFd, EPOLLIN, [self](std::uint32_t) { self->read_control(); });
  if (!control) return Error{control.error()};
  orders->control_source_ = std::move(*control);
  return orders;
}

void Orders::read_control() {
  ControlMessage message{};
  UniqueFd attached;
  const ssize_t n = receive_with_fd(kLinkFd, &message, sizeof message, attached);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n != sizeof message) {  // our supervisor is gone, and with it our reason to be
    control_source_.stop();
    events_.on_stop();
    return;
  }
  switch (message.type) {
    case ControlType::drain: events_.on_drain(std::chrono::milliseconds(message.value)); break;
    case ControlType::stop: events_.on_stop(); break;
    case ControlType::scale:
      if (events_.on_scale) events_.on_scale(static_cast<int>(message.value));
      break;
    case ControlType::restart:
      if (events_.on_restart) events_.on_restart();
      break;
    case ControlType::pause:
    case ControlType::resume:
      if (events_.on_pause) events_.on_pause(message.type == ControlType::pause);
      break;
    case ControlType::settings:
      take_settings(attached.get(), static_cast<ReplaceWorkers>(message.value));
      break;
    case ControlType::log_level: {
      const auto level = static_cast<LogLevel>(message.value);
      set_log_level(level);
      if (events_.on_log_level) events_.on_log_level(level);
      break;
    }
    case ControlType::trace:
      if (events_.on_trace) {
        events_.on_trace(static_cast<int>(message.value), std::move(attached));
      }
      break;
    case ControlType::changed: break;  // ours
  }
}

void Orders::take_settings(int fd, ReplaceWorkers replace) {
  const auto json = read_all_at(fd);
  const auto settings =
      json ? consumer_settings_from_json(*json) : Result<ConsumerSettings>(Error{json.error()});
  if (!settings) {
    // Ours and of one build: only a lack of memory or of descriptors is left as a reason.
    log_error("cannot take other settings", {{"reason", settings.error()}});
    std::abort();  // our parent starts us again, with them
  }
  if (events_.on_settings) events_.on_settings(*settings, replace);
}

void Orders::report_change() {
  const ControlMessage message{ControlType::changed};
  // Best effort: a supervisor that has not read the last one will look at the board all the same.
  [[maybe_unused]] const ssize_t n =
      ::send(kLinkFd, &message, sizeof message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace lope::consumer
