#include "supervisor/control_server.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/control_path.h"
#include "common/text.h"

namespace lope::supervisor {

namespace {

constexpr std::size_t kMaxLine = 64 * 1024;
constexpr std::size_t kMaxClients = 2000;
constexpr int kAcceptedAtOnce = 64;
constexpr int kBacklog = 1024;
// A client that says nothing for so long, or does not read its answer.
constexpr std::chrono::minutes kIdle{5};
constexpr std::chrono::seconds kSlow{10};
constexpr std::chrono::seconds kTend{1};
constexpr mode_t kMode = 0660;

Result<UniqueFd> take_lock(const std::string& path, bool& taken) {
  taken = false;
  const std::string name = path + ".lock";
  UniqueFd lock(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock.valid()) return Error{errno_text("open " + name, errno)};
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) < 0) {
    if (errno != EWOULDBLOCK) return Error{errno_text("flock " + name, errno)};
    taken = true;
    char owner[32] = {};
    [[maybe_unused]] const ssize_t n = ::pread(lock.get(), owner, sizeof owner - 1, 0);
    owner[std::strcspn(owner, "\n")] = '\0';
    const std::string who = owner[0] == '\0' ? "" : ", with pid " + escape(owner, 20) + ",";
    return Error{
        "'" + path + "': another lope" + who +
        " runs with this control socket: stop it, or give each a control.socket of its own"};
  }
  const std::string owner = std::to_string(::getpid()) + "\n";
  if (::ftruncate(lock.get(), 0) < 0 ||
      ::pwrite(lock.get(), owner.data(), owner.size(), 0) < static_cast<ssize_t>(owner.size())) {
    return Error{errno_text("write " + name, errno)};
  }
  return lock;
}

Result<UniqueFd> listen_on(const std::string& path) {
  const auto address = unix_address(path);
  if (!address) return Error{address.error()};
  const auto* const named = reinterpret_cast<const sockaddr*>(&*address);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return Error{errno_text("socket", errno)};
  struct stat there {};
  if (::lstat(path.c_str(), &there) == 0) {
    if (!S_ISSOCK(there.st_mode))
      return Error{"'" + path + "': expected a socket, found another file"};
    // We have the lock: a lope that made it is dead. But somebody else may be there.
    if (::connect(socket.get(), named, sizeof *address) == 0 || errno != ECONNREFUSED) {
      return Error{"'" + path +
                   "': expected a socket that nobody serves any more, found one that is "
                   "not Lope's"};
    }
    ::unlink(path.c_str());
  }
  const mode_t before = ::umask(static_cast<mode_t>(0777 & ~kMode));
  const int bound = ::bind(socket.get(), named, sizeof *address);
  const int error = errno;
  ::umask(before);
  if (bound < 0) return Error{errno_text("bind '" + path + "'", error)};
  if (::listen(socket.get(), kBacklog) < 0)
    return Error{errno_text("listen '" + path + "'", errno)};
  return socket;
}

}  // namespace

ControlServer::ControlServer(EventLoop& loop, Handler handler)
    : loop_(loop), handler_(std::move(handler)) {}

ControlServer::~ControlServer() {
  if (listener_.valid()) ::unlink(path_.c_str());
}

Result<std::unique_ptr<ControlServer>> ControlServer::create(EventLoop& loop, Handler handler) {
  std::unique_ptr<ControlServer> server(new ControlServer(loop, std::move(handler)));
  auto timer = loop.make_timer([self = server.get()] { self->tend(); });
  if (!timer) return Error{timer.error()};
  server->timer_ = std::move(*timer);
  return server;
}

Result<void> ControlServer::listen(const std::string& path, bool& taken) {
  auto lock = take_lock(path, taken);
  if (!lock) return Error{lock.error()};
  auto listener = listen_on(path);
  if (!listener) return Error{listener.error()};
  path_ = path;
  lock_ = std::move(*lock);
  listener_ = std::move(*listener);
  auto source = loop_.watch_fd(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_some(); });
  if (!source) return Error{source.error()};
  listener_source_ = std::move(*source);
  return {};
}

Result<void> ControlServer::adopt(UniqueFd socket) {
  if (auto done = set_nonblocking(socket.get(), true); !done) return done;
  const auto connection =
      add(std::move(socket), {.uid = ::geteuid(), .pid = ::getpid(), .adopted = true});
  if (!connection) return Error{connection.error()};
  (*connection)->deadline = TimePoint::max();
  return {};
}

Result<ControlServer::Connection*> ControlServer::add(UniqueFd socket, const Client& client) {
  const std::uint64_t id = next_id_++;
  auto source = loop_.watch_fd(socket.get(), EPOLLIN,
                               [this, id](std::uint32_t events) { on_event(id, events); });
  if (!source) return Error{source.error()};
  Connection& connection = connections_[id];
  connection.client = client;
  connection.client.id = id;
  connection.deadline = Clock::now() + kIdle;
  connection.socket = std::move(socket);
  connection.source = std::move(*source);
  if (!timer_.armed()) timer_.arm(Clock::now() + kTend);
  return &connection;
}

