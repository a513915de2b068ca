#include "supervisor/handler_watch.h"

#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/log.h"
#include "common/text.h"

namespace lope::supervisor {

namespace {

constexpr std::chrono::milliseconds kQuiet{300};
constexpr std::string_view kSuffix = ".so";
// A file is there when it has been written and closed, or has come under its name.
constexpr std::uint32_t kChanges =
    IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;

}  // namespace

Result<std::unique_ptr<HandlerWatch>> HandlerWatch::create(
    EventLoop& loop, std::string folder, std::function<bool(std::string_view)> matters,
    std::function<void()> on_change) {
  std::unique_ptr<HandlerWatch> made(new HandlerWatch(std::move(folder), std::move(matters)));
  made->inotify_.reset(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!made->inotify_.valid()) return Error{errno_text("inotify_init1", errno)};
  auto source = loop.watch_fd(made->inotify_.get(), EPOLLIN,
                              [self = made.get()](std::uint32_t) { self->read_events(); });
  if (!source) return Error{source.error()};
  made->source_ = std::move(*source);
  auto timer = loop.make_timer(std::move(on_change));
  if (!timer) return Error{timer.error()};
  made->timer_ = std::move(*timer);
  made->watch_ = ::inotify_add_watch(made->inotify_.get(), made->folder_.c_str(), kChanges);
  if (made->watch_ < 0) {
    log_warn("cannot watch the folder of handlers: trying again each second",
             {{"reason", errno_text("inotify_add_watch '" + made->folder_ + "'", errno)}});
  }
  return made;
}

void HandlerWatch::tend() {
  if (watch_ >= 0) return;
  watch_ = ::inotify_add_watch(inotify_.get(), folder_.c_str(), kChanges);
  // What came before it was watched nobody has told us of.
  if (watch_ >= 0) timer_.arm(Clock::now() + kQuiet);
}

void HandlerWatch::read_events() {
  alignas(inotify_event) char bytes[16 * 1024];
  const ssize_t n = ::read(inotify_.get(), bytes, sizeof bytes);
  for (ssize_t at = 0; at + static_cast<ssize_t>(sizeof(inotify_event)) <= n;) {
    inotify_event event{};
    std::memcpy(&event, bytes + at, sizeof event);
    const char* const text = bytes + at + sizeof event;
    const std::string_view name = event.len > 0 ? std::string_view(text) : std::string_view();
    at += static_cast<ssize_t>(sizeof event + event.len);
    if ((event.mask & (IN_DELETE_SELF | IN_MOVE_SELF)) != 0) {
      ::inotify_rm_watch(inotify_.get(), watch_);
      watch_ = -1;
    }
    const bool handler =
        name.ends_with(kSuffix) && matters_(name.substr(0, name.size() - kSuffix.size()));
    if (handler || (event.mask & IN_Q_OVERFLOW) != 0) timer_.arm(Clock::now() + kQuiet);
  }
}

}  // namespace lope::supervisor
