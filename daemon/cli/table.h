// Tables for people. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lope::cli {

// Rows of as many cells as the first, aligned, two spaces between; each line with its newline.
std::string table_text(const std::vector<std::vector<std::string>>& rows);

// "45s", "12m", "5h", "3d"
std::string age_text(std::int64_t age_ms);

}  // namespace lope::cli
