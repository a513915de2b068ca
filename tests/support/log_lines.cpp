#include "support/log_lines.h"

namespace lope::test {

std::vector<std::string> lines_with(std::string_view log, std::string_view text) {
  std::vector<std::string> lines;
  for (std::size_t end; (end = log.find('\n')) != std::string_view::npos;
       log.remove_prefix(end + 1)) {
    const std::string_view line = log.substr(0, end);
    if (line.find(text) != std::string_view::npos) lines.emplace_back(line);
  }
  return lines;
}

std::string field(std::string_view line, std::string_view key) {
  const std::string wanted = " " + std::string(key) + "=";
  const std::size_t at = line.find(wanted);
  if (at == std::string_view::npos) return {};
  std::string_view value = line.substr(at + wanted.size());
  if (!value.starts_with('"')) return std::string(value.substr(0, value.find(' ')));
  value.remove_prefix(1);
  std::size_t end = 0;
  while (end < value.size() && value[end] != '"') end += value[end] == '\\' ? 2 : 1;
  return std::string(value.substr(0, end));
}

std::multiset<std::string> fields_of(std::string_view log, std::string_view text,
                                     std::string_view key) {
  std::multiset<std::string> values;
  for (const std::string& line : lines_with(log, text)) values.insert(field(line, key));
  return values;
}

}  // namespace lope::test
