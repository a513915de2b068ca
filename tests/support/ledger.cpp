#include "support/ledger.h"

#include <map>

#include "support/temp_dir.h"

namespace lope::test {

LedgerReport compare_ledger(const std::vector<std::string>& confirmed,
                            const std::vector<std::string>& seen) {
  std::map<std::string, int> times;
  for (const std::string& id : confirmed) times[id] = 0;
  LedgerReport report;
  report.seen = seen.size();
  for (const std::string& id : seen) {
    const auto [it, was_unknown] = times.try_emplace(id, 0);
    if (was_unknown) report.unexpected.push_back(id);
    if (++it->second == 2) report.duplicates.push_back(id);
  }
  for (const auto& [id, count] : times) {
    if (count == 0) report.missing.push_back(id);
  }
  return report;
}

std::vector<std::string> lines_of_file(const std::string& path) {
  const std::string text = read_file(path);
  std::vector<std::string> lines;
  std::size_t from = 0;
  for (std::size_t at; (at = text.find('\n', from)) != std::string::npos; from = at + 1) {
    lines.push_back(text.substr(from, at - from));
  }
  return lines;
}

}  // namespace lope::test
