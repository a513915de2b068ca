// A JSON Schema as values are held against it: its keywords judged, its references followed.
#pragma once

#include <cstdint>
#include <deque>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/schema_pattern.h"
#include "common/schema_value.h"

namespace lope::schema {

struct Node {
  using Json = nlohmann::json;
  struct Dependency {
    std::string name;
    std::vector<std::string> names;
    const Node* schema = nullptr;
  };

  bool never = false;      // the schema `false`
  std::uint8_t types = 0;  // as types_of() has them; 0: any
  std::optional<Json> constant;
  std::optional<std::vector<Json>> values;  // sorted

  // Of numbers. null: none.
  Json multiple_of, minimum, maximum, above, below;

  // Of texts.
  std::uint64_t min_length = 0, max_length = UINT64_MAX;
  const Pattern* pattern = nullptr;
  Format format = Format::remark;

  // Of arrays. `items` is for those behind `first_items`.
  std::uint64_t min_items = 0, max_items = UINT64_MAX;
  bool unique = false;
  std::vector<const Node*> first_items;
  const Node* items = nullptr;
  const Node* contains = nullptr;

  // Of objects.
  std::uint64_t min_members = 0, max_members = UINT64_MAX;
  std::vector<std::string> required;
  std::vector<std::pair<std::string, const Node*>> properties;  // sorted
  std::vector<std::pair<const Pattern*, const Node*>> pattern_properties;
  const Node* more_properties = nullptr;
  const Node* names = nullptr;
  std::vector<Dependency> dependencies;

  // Of all.
  std::vector<const Node*> all_of, any_of, one_of;
  const Node* none = nullptr;
  const Node *condition = nullptr, *then = nullptr, *otherwise = nullptr;
};

struct Nodes {
  std::deque<Node> nodes;
  std::deque<Pattern> patterns;
  const Node* root = nullptr;
  std::vector<std::string> notes;  // of what is no keyword
};

}  // namespace lope::schema
