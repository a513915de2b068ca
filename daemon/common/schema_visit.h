// One value held against a schema's nodes. It ends at the first thing that does not fit.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/schema_node.h"

namespace lope::schema {

constexpr int kMaxDepth = 1024;  // of schemas inside one another: each takes stack

class Visit {
 public:
  explicit Visit(std::uint64_t max_steps) : steps_(max_steps) {}

  // Throws TooMuch.
  bool fits(const Node& node, const nlohmann::json& value);

  // After fits() said no: "/items/3/price: expected number, found string".
  std::string told() const;

 private:
  using json = nlohmann::json;

  bool number_fits(const Node& node, const json& value);
  bool text_fits(const Node& node, const json& value);
  bool array_fits(const Node& node, const json& value);
  bool object_fits(const Node& node, const json& value);
  bool dependencies_fit(const Node& node, const json& value);
  bool combinations_fit(const Node& node, const json& value);
  bool one_of_fits(const Node& node, const json& value);
  bool is_among(const std::vector<json>& values, const json& value);
  bool items_differ(const json& array);
  bool matches(const Pattern& pattern, std::string_view text);
  bool fits_quietly(const Node& node, const json& value);
  bool fits_none_of(const std::vector<const Node*>& ways, const char* keyword, const json& value);

  // Both are false. `text` is made only where somebody hears it.
  template <typename Text>
  bool wrong(Text text) {
    if (!quiet_) what_ = text();
    return false;
  }
  bool wrong_inside(std::string_view step);
  bool is_within(std::uint64_t count, std::uint64_t least, std::uint64_t most, const char* one,
                 const char* many);

  std::uint64_t steps_;  // that are left
  int depth_ = 0;
  bool quiet_ = false;
  Matcher matcher_;
  std::string what_;                // is wrong
  std::vector<std::string> place_;  // of it, the last step first
};

}  // namespace lope::schema
