// Durations and sizes as people write them: a whole number with its unit, "90s", "16MiB". Pure.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/result.h"

namespace lope {

struct Unit {
  std::string_view name;
  std::int64_t factor;
};
inline constexpr Unit kDurationUnits[] = {
    {"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}, {"d", 86'400'000}};
inline constexpr Unit kSizeUnits[] = {{"B", 1},          {"kB", 1000},     {"KiB", 1024},
                                      {"MB", 1'000'000}, {"MiB", 1 << 20}, {"GB", 1'000'000'000},
                                      {"GiB", 1LL << 30}};

// In the unit whose factor is 1. Nothing when it is no such number, has no or another unit, or is
// too large.
std::optional<std::int64_t> parse_with_unit(std::string_view text, std::span<const Unit> units);

// "90s", or an error that says what was expected and found.
Result<std::chrono::milliseconds> parse_duration(std::string_view text);

// "90s": in the largest unit that says it in whole numbers.
std::string duration_text(std::chrono::milliseconds length);

}  // namespace lope
