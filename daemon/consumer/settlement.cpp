#include "consumer/settlement.h"

#include <algorithm>
#include <cstdlib>

namespace lope::consumer {

const char* to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::ack: return "acked";
    case Verdict::reject: return "rejected: the broker's dead letter, or dropped";
    case Verdict::requeue: return "back to its queue, for another attempt";
    case Verdict::hand_back: return "handed back to its queue";
  }
  return "";
}

bool Settlement::delivered(std::uint64_t tag) {
  if (tag != next_) return false;
  ++next_;
  if (next_ - first_ > ring_.size()) grow();
  state(tag) = State::open;
  ++unfinished_;
  return true;
}

void Settlement::finish(std::uint64_t tag, Verdict verdict) {
  if (tag < first_ || tag >= next_ || state(tag) != State::open) std::abort();
  finished_.push_back({tag, verdict});
  --unfinished_;
}

void Settlement::flush(std::vector<SettleOp>& ops) {
  const auto by_tag = [](const Finished& a, const Finished& b) { return a.tag < b.tag; };
  if (!std::is_sorted(finished_.begin(), finished_.end(), by_tag)) {
    std::sort(finished_.begin(), finished_.end(), by_tag);
  }
  const auto skip_settled = [this] {
    while (first_ < next_ && state(first_) == State::settled) ++first_;
  };
  std::uint64_t run_end = 0;  // the last tag of the unbroken run of acks; 0: none
  const auto end_run = [&] {
    if (run_end != 0) ops.push_back({Verdict::ack, true, run_end});
    run_end = 0;
  };
  for (const Finished& each : finished_) {
    skip_settled();
    state(each.tag) = State::settled;
    if (each.tag == first_ && each.verdict == Verdict::ack) {
      run_end = each.tag;
      continue;
    }
    end_run();
    ops.push_back({each.verdict, false, each.tag});
  }
  end_run();
  skip_settled();
  finished_.clear();
}

void Settlement::reset() {
  first_ = next_ = 1;
  finished_.clear();
  unfinished_ = 0;
}

void Settlement::grow() {
  std::vector<State> grown(ring_.size() * 2);
  for (std::uint64_t tag = first_; tag + 1 < next_; ++tag) {
    grown[tag & (grown.size() - 1)] = state(tag);
  }
  ring_ = std::move(grown);
}

}  // namespace lope::consumer
