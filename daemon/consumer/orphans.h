// Processes that handlers started and that outlived their parent. As child subreaper the consumer
// inherits them: those of a dead worker are ended, all are reaped.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>

namespace lope::consumer {

// Set in a worker's environment, and so in that of whatever it starts.
inline constexpr const char* kWorkerIdVariable = "LOPE_WORKER_ID";

// A new value of it, unlike any other of this machine's running consumers.
std::string new_worker_id();

struct LiveWorker {
  pid_t pid;
  std::string id;
};

// Reaps our children that have ended and kills those whose worker is none of `live`. Leaves the
// live workers themselves alone, and, unless told, what carries no worker's id. Returns how many
// were killed and are still to be reaped. Call when a worker has died and on SIGCHLD: what is
// killed here may leave us its own children.
enum class WithoutId { spared, killed };
std::size_t sweep_orphans(std::span<const LiveWorker> live, WithoutId others = WithoutId::spared);

}  // namespace lope::consumer
