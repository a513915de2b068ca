// Reading the daemon's log: text lines of an event and `key=value`.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace lope::test {

// The complete lines that contain `text`, in order.
std::vector<std::string> lines_with(std::string_view log, std::string_view text);

// What stands behind ` key=`, without the quotes around it; empty when the line has no such key.
std::string field(std::string_view line, std::string_view key);

// That field of each line that contains `text`.
std::multiset<std::string> fields_of(std::string_view log, std::string_view text,
                                     std::string_view key);

}  // namespace lope::test
