// What Lope writes into a message's headers so that its way is known wherever it comes next: which
// attempt it is, where it came from, where it is to go. Pure.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/link.h"
#include "common/settings.h"

namespace lope::consumer {

// Names of headers. Times are milliseconds since 1970.
namespace header {
// Of a message that is to be handled again.
inline constexpr std::string_view kAttempt = "x-lope-attempt";  // which one it will be
inline constexpr std::string_view kCrashes = "x-lope-crashes";  // workers that died with it
inline constexpr std::string_view kFirstSeen = "x-lope-first-seen";
inline constexpr std::string_view kExchange = "x-lope-exchange";  // where it was published to first
inline constexpr std::string_view kRoutingKey = "x-lope-routing-key";
inline constexpr std::string_view kHistory = "x-lope-history";  // a list of tables, see history()
inline constexpr std::string_view kExpires = "x-lope-expires";  // from when it is worth nothing
// On the delay ladder, and left in its place when it is delivered: when it was due.
inline constexpr std::string_view kDue = "x-lope-due";
// On the delay ladder only: where it goes when it is due.
inline constexpr std::string_view kToExchange = "x-lope-to-exchange";
inline constexpr std::string_view kToKey = "x-lope-to-key";
inline constexpr std::string_view kTransient = "x-lope-transient";    // there it need not persist
inline constexpr std::string_view kUnroutable = "x-lope-unroutable";  // there it may be dropped
inline constexpr std::string_view kExpiration = "x-lope-expiration";  // there; from then on
inline constexpr std::string_view kReason = "x-lope-reason";    // why it could not be delivered
inline constexpr std::string_view kFailing = "x-lope-failing";  // since when it could not
// Of a dead letter.
inline constexpr std::string_view kDeadReason = "x-lope-dead-reason";
inline constexpr std::string_view kDeadCode = "x-lope-dead-code";  // one of dead_code::
inline constexpr std::string_view kDeadTime = "x-lope-dead-time";
inline constexpr std::string_view kDeadQueue = "x-lope-dead-queue";
inline constexpr std::string_view kDeadGroup = "x-lope-dead-group";
inline constexpr std::string_view kDeadHandler = "x-lope-dead-handler";
inline constexpr std::string_view kDeadVersion = "x-lope-dead-version";
inline constexpr std::string_view kDeadFile = "x-lope-dead-file";  // the handler's
inline constexpr std::string_view kDeadHost = "x-lope-dead-host";
inline constexpr std::string_view kDeadAttempts = "x-lope-dead-attempts";  // made in all
inline constexpr std::string_view kDeadCrashes = "x-lope-dead-crashes";
// Of what a handler publishes.
inline constexpr std::string_view kParentId = "x-lope-parent-id";
inline constexpr std::string_view kTraceId = "x-lope-trace-id";
// Of a message that came without an id, where its way is told: the one that it goes by.
inline constexpr std::string_view kId = "x-lope-id";
// Not ours: when a broker with message_timestamp among its interceptors took the message.
inline constexpr std::string_view kTimestampMs = "timestamp_in_ms";

template <std::size_t A, std::size_t B>
constexpr std::array<std::string_view, A + B> joined(const std::array<std::string_view, A>& one,
                                                     const std::array<std::string_view, B>& other) {
  std::array<std::string_view, A + B> all{};
  std::copy(other.begin(), other.end(), std::copy(one.begin(), one.end(), all.begin()));
  return all;
}
// Those that a copy leaves behind: when it is delivered, when it has been on the ladder, when it is
// a dead letter, when that is handled anew.
inline constexpr std::array kOfTheLadder = {kToExchange, kToKey,  kTransient, kUnroutable,
                                            kExpiration, kReason, kFailing};
inline constexpr auto kOfATrip = joined(kOfTheLadder, std::array{kDue});
inline constexpr auto kOfTheLiving =
    joined(kOfATrip, std::array{kAttempt, kCrashes, kExpires, kFirstSeen});
inline constexpr auto kOfTheDead =
    joined(kOfTheLiving, std::array{kHistory, kDeadReason, kDeadCode, kDeadTime, kDeadQueue,
                                    kDeadGroup, kDeadHandler, kDeadVersion, kDeadFile, kDeadHost,
                                    kDeadAttempts, kDeadCrashes});
}  // namespace header

// Why a message is a dead letter.
namespace dead_code {
inline constexpr std::string_view kRejected = "rejected";
inline constexpr std::string_view kAttempts = "attempts";
inline constexpr std::string_view kCrashes = "crashes";
inline constexpr std::string_view kTooLarge = "too-large";
inline constexpr std::string_view kExpired = "expired";
inline constexpr std::string_view kContentType = "content-type";
inline constexpr std::string_view kEncoding = "encoding";
inline constexpr std::string_view kCharset = "charset";
inline constexpr std::string_view kSchema = "schema";
}  // namespace dead_code

// Those of the headers above that a consumer goes by. Views of the headers.
struct Travel {
  std::uint32_t attempt = 1;
  std::uint32_t crashes = 0;
  std::uint64_t first_seen_ms = 0;  // 0: now
  std::uint64_t expires_ms = 0;     // 0: never
  std::uint64_t due_ms = 0;
  std::uint64_t expiration_ms = 0;
  std::uint64_t failing_ms = 0;  // since when it could not be delivered; 0: it was not tried
  std::uint64_t timestamp_ms = 0;
  bool transient = false;
  bool may_be_unroutable = false;
  // A broker has dead-lettered it since Lope has written the rest: none of that counts any more.
  // Every copy of ours goes out without the broker's own headers about that.
  bool has_died = false;
  bool has_origin = false;
  std::string_view exchange, routing_key;  // when has_origin
  bool has_destination = false;
  std::string_view to_exchange, to_key;  // when has_destination
};

// `headers` are packed by HeaderWriter. What is not of its kind counts as not there.
Travel travel_of(std::string_view headers);

// Since when a message that is delivered for the first time has been in its queue: since it was
// due, if it was delayed; since the broker took it, if that says so; otherwise since the
// publisher's `timestamp` (seconds since 1970). In milliseconds since 1970; 0: not known, also of a
// dead letter.
std::uint64_t in_queue_since_ms(const Travel& travel, std::uint64_t timestamp);

// A way over the delay ladder, and what becomes of the message at its end.
struct Trip {
  std::uint64_t due_ms = 0;
  std::string_view exchange, routing_key;  // where it goes then
  bool transient = false;                  // there it need not persist
  bool may_be_unroutable = false;          // there it may be dropped
  std::uint64_t expiration_ms = 0;         // there, from when it is due; 0: none
};
// Adds what travel_of() finds on the other side.
void add_trip(AmqpTable& headers, const Trip& trip);

inline constexpr std::size_t kHistoryKept = 10;

struct Attempt {
  std::uint32_t number = 1;
  std::uint64_t time_ms = 0;
  std::string worker;  // "orders/0 on host7"
  std::string reason;
};

// The history among these headers (of decode_headers()) with one attempt more; the oldest go.
AmqpArray history(const AmqpTable& headers, const Attempt& attempt);

// <queue>.dead, where a group's dead letters are when there is nowhere else to send them.
std::string parking_queue(const std::string& queue);

}  // namespace lope::consumer
