// What the daemon says of itself, asked for over the link to the supervisor; kept for a moment, so
// that many who look cost the supervisor one answer.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/event_loop.h"
#include "common/status.h"

namespace lope::monitor {

class DaemonLink {
 public:
  struct Events {
    // What was wanted is there, or did not come in time: latest() is an error then.
    std::function<void()> on_answer;
    // The link is closed, or broken: there is no daemon any more.
    std::function<void(const std::string& reason)> on_end;
  };

  // `socket`: connected to a control server, and the caller's.
  static Result<std::unique_ptr<DaemonLink>> create(EventLoop& loop, int socket, Events events);
  DaemonLink(const DaemonLink&) = delete;
  DaemonLink& operator=(const DaemonLink&) = delete;

  // latest() is young enough.
  bool fresh() const;
  // Asks, unless it waits for an answer already.
  void want();
  // Says that we live. The supervisor takes one that is silent for long to hang.
  void say_alive();
  const Result<DaemonMetrics>& latest() const { return latest_; }

 private:
  DaemonLink(EventLoop& loop, int socket, Events events);
  void read();
  void take(Result<DaemonMetrics> answer);
  void end(const std::string& reason);

  const int socket_;
  Events events_;
  Result<DaemonMetrics> latest_ = Error{"nothing was asked yet"};
  TimePoint latest_at_{};
  bool asked_ = false;   // an answer is to come
  bool wanted_ = false;  // and it is waited for
  bool alive_ = false;   // only to say_alive()
  bool ask(std::string_view request);
  std::string input_;
  EventSource source_;
  EventSource timer_;
};

}  // namespace lope::monitor
