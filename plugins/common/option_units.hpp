// Options that are times and sizes, written as in the daemon's configuration: "30s", "64KiB".
// Shared by the handlers that come with Lope.
#pragma once

#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <lope/handler.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace lope::plugins {

struct OptionUnit {
  std::string_view name;
  std::int64_t factor;
};
inline constexpr OptionUnit kTimeUnits[] = {
    {"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}, {"d", 86'400'000}};
inline constexpr OptionUnit kSizeUnits[] = {
    {"B", 1},         {"kB", 1000},          {"KiB", 1024},     {"MB", 1'000'000},
    {"MiB", 1 << 20}, {"GB", 1'000'000'000}, {"GiB", 1LL << 30}};

// A whole number with its unit, in the unit whose factor is 1; nothing when it is none.
template <std::size_t kSize>
std::optional<std::int64_t> parse_with_unit(std::string_view text,
                                            const OptionUnit (&units)[kSize]) {
  std::int64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc{} || number < 0) return std::nullopt;
  for (const OptionUnit& unit : units) {
    if (unit.name != std::string_view(stop, static_cast<std::size_t>(end - stop))) continue;
    if (number > std::numeric_limits<std::int64_t>::max() / unit.factor) return std::nullopt;
    return number * unit.factor;
  }
  return std::nullopt;
}

// A time of at most a year. Throws InvalidConfiguration when the option is none.
inline std::chrono::milliseconds duration_option(const Host& host, const char* name) {
  const auto text = host.option_as<std::string>(name);
  const auto ms = parse_with_unit(text, kTimeUnits);
  if (ms && *ms <= 366 * kTimeUnits[4].factor) return std::chrono::milliseconds(*ms);
  throw InvalidConfiguration(
      "option '" + std::string(name) +
      "': expected a time with a unit (ms, s, m, h, d), up to 366d, found '" + text + "'");
}

// In bytes. Throws InvalidConfiguration when the option is no size.
inline std::size_t size_option(const Host& host, const char* name) {
  const auto text = host.option_as<std::string>(name);
  if (const auto size = parse_with_unit(text, kSizeUnits)) return static_cast<std::size_t>(*size);
  throw InvalidConfiguration("option '" + std::string(name) +
                             "': expected a size with a unit (B, kB, KiB, MB, MiB, GB, GiB), "
                             "found '" +
                             text + "'");
}

}  // namespace lope::plugins
