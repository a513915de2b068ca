// What a worker that crashes says on standard error before it ends: the signal, the message, where.
// The process ends of the signal all the same, so exit status and core file are as without it.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "common/scoreboard.h"

namespace lope::worker {

// Before any foreign code is loaded: what has its own action for a signal by then (a sanitizer) and
// what sets one later keeps it. `board` must stay mapped. Not in a build with sanitizers, whose own
// reports say more.
void install_crash_report(const WorkerBoard& board);
// In a forked child, which has no board. Async-signal-safe.
void drop_crash_report();

// For as long as it lives, crashes of the thread that made it name that thread, and are reported on
// a stack of their own: so an overflow of the thread's stack is reported too.
class CrashStack {
 public:
  explicit CrashStack(std::uint32_t thread_index);
  CrashStack(const CrashStack&) = delete;
  CrashStack& operator=(const CrashStack&) = delete;
  ~CrashStack();

 private:
  std::unique_ptr<char[]> stack_;
};

// For as long as it lives, a crash of the thread that made it names the message of its slot by this
// message_id, too, unless that is empty. The text must stay where it is.
class CrashMessage {
 public:
  explicit CrashMessage(std::string_view message_id);
  CrashMessage(const CrashMessage&) = delete;
  CrashMessage& operator=(const CrashMessage&) = delete;
  ~CrashMessage();
};

}  // namespace lope::worker
