// The monitor: what it answers to whom. It only looks: nothing that comes over HTTP reaches the
// daemon but the wish to know how it is.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/event_loop.h"
#include "common/settings.h"
#include "monitor/daemon_link.h"
#include "monitor/http_server.h"
#include "monitor/journal_desk.h"
#include "monitor/metrics.h"

namespace lope::monitor {

class Monitor {
 public:
  // `journal`: the store that its page searches; empty: none.
  explicit Monitor(std::string journal) : journal_(std::move(journal)) {}

  // Serves until the link to the supervisor ends. Returns the exit code.
  int run();

 private:
  struct Waiting {
    std::uint64_t id;
    HttpRequest request;
  };

  Result<void> set_up();
  void on_request(std::uint64_t id, const HttpRequest& request);
  void on_answer();
  HttpAnswer answer_for(const HttpRequest& request);
  const std::string& metrics(MetricsFormat format);

  const std::string journal_;
  std::unique_ptr<EventLoop> loop_;
  EventSource reopen_source_;
  EventSource alive_timer_;
  std::unique_ptr<DaemonLink> link_;
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<JournalDesk> desk_;
  std::vector<Waiting> waiting_;         // for what the daemon says
  std::optional<std::string> texts_[2];  // by MetricsFormat, of what it said last
  bool done_ = false;
};

// The whole life of a lope-monitor process: takes what `lope run` has left in its descriptors.
int run_monitor();

}  // namespace lope::monitor
