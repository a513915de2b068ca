// `lope call`: sends a request and waits for its reply, which comes straight to this connection
// (RabbitMQ's direct reply-to): no queue is made for it.
#pragma once

#include <chrono>

#include "cli/publish.h"

namespace lope::cli {

struct CallOptions {
  PublishOptions request;  // its broker, target, body, headers and content type
  std::chrono::milliseconds timeout{5000};
  bool json = false;
};

// Writes the reply's body to standard output as it came, or with `json` one object. Returns the
// exit code: kExitOk for any reply, kExitTemporary when no broker could be logged in to,
// kExitFailed when there was none in time, or no queue takes the request.
int call(const CallOptions& options);

}  // namespace lope::cli
