// The messages that handlers of this worker work on: those of running calls, and those they keep
// (LOPE_HOLD) until somebody settles them.
#pragma once

#include <lope/handler.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/link.h"
#include "common/scoreboard.h"
#include "worker/inbox.h"
#include "worker/link_writer.h"

namespace lope::worker {

// One message, and what it lies in; reached from lope_message::host_data. Stays where it is.
struct MessageRecord {
  lope_message message{};
  DeliveryView view;
  std::uint64_t sequence = 0;
  std::uint64_t started_ns = 0;  // when its handler was called
  std::uint32_t thread = 0;      // whose handler
  bool handed_back = false;      // held, but its consumer has it again: after a drain, or a timeout
  std::string explanation;       // of explain(); kept between messages for its memory
  std::uint64_t retry_after_ms = kByPolicy;
  std::uint64_t kept_alive_ns = 0;  // held: when the consumer was last told so; 0: never
  // Whole publish frames, sent if the message is acked; kept between messages for their memory.
  ByteBuffer publications;
  std::uint32_t publication_count = 0;
  // What its handler sees in the place of what came; kept between messages for their memory.
  ByteBuffer own_body;
  std::string own_content_type;
  Inbox::Lease lease;

  // What is to be known of delivery `sequence_`, and nothing done about it yet.
  void begin(const DeliveryView& view_, std::uint64_t sequence_);
  // Takes the delivery that `lease` holds. A frame that does not decode aborts: it is our own
  // fault.
  void take(const Inbox::Lease& lease);
  // Large memory is given back.
  void drop_publications();
  // Takes over what was published, explained and asked for in `from`, after its own.
  void add_effects(const MessageRecord& from);
  bool has_effects() const;
};

// Sends what goes before the outcome: the publications of an ack, the explanation of another.
// Returns the flags that say so in the outcome's entry.
std::uint32_t send_before_outcome(MessageRecord& record, lope_outcome outcome, LinkWriter& link);

class HeldMessages {
 public:
  HeldMessages(WorkerBoard& board, LinkWriter& link, Inbox& inbox, int threads);

  // [handler] A record that is not in use.
  std::unique_ptr<MessageRecord> take_spare();
  // [handler] Its handler has returned LOPE_HOLD: reports that. `duration_ns`: of the call.
  void hold(std::unique_ptr<MessageRecord> record, std::uint64_t duration_ns);
  // [handler] Its handler's call is over, and has not kept it: what other threads have done for it
  // until now is added to the record, unless one has settled it.
  void take_effects(MessageRecord& record);
  // [handler] The call about these deliveries has ended, and is no longer in its slot: what was
  // settled during it without being held was settled for nothing.
  void call_ended(std::uint64_t first, std::uint64_t last);

  // [any thread] As lope_host::settle().
  lope_status settle(std::uint64_t id, lope_outcome outcome);
  // [any thread] As lope_host::keep_alive(), of a held message, and of another thread's call.
  lope_status keep_alive(const lope_message* message);
  // [any thread] The consumer has taken this one away, if it is still held: says so. The memory
  // stays until the handler settles it all the same.
  void revoke(std::uint64_t id);
  // [any thread] Runs f(record) if the message is held: then it cannot be settled meanwhile. If a
  // call is about it still, f gets a record that stands in for it, and what f does to that counts
  // once the handler has returned.
  template <typename F>
  bool with(const lope_message* message, F f) {
    const std::lock_guard<std::mutex> lock(mutex_);
    MessageRecord* const record = find(*message);
    if (record != nullptr) f(*record);
    return record != nullptr;
  }

  // [handler] How many this thread's handler holds.
  std::size_t count(std::uint32_t thread);
  // [handler] What this thread's handler still holds is the broker's again; says so. The memory
  // stays until the handler settles it all the same.
  void hand_back(std::uint32_t thread);

 private:
  // What another thread did about a message before its handler's call has returned LOPE_HOLD.
  struct Early {
    std::optional<lope_outcome> outcome;
    std::unique_ptr<MessageRecord> effects;  // of publish(), explain(), retry_after()
  };

  std::unique_ptr<MessageRecord> spare_record();
  bool is_running(std::uint64_t id) const;
  MessageRecord* find(const lope_message& message);
  Early& early(std::uint64_t id);
  void forget_early(std::unordered_map<std::uint64_t, Early>::iterator entry);
  void report(MessageRecord& record, lope_outcome outcome);
  void put_away(std::unique_ptr<MessageRecord> record);

  WorkerBoard& board_;
  LinkWriter& link_;
  Inbox& inbox_;
  const std::size_t threads_;
  std::mutex mutex_;  // guards the rest, and the order of reports about held messages
  std::unordered_map<std::uint64_t, std::unique_ptr<MessageRecord>> held_;
  std::unordered_map<std::uint64_t, Early> early_;
  std::atomic<std::size_t> early_count_ = 0;
  std::vector<std::unique_ptr<MessageRecord>> spare_;
};

}  // namespace lope::worker
