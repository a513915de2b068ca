// What the values of a handler's options may look like; the same rules for `lope check` and for the
// worker that hands them over.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace lope {

// `kind`: "int64", "uint64", "double", "bool"; any other takes every text. Empty when `value` is of
// that kind, otherwise what was expected.
std::string_view expected_instead(std::string_view kind, std::string_view value);

// Is `key`, nested keys joined with '.', the option that a handler declares as `declared`? One that
// ends in ".*" is a list or a map of any keys, nested ones too.
bool option_covers(std::string_view declared, std::string_view key);

// Which of the declared names takes `key`: its own, or else the longest that ends in ".*".
// Returns its index, or names.size().
std::size_t option_for(std::span<const std::string_view> names, std::string_view key);

}  // namespace lope
