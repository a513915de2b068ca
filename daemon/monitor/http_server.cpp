#include "monitor/http_server.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace lope::monitor {

namespace {

constexpr std::size_t kMaxHead = 16 * 1024;
constexpr std::size_t kMaxConnections = 64;
constexpr int kAcceptedAtOnce = 16;
// For a request to be whole, for the next one to begin, for an answer to be read.
constexpr std::chrono::seconds kHeadLimit{10};
constexpr std::chrono::seconds kIdleLimit{90};
constexpr std::chrono::seconds kWriteLimit{30};
constexpr std::chrono::seconds kTend{1};

}  // namespace

HttpServer::HttpServer(EventLoop& loop, int listener, Handler handler)
    : loop_(loop), listener_(listener), handler_(std::move(handler)) {}

Result<std::unique_ptr<HttpServer>> HttpServer::create(EventLoop& loop, int listener,
                                                       Handler handler) {
  std::unique_ptr<HttpServer> server(new HttpServer(loop, listener, std::move(handler)));
  HttpServer* const self = server.get();
  auto source = loop.watch_fd(listener, EPOLLIN, [self](std::uint32_t) { self->accept_some(); });
  if (!source) return Error{source.error()};
  self->listener_source_ = std::move(*source);
  auto timer = loop.make_timer([self] { self->tend(); });
  if (!timer) return Error{timer.error()};
  self->timer_ = std::move(*timer);
  return server;
}

void HttpServer::accept_some() {
  for (int i = 0; i < kAcceptedAtOnce; ++i) {
    UniqueFd socket(::accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.valid()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      // Out of descriptors or memory: again when some have gone, not at once and for ever.
      if (errno != EAGAIN) {
        listener_source_.set_events(0);
        timer_.arm(Clock::now() + kTend);
      }
      return;
    }
    make_room();
    const std::uint64_t id = next_id_++;
    auto source = loop_.watch_fd(socket.get(), EPOLLIN,
                                 [this, id](std::uint32_t events) { on_event(id, events); });
    if (!source) continue;
    Connection& connection = connections_[id];
    connection.socket = std::move(socket);
    connection.source = std::move(*source);
    connection.since = Clock::now();
    if (!timer_.armed()) timer_.arm(Clock::now() + kTend);
  }
}

// Goes who has been at the same thing for the longest time: an idle client, or one that stalls.
void HttpServer::make_room() {
  if (connections_.size() < kMaxConnections) return;
  connections_.erase(std::ranges::min_element(
      connections_, {}, [](const auto& entry) { return entry.second.since; }));
}

void HttpServer::on_event(std::uint64_t id, std::uint32_t events) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  Connection& connection = found->second;
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) return drop(connection);
  if (connection.phase == Phase::reading) {
    read(id, connection);
  } else if (connection.phase == Phase::writing) {
    write(id, connection);
  }
}

void HttpServer::read(std::uint64_t id, Connection& connection) {
  char bytes[4096];
  const ssize_t n = ::recv(connection.socket.get(), bytes, sizeof bytes, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return drop(connection);
  if (connection.input.empty()) connection.since = Clock::now();
  connection.input.append(bytes, static_cast<std::size_t>(n));
  take_request(id, connection);
}

void HttpServer::take_request(std::uint64_t id, Connection& connection) {
  // An empty line may stand before a request.
  const std::size_t begin = connection.input.find_first_not_of("\r\n");
  connection.input.erase(0, std::min(begin, connection.input.size()));
  const std::size_t length = head_length(connection.input);
  if (std::min(length, connection.input.size()) > kMaxHead) {
    return refuse(connection, 431,
                  "expected at most " + std::to_string(kMaxHead) + " bytes of headers, found more");
  }
  if (length == std::string::npos) return;
  const auto request = parse_request(std::string_view(connection.input).substr(0, length));
  if (!request) return refuse(connection, 400, request.error());
  connection.input.erase(0, length);
  connection.head_only = request->method == "HEAD";
  connection.keep_alive = request->keep_alive;
  enter(connection, Phase::waiting);
  handler_(id, *request);
}

void HttpServer::refuse(Connection& connection, int status, const std::string& reason) {
  connection.head_only = false;
  connection.keep_alive = false;  // where the next request begins is not known
  send(connection, {.status = status, .body = reason + "\n"});
}

void HttpServer::answer(std::uint64_t id, const HttpAnswer& answer) {
  const auto found = connections_.find(id);
  if (found == connections_.end() || found->second.over) return;
  send(found->second, answer);
}

// What the socket does not take at once goes when it takes more.
void HttpServer::send(Connection& connection, const HttpAnswer& answer) {
  connection.output = to_bytes(answer, !connection.head_only, connection.keep_alive);
  connection.sent = 0;
  enter(connection, Phase::writing);
}

void HttpServer::write(std::uint64_t id, Connection& connection) {
  const ssize_t n = ::send(connection.socket.get(), connection.output.data() + connection.sent,
                           connection.output.size() - connection.sent, MSG_NOSIGNAL);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n < 0) return drop(connection);
  connection.sent += static_cast<std::size_t>(n);
  if (connection.sent < connection.output.size()) return;
  connection.output = {};
  if (!connection.keep_alive) {
    // Closed with unread input, the connection would be reset, and the answer lost with it.
    ::shutdown(connection.socket.get(), SHUT_WR);
    char rest[64 * 1024];
    [[maybe_unused]] const ssize_t unread = ::recv(connection.socket.get(), rest, sizeof rest, 0);
    return drop(connection);
  }
  enter(connection, Phase::reading);
  if (!connection.input.empty()) take_request(id, connection);  // it was sent ahead
}

void HttpServer::enter(Connection& connection, Phase phase) {
  connection.phase = phase;
  connection.since = Clock::now();
  switch (phase) {
    case Phase::reading: connection.source.set_events(EPOLLIN); break;
    case Phase::waiting: connection.source.set_events(0); break;
    case Phase::writing: connection.source.set_events(EPOLLOUT); break;
  }
}

// A source must not go inside its own callback.
void HttpServer::drop(Connection& connection) {
  connection.over = true;
  connection.source.stop();
  timer_.arm(Clock::now());
}

void HttpServer::tend() {
  const TimePoint now = Clock::now();
  std::erase_if(connections_, [&](const auto& entry) {
    const Connection& connection = entry.second;
    const bool idle = connection.phase == Phase::reading && connection.input.empty();
    const auto spent = now - connection.since;
    return connection.over || (idle && spent > kIdleLimit) ||
           (connection.phase == Phase::writing && spent > kWriteLimit);
  });
  for (auto& [id, connection] : connections_) {
    if (connection.phase == Phase::reading && !connection.input.empty() &&
        now - connection.since > kHeadLimit) {
      refuse(connection, 408, "expected a whole request within 10 s, found none");
    }
  }
  listener_source_.set_events(EPOLLIN);
  if (!connections_.empty()) timer_.arm(now + kTend);
}

}  // namespace lope::monitor
