// What the values of a handler's options may look like; the same rules for `lope check` and for the
// worker that hands them over.
#pragma once

#include <string_view>

namespace lope {

// `kind`: "int64", "uint64", "double", "bool"; any other takes every text. Empty when `value` is of
// that kind, otherwise what was expected.
std::string_view expected_instead(std::string_view kind, std::string_view value);

}  // namespace lope
