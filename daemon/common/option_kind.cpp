#include "common/option_kind.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <iterator>
#include <system_error>

namespace lope {

namespace {

template <typename T>
bool parses(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

}  // namespace

std::string_view expected_instead(std::string_view kind, std::string_view value) {
  constexpr std::string_view kBooleans[] = {"true",  "True",  "TRUE",  "yes", "on",
                                            "false", "False", "FALSE", "no",  "off"};
  if (kind == "int64") return parses<std::int64_t>(value) ? "" : "an integer";
  if (kind == "uint64") return parses<std::uint64_t>(value) ? "" : "an integer of at least 0";
  if (kind == "double") return parses<double>(value) ? "" : "a number";
  if (kind == "bool") {
    return std::ranges::find(kBooleans, value) != std::end(kBooleans) ? "" : "true or false";
  }
  return "";
}

bool option_covers(std::string_view declared, std::string_view key) {
  if (declared == key) return true;
  if (!declared.ends_with(".*")) return false;
  declared.remove_suffix(1);
  return key.size() > declared.size() && key.starts_with(declared);
}

std::size_t option_for(std::span<const std::string_view> names, std::string_view key) {
  std::size_t best = names.size();
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == key) return i;
    if (option_covers(names[i], key) &&
        (best == names.size() || names[i].size() > names[best].size())) {
      best = i;
    }
  }
  return best;
}

}  // namespace lope
