#include "consumer/respawn_policy.h"

#include <algorithm>

#include "common/backoff.h"

namespace lope::consumer {

namespace {

constexpr Backoff kRespawn{std::chrono::milliseconds(100), std::chrono::milliseconds(30'000)};
constexpr std::chrono::minutes kHealthy{1};

// Half of the pause is sure, half is jitter: workers of one group do not come back together.
std::chrono::milliseconds pause_after(int deaths, double random) {
  return kRespawn.exponential(deaths - 1) / 2 + kRespawn.full_jitter(deaths - 1, random) / 2;
}

}  // namespace

std::optional<std::chrono::milliseconds> respawn_delay(RespawnHistory& history,
                                                       const WorkerDeath& death, int workers,
                                                       double random) {
  workers = std::max(workers, 1);
  if (death.was_ready) history.ever_ready = true;
  if (death.had_message) {
    history.idle_deaths = history.silent_deaths = history.hangs = 0;
    // No news, and it ends with the message's `crashes`.
    if (death.known) return std::chrono::milliseconds(0);
    const int at_once = kMaxCrashesAtOnce * workers;
    const bool news = history.crashes <= at_once || !death.beside;
    history.crashes = death.worked ? 0 : history.crashes + (news ? 1 : 0);
    if (history.crashes <= at_once) return std::chrono::milliseconds(0);
    return pause_after(history.crashes - at_once, random);
  }
  history.crashes = 0;
  if (death.was_ready && (death.age >= kHealthy || death.worked)) history.idle_deaths = 0;
  if (history.idle_deaths == 0 || !death.beside) ++history.idle_deaths;
  history.silent_deaths = death.was_ready || death.explained ? 0 : history.silent_deaths + 1;
  history.hangs = death.hung ? history.hangs + 1 : 0;
  if (!history.ever_ready && (history.silent_deaths >= kMaxDeathsNeverReady * workers ||
                              history.hangs >= kMaxHangsNeverReady * workers)) {
    return std::nullopt;
  }
  return pause_after(history.idle_deaths, random);
}

}  // namespace lope::consumer
