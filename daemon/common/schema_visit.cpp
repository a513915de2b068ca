#include "common/schema_visit.h"

#include <algorithm>
#include <span>

#include "common/text.h"

namespace lope::schema {

namespace {

using nlohmann::json;

constexpr std::size_t kShown = 80;
constexpr std::size_t kMaxPlace = 300, kMaxWhat = 400;
constexpr std::size_t kBytesAStep = 64;  // of a text that is looked at

// In characters that are whole.
std::string cut(std::string text, std::size_t limit) {
  if (text.size() <= limit) return text;
  text.resize(first_bytes(text, limit).size());
  return text + "…";
}

std::string in_quotes(std::string_view text) {
  std::string out = "'";
  out += escape(text, kShown);
  return out += "'";
}

std::string counted(std::uint64_t count, const char* one, const char* many) {
  return std::to_string(count) + " " + (count == 1 ? one : many);
}

// A value of the body: its texts are nobody's business in a log.
std::string shown(const json& value) {
  if (value.is_string()) {
    return "a text of " +
           counted(code_points(value.get_ref<const std::string&>()), "character", "characters");
  }
  if (!value.is_structured() || value.empty()) return value.dump();
  return std::string("an ") + kind_of(value) + " of " + std::to_string(value.size());
}

// `given` are sorted: what cannot be shown comes last.
std::string not_among(std::span<const json> given, const char* one_of_them, const json& value) {
  std::string list;
  for (const json& each : given) {
    if (!list.empty()) list += " or ";
    if (each.is_structured() || list.size() > 200) {
      list += each.is_structured() ? one_of_them : "others";
      break;
    }
    list += each.is_string() ? in_quotes(each.get_ref<const std::string&>()) : each.dump();
  }
  const bool has_such = std::ranges::any_of(
      given, [&](const json& each) { return each.is_structured() && each.type() == value.type(); });
  return "expected " + (list.empty() ? "nothing" : list) + ", found " +
         (has_such ? std::string("another ") + kind_of(value) : shown(value));
}

std::string type_names(std::uint8_t types) {
  std::string names;
  for (std::size_t i = 0; i < std::size(kTypes); ++i) {
    if ((types >> i & 1) != 0) names += (names.empty() ? "" : " or ") + std::string(kTypes[i]);
  }
  return names;
}

const Node* property_named(const Node& node, const std::string& name) {
  const auto found = std::ranges::lower_bound(node.properties, name, {},
                                              &std::pair<std::string, const Node*>::first);
  return found != node.properties.end() && found->first == name ? found->second : nullptr;
}

}  // namespace

std::string Visit::told() const {
  std::string place;
  for (auto step = place_.rbegin(); step != place_.rend(); ++step) {
    place += "/" + *step;
    if (place.size() <= kMaxPlace) continue;
    place = cut(std::move(place), kMaxPlace);
    break;
  }
  return (place.empty() ? "(root)" : place) + ": " + cut(what_, kMaxWhat);
}

bool Visit::wrong_inside(std::string_view step) {
  if (!quiet_) place_.push_back(escape(step, kShown));
  return false;
}

bool Visit::is_within(std::uint64_t count, std::uint64_t least, std::uint64_t most, const char* one,
                      const char* many) {
  if (count >= least && count <= most) return true;
  return wrong([&] {
    return "expected at " +
           (count < least ? "least " + counted(least, one, many)
                          : "most " + counted(most, one, many)) +
           ", found " + std::to_string(count);
  });
}

bool Visit::fits_quietly(const Node& node, const json& value) {
  const bool before = std::exchange(quiet_, true);
  const bool fit = fits(node, value);
  quiet_ = before;
  return fit;
}

bool Visit::matches(const Pattern& pattern, std::string_view text) {
  spend(steps_, 1 + text.size() / kBytesAStep);  // PCRE2 may find out without trying an item
  const Matcher::Found found = matcher_.find(pattern, text, steps_);
  if (found == Matcher::Found::too_many_steps) throw TooMuch{TooMuch::steps};
  if (found == Matcher::Found::too_much_memory) throw TooMuch{TooMuch::memory};
  return found == Matcher::Found::yes;
}

bool Visit::is_among(const std::vector<json>& values, const json& value) {
  const auto found = std::ranges::lower_bound(
      values, value, [this](const json& a, const json& b) { return compare(a, b, steps_) < 0; });
  return found != values.end() && compare(*found, value, steps_) == 0;
}

bool Visit::fits(const Node& node, const json& value) {
  spend(steps_, 1);
  if (depth_ >= kMaxDepth) throw TooMuch{TooMuch::depth};
  ++depth_;
  const auto of_its_type = [&] {
    if (value.is_number()) return number_fits(node, value);
    if (value.is_string()) return text_fits(node, value);
    if (value.is_array()) return array_fits(node, value);
    return !value.is_object() || object_fits(node, value);
  };
  bool fit = true;
  if (node.never) {
    fit = wrong([&] { return std::string("expected nothing, found ") + kind_of(value); });
  } else if (node.types != 0 && (node.types & types_of(value)) == 0) {
    fit = wrong([&] { return "expected " + type_names(node.types) + ", found " + kind_of(value); });
  } else if (node.constant && compare(*node.constant, value, steps_) != 0) {
    fit = wrong([&] { return not_among({&*node.constant, 1}, "the value of 'const'", value); });
  } else if (node.values && !is_among(*node.values, value)) {
    fit = wrong([&] { return not_among(*node.values, "a value of 'enum'", value); });
  } else {
    fit = of_its_type() && combinations_fit(node, value);
  }
  --depth_;
  return fit;
}

bool Visit::number_fits(const Node& node, const json& value) {
  const auto expected = [&](const char* how, const json& bound) {
    return wrong(
        [&] { return std::string("expected ") + how + shown(bound) + ", found " + shown(value); });
  };
  const auto order = [&](const json& bound) { return compare(value, bound, steps_); };
  if (!node.minimum.is_null() && order(node.minimum) < 0)
    return expected("at least ", node.minimum);
  if (!node.maximum.is_null() && order(node.maximum) > 0) return expected("at most ", node.maximum);
  if (!node.above.is_null() && order(node.above) <= 0) return expected("more than ", node.above);
  if (!node.below.is_null() && order(node.below) >= 0) return expected("less than ", node.below);
  if (!node.multiple_of.is_null() && !is_multiple(value, node.multiple_of))
    return expected("a multiple of ", node.multiple_of);
  return true;
}

bool Visit::text_fits(const Node& node, const json& value) {
  const std::string& text = value.get_ref<const std::string&>();
  spend(steps_, text.size() / kBytesAStep);
  if (node.min_length > 0 || node.max_length < UINT64_MAX) {
    const std::uint64_t length = code_points(text);
    if (!is_within(length, node.min_length, node.max_length, "character", "characters"))
      return false;
  }
  if (!has_format(text, node.format)) {
    return wrong([&] {
      return std::string("expected a ") + name_of(node.format) + ", found " + shown(value);
    });
  }
  if (node.pattern != nullptr && !matches(*node.pattern, text)) {
    return wrong([&] {
      return "expected a match of " + in_quotes(node.pattern->text()) + ", found " + shown(value);
    });
  }
  return true;
}

bool Visit::items_differ(const json& array) {
  std::vector<const json*> items;
  items.reserve(array.size());
  for (const json& item : array) items.push_back(&item);
  std::ranges::sort(items,
                    [this](const json* a, const json* b) { return compare(*a, *b, steps_) < 0; });
  const auto twice = std::ranges::adjacent_find(
      items, [this](const json* a, const json* b) { return compare(*a, *b, steps_) == 0; });
  if (twice == items.end()) return true;
  return wrong([&] {
    return "expected items that differ from one another, found " + shown(**twice) +
           " more than once";
  });
}

bool Visit::array_fits(const Node& node, const json& value) {
  const std::size_t size = value.size();
  if (!is_within(size, node.min_items, node.max_items, "item", "items")) return false;
  if (node.unique && !items_differ(value)) return false;
  const std::size_t first = std::min(size, node.first_items.size());
  for (std::size_t i = 0; i < (node.items != nullptr ? size : first); ++i) {
    if (!fits(i < first ? *node.first_items[i] : *node.items, value[i]))
      return wrong_inside(std::to_string(i));
  }
  const auto contained = [&](const json& item) { return fits_quietly(*node.contains, item); };
  if (node.contains != nullptr && std::ranges::none_of(value, contained))
    return wrong([] { return std::string("expected an item that fits 'contains', found none"); });
  return true;
}

bool Visit::object_fits(const Node& node, const json& value) {
  const auto& members = value.get_ref<const json::object_t&>();
  if (!is_within(members.size(), node.min_members, node.max_members, "member", "members"))
    return false;
  for (const std::string& name : node.required) {
    spend(steps_, 1);
    if (!members.contains(name))
      return wrong([&] { return "expected a member " + in_quotes(name) + ", found none"; });
  }
  if (!dependencies_fit(node, value)) return false;
  if (node.properties.empty() && node.pattern_properties.empty() &&
      node.more_properties == nullptr && node.names == nullptr) {
    return true;
  }
  for (const auto& [name, member] : members) {
    spend(steps_, 1);
    if (node.names != nullptr && !fits(*node.names, json(name))) {
      if (!quiet_) what_.insert(0, "the name " + in_quotes(name) + ": ");
      return false;
    }
    const Node* const property = property_named(node, name);
    bool known = property != nullptr;
    if (known && !fits(*property, member)) return wrong_inside(name);
    for (const auto& [pattern, schema] : node.pattern_properties) {
      if (!matches(*pattern, name)) continue;
      known = true;
      if (!fits(*schema, member)) return wrong_inside(name);
    }
    if (!known && node.more_properties != nullptr && !fits(*node.more_properties, member))
      return wrong_inside(name);
  }
  return true;
}

bool Visit::dependencies_fit(const Node& node, const json& value) {
  for (const Node::Dependency& dependency : node.dependencies) {
    spend(steps_, 1);
    if (!value.contains(dependency.name)) continue;
    for (const std::string& name : dependency.names) {
      spend(steps_, 1);
      if (value.contains(name)) continue;
      return wrong([&] {
        return "expected a member " + in_quotes(name) + " beside " + in_quotes(dependency.name) +
               ", found none";
      });
    }
    if (dependency.schema != nullptr && !fits(*dependency.schema, value)) return false;
  }
  return true;
}

// Of the first way it is told what is wrong with it.
bool Visit::fits_none_of(const std::vector<const Node*>& ways, const char* keyword,
                         const json& value) {
  if (quiet_) return false;
  (void)fits(*ways.front(), value);
  const std::string first = place_.empty() ? what_ : told();
  place_.clear();
  what_ = "fits none of the " + counted(ways.size(), "way", "ways") + " of " + keyword +
          "; as for the first: " + cut(first, kMaxWhat / 2);
  return false;
}

bool Visit::one_of_fits(const Node& node, const json& value) {
  const auto fitting = [&](const Node* way) { return fits_quietly(*way, value); };
  const auto& ways = node.one_of;
  const auto found = std::ranges::find_if(ways, fitting);
  if (found == ways.end()) return fits_none_of(ways, "oneOf", value);
  const auto second = std::find_if(found + 1, ways.end(), fitting);
  if (second == ways.end()) return true;
  return wrong([&] {
    return "fits more than one of the " + std::to_string(ways.size()) + " ways of oneOf: number " +
           std::to_string(found - ways.begin() + 1) + " and number " +
           std::to_string(second - ways.begin() + 1);
  });
}

bool Visit::combinations_fit(const Node& node, const json& value) {
  const auto fitting = [&](const Node* way) { return fits_quietly(*way, value); };
  for (const Node* const each : node.all_of) {
    if (!fits(*each, value)) return false;
  }
  if (!node.any_of.empty() && std::ranges::none_of(node.any_of, fitting))
    return fits_none_of(node.any_of, "anyOf", value);
  if (!node.one_of.empty() && !one_of_fits(node, value)) return false;
  if (node.none != nullptr && fits_quietly(*node.none, value))
    return wrong([] { return std::string("fits what 'not' excludes"); });
  if (node.condition == nullptr || (node.then == nullptr && node.otherwise == nullptr)) return true;
  const Node* const branch = fits_quietly(*node.condition, value) ? node.then : node.otherwise;
  return branch == nullptr || fits(*branch, value);
}

}  // namespace lope::schema
