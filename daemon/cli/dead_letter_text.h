// Dead letters as people read them: a table, or one of them with all it has. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cli/dead_letter.h"

namespace lope::cli {

std::vector<std::string> list_head();
std::vector<std::string> list_row(const DeadLetter& letter, std::uint64_t number,
                                  std::int64_t now_ms);

// `full`: all of its body.
std::string show_text(const Received& message, const DeadLetter& letter, std::uint64_t number,
                      std::int64_t now_ms, bool full);

// Text as it is but for what a terminal would obey; bytes that are no UTF-8 as a hex dump. Not
// `full`: the first 4 KiB, and how many there are.
std::string body_text(std::string_view body, bool full);

}  // namespace lope::cli
