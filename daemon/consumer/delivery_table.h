// The deliveries a consumer has and the broker still waits for. Keeps each as the frame that goes
// to a worker, until it is settled: a dead worker's deliveries go to another from here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/link.h"
#include "consumer/body_store.h"
#include "consumer/trace_context.h"
#include "consumer/travel.h"

namespace lope::consumer {

struct Delivery {
  enum class State : std::uint8_t {
    free,
    receiving,  // its body is not complete
    claiming,   // asks whether it may run, or waits for another with its key; see dedup.h
    waiting,    // for a worker
    at_worker,
    held,        // at a worker whose handler keeps it
    suspect,     // one of several that a worker died with: waits to be run alone
    noting,      // done: waits for that to be noted
    publishing,  // waits for the confirms of what was published for it, or of its own copy
    delayed,     // to be handed back for another attempt when due
    behind,      // another of its key; see order.h
    resting,     // for another attempt, here, when due
  };

  std::uint32_t index = 0;
  State state = State::free;
  bool settled = false;     // auto_ack: the broker has been told already
  std::uint16_t queue = 0;  // which of the group's
  std::uint64_t epoch = 0;  // of the channel it came on
  std::uint64_t tag = 0;
  std::uint64_t sequence = 0;  // of the present hand-over to a worker; 0: none
  int worker = -1;             // slot of the pool, while at_worker or held
  int ran_at = -1;             // the latest such slot
  int ran_by = -1;             // what that had loaded: one of the WorkerPool's handlers
  int batch = -1;              // WorkerProcess's: which of its batches it is in; -1: alone
  TimePoint since;             // while waiting for a batch to fill: since then
  TimePoint due;               // while delayed or resting; no attempt before
  TimePoint arrived;
  TimePoint alive;  // while held: since then its timeout runs
  // For the journal and for spans (the Witness's): when its handler began and ended, as far as that
  // is known, and what has been told of it.
  TimePoint began{}, ended{};
  enum class Told : std::uint8_t { nothing, received, handled };
  Told told = Told::nothing;
  DeliveryTrace trace;
  bool redelivered = false;
  bool alone = false;             // a suspect: no other with it in its worker
  bool late = false;              // inside a call that was ended for its timeout
  std::uint32_t attempt = 1;      // which one this is
  std::uint32_t crashes = 0;      // workers that it has taken down before
  std::uint32_t unconfirmed = 0;  // while publishing
  std::vector<Attempt> earlier;   // made here, of which its headers do not tell; oldest first
  std::uint64_t body_size = 0;
  std::uint64_t first_seen_ms = 0;
  std::uint64_t expires_ms = 0;  // 0: never
  // Of a stream.
  std::int64_t offset = -1;    // in it; -1: of no stream, or of one that is gone
  bool only_compared = false;  // with what had this offset before; settled or in hand elsewhere
  std::uint64_t print = 0;     // begun, see begin_print()
  char* body_at = nullptr;     // while receiving
  ByteBuffer frame;
  ByteBuffer properties;               // as they came; for a copy
  BodyStore::Segment* body = nullptr;  // where a large one is; otherwise it is in the frame
};

// All of its body, wherever that is; `view` is that of its frame. Valid as long as the frame.
inline std::string_view body_of(const Delivery& delivery, const DeliveryView& view) {
  return delivery.body != nullptr ? std::string_view(delivery.body->data, view.segment_body_size)
                                  : view.body;
}

class DeliveryTable {
 public:
  Delivery& allocate();
  // Gives a large frame's memory back to the system.
  void free(Delivery& delivery);
  // Only its message's memory: it will not be handed over again.
  void drop_message(Delivery& delivery);
  BodyStore& bodies() { return bodies_; }
  Delivery& at(std::uint32_t index) { return *all_[index]; }
  const Delivery& at(std::uint32_t index) const { return *all_[index]; }
  // Names this hand-over: higher than every sequence before, and finds the delivery again.
  std::uint64_t new_sequence(Delivery& delivery);
  // What a later new_sequence() is never lower than.
  std::uint64_t next_sequence() const { return (counter_ + 1) << kIndexBits; }
  // The delivery that has this sequence now; nullptr if it is over or never was.
  Delivery* find(std::uint64_t sequence);
  std::size_t in_use() const { return all_.size() - free_.size(); }
  // Calls f(Delivery&) for each in use.
  template <typename F>
  void for_each(F f) {
    for (const auto& delivery : all_) {
      if (delivery->state != Delivery::State::free) f(*delivery);
    }
  }

 private:
  static constexpr int kIndexBits = 24;
  std::vector<std::unique_ptr<Delivery>> all_;
  std::vector<std::uint32_t> free_;
  BodyStore bodies_;
  std::uint64_t counter_ = 0;
};

}  // namespace lope::consumer
