// Options that a handler refuses: each in a group of its own, told of in the log.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/log_lines.h"
#include "support/lope.h"

namespace lope::test {

// `wrong`: what stands in `options: { … }`, and a part of what is said about it. `options` are
// those of the daemon; its groups are replaced.
inline void check_refused(LopeOptions options, const std::string& queue, const std::string& handler,
                          const std::vector<std::pair<std::string, std::string>>& wrong) {
  options.groups.clear();
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    options.groups += "  wrong" + std::to_string(i) + ":\n    queue: " + queue +
                      "\n    handler: " + handler + "\n    options: { " + wrong[i].first + " }\n";
  }
  Lope lope(options);
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    CAPTURE(wrong[i].first);
    CHECK(eventually(10s, [&] {
      const auto lines = lines_with(lope.log(), "group=wrong" + std::to_string(i) + " ");
      return std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
        return line.find(wrong[i].second) != std::string::npos;
      });
    }));
  }
  lope.stop();
}

}  // namespace lope::test
