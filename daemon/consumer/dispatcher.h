// Which worker gets the next delivery. Pure. Fair: a delivery is queued behind another only at a
// worker whose messages take so little time that the wait cannot be noticed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace lope::consumer {

struct WorkerLoad {
  bool ready = false;
  int threads = 1;
  std::size_t calls = 0;     // given and not ended; a call gets one delivery, or a batch
  std::size_t flushing = 0;  // threads that are in flush()
  std::size_t owed = 0;      // deliveries whose outcome its ring must have room for
  double mean_ns = -1;       // of its recent calls, in the handler; negative: none yet
};

// How many calls the worker may have at a time: one a thread, and ahead of that as many as it
// finishes in about kLookahead.
std::size_t capacity(const WorkerLoad& load);

// The index of the worker to take the next call, with so many deliveries: the least loaded one; -1
// when none may.
int choose_worker(std::span<const WorkerLoad> workers, std::size_t deliveries = 1);

// The mean after one more message of `duration_ns`.
double updated_mean(double mean_ns, std::uint64_t duration_ns);

}  // namespace lope::consumer
