#include "common/schema_compiler.h"

#include <algorithm>
#include <span>
#include <unordered_map>
#include <unordered_set>

#include "common/text.h"

namespace lope::schema {

namespace {

using nlohmann::json;

// Of each draft, beside the id; $defs is of none, and a usual place for schemas.
constexpr std::string_view kKeywords =
    "$defs $ref $schema additionalItems additionalProperties allOf anyOf default definitions "
    "dependencies description enum exclusiveMaximum exclusiveMinimum format items maxItems "
    "maxLength maxProperties maximum minItems minLength minProperties minimum multipleOf not oneOf "
    "pattern patternProperties properties required title type uniqueItems";
constexpr std::string_view kKeywordsFrom6 = "const contains examples propertyNames";
constexpr std::string_view kKeywordsFrom7 =
    "$comment contentEncoding contentMediaType else if readOnly then writeOnly";
constexpr std::size_t kMaxNotes = 20;

// Of the members of the first each is a schema, what the others hold is none.
constexpr std::string_view kNaming[] = {"$defs", "definitions", "dependencies", "patternProperties",
                                        "properties"};
constexpr std::string_view kHolding[] = {"const", "default", "enum", "examples"};

bool is_one_of(std::span<const std::string_view> keywords, std::string_view name) {
  return std::ranges::find(keywords, name) != keywords.end();
}

// Schemas that apply to the same value, one through the other.
constexpr int kMaxBeside = 256;

std::string shown(const json& value) {
  return escape(value.dump(-1, ' ', false, json::error_handler_t::replace), 80);
}

// ---- References: RFC 3986, as far as it takes to find what is in this file

// Of "http:" in "http://a/b"; 0 without one.
std::size_t scheme_length(std::string_view uri) {
  const std::size_t end = uri.find_first_of(":/?#");
  return end != std::string_view::npos && end > 0 && uri[end] == ':' ? end + 1 : 0;
}

std::size_t path_in(std::string_view uri) {
  const std::size_t scheme = scheme_length(uri);
  if (uri.substr(scheme, 2) != "//") return scheme;
  return std::min(uri.size(), uri.find_first_of("/?#", scheme + 2));
}

std::string without_dots(const std::string& uri) {
  const std::size_t path = path_in(uri), end = std::min(uri.size(), uri.find_first_of("?#", path));
  const std::size_t root = uri.compare(path, 1, "/") == 0 ? 1 : 0;
  std::vector<std::string> steps;
  for (std::size_t at = path, next = 0; at <= end; at = next + 1) {
    next = std::min(end, uri.find('/', at));
    const std::string step = uri.substr(at, next - at);
    const bool is_dots = step == "." || step == "..";
    if (step == ".." && steps.size() > root) steps.pop_back();
    if (!is_dots || next == end) steps.push_back(is_dots ? "" : step);
  }
  std::string out = uri.substr(0, path);
  for (std::size_t i = 0; i < steps.size(); ++i) out.append(i == 0 ? "" : "/").append(steps[i]);
  return out.append(uri, end);
}

std::string resolve(std::string base, std::string_view reference) {
  if (scheme_length(reference) > 0) return without_dots(std::string(reference));
  base.resize(std::min(base.size(), base.find('#')));
  if (reference.empty() || reference.starts_with('#')) return base.append(reference);
  const std::size_t path = path_in(base);
  if (reference.starts_with("//")) {
    base.resize(scheme_length(base));
  } else if (reference.starts_with('/')) {
    base.resize(path);
  } else {
    const std::size_t slash = base.substr(0, base.find('?')).rfind('/');
    const bool has_slash = slash != std::string::npos && slash >= path;
    const bool has_host = base.substr(0, path).find("//") != std::string::npos;
    base.resize(has_slash ? slash + 1 : path);
    if (!has_slash && has_host) base += '/';
  }
  return without_dots(base.append(reference));
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto digits = text.substr(i + 1, 2);
    if (text[i] == '%' && digits.size() == 2 &&
        digits.find_first_not_of("0123456789abcdefABCDEF") == std::string_view::npos) {
      out += static_cast<char>(std::stoi(std::string(digits), nullptr, 16));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

const json* at_pointer(const json& document, const std::string& pointer) {
  try {
    const json::json_pointer parsed(pointer);
    return document.contains(parsed) ? &document.at(parsed) : nullptr;
  } catch (const json::exception&) {
    return nullptr;
  }
}

// The steps from `from` to `target`, the last one first.
bool find_path(const json& from, const json* target, std::vector<std::string>& steps) {
  if (&from == target) return true;
  if (!from.is_structured()) return false;
  for (const auto& [name, value] : from.items()) {
    if (!find_path(value, target, steps)) continue;
    steps.push_back(name);
    return true;
  }
  return false;
}

class Compiler {
 public:
  explicit Compiler(const json& root) : root_(root) {}

  Nodes compile() {
    read_draft();
    known_keywords_ = known_keywords();
    find_ids(root_, bases_.emplace_back(), false);
    ids_.try_emplace("", &root_);
    nodes_.root = node_of(root_);
    // Not by recursion: a chain of references may be long.
    for (std::size_t i = 0; i < nodes_.nodes.size(); ++i) fill(nodes_.nodes[i], *sources_[i]);
    for (std::size_t i = 0; i < nodes_.nodes.size(); ++i) height_of(&nodes_.nodes[i], 1);
    return std::move(nodes_);
  }

 private:
  std::string place_of(const json& target) const {
    std::vector<std::string> steps;
    find_path(root_, &target, steps);
    std::string place;
    for (auto step = steps.rbegin(); step != steps.rend(); ++step) place += "/" + escape(*step, 80);
    return place.empty() ? "(root)" : place;
  }
  [[noreturn]] void refuse(const json& at, const std::string& expected_and_found) const {
    throw Unfit{place_of(at) + ": expected " + expected_and_found};
  }
  [[noreturn]] void refuse_value(const json& value, const std::string& expected) const {
    refuse(value, expected + ", found " + shown(value));
  }

  void read_draft() {
    const json* const named = root_.is_object() ? keyword(root_, "$schema") : nullptr;
    if (named == nullptr) return;
    const std::string text = named->is_string() ? named->get<std::string>() : shown(*named);
    for (const int draft : {4, 6, 7}) {
      if (text.find("draft-0" + std::to_string(draft)) == std::string::npos) continue;
      draft_ = draft;
      return;
    }
    throw Unfit{"$schema: expected draft-04, draft-06 or draft-07, found '" + escape(text, 80) +
                "'"};
  }

  // ---- References

  static const json* reference_in(const json& schema) {
    const json* const reference = schema.is_object() ? keyword(schema, "$ref") : nullptr;
    return reference != nullptr && reference->is_string() ? reference : nullptr;
  }

  // Names what has an id, and remembers what references are relative to. `is_names`: what `at` has
  // are no keywords.
  void find_ids(const json& at, const std::string& outer_base, bool is_names) {
    const std::string* base = &outer_base;
    const json* const id =
        at.is_object() && !is_names ? keyword(at, draft_ == 4 ? "id" : "$id") : nullptr;
    if (reference_in(at) != nullptr) {
      base_of_[&at] = base;
    } else if (id != nullptr && id->is_string()) {
      std::string uri = resolve(*base, id->get_ref<const std::string&>());
      if (uri.ends_with('#')) uri.pop_back();
      if (!ids_.try_emplace(uri, &at).second) twice_.insert(uri);
      uri.resize(std::min(uri.size(), uri.find('#')));
      base = &bases_.emplace_back(std::move(uri));
    }
    if (!at.is_structured()) return;
    for (const auto& [name, value] : at.items()) {
      if (is_names || !is_one_of(kHolding, name))
        find_ids(value, *base, !is_names && is_one_of(kNaming, name));
    }
  }

  const json* find(const std::string& base, const json& reference) const {
    const std::string uri = resolve(base, reference.get_ref<const std::string&>());
    const std::size_t hash = std::min(uri.size(), uri.find('#'));
    const std::string fragment = percent_decoded(uri.substr(std::min(uri.size(), hash + 1)));
    const bool by_pointer = fragment.empty() || fragment.starts_with('/');
    const auto found = ids_.find(by_pointer ? uri.substr(0, hash) : uri);
    if (found == ids_.end()) return nullptr;
    if (twice_.contains(found->first)) refuse_value(reference, "an id that one schema has");
    return by_pointer ? at_pointer(*found->second, fragment) : found->second;
  }

  // What applies in the place of `schema`, whose other keywords a reference hides.
  const json& followed(const json& schema) const {
    const json* at = &schema;
    std::unordered_set<const json*> seen;
    while (const json* const reference = reference_in(*at)) {
      if (!seen.insert(at).second) refuse_endless(*at);
      const auto base = base_of_.find(at);
      const json* const target = base == base_of_.end() ? nullptr : find(*base->second, *reference);
      if (target == nullptr) {
        throw Unfit{place_of(*reference) + ": '" +
                    escape(reference->get_ref<const std::string&>(), 200) +
                    "' is not in this file"};
      }
      at = target;
    }
    return *at;
  }

  [[noreturn]] void refuse_endless(const json& at) const {
    refuse(at, "a schema that comes to an end, found one that applies itself to the same value");
  }

  const Node* node_of(const json& schema) {
    const json& target = followed(schema);
    if (!target.is_object() && (!target.is_boolean() || draft_ == 4))
      refuse_value(target, "a schema");
    const auto [known, is_new] = known_.try_emplace(&target, nullptr);
    if (is_new) {
      known->second = &nodes_.nodes.emplace_back();
      sources_.push_back(&target);
    }
    return known->second;
  }

  // ---- Keywords

  std::vector<std::string_view> known_keywords() const {
    std::vector<std::string_view> known = {draft_ == 4 ? "id" : "$id"};
    for (std::string_view rest :
         {kKeywords, draft_ >= 6 ? kKeywordsFrom6 : "", draft_ >= 7 ? kKeywordsFrom7 : ""}) {
      while (!rest.empty()) {
        known.push_back(rest.substr(0, rest.find(' ')));
        rest.remove_prefix(std::min(rest.size(), known.back().size() + 1));
      }
    }
    return known;
  }

  // What begins with x- is somebody's own.
  void note_unknown(const json& schema) {
    for (const auto& [name, value] : schema.items()) {
      if (is_one_of(known_keywords_, name) || name.starts_with("x-")) continue;
      if (nodes_.notes.size() == kMaxNotes) return;
      const std::string near = nearest(name, known_keywords_);
      nodes_.notes.push_back(place_of(value) + ": no keyword of draft " + std::to_string(draft_) +
                             ", and not looked at" +
                             (near.empty() ? "" : ": did you mean '" + near + "'?"));
    }
  }

  static const json* keyword(const json& schema, const char* name) {
    const auto found = schema.find(name);
    return found == schema.end() ? nullptr : &*found;
  }

  const Node* schema_at(const json& schema, const char* name) {
    const json* const value = keyword(schema, name);
    return value == nullptr ? nullptr : node_of(*value);
  }

  // additionalItems and additionalProperties, which may be booleans in draft 4 as well.
  const Node* rest_at(const json& schema, const char* name) {
    const json* const value = keyword(schema, name);
    if (value == nullptr || *value == true) return nullptr;
    if (*value != false) return node_of(*value);
    if (never_ == nullptr) {
      static const json never = false;
      never_ = &nodes_.nodes.emplace_back();
      sources_.push_back(&never);
    }
    return never_;
  }

  std::vector<const Node*> schemas_in(const json& list) {
    if (!list.is_array() || list.empty()) refuse_value(list, "a list of schemas");
    std::vector<const Node*> schemas;
    for (const json& each : list) schemas.push_back(node_of(each));
    return schemas;
  }
  std::vector<const Node*> schemas_at(const json& schema, const char* name) {
    const json* const list = keyword(schema, name);
    return list == nullptr ? std::vector<const Node*>() : schemas_in(*list);
  }

  std::vector<std::string> names_in(const json& list) const {
    if (!list.is_array()) refuse_value(list, "a list of names");
    std::vector<std::string> names;
    for (const json& name : list) {
      if (!name.is_string()) refuse_value(name, "a name");
      names.push_back(name);
    }
    return names;
  }

  const json& object_at(const json& schema, const char* name) const {
    static const json none = json::object();
    const json* const value = keyword(schema, name);
    if (value == nullptr) return none;
    if (!value->is_object()) refuse_value(*value, "an object");
    return *value;
  }

  json number_at(const json& schema, const char* name) const {
    const json* const value = keyword(schema, name);
    if (value == nullptr) return nullptr;
    if (!value->is_number()) refuse_value(*value, "a number");
    return *value;
  }

  void read_count(const json& schema, const char* name, std::uint64_t& count) const {
    const json* const value = keyword(schema, name);
    if (value == nullptr) return;
    constexpr double kMax = 9007199254740992;  // whole numbers up to here have their double
    const bool is_count =
        value->is_number() && *value >= 0 &&
        (!value->is_number_float() || (*value <= kMax && (types_of(*value) & kIntegerType) != 0));
    if (!is_count) refuse_value(*value, "a whole number from 0");
    count = value->get<std::uint64_t>();
  }

  bool boolean_at(const json& schema, const char* name) const {
    const json* const value = keyword(schema, name);
    if (value == nullptr) return false;
    if (!value->is_boolean()) refuse_value(*value, "true or false");
    return *value;
  }

  const std::string* text_at(const json& schema, const char* name) const {
    const json* const value = keyword(schema, name);
    if (value == nullptr) return nullptr;
    if (!value->is_string()) refuse_value(*value, "a text");
    return &value->get_ref<const std::string&>();
  }

  const Pattern* pattern_of(const std::string& text, const json& at) {
    auto pattern = Pattern::compile(text);
    if (!pattern) {
      refuse(at, "a regular expression, found '" + escape(text, 80) +
                     "': " + escape(pattern.error(), 160));
    }
    return &nodes_.patterns.emplace_back(std::move(*pattern));
  }

  std::uint8_t types_in(const json& value) const {
    if (value.is_array()) {
      if (value.empty()) refuse(value, "at least one type, found none");
      std::uint8_t types = 0;
      for (const json& type : value) {
        if (type.is_array()) refuse_value(type, "a type");
        types |= types_in(type);
      }
      return types;
    }
    const auto* const found =
        std::ranges::find_if(kTypes, [&](const char* name) { return value == name; });
    if (found == std::end(kTypes)) {
      refuse_value(value, "null, boolean, integer, number, string, array or object");
    }
    return static_cast<std::uint8_t>(1 << (found - std::begin(kTypes)));
  }

  void fill(Node& node, const json& schema) {
    if (schema.is_boolean()) {
      node.never = !schema.get<bool>();
      return;
    }
    note_unknown(schema);
    if (const json* const reference = keyword(schema, "$ref")) refuse_value(*reference, "a text");
    if (const json* const type = keyword(schema, "type")) node.types = types_in(*type);
    if (const json* const values = keyword(schema, "enum")) {
      if (!values->is_array()) refuse_value(*values, "a list of values");
      node.values = values->get<std::vector<json>>();
      std::ranges::sort(*node.values, [](const json& a, const json& b) {
        std::uint64_t steps = UINT64_MAX;
        return compare(a, b, steps) < 0;
      });
    }
    fill_for_numbers(node, schema);
    fill_for_texts(node, schema);
    fill_for_arrays(node, schema);
    fill_for_objects(node, schema);
    node.all_of = schemas_at(schema, "allOf");
    node.any_of = schemas_at(schema, "anyOf");
    node.one_of = schemas_at(schema, "oneOf");
    node.none = schema_at(schema, "not");
    if (draft_ >= 6) {
      if (const json* const constant = keyword(schema, "const")) node.constant = *constant;
    }
    if (draft_ >= 7) {
      node.condition = schema_at(schema, "if");
      node.then = schema_at(schema, "then");
      node.otherwise = schema_at(schema, "else");
    }
  }

  void fill_for_numbers(Node& node, const json& schema) const {
    node.multiple_of = number_at(schema, "multipleOf");
    if (node.multiple_of.is_number() && node.multiple_of <= 0)
      refuse_value(schema["multipleOf"], "a number above 0");
    node.minimum = number_at(schema, "minimum");
    node.maximum = number_at(schema, "maximum");
    if (draft_ > 4) {
      node.above = number_at(schema, "exclusiveMinimum");
      node.below = number_at(schema, "exclusiveMaximum");
    } else {
      if (boolean_at(schema, "exclusiveMinimum")) node.above = std::exchange(node.minimum, nullptr);
      if (boolean_at(schema, "exclusiveMaximum")) node.below = std::exchange(node.maximum, nullptr);
    }
  }

  void fill_for_texts(Node& node, const json& schema) {
    read_count(schema, "minLength", node.min_length);
    read_count(schema, "maxLength", node.max_length);
    if (const std::string* const text = text_at(schema, "pattern"))
      node.pattern = pattern_of(*text, schema["pattern"]);
    if (const std::string* const name = text_at(schema, "format"))
      node.format = format_named(*name, draft_);
  }

  void fill_for_arrays(Node& node, const json& schema) {
    read_count(schema, "minItems", node.min_items);
    read_count(schema, "maxItems", node.max_items);
    node.unique = boolean_at(schema, "uniqueItems");
    const json* const items = keyword(schema, "items");
    if (items != nullptr && items->is_array()) {
      for (const json& each : *items) node.first_items.push_back(node_of(each));
      node.items = rest_at(schema, "additionalItems");
    } else {
      node.items = schema_at(schema, "items");
    }
    if (draft_ >= 6) node.contains = schema_at(schema, "contains");
  }

  void fill_for_objects(Node& node, const json& schema) {
    read_count(schema, "minProperties", node.min_members);
    read_count(schema, "maxProperties", node.max_members);
    if (const json* const required = keyword(schema, "required"))
      node.required = names_in(*required);
    for (const auto& [name, value] : object_at(schema, "properties").items())  // sorted
      node.properties.emplace_back(name, node_of(value));
    for (const auto& [text, value] : object_at(schema, "patternProperties").items())
      node.pattern_properties.emplace_back(pattern_of(text, value), node_of(value));
    node.more_properties = rest_at(schema, "additionalProperties");
    if (draft_ >= 6) node.names = schema_at(schema, "propertyNames");
    for (const auto& [name, value] : object_at(schema, "dependencies").items()) {
      Node::Dependency& dependency = node.dependencies.emplace_back();
      dependency.name = name;
      if (value.is_array()) {
        dependency.names = names_in(value);
      } else {
        dependency.schema = node_of(value);
      }
    }
  }

  // ---- What applies to the same value, one through the other, comes to an end

  int height_of(const Node* node, int depth) {
    const auto [known, is_new] = heights_.try_emplace(node, 0);
    if (!is_new && known->second > 0) return known->second;
    if (!is_new) refuse_endless(source_of(node));
    int height = 1;
    const auto look_at = [&](const Node* other) {
      if (other != nullptr && depth <= kMaxBeside)
        height = std::max(height, 1 + height_of(other, depth + 1));
    };
    for (const auto* const list : {&node->all_of, &node->any_of, &node->one_of})
      std::ranges::for_each(*list, look_at);
    for (const Node* const each : {node->none, node->condition, node->then, node->otherwise})
      look_at(each);
    for (const Node::Dependency& each : node->dependencies) look_at(each.schema);
    if (height > kMaxBeside || depth > kMaxBeside) {
      refuse(source_of(node),
             "at most " + std::to_string(kMaxBeside) +
                 " schemas that apply to the same value, one through the other, found more");
    }
    return heights_[node] = height;
  }

  const json& source_of(const Node* node) const {
    return **std::ranges::find_if(sources_, [&, i = std::size_t{0}](const json*) mutable {
      return &nodes_.nodes[i++] == node;
    });
  }

  const json& root_;
  int draft_ = 7;
  std::vector<std::string_view> known_keywords_;
  Nodes nodes_;
  std::vector<const json*> sources_;  // of each node
  std::unordered_map<const json*, const Node*> known_;
  const Node* never_ = nullptr;
  std::deque<std::string> bases_;
  std::unordered_map<const json*, const std::string*> base_of_;  // of what has a $ref
  std::unordered_map<std::string, const json*> ids_;
  std::unordered_set<std::string> twice_;         // of them, what several have
  std::unordered_map<const Node*, int> heights_;  // 0: being looked at
};

}  // namespace

Nodes compile(const json& root) { return Compiler(root).compile(); }

}  // namespace lope::schema
