// The requests that bring one queue's channel from nothing to consuming. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/settings.h"
#include "consumer/connection.h"

namespace lope::consumer {

// In order; each is sent when the one before it was answered. `channel_open`: the channel is open
// already (the broker cancelled only the consumer).
std::vector<Request> subscription_steps(const QueueSettings& queue, bool channel_open);

// A second consumer on a stream, to be asked for behind one that goes on at an offset where a
// message is known to be: it gets the stream's last part. When that comes and nothing for the first
// one has, the stream ends before that offset, and the broker would wait in silence until it does
// not.
inline constexpr std::string_view kLookoutTag = "lope-end-of-stream";
void add_lookout(std::vector<Request>& steps, const QueueSettings& stream);

// The requests after which what was settled on this channel has come to the queue, so that it can
// be closed. A channel keeps settlements for a quorum queue to itself while 32 and more are on
// their way through the queue's log, and forgets them when it is closed (rabbit_fifo_client.erl). A
// consumer that comes and goes takes the same way: when it has come the channel has heard of those
// before it and sent the rest, and its going comes behind that. Both are answered before they are
// done, so a request that the channel answers itself is the last. It asks for no message: up
// to 3.13 by x-credit; later brokers, which do not know that, may hand it one if no other consumer
// has room for it.
std::vector<Request> ack_barrier(const std::string& queue);

// What only the queue itself can answer, on a channel of its own: again a consumer that comes and
// goes. Not for streams, and only of brokers with which it surely gets no message.
std::vector<Request> queue_check_steps(const std::string& queue, bool channel_open);
bool has_queue_check(std::string_view broker_version);

}  // namespace lope::consumer
