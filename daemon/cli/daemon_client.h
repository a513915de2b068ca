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
  // What it answers at once should be there by then.
  static constexpr std::chrono::seconds kAnswer{10};

  // `socket` empty: where daemons usually have it. Errors say which places were tried.
  static Result<DaemonClient> connect(const std::string& socket);

  // One request, one answer. An answer that is an error is one here, too. `limit`: how long the
  // daemon may take. `attached`: a descriptor that goes with it; -1: none.
  Result<ControlAnswer> ask(const ControlRequest& request, std::chrono::seconds limit = kAnswer,
                            int attached = -1);
  // Until the daemon has ended; false: it has not in time.
  bool wait_end(std::chrono::milliseconds limit) const;

 private:
  explicit DaemonClient(UniqueFd socket);

  UniqueFd socket_;
  UniqueFd daemon_;  // its process
  std::string input_;
};

}  // namespace lope::cli
