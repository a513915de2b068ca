// What is asked of a store of messages that were done or are being handled, and what it answers.
// The store itself is dedup_local.h or dedup_redis.h; DedupThread runs it.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"

namespace lope::consumer {

struct DedupOp {
  enum class Kind : std::uint8_t {
    claim,    // answered with claimed, is_done, taken or too_soon
    done,     // answered with noted; the claim is over
    release,  // not answered; the claim is over, as far as it is this one
    renew,    // not answered; its lease begins anew, unless another has claimed the key
  };
  Kind kind = Kind::claim;
  std::uint64_t token = 0;    // names the claim among all of this process
  std::uint64_t instead = 0;  // of a claim: one of this process that is over; it counts for nothing
  std::int64_t begun_ms = 0;  // of done and release: when it was begun, since 1970; 0: it was not
  std::string key = {};
  std::string id = {};  // of done: the message's, for those who find it done
};

inline bool is_answered(const DedupOp& op) {
  return op.kind == DedupOp::Kind::claim || op.kind == DedupOp::Kind::done;
}

struct DedupAnswer {
  enum class Kind : std::uint8_t { claimed, is_done, taken, too_soon, noted, failed };
  Kind kind = Kind::failed;
  std::uint64_t token = 0;
  std::uint64_t by = 0;               // taken by this claim of this process; 0: by another
  bool was_done = false;              // of too_soon: and not only begun
  std::chrono::milliseconds wait{0};  // of too_soon
  std::int64_t done_ms = 0;           // of is_done, and of too_soon when it was done
  std::string id = {};                // likewise
};

struct DedupTimes {
  std::chrono::milliseconds lease{0};
  std::chrono::milliseconds window{0};
  std::chrono::milliseconds min_interval{0};
};

class DedupStore {
 public:
  virtual ~DedupStore() = default;
  // In their order, as one. Appends an answer for each claim and each done. On failure nothing or
  // everything of it has happened; what was appended then counts for nothing.
  virtual Result<void> apply(std::span<const DedupOp> ops, const DedupTimes& times,
                             std::vector<DedupAnswer>& answers) = 0;
  // About once a second.
  virtual void tend() = 0;
};

}  // namespace lope::consumer
