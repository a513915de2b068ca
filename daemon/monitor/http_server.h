// The connections of the monitor: one thread, no waiting for anybody. Who connects can harm nobody:
// requests, connections and times are bounded, and a newcomer is served whoever else stalls.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/event_loop.h"
#include "common/fd.h"
#include "monitor/http.h"

namespace lope::monitor {

class HttpServer {
 public:
  // Gets each request, and calls answer() for it, then or later.
  using Handler = std::function<void(std::uint64_t id, const HttpRequest& request)>;

  // `listener` is a socket that listens, and does not block.
  static Result<std::unique_ptr<HttpServer>> create(EventLoop& loop, int listener, Handler handler);
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Nothing happens when that client has gone.
  void answer(std::uint64_t id, const HttpAnswer& answer);

 private:
  enum class Phase { reading, waiting, writing };
  struct Connection {
    UniqueFd socket;
    Phase phase = Phase::reading;
    std::string input;
    std::string output;
    std::size_t sent = 0;
    bool head_only = false;
    bool keep_alive = false;
    bool over = false;  // to be taken away
    TimePoint since;    // it has been in its phase
    EventSource source;
  };

  HttpServer(EventLoop& loop, int listener, Handler handler);
  void accept_some();
  void make_room();
  void on_event(std::uint64_t id, std::uint32_t events);
  void read(std::uint64_t id, Connection& connection);
  void take_request(std::uint64_t id, Connection& connection);
  void refuse(Connection& connection, int status, const std::string& reason);
  void send(Connection& connection, const HttpAnswer& answer);
  void write(std::uint64_t id, Connection& connection);
  void enter(Connection& connection, Phase phase);
  void drop(Connection& connection);
  void tend();

  EventLoop& loop_;
  const int listener_;
  Handler handler_;
  EventSource listener_source_;
  EventSource timer_;
  std::uint64_t next_id_ = 0;
  std::map<std::uint64_t, Connection> connections_;
};

}  // namespace lope::monitor
