// What a dead letter's headers tell: when and why it died, and where it goes back to. Knows those
// that Lope writes, those of the broker's own dead-lettering (x-death), and those of delayed
// messages that could not be delivered. Pure.
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cli/received.h"
#include "common/result.h"

namespace lope::cli {

struct Address {
  std::string exchange, routing_key;
  friend auto operator<=>(const Address&, const Address&) = default;
};

struct DeadLetter {
  std::string message_id;
  std::optional<std::int64_t> since_ms;  // 1970
  std::string code;    // one of kDeadLetterCodes; another that the broker gives; empty: not known
  std::string reason;  // for people
  std::optional<std::int64_t> attempts;  // made
  std::string queue;                     // the one it died in; empty: not known
  std::optional<Address> origin;         // where it was published to first
};

// Lope's, the broker's own, and that of a delayed message that could not be delivered.
inline constexpr std::string_view kDeadLetterCodes[] = {
    "rejected", "attempts", "crashes", "expired", "too-large",      "content-type",
    "encoding", "charset",  "schema",  "maxlen",  "delivery_limit", "undeliverable"};

DeadLetter dead_letter_of(const Received& message);

// {"number":…,"message_id":…,…}, without the last brace: more may follow.
std::string open_json(const DeadLetter& letter, std::uint64_t number, std::int64_t now_ms);

struct DeadLetterFilter {
  std::string reason = {};  // part of it
  std::string code = {}, id = {};
  std::optional<std::chrono::milliseconds> older = {}, newer = {};

  bool empty() const;
  // What is not known of a letter is not matched.
  bool matches(const DeadLetter& letter, std::int64_t now_ms) const;
};

enum class ReplayTo {
  origin,  // the exchange and the key it was published with first
  queue,   // straight to the queue it died in
  named,   // straight to a given queue
};

Result<Address> replay_address(const DeadLetter& letter, ReplayTo to, const std::string& queue);

}  // namespace lope::cli
