// `lope publish`: sends messages and waits until the broker has confirmed each. A message counts
// only when a queue took it: one that comes back as unroutable, or is refused, is a failure. With a
// delay or a time they go onto the delay ladder, from which a running daemon's relay takes them.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/bodies.h"
#include "common/result.h"
#include "common/settings.h"

namespace lope::cli {

struct PublishOptions : BodySource {
  BrokerSettings broker;  // its addresses are tried in their order

  std::string exchange;     // empty: the default exchange
  std::string routing_key;  // for the default exchange the queue's name

  bool numbered = false;  // "{n}" in a body is the message's number
  std::string compress;   // one of kCompressions, where that makes a body smaller; empty: none
  double rate = 0;        // messages a second; 0: as fast as it goes

  // When they are to be delivered, one of the two at most; neither: at once.
  std::chrono::milliseconds delay{0};
  std::optional<std::int64_t> at_ms;  // since 1970; what is past is at once
  std::string delay_prefix = DelaySettings{}.prefix;

  std::string content_type, content_encoding, correlation_id, reply_to, type, app_id, user_id;
  std::string expiration;  // milliseconds, from when it is due
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
// headers that fit no frame, an expiration that is no number of milliseconds, a delay that is
// longer than the ladder.
Result<void> check(const PublishOptions& options);

// Publishes, writes the result to standard output and what went wrong to standard error, and
// returns the exit code: kExitOk only when every message was confirmed, kExitTemporary when no
// broker could be logged in to, kExitFailed otherwise. From the login on, SIGINT and SIGTERM stop
// the publishing; confirms that are still to come are waited for, until a second signal.
int publish(const PublishOptions& options);

}  // namespace lope::cli
