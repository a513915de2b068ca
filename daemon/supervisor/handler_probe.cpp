#include "supervisor/handler_probe.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <iterator>

#include "common/json.h"
#include "common/log.h"
#include "common/text.h"
#include "common/worker_settings.h"

namespace lope::supervisor {

namespace {

// For destroy().
constexpr std::chrono::seconds kEndingGrace{5};
constexpr int kMostReads = 1000;  // of 64 KiB each

}  // namespace

HandlerProbe::HandlerProbe(const Settings& settings, const GroupSettings& group, Done done)
    : group_(group.name),
      handler_(settings.handlers_dir + "/" + group.handler + ".so"),
      only_schema_(!group.handler_missing.empty()),
      limit_(group.start_timeout),
      done_(std::move(done)) {}

Result<std::unique_ptr<HandlerProbe>> HandlerProbe::start(
    EventLoop& loop, int worker_program_fd, const Settings& settings, const GroupSettings& group,
    const std::vector<std::string>& environment, Done done) {
  std::unique_ptr<HandlerProbe> made(new HandlerProbe(settings, group, std::move(done)));
  const WorkerSettings worker =
      worker_settings(group, settings.handlers_dir, settings.broker.max_message_bytes,
                      kMaxWorkerSlots);  // an index that no worker has
  auto json = make_memfd("lope-worker-settings", to_json(worker));
  if (!json) return Error{json.error()};
  UniqueFd board_fd;
  auto board = BoardMapping<WorkerBoard>::create("lope-worker-board", board_fd);
  if (!board) return Error{board.error()};
  made->board_ = std::move(*board);
  made->board_->log_level.store(static_cast<std::uint32_t>(settings.log.level));
  auto link = make_stream_pair();
  if (!link) return Error{link.error()};
  if (auto set = set_nonblocking(link->first.get(), true); !set) return Error{set.error()};
  auto wake = make_eventfd();
  if (!wake) return Error{wake.error()};
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid()) return Error{errno_text("open /dev/null", errno)};

  SpawnOptions options;
  options.program_fd = worker_program_fd;
  options.argv = {"lope-worker", group.name + "/probe"};
  options.env = environment;
  options.fds = {{null.get(), STDIN_FILENO},      {null.get(), STDOUT_FILENO},
                 {null.get(), STDERR_FILENO},     {json->get(), kSettingsFd},
                 {board_fd.get(), kScoreboardFd}, {link->second.get(), kLinkFd},
                 {wake->get(), kWakeFd}};
  options.blocked_signals.assign(std::begin(kGroupSignals), std::end(kGroupSignals));
  options.own_group = true;
  auto child = spawn(options);
  if (!child) return Error{child.error()};
  made->child_ = std::move(*child);
  made->link_ = std::move(link->first);
  HandlerProbe* const self = made.get();
  auto frames =
      loop.watch_fd(self->link_.get(), EPOLLIN, [self](std::uint32_t) { self->read_link(); });
  if (!frames) return Error{frames.error()};
  made->link_source_ = std::move(*frames);
  auto exit =
      loop.watch_fd(self->child_.pidfd.get(), EPOLLIN, [self](std::uint32_t) { self->on_exit(); });
  if (!exit) return Error{exit.error()};
  made->exit_source_ = std::move(*exit);
  auto timer = loop.make_timer([self] { self->on_timer(); });
  if (!timer) return Error{timer.error()};
  made->timer_ = std::move(*timer);
  made->timer_.arm(Clock::now() + group.start_timeout);
  return made;
}

HandlerProbe::~HandlerProbe() {
  if (child_.pid <= 0) return;
  ::kill(child_.pid, SIGKILL);
  (void)end_all();
}

// It, and what its handler has started.
Result<ChildEnd> HandlerProbe::end_all() {
  ::kill(-child_.pid, SIGKILL);  // before it is reaped its number is nobody else's
  const auto end = reap(child_);
  child_.pid = -1;
  return end;
}

// False: nothing more is there now, or ever.
bool HandlerProbe::read_link() {
  if (link_source_.stopped()) return false;
  const auto status = frames_.read(link_.get());
  if (status && *status == FrameReader::Status::would_block) return false;
  // What is far more than it could have to say is not kept.
  if (!status || *status == FrameReader::Status::end || ++reads_ > kMostReads) {
    link_source_.stop();  // its pidfd tells the rest
    return false;
  }
  while (true) {
    const auto frame = frames_.next();
    if (!frame) {
      link_source_.stop();
      return false;
    }
    if (!frame->has_value()) return true;
    const std::string_view payload = (*frame)->payload;
    switch ((*frame)->head.type) {
      case FrameType::ready: on_ready(); break;
      case FrameType::failed:
        if (payload.size() >= sizeof(FailedHead)) failure_ = payload.substr(sizeof(FailedHead));
        break;
      case FrameType::log: {
        LogHead head{};
        if (payload.size() < sizeof head) break;
        std::memcpy(&head, payload.data(), sizeof head);
        const auto level = std::min(head.level, static_cast<std::uint32_t>(LogLevel::error));
        log_event(static_cast<LogLevel>(level), "handler says",
                  {{"group", group_}, {"worker", "probe"}, {"text", payload.substr(sizeof head)}});
        break;
      }
      default: break;  // it has no message to say anything about
    }
  }
}

void HandlerProbe::on_ready() {
  if (ready_) return;
  ready_ = true;
  ::shutdown(link_.get(), SHUT_WR);
  timer_.arm(Clock::now() + kEndingGrace);
}

void HandlerProbe::on_timer() {
  if (child_.pid <= 0) return;
  late_ = true;
  ::kill(child_.pid, SIGKILL);
}

void HandlerProbe::on_exit() {
  while (read_link()) {  // its last words
  }
  exit_source_.stop();
  link_source_.stop();
  timer_.disarm();
  const auto end = end_all();
  const std::string how = end ? end->to_string() : end.error();
  const auto stage = static_cast<WorkerStage>(board_->stage.load(std::memory_order_acquire));
  std::string reason;
  if (ready_) {
    if (how != "exit 0") {
      log_warn(
          "handler does not end well",
          {{"group", group_}, {"handler", handler_}, {"how", late_ ? "destroy() hangs" : how}});
    }
  } else if (only_schema_ && stage > WorkerStage::compiling) {
    // The schema is right; the handler is still missing.
  } else if (!failure_.empty()) {
    reason = failure_;
  } else if (late_) {
    reason = "handler '" + handler_ + "': expected to become ready within start_timeout (" +
             std::to_string(limit_.count()) + " ms), found it hanging " + to_string(stage);
  } else {
    reason = "handler '" + handler_ + "': expected to become ready, found its worker dead by " +
             how + " while " + to_string(stage);
  }
  const Done done = std::move(done_);
  done(reason.empty() ? reason : "group '" + group_ + "': " + reason);
}

}  // namespace lope::supervisor
