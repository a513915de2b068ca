// A queue of its own, and a group whose handler is `gather`: what it wrote, line by line.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/lope.h"

namespace lope::test {

struct Gathered {
  Gathered() : queue(broker.make_queue("gather")) {}

  LopeOptions options(const std::string& more, const std::string& word = {},
                      const std::string& top = {}) const {
    return {.broker = broker.url(),
            .groups = "  gather:\n    queue: " + queue +
                      "\n    handler: gather\n    options: { file: " + file +
                      (word.empty() ? "" : ", word: \"" + word + "\"") + " }\n" + more,
            .top = top};
  }
  void publish(const std::vector<std::string>& bodies, const std::string& prefix = "m") {
    Publisher publisher = broker.publisher();
    publisher.publish_many(static_cast<int>(bodies.size()), [&](int i) {
      return Publication{.routing_key = queue,
                         .body = bodies[static_cast<std::size_t>(i)],
                         .message_id = prefix + std::to_string(i)};
    });
  }
  // The lines that begin with `word`, without it.
  std::vector<std::string> lines(const std::string& word) const {
    std::vector<std::string> result;
    for (const std::string& line : lines_of_file(file)) {
      if (line.starts_with(word + " ")) result.push_back(line.substr(word.size() + 1));
    }
    return result;
  }
  std::vector<std::string> sorted_lines(const std::string& word) const {
    auto result = lines(word);
    std::sort(result.begin(), result.end());
    return result;
  }
  bool wait_for(const std::string& word, std::size_t count,
                std::chrono::milliseconds deadline = 10s) const {
    return eventually(deadline, [&] { return lines(word).size() >= count; });
  }

  Broker broker;
  const std::string queue;
  TempDir files;
  const std::string file = files.file("lines");
};

}  // namespace lope::test
