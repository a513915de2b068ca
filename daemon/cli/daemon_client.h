// A running daemon, asked over its control socket (common/status.h).
#pragma once

#include <chrono>
#include <string>

#include "common/fd.h"
#include "common/result.h"
#include "common/status.h"

namespace lope::cli {

class DaemonClient {
 public:
  // `socket` empty: where daemons usually have it. Errors say which places were tried.
  static Result<DaemonClient> connect(const std::string& socket);

  // One request, one answer. An answer that is an error is one here, too. Waits 10 s at most.
  Result<ControlAnswer> ask(const ControlRequest& request);
  // Until the daemon has ended; false: it has not in time.
  bool wait_end(std::chrono::milliseconds limit) const;

 private:
  explicit DaemonClient(UniqueFd socket);

  UniqueFd socket_;
  UniqueFd daemon_;  // its process
  std::string input_;
};

}  // namespace lope::cli
