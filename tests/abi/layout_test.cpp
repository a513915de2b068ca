// Sizes, offsets and numbers, of today's header and of each released one, against each other.
#include "layout.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <string>
#include <vector>

namespace {

std::map<std::string, layout_entry> by_name(const layout_entry* table) {
  std::map<std::string, layout_entry> entries;
  for (; table->name != nullptr; ++table) entries.emplace(table->name, *table);
  return entries;
}

bool is_struct(const std::string& name) {
  return name.starts_with("lope_") && name.find('.') == std::string::npos;
}

}  // namespace

TEST_CASE("the frozen 1.0 header is what was released", "[abi][layout]") {
  const auto frozen = by_name(layout_frozen_1_0);
  REQUIRE(frozen.size() > 100);
  for (const auto& [name, entry] : frozen) {
    INFO(name);
    CHECK(entry.offset == entry.pinned_offset);
    CHECK(entry.size == entry.pinned_size);
  }
}

TEST_CASE("nothing of 1.0 has moved in today's header", "[abi][layout]") {
  const auto current = by_name(layout_current);
  const auto frozen = by_name(layout_frozen_1_0);
  REQUIRE(current.size() == frozen.size());
  const std::vector<std::string> never_grown = {"lope_str", "lope_bytes", "lope_value",
                                                "lope_header", "lope_option"};
  for (const auto& [name, entry] : frozen) {
    INFO(name);
    const layout_entry& now = current.at(name);
    CHECK(now.offset == entry.offset);
    const bool may_grow = is_struct(name) && std::find(never_grown.begin(), never_grown.end(),
                                                       name) == never_grown.end();
    if (may_grow) {
      CHECK(now.size >= entry.size);
    } else {
      CHECK(now.size == entry.size);
    }
  }
}
