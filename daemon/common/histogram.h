// How often something took how long, in classes each half as wide as the power of two it begins
// at: a quantile read from it is off by less than a quarter. Pure.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace lope {

// The last class has no upper end; it begins at 2^40 ns and a half, 27 minutes.
inline constexpr std::size_t kHistogramClasses = 64;

// Where a duration is counted. The first class is everything below 1024 ns.
constexpr std::size_t histogram_class(std::uint64_t ns) {
  const std::uint64_t scaled = ns >> 10;
  if (scaled == 0) return 0;
  const auto exponent = static_cast<std::size_t>(std::bit_width(scaled)) - 1;
  const std::size_t upper_half = (ns >> (exponent + 9)) & 1;
  return std::min(1 + 2 * exponent + upper_half, kHistogramClasses - 1);
}

// The lowest duration of a class, and of the one behind it, in ns.
constexpr std::uint64_t histogram_begin(std::size_t index) {
  if (index == 0) return 0;
  const std::uint64_t power = std::uint64_t{1} << (10 + (index - 1) / 2);
  return (index - 1) % 2 == 0 ? power : power + power / 2;
}

// The duration in ns that a `share` (0 to 1) of what was counted did not exceed, taken as evenly
// spread within its class; 0 when nothing was counted.
double histogram_quantile(std::span<const std::uint64_t> counts, double share);

}  // namespace lope
