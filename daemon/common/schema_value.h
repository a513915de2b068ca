// What keywords of JSON Schema ask of a single value.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace lope::schema {

// As keywords name them; an integer is a number too.
inline constexpr const char* kTypes[] = {"null",   "boolean", "integer", "number",
                                         "string", "array",   "object"};
inline constexpr std::uint8_t kIntegerType = 1 << 2;
// A bit of each type that the value is of. 1.0 is an integer.
std::uint8_t types_of(const nlohmann::json& value);
const char* kind_of(const nlohmann::json& value);

// A message costs more than one may.
struct TooMuch {
  enum { steps, depth, memory } of;
};
inline void spend(std::uint64_t& steps, std::uint64_t cost) {
  if (cost > steps) throw TooMuch{TooMuch::steps};
  steps -= cost;
}

// Below 0, 0 or above it: an order of all values in which 1 and 1.0 are equal.
int compare(const nlohmann::json& a, const nlohmann::json& b, std::uint64_t& steps);

// Exact where `divisor` is whole and `value` below 2^64; otherwise as near as numbers come that are
// kept as binary fractions: 4.35 is a multiple of 0.01. From 1.7e15 times on everything is one.
bool is_multiple(const nlohmann::json& value, const nlohmann::json& divisor);

enum class Format : std::uint8_t { remark, date, time, date_time };
Format format_named(std::string_view name, int draft);
const char* name_of(Format format);
bool has_format(std::string_view text, Format format);

}  // namespace lope::schema
