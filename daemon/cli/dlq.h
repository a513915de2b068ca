// `lope dlq`: looks into a queue of dead letters, sends them back to where they came from, or
// deletes them. Messages are taken one after another, as many as there were at the start, and what
// is not dealt with is put back in its place when the channel closes; a message is acked only when
// its copy is confirmed, so nothing is lost whenever this ends.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/dead_letter.h"
#include "common/settings.h"

namespace lope::cli {

struct DlqOptions {
  enum class Verb { list, show, replay, purge };
  Verb verb = Verb::list;
  BrokerSettings broker;  // its addresses are tried in their order
  std::string queue;      // when it is not there: <queue>.dead
  DeadLetterFilter filter;
  std::uint64_t number = 0;  // only that one, as counted from the head of the queue; 0: any
  std::uint64_t limit = 0;   // deal with so many at most; 0: with all
  ReplayTo to = ReplayTo::origin;
  std::string to_queue;  // with ReplayTo::named
  bool full = false;     // show all of a body
  bool yes = false;      // do not ask before deleting
  bool json = false;
};

// Returns the exit code: kExitOk also when nothing matches, kExitTemporary when no broker could be
// logged in to, kExitFailed when not everything that matches was dealt with. SIGINT and SIGTERM
// end it once what is under way is confirmed and acked.
int dlq(const DlqOptions& options);

}  // namespace lope::cli
