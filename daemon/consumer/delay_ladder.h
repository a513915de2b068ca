// Delays on the broker, without a plugin: a ladder of queues, each of which holds a message for
// twice as long as the one below it. A message goes in at the level of its delay's highest bit and
// comes down, resting at the levels whose bits are set, into one queue from which relays take it.
// Pure.
//
// Every queue is a quorum queue that hands on what has expired at least once, so nothing on the way
// is lost with a node. Only the one queue at the end hangs on the ladder: a full or missing
// destination would otherwise hold up everybody else's messages (the broker's own worker for this
// has few places and tries again rarely).
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "consumer/connection.h"

namespace lope::consumer {

// The unit and the number of levels are part of the names: another ladder is another set of queues.
inline constexpr std::chrono::milliseconds kLadderUnit{125};
inline constexpr int kLadderLevels = 31;
// 8.5 years.
inline constexpr std::chrono::milliseconds kLongestDelay =
    kLadderUnit * ((std::int64_t{1} << kLadderLevels) - 1);

// Can a broker of this version ("3.10.8") carry it? What says no version is taken for one that can.
bool has_delay_ladder(std::string_view broker_version);

struct LadderEntry {
  int level = 0;
  std::string exchange, routing_key;
};

// Where to publish what is to come out after `delay`, which is more than 0; never earlier, and as
// far as the unit goes up to kLadderUnit later. A longer one than kLongestDelay is cut to that.
LadderEntry ladder_entry(std::string_view prefix, std::chrono::milliseconds delay);

// What has to be declared for an entry at `level`, lowest level first.
std::vector<Request> ladder_steps(std::string_view prefix, int level);
// The end of the ladder: where what is due comes out, and where what cannot be delivered ends.
std::vector<Request> ladder_end_steps(std::string_view prefix);

std::string due_name(std::string_view prefix);            // exchange and queue
std::string undeliverable_name(std::string_view prefix);  // exchange and queue

}  // namespace lope::consumer
