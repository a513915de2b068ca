// `lope try`: runs a handler on some messages, without a broker, and shows what it does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/trial.h"

namespace lope::cli {

struct TryOptions {
  TrialSettings settings;
  std::vector<Received> messages;
  std::uint64_t repeat = 0;  // 0: each once, and shown
  bool json = false;
};

// What one attempt says of itself, as a member of the objects that --json prints.
std::string attempt_json(const TrialAttempt& attempt);

// 0 when every message was acked at last, otherwise that of the worst outcome.
int exit_code_of(TrialOutcome outcome);

// Returns the exit code: as above, kExitRefused when the handler cannot be used, kExitFailed when
// there is no telling.
int try_handler(TryOptions options);

}  // namespace lope::cli