void ControlServer::accept_some() {
  for (int i = 0; i < kAcceptedAtOnce; ++i) {
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.valid()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      // Out of descriptors or memory: again when some have gone, not at once and for ever.
      if (errno != EAGAIN) {
        listener_source_.set_events(0);
        timer_.arm(Clock::now() + kTend);
      }
      break;
    }
    ucred peer{};
    socklen_t size = sizeof peer;
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) continue;
    const auto connection = add(
        std::move(socket),
        {.uid = peer.uid, .pid = peer.pid, .may_act = peer.uid == 0 || peer.uid == ::geteuid()});
    if (!connection) continue;
    // Others must not keep out those who may act.
    if (connections_.size() > ((*connection)->client.may_act ? 2 : 1) * kMaxClients) {
      refuse(**connection, "expected at most " + std::to_string(kMaxClients) +
                               " clients at a time, found more: try again");
    }
  }
}

void ControlServer::on_event(std::uint64_t id, std::uint32_t events) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  Connection& connection = found->second;
  if (connection.waiting) {
    // Only that it has gone is looked at meanwhile.
    connection.over = (events & (EPOLLHUP | EPOLLERR)) != 0;
  } else if (!connection.ending && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    read(connection);
  }
  if (!connection.over) write(connection);
  if (connection.over) {  // a source must not go inside its own callback
    connection.source.stop();
    timer_.arm(Clock::now());
  }
}

void ControlServer::read(Connection& connection) {
  char bytes[4096];
  const ssize_t n =
      receive_with_fd(connection.socket.get(), bytes, sizeof bytes, connection.attached);
  if (!connection.client.may_act) connection.attached.reset();
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    // What it still wants to hear it may have closed only its own side for.
    connection.over = n < 0 || connection.output.empty();
    connection.ending = true;
    return;
  }
  connection.input.append(bytes, static_cast<std::size_t>(n));
  answer_lines(connection);
}

// One at a time: the next when the answer to this one is written.
void ControlServer::answer_lines(Connection& connection) {
  if (connection.ending || connection.waiting || !connection.output.empty()) return;
  const std::size_t end = connection.input.find('\n');
  if (end == std::string::npos) {
    if (connection.input.size() > kMaxLine) {
      refuse(connection, "expected a line of at most " + std::to_string(kMaxLine) +
                             " bytes, found no end of it");
    }
    return;
  }
  const std::string line = connection.input.substr(0, end);
  connection.input.erase(0, end + 1);
  carry_out(connection, line);
}

void ControlServer::carry_out(Connection& connection, std::string_view line) {
  const auto request = control_request_from_json(line);
  if (!request) {
    say(connection, {.error = "control: " + request.error()});
    return;
  }
  connection.client.attached = connection.attached.get();
  // The answer may come before the handler returns.
  connection.waiting = true;
  connection.deadline = TimePoint::max();
  if (const auto answer = handler_(*request, connection.client)) say(connection, *answer);
  connection.attached.reset();
}

void ControlServer::say(Connection& connection, const ControlAnswer& answer) {
  connection.waiting = false;
  connection.output = to_json(answer) + "\n";
  connection.sent = 0;
  connection.deadline = Clock::now() + kSlow;
}

void ControlServer::answer(std::uint64_t client, const ControlAnswer& answer) {
  const auto found = connections_.find(client);
  if (found == connections_.end() || !found->second.waiting) return;
  say(found->second, answer);
  found->second.source.set_events(EPOLLOUT);
}

void ControlServer::refuse(Connection& connection, const std::string& reason) {
  connection.input.clear();
  connection.output = to_json(ControlAnswer{.error = "control: " + reason}) + "\n";
  connection.sent = 0;
  connection.ending = true;
  connection.deadline = Clock::now() + kSlow;
  connection.source.set_events(EPOLLOUT);
}

void ControlServer::write(Connection& connection) {
  if (!connection.output.empty()) {
    const ssize_t n =
        ::send(connection.socket.get(), connection.output.data() + connection.sent,
               connection.output.size() - connection.sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
      connection.over = true;
      return;
    }
    if (n > 0) {
      connection.sent += static_cast<std::size_t>(n);
      connection.deadline = Clock::now() + kSlow;
    }
    if (connection.sent == connection.output.size()) {
      connection.output.clear();
      connection.deadline = connection.client.adopted ? TimePoint::max() : Clock::now() + kIdle;
      if (connection.ending) {
        connection.over = true;
        return;
      }
      answer_lines(connection);  // another line may be there already: its answer goes next time
    }
  }
  const std::uint32_t wanted = connection.output.empty() ? EPOLLIN : EPOLLOUT;
  connection.source.set_events(connection.waiting ? 0 : wanted);
}

void ControlServer::tend() {
  const TimePoint now = Clock::now();
  std::erase_if(connections_, [&](const auto& entry) {
    return entry.second.over || entry.second.deadline <= now;
  });
  if (listener_.valid()) listener_source_.set_events(EPOLLIN);
  if (!connections_.empty()) timer_.arm(now + kTend);
}

}  // namespace lope::supervisor
