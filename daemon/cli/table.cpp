#include "cli/table.h"

#include <algorithm>

#include "common/text.h"

namespace lope::cli {

std::string table_text(const std::vector<std::vector<std::string>>& rows) {
  if (rows.empty()) return {};
  // Columns on a terminal, near enough: one a character.
  std::vector<std::size_t> widths(rows.front().size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], code_points(row[i]));
  }
  std::string text;
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      text += row[i];
      if (i + 1 < row.size()) text += std::string(widths[i] - code_points(row[i]) + 2, ' ');
    }
    text += '\n';
  }
  return text;
}

std::string age_text(std::int64_t age_ms) {
  const std::int64_t seconds = std::max<std::int64_t>(age_ms, 0) / 1000;
  if (seconds < 120) return std::to_string(seconds) + "s";
  if (seconds < 120 * 60) return std::to_string(seconds / 60) + "m";
  if (seconds < 48 * 3600) return std::to_string(seconds / 3600) + "h";
  return std::to_string(seconds / 86400) + "d";
}

}  // namespace lope::cli
