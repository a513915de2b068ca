// The control socket: a Unix stream socket on which each side says one line of JSON at a time
// (status.h). Who connects can harm nobody: lines, answers and clients are bounded, and nothing
// here waits for anybody.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/event_loop.h"
#include "common/fd.h"
#include "common/status.h"

namespace lope::supervisor {

class ControlServer {
 public:
  // Who asks, by the kernel's word (SO_PEERCRED).
  struct Client {
    std::uint64_t id = 0;
    uid_t uid = 0;
    pid_t pid = 0;
    bool may_act = false;  // root, or our own user; others may look
    bool adopted = false;  // by adopt()
    int attached = -1;     // the descriptor that came with the request; not the handler's to keep
  };
  // Nothing: the answer comes later, by answer().
  using Handler = std::function<std::optional<ControlAnswer>(const ControlRequest&, const Client&)>;

  static Result<std::unique_ptr<ControlServer>> create(EventLoop& loop, Handler handler);
  // Serves on `path`, made anew with mode 0660; `<path>.lock` is locked as long as we live. A
  // socket that a dead daemon has left is taken over. Errors: another daemon serves there, the path
  // is too long, or the folder cannot be written to. `taken`: it was the first of these.
  Result<void> listen(const std::string& path, bool& taken);
  // Serves a connected stream socket too, to which nobody else has the other end. Who is there may
  // only look, and be silent as long as it likes.
  Result<void> adopt(UniqueFd socket);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // To a client that has been waiting for it; nobody hears it when that has gone.
  void answer(std::uint64_t client, const ControlAnswer& answer);

 private:
  struct Connection {
    UniqueFd socket;
    Client client;
    std::string input;
    std::string output;
    std::size_t sent = 0;
    UniqueFd attached;
    bool waiting = false;  // for an answer that comes later
    bool ending = false;   // closed when its output is written
    bool over = false;     // to be taken away
    TimePoint deadline;    // to say something, or to take what we say
    EventSource source;
  };

  ControlServer(EventLoop& loop, Handler handler);
  void accept_some();
  Result<Connection*> add(UniqueFd socket, const Client& client);
  void on_event(std::uint64_t id, std::uint32_t events);
  void read(Connection& connection);
  void answer_lines(Connection& connection);
  void carry_out(Connection& connection, std::string_view line);
  static void say(Connection& connection, const ControlAnswer& answer);
  void write(Connection& connection);
  void refuse(Connection& connection, const std::string& reason);
  void tend();

  EventLoop& loop_;
  std::string path_;
  Handler handler_;
  UniqueFd lock_;
  UniqueFd listener_;
  EventSource listener_source_;
  EventSource timer_;
  std::uint64_t next_id_ = 0;
  std::map<std::uint64_t, Connection> connections_;
};

}  // namespace lope::supervisor
