// What was confirmed to the publisher against what the handlers wrote down.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace lope::test {

struct LedgerReport {
  std::vector<std::string> missing;     // confirmed, never seen
  std::vector<std::string> duplicates;  // seen more than once, each named once
  std::vector<std::string> unexpected;  // seen, but not among the confirmed
  std::size_t seen = 0;                 // how often anything was seen
};

LedgerReport compare_ledger(const std::vector<std::string>& confirmed,
                            const std::vector<std::string>& seen);

// The lines of a file; none when it is not there. A last line without its newline is left out.
std::vector<std::string> lines_of_file(const std::string& path);

}  // namespace lope::test
