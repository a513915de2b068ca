#include "common/units.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "common/text.h"

namespace lope {

std::optional<std::int64_t> parse_with_unit(std::string_view text, std::span<const Unit> units) {
  const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto unit = std::ranges::find(units, text.substr(digits), &Unit::name);
  if (digits == 0 || unit == units.end()) return std::nullopt;
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + digits, number);
  if (error != std::errc{} || number > std::numeric_limits<std::int64_t>::max() / unit->factor) {
    return std::nullopt;
  }
  return number * unit->factor;
}

Result<std::chrono::milliseconds> parse_duration(std::string_view text) {
  const auto length = parse_with_unit(text, kDurationUnits);
  if (length) return std::chrono::milliseconds(*length);
  return Error{"expected a duration with a unit (ms, s, m, h, d), as in 30s, found '" +
               escape(text, 80) + "'"};
}

std::string duration_text(std::chrono::milliseconds length) {
  if (length.count() == 0) return "0s";
  const Unit* best = &kDurationUnits[0];
  for (const Unit& unit : kDurationUnits) {
    if (length.count() % unit.factor == 0) best = &unit;
  }
  return std::to_string(length.count() / best->factor) + std::string(best->name);
}

}  // namespace lope
