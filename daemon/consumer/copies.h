// What a consumer publishes: for its handlers, and copies of messages that go round again or are
// given up. Pure: settings and a delivery in, something for the Publisher out.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/scoreboard.h"
#include "common/settings.h"
#include "consumer/delivery_table.h"
#include "consumer/publisher.h"
#include "consumer/travel.h"

namespace lope::consumer {

// Outbound::kind.
enum class CopyKind : int {
  publication,
  retry,
  waiting,
  dead_letter,
  parking,
  due,
  again,
  undeliverable
};

// To those who are told of it: "publication", "retry", "waiting", "dead_letter", and where it goes
// in the end, from the delay ladder too. Views of `outbound`.
std::string_view kind_name(const Outbound& outbound);
struct Destination {
  std::string_view exchange, routing_key;
};
Destination destination_of(const Outbound& outbound);

// What earlier attempts have left in the headers of `view`, which has no queue and no body yet. The
// handler sees where the message was first published to, wherever it has been since. Returns since
// when it is in its queue; see in_queue_since_ms().
std::uint64_t take_travel(DeliveryView& view, Delivery& delivery);

// Whose work it is, as dead letters and histories name it.
struct Author {
  std::string group, handler, version, file, host;
};

// `payload`: of a publish frame of a worker.
Result<std::unique_ptr<Outbound>> publication_for(const DelaySettings& delays, std::string payload);

// The headers of Lope's that a message for another attempt has. `known`: those that it has now.
AmqpTable retry_headers(const Delivery& delivery, const DeliveryView& view, const AmqpTable& known,
                        std::uint32_t crashes, const Attempt& attempt);

// The message for another attempt, after `delay`, straight to its queue when that is 0.
std::unique_ptr<Outbound> retry_copy(const DelaySettings& delays, const Delivery& delivery,
                                     const std::string& queue, std::chrono::milliseconds delay,
                                     std::uint32_t crashes, const Attempt& attempt);

// The message as it is, for the same attempt, after `delay`.
std::unique_ptr<Outbound> waiting_copy(const DelaySettings& delays, const Delivery& delivery,
                                       const std::string& queue, std::chrono::milliseconds delay);

struct DeadLetter {
  std::string_view code;  // one of dead_code::
  std::string reason;
  std::uint32_t attempts = 0;  // made
  std::uint32_t crashes = 0;
};
// What a worker's word for it is; of a Refusal that is none, kEncoding.
std::string_view code_of(Refusal refusal);
// To where the group's settings say; with `parking` to <queue>.dead.
std::unique_ptr<Outbound> dead_letter_copy(const DeadLetterSettings& settings, bool parking,
                                           const Delivery& delivery, const std::string& queue,
                                           const DeadLetter& letter, const Author& author,
                                           const Attempt& attempt);

// A copy that could not be published is to go another way. Too large for a frame: without its
// history, a dead letter then without the headers that say why, and what the relay could not
// deliver without the reason. Otherwise a dead letter goes to where its settings say without
// declaring that, then to <queue>.dead; there, without declaring the queue. False: there is no
// other way.
bool next_best(Outbound& copy, Fate fate, const std::string& queue);

// ---- What left the delay ladder
// To where it is to go. `left_ms`: its expiration there; 0: none.
std::unique_ptr<Outbound> due_copy(const Delivery& delivery, std::uint64_t left_ms);
// Into the ladder once more.
std::unique_ptr<Outbound> again_copy(const DelaySettings& delays, const Delivery& delivery,
                                     const std::string& reason);
// To the queue for what cannot be delivered.
std::unique_ptr<Outbound> undeliverable_copy(const DelaySettings& delays, const Delivery& delivery,
                                             const std::string& reason);

// The requests after which what Outbound::need names is there.
std::vector<Request> steps_for(const std::string& need, const DelaySettings& delays,
                               const DeadLetterSettings& dead_letter, bool quorum_parking);

}  // namespace lope::consumer
