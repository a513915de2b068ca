// The worker process: loads one handler file, makes its instances, and runs them until its consumer
// closes the link. Has no AMQP and no credentials.
#pragma once

namespace lope::worker {

// With the descriptors of common/spawn.h in place. Returns the exit code.
int run_worker();

}  // namespace lope::worker
