#include "monitor/daemon_link.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "common/text.h"

namespace lope::monitor {

namespace {

constexpr std::chrono::milliseconds kFresh{250};
constexpr std::chrono::milliseconds kPatience{2000};
constexpr std::size_t kMaxAnswer = 256 << 20;

}  // namespace

DaemonLink::DaemonLink(EventLoop&, int socket, Events events)
    : socket_(socket), events_(std::move(events)) {}

Result<std::unique_ptr<DaemonLink>> DaemonLink::create(EventLoop& loop, int socket, Events events) {
  std::unique_ptr<DaemonLink> link(new DaemonLink(loop, socket, std::move(events)));
  DaemonLink* const self = link.get();
  auto source = loop.watch_fd(socket, EPOLLIN, [self](std::uint32_t) { self->read(); });
  if (!source) return Error{source.error()};
  self->source_ = std::move(*source);
  auto timer = loop.make_timer([self] {
    self->take(
        Error{"the daemon has not answered within " + std::to_string(kPatience.count()) + " ms"});
  });
  if (!timer) return Error{timer.error()};
  self->timer_ = std::move(*timer);
  return link;
}

bool DaemonLink::fresh() const { return latest_ && Clock::now() - latest_at_ < kFresh; }

void DaemonLink::want() {
  if (!timer_.armed()) timer_.arm(Clock::now() + kPatience);
  wanted_ = true;
  if (!asked_) ask("{\"command\":\"metrics\"}\n");  // one that is late answers this too
}

void DaemonLink::say_alive() {
  if (!asked_) alive_ = ask("{\"command\":\"alive\"}\n");
}

bool DaemonLink::ask(std::string_view request) {
  const ssize_t n = ::send(socket_, request.data(), request.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  // It is all that is ever on its way in this direction: there is room for it.
  asked_ = n == static_cast<ssize_t>(request.size());
  if (!asked_) end(errno_text("send", errno));
  return asked_;
}

void DaemonLink::read() {
  char bytes[64 * 1024];
  const ssize_t n = ::recv(socket_, bytes, sizeof bytes, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return end(n == 0 ? "closed" : errno_text("recv", errno));
  const std::string_view part(bytes, static_cast<std::size_t>(n));
  input_ += part;
  if (input_.size() > kMaxAnswer) return end("an answer has no end");
  if (!part.ends_with('\n')) return;  // one answer at a time: its end is the end of what is there
  asked_ = false;
  const std::string line = std::exchange(input_, {});
  if (std::exchange(alive_, false)) {
    if (wanted_) want();
    return;
  }
  wanted_ = false;
  take(daemon_metrics_from_answer(line));
}

void DaemonLink::take(Result<DaemonMetrics> answer) {
  timer_.disarm();
  latest_ = std::move(answer);
  latest_at_ = Clock::now();
  events_.on_answer();
}

void DaemonLink::end(const std::string& reason) {
  source_.stop();
  events_.on_end(reason);
}

}  // namespace lope::monitor
