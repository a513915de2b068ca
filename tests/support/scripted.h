// A queue of its own, and a group whose handler does with each message as its body says.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/lope.h"

namespace lope::test {

struct Scripted {
  Scripted() : queue(broker.make_queue("scripted")) {}

  // The configuration, with `more` lines of the group.
  LopeOptions options(const std::string& more = {}, const std::string& top = {}) const {
    return {.broker = broker.url(),
            .groups =
                "  scripted:\n"
                "    queue: " +
                queue +
                "\n"
                "    handler: scripted\n"
                "    options: { started: " +
                started + ", file: " + done + " }\n" + more,
            .top = top};
  }
  bool wait_started(const std::string& id, std::chrono::milliseconds deadline = 10s) const {
    return contains(started, id, deadline);
  }
  bool wait_done(const std::string& id, std::chrono::milliseconds deadline = 10s) const {
    return contains(done, id, deadline);
  }

  Broker broker;
  const std::string queue;
  TempDir files;
  const std::string started = files.file("started");
  const std::string done = files.file("done");

 private:
  static bool contains(const std::string& path, const std::string& id,
                       std::chrono::milliseconds deadline) {
    return eventually(deadline, [&] {
      const auto lines = lines_of_file(path);
      return std::find(lines.begin(), lines.end(), id) != lines.end();
    });
  }
};

}  // namespace lope::test
