// What the broker is told about the deliveries of one channel: finished tags in, acks and rejects
// out. Pure. An unbroken run of acked tags from the oldest one on is one `multiple` ack; what is
// finished behind an unfinished tag is settled singly, so that one slow message does not close the
// window. Always ascending: a broker takes quadratic time for the reverse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lope::consumer {

enum class Verdict : std::uint8_t {
  ack,
  reject,     // reject without requeue: dead-lettered by the queue, or dropped
  requeue,    // reject with requeue: a failed attempt
  hand_back,  // nack with requeue: never tried
};

const char* to_string(Verdict verdict);

struct SettleOp {
  Verdict verdict;
  bool multiple;  // of an ack: all tags up to this one
  std::uint64_t tag;
  friend bool operator==(const SettleOp&, const SettleOp&) = default;
};

class Settlement {
 public:
  // A new delivery. False: its tag is not the one that follows, which are to rise by one from 1.
  [[nodiscard]] bool delivered(std::uint64_t tag);
  // Once for each delivered tag.
  void finish(std::uint64_t tag, Verdict verdict);
  // Appends what there is to tell the broker, in the order to send it.
  void flush(std::vector<SettleOp>& ops);

  // Changes with each delivery.
  std::uint64_t next_tag() const { return next_; }
  std::size_t unfinished() const { return unfinished_; }
  // Finished and not yet flushed.
  std::size_t pending() const { return finished_.size(); }
  // A new channel: tags start again.
  void reset();

 private:
  enum class State : std::uint8_t { open, settled };
  State& state(std::uint64_t tag) { return ring_[tag & (ring_.size() - 1)]; }
  void grow();

  std::uint64_t first_ = 1;                           // the oldest tag that is not settled
  std::uint64_t next_ = 1;                            // the tag of the next delivery
  std::vector<State> ring_ = std::vector<State>(64);  // of first_ to next_, a power of two
  struct Finished {
    std::uint64_t tag;
    Verdict verdict;
  };
  std::vector<Finished> finished_;
  std::size_t unfinished_ = 0;
};

}  // namespace lope::consumer
