// `lope publish`: sends messages and waits until the broker has confirmed each. A message counts
// only when a queue took it: one that comes back as unroutable, or is refused, is a failure.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/settings.h"

namespace lope::cli {

struct PublishOptions {
  std::vector<BrokerAddress> brokers;  // tried in this order; at least one

  std::string exchange;     // empty: the default exchange
  std::string routing_key;  // for the default exchange the queue's name

  // The body, or where it comes from.
  std::optional<std::string> body;
  std::string file = "-";   // without a body; "-": standard input
  bool lines = false;       // each line of the file is a message
  std::uint64_t count = 1;  // how often the one body is sent; not with lines
  bool numbered = false;    // "{n}" in a body is the message's number
  double rate = 0;          // messages a second; 0: as fast as it goes

  std::string content_type, content_encoding, correlation_id, reply_to, type, app_id, user_id,
      expiration;
  std::string message_id;  // empty: a UUID for each; several messages get "-1", "-2", … behind it
  int priority = -1;       // none
  std::optional<std::uint64_t> timestamp;  // none: now
  AmqpTable headers;
  bool persistent = true;
  bool mandatory = true;

  std::chrono::milliseconds timeout{30000};  // with no sign of life of the broker; 0: never give up
  bool json = false;
};

// "NAME=VALUE" is text; "NAME:TYPE=VALUE" with TYPE text, int, bool or double is of that type. On
// failure the text names what was expected and found.
Result<AmqpEntry> parse_header(std::string_view text);

// What AMQP or the broker would answer with the end of the connection: names that are too long,
// headers that fit no frame, an expiration that is no number of milliseconds.
Result<void> check(const PublishOptions& options);

// Publishes, writes the result to standard output and what went wrong to standard error, and
// returns the exit code: kExitOk only when every message was confirmed, kExitTemporary when no
// broker could be logged in to, kExitFailed otherwise. From the login on, SIGINT and SIGTERM stop
// the publishing; confirms that are still to come are waited for, until a second signal.
int publish(const PublishOptions& options);

}  // namespace lope::cli
