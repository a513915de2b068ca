// Otherwise it aborts.
#define VALIJSON_USE_EXCEPTIONS 1

#include "common/schema.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>
#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validation_results.hpp>
#include <valijson/validator.hpp>
#include <vector>

#include "common/text.h"

namespace lope {

namespace {

using nlohmann::json;
using Adapter = valijson::adapters::NlohmannJsonAdapter;
using valijson::ValidationResults;
using Context = std::vector<std::string>;

// std::regex needs stack for every character: more of it for a longer pattern.
constexpr std::size_t kMaxForPattern = 2048;
constexpr std::size_t kShown = 80;  // of a text that does not fit
// So many things that are wrong are enough to tell the first.
constexpr std::size_t kMaxErrors = 8;
// Of one way that a value need not fit, as with anyOf, up to so many are kept.
constexpr std::size_t kMaxErrorsInside = 64;

// ---- Keywords of our own, in the place of some of valijson's
// -------------------------------------

// Its `type` does not say what it expected and found, its `pattern` and `format` run std::regex
// over whatever comes, its `uniqueItems` tells of each pair there is, and none of them stops after
// a million things that are wrong.
constexpr const char* kType = "lope-type";
constexpr const char* kPattern = "lope-pattern";
constexpr const char* kFormat = "lope-format";
constexpr const char* kUnique = "lope-unique";
constexpr const char* kLimit = "lope-limit";  // in every schema

struct EnoughErrors {
  ValidationResults::Error first;
};

// Those of the whole message. What is wrong with one of anyOf's ways has results of its own, and
// says nothing before all of them have been looked at.
thread_local const ValidationResults* outermost = nullptr;

void bound(ValidationResults& results) {
  if (&results == outermost) {
    if (results.numErrors() >= kMaxErrors) throw EnoughErrors{*results.begin()};
  } else if (results.numErrors() >= kMaxErrorsInside) {
    ValidationResults first;
    for (auto error = results.begin(); first.numErrors() < kMaxErrors; ++error) {
      first.pushError(*error);
    }
    results = std::move(first);
  }
}

void add_error(ValidationResults& results, const Context& context, const std::string& text) {
  results.pushError(context, text);
  bound(results);
}

const char* kind_of(const valijson::adapters::Adapter& value) {
  if (value.isNull()) return "null";
  if (value.isBool()) return "boolean";
  if (value.isNumber()) return "number";
  if (value.isString()) return "string";
  return value.isArray() ? "array" : "object";
}

bool is_of_type(const valijson::adapters::Adapter& value, const std::string& type) {
  if (type == "integer") {
    if (value.isInteger()) return true;
    return value.isDouble() && value.asDouble() == std::floor(value.asDouble());
  }
  return type == kind_of(value);
}

template <typename Derived>
class Keyword : public valijson::constraints::PolyConstraint {
 public:
  bool validate(const valijson::adapters::Adapter& value, const Context& context,
                ValidationResults* results) const final {
    std::string wrong = static_cast<const Derived*>(this)->wrong_with(value);
    if (wrong.empty()) return true;
    if (results != nullptr) add_error(*results, context, wrong);
    return false;
  }

 private:
  valijson::constraints::Constraint* cloneInto(void* memory) const final {
    return new (memory) Derived(*static_cast<const Derived*>(this));
  }
  std::size_t sizeOf() const final { return sizeof(Derived); }
};

class TypeKeyword final : public Keyword<TypeKeyword> {
 public:
  explicit TypeKeyword(std::vector<std::string> types) : types_(std::move(types)) {}
  std::string wrong_with(const valijson::adapters::Adapter& value) const {
    std::string expected;
    for (const std::string& type : types_) {
      if (is_of_type(value, type)) return {};
      expected += (expected.empty() ? "" : " or ") + type;
    }
    return "expected " + expected + ", found " + kind_of(value);
  }

 private:
  std::vector<std::string> types_;
};

class PatternKeyword final : public Keyword<PatternKeyword> {
 public:
  explicit PatternKeyword(std::string pattern)
      : pattern_(std::move(pattern)), regex_(pattern_, std::regex::ECMAScript) {}
  std::string wrong_with(const valijson::adapters::Adapter& value) const {
    std::string text;
    if (!value.isString() || !value.getString(text)) return {};
    if (text.size() > kMaxForPattern) {
      return "expected at most " + std::to_string(kMaxForPattern) +
             " bytes, to be matched with a pattern, found " + std::to_string(text.size());
    }
    if (std::regex_search(text, regex_)) return {};
    return "expected a match of '" + pattern_ + "', found '" + text.substr(0, kShown) + "'";
  }

 private:
  std::string pattern_;
  std::regex regex_;
};

int number_at(std::string_view text, std::size_t at, std::size_t digits) {
  if (at + digits > text.size()) return -1;
  int number = 0;
  for (const char c : text.substr(at, digits)) {
    if (c < '0' || c > '9') return -1;
    number = number * 10 + c - '0';
  }
  return number;
}

bool is_date(std::string_view text) {
  const int year = number_at(text, 0, 4), month = number_at(text, 5, 2),
            day = number_at(text, 8, 2);
  if (text.size() != 10 || text[4] != '-' || text[7] != '-' || year < 0 || month < 1 || month > 12)
    return false;
  constexpr int kDays[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  return day >= 1 && day <= kDays[month - 1] + (month == 2 && leap ? 1 : 0);
}

// RFC 3339's, with its offset.
bool is_time(std::string_view text) {
  const int hour = number_at(text, 0, 2), minute = number_at(text, 3, 2),
            second = number_at(text, 6, 2);
  if (text.size() < 9 || text[2] != ':' || text[5] != ':' || hour < 0 || hour > 23 || minute < 0 ||
      minute > 59 || second < 0 || second > 60) {
    return false;
  }
  text.remove_prefix(8);
  if (text.starts_with('.')) {
    const std::size_t end = text.find_first_not_of("0123456789", 1);
    if (end == 1 || end == std::string_view::npos) return false;
    text.remove_prefix(end);
  }
  if (text == "Z" || text == "z") return true;
  const int hours = number_at(text, 1, 2), minutes = number_at(text, 4, 2);
  return text.size() == 6 && (text[0] == '+' || text[0] == '-') && text[3] == ':' && hours >= 0 &&
         hours <= 23 && minutes >= 0 && minutes <= 59;
}

bool is_date_time(std::string_view text) {
  return text.size() > 11 && (text[10] == 'T' || text[10] == 't') && is_date(text.substr(0, 10)) &&
         is_time(text.substr(11));
}

class FormatKeyword final : public Keyword<FormatKeyword> {
 public:
  explicit FormatKeyword(std::string format) : format_(std::move(format)) {}
  std::string wrong_with(const valijson::adapters::Adapter& value) const {
    std::string text;
    if (!value.isString() || !value.getString(text)) return {};
    const bool fits = format_ == "date"        ? is_date(text)
                      : format_ == "time"      ? is_time(text)
                      : format_ == "date-time" ? is_date_time(text)
                                               : true;  // others are remarks
    return fits ? std::string()
                : "expected a " + format_ + ", found '" + text.substr(0, kShown) + "'";
  }

 private:
  std::string format_;
};

// The same text for values that are the same: 1 and 1.0, objects in whatever order.
void append_canonical(std::string& out, const valijson::adapters::Adapter& value) {
  if (value.isArray()) {
    out += '[';
    value.applyToArray([&out](const valijson::adapters::Adapter& item) {
      append_canonical(out, item);
      out += ',';
      return true;
    });
    out += ']';
  } else if (value.isObject()) {  // nlohmann's are sorted
    out += '{';
    value.applyToObject([&out](const std::string& name, const valijson::adapters::Adapter& member) {
      append_json_text(out, name);
      out += ':';
      append_canonical(out, member);
      out += ',';
      return true;
    });
    out += '}';
  } else if (value.isString()) {
    append_json_text(out, value.asString());
  } else if (value.isNumber()) {
    constexpr double kExact = 9007199254740992;  // each integer up to here has its double
    const double number = value.isDouble() ? value.asDouble() : 0;
    char digits[32];
    char* end = nullptr;
    if (value.isInteger()) {
      end = std::to_chars(digits, std::end(digits), value.asInteger()).ptr;
    } else if (std::fabs(number) <= kExact && number == std::floor(number)) {
      end = std::to_chars(digits, std::end(digits), static_cast<std::int64_t>(number)).ptr;
    } else {
      end = std::to_chars(digits, std::end(digits), number).ptr;
    }
    out.append(digits, end);
  } else {
    out += value.isNull() ? "null" : value.asBool() ? "true" : "false";
  }
}

class UniqueKeyword final : public Keyword<UniqueKeyword> {
 public:
  // Arrays that are longer than the schema allows anyway are not looked at.
  explicit UniqueKeyword(std::uint64_t max_items) : max_items_(max_items) {}
  std::string wrong_with(const valijson::adapters::Adapter& value) const {
    if (!value.isArray() || value.getArraySize() > max_items_) return {};
    std::vector<std::string> items;
    items.reserve(value.getArraySize());
    value.applyToArray([&items](const valijson::adapters::Adapter& item) {
      append_canonical(items.emplace_back(), item);
      return true;
    });
    std::ranges::sort(items);
    const auto twice = std::ranges::adjacent_find(items);
    if (twice == items.end()) return {};
    return "expected items that differ from one another, found " + twice->substr(0, kShown) +
           " more than once";
  }

 private:
  std::uint64_t max_items_;
};

// Always fits.
class LimitKeyword final : public valijson::constraints::PolyConstraint {
 public:
  bool validate(const valijson::adapters::Adapter&, const Context&,
                ValidationResults* results) const override {
    if (results != nullptr) bound(*results);
    return true;
  }

 private:
  valijson::constraints::Constraint* cloneInto(void* memory) const override {
    return new (memory) LimitKeyword(*this);
  }
  std::size_t sizeOf() const override { return sizeof(LimitKeyword); }
};

template <typename Make>
class Builder final : public valijson::ConstraintBuilder {
 public:
  explicit Builder(Make make) : make_(std::move(make)) {}
  valijson::constraints::Constraint* make(const valijson::adapters::Adapter& node) const override {
    return make_(node);
  }

 private:
  Make make_;
};

template <typename Make>
void add_keyword(valijson::SchemaParser& parser, const char* name, Make make) {
  parser.addConstraintBuilder(name, new Builder<Make>(std::move(make)));  // it takes that over
}

// ---- The schema's own text
// -----------------------------------------------------------------------

struct Unfit {
  std::string text;
};

std::string pointer_to(const std::string& parent, const std::string& name) {
  return parent + "/" + escape(name, 80);
}

bool is_in(std::string_view word, std::initializer_list<std::string_view> words) {
  return std::ranges::find(words, word) != words.end();
}

// Deeper than a message may be is no schema either: whatever goes through one recurses.
bool is_too_deep(std::string_view text) {
  int depth = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    switch (text[i]) {
      case '"':
        for (++i; i < text.size() && text[i] != '"'; ++i) {
          if (text[i] == '\\') ++i;
        }
        break;
      case '[':
      case '{':
        if (++depth > kMaxJsonDepth) return true;
        break;
      case ']':
      case '}': --depth; break;
      default: break;
    }
  }
  return false;
}

void check_type(const json& value, const std::string& place) {
  const auto check = [&](const json& type) {
    const bool known = type.is_string() &&
                       is_in(type.get_ref<const std::string&>(),
                             {"null", "boolean", "integer", "number", "string", "array", "object"});
    if (!known) {
      throw Unfit{place +
                  "/type: expected null, boolean, integer, number, string, array or object, "
                  "found " +
                  escape(type.dump(-1, ' ', false, json::error_handler_t::replace), 80)};
    }
  };
  if (!value.is_array()) return check(value);
  if (value.empty()) throw Unfit{place + "/type: expected at least one type, found none"};
  for (const json& type : value) check(type);
}

void check_pattern(const std::string& pattern, const std::string& place) {
  try {
    const std::regex regex(pattern, std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    throw Unfit{place + ": expected a regular expression, found '" + escape(pattern, 80) +
                "': " + error.what()};
  }
}

void rename(json& object, const char* from, const char* to) {
  object[to] = std::move(object[from]);
  object.erase(from);
}

// Judges what valijson does not, and puts our keywords in. `is_schema`: otherwise a map of schemas.
void prepare(json& node, bool is_schema, const std::string& place, bool& names_matched) {
  if (node.is_array()) {
    for (std::size_t i = 0; i < node.size(); ++i) {
      prepare(node[i], true, pointer_to(place, std::to_string(i)), names_matched);
    }
    return;
  }
  if (!node.is_object()) return;
  for (auto& [name, value] : node.items()) {
    if (is_schema && is_in(name, {"enum", "const", "default", "examples"})) continue;
    const bool is_map = is_schema && is_in(name, {"properties", "patternProperties", "definitions",
                                                  "$defs", "dependencies"});
    if (is_map && name == "patternProperties" && value.is_object()) {
      names_matched = true;
      for (const auto& entry : value.items()) {
        check_pattern(entry.key(), pointer_to(place, name));
      }
    }
    prepare(value, !is_map, pointer_to(place, name), names_matched);
  }
  if (!is_schema) return;
  if (node.contains("type")) {
    check_type(node["type"], place);
    rename(node, "type", kType);
  }
  if (node.contains("pattern")) {
    if (!node["pattern"].is_string()) throw Unfit{place + "/pattern: expected a text"};
    check_pattern(node["pattern"], place + "/pattern");
    rename(node, "pattern", kPattern);
  }
  if (node.contains("format")) {
    if (!node["format"].is_string()) throw Unfit{place + "/format: expected a text"};
    rename(node, "format", kFormat);
  }
  if (const auto unique = node.find("uniqueItems"); unique != node.end() && unique->is_boolean()) {
    const bool asked = *unique;
    node.erase(unique);
    const auto max = node.find("maxItems");
    const bool bounded = max != node.end() && max->is_number_unsigned();
    if (asked) node[kUnique] = bounded ? *max : json(INT64_MAX);
  }
  node[kLimit] = true;
}

// valijson's words for where: <root>, [items], [3].
std::string place_of(const Context& context) {
  std::string place;
  for (std::size_t i = 1; i < context.size(); ++i) {
    std::string_view step = context[i];
    if (step.starts_with('[')) step.remove_prefix(1);
    if (step.ends_with(']')) step.remove_suffix(1);
    place += "/" + escape(step, 80);
  }
  return place.empty() ? "(root)" : place;
}

std::string line_and_column(std::string_view text, std::size_t byte) {
  const std::string_view before = text.substr(0, byte == 0 ? 0 : byte - 1);
  const auto line = 1 + std::ranges::count(before, '\n');
  const std::size_t start = before.rfind('\n') + 1;  // npos + 1 is 0
  return "line " + std::to_string(line) + ", column " + std::to_string(before.size() - start + 1);
}

// nlohmann's own words are for programmers.
std::string problem_of(const json::parse_error& error, std::string_view text) {
  const std::string_view what = error.what();
  const std::size_t colon = what.rfind(": ", what.find("; last read"));
  std::string_view words = colon == std::string_view::npos ? what : what.substr(colon + 2);
  return line_and_column(text, error.byte) + ": expected JSON, found " + escape(words, 200);
}

bool has_long_name(const json& value) {
  if (value.is_object()) {
    return std::ranges::any_of(value.items(), [](const auto& entry) {
      return entry.key().size() > kMaxForPattern || has_long_name(entry.value());
    });
  }
  return value.is_array() && std::ranges::any_of(value, has_long_name);
}

}  // namespace

struct Schema::Compiled {
  valijson::Schema schema;
  bool names_matched = false;  // with patterns

  bool fits(const json& value, ValidationResults* results) const {
    // It keeps what it made of the patterns of names.
    thread_local valijson::Validator validator;
    return validator.validate(schema, Adapter(value), results);
  }
};

Schema::Schema(std::unique_ptr<Compiled> compiled) : compiled_(std::move(compiled)) {}
Schema::Schema(Schema&&) noexcept = default;
Schema& Schema::operator=(Schema&&) noexcept = default;
Schema::~Schema() = default;

Result<Schema> Schema::compile(std::string_view text) {
  if (is_too_deep(text)) {
    return Error{"expected at most " + std::to_string(kMaxJsonDepth) + " levels, found more"};
  }
  try {
    json root = json::parse(text);
    if (!root.is_object() && !root.is_boolean()) {
      return Error{"expected a schema, an object, found another kind of JSON"};
    }
    const std::string draft = root.is_object() ? root.value("$schema", "") : "";
    const bool is_draft_4 = draft.find("draft-04") != std::string::npos;
    if (!draft.empty() && !is_draft_4 && draft.find("draft-06") == std::string::npos &&
        draft.find("draft-07") == std::string::npos) {
      return Error{"$schema: expected draft-04, draft-06 or draft-07, found '" + escape(draft, 80) +
                   "'"};
    }
    auto compiled = std::make_unique<Compiled>();
    prepare(root, true, "", compiled->names_matched);

    valijson::SchemaParser parser(is_draft_4 ? valijson::SchemaParser::kDraft4
                                             : valijson::SchemaParser::kDraft7);
    add_keyword(parser, kType, [](const valijson::adapters::Adapter& node) {
      std::vector<std::string> types;
      if (node.isArray()) {
        node.applyToArray([&types](const valijson::adapters::Adapter& type) {
          types.push_back(type.asString());
          return true;
        });
      } else {
        types.push_back(node.asString());
      }
      return new TypeKeyword(std::move(types));
    });
    add_keyword(parser, kPattern, [](const valijson::adapters::Adapter& node) {
      return new PatternKeyword(node.asString());
    });
    add_keyword(parser, kFormat, [](const valijson::adapters::Adapter& node) {
      return new FormatKeyword(node.asString());
    });
    add_keyword(parser, kUnique, [](const valijson::adapters::Adapter& node) {
      return new UniqueKeyword(static_cast<std::uint64_t>(node.asInteger()));
    });
    add_keyword(parser, kLimit,
                [](const valijson::adapters::Adapter&) { return new LimitKeyword; });
    const Adapter adapter(root);
    parser.populateSchema(adapter, compiled->schema);
    // A schema that refers to itself without end does so now.
    for (const json& each : {json(nullptr), json::object(), json::array(), json("")}) {
      (void)compiled->fits(each, nullptr);
    }
    return Schema(std::move(compiled));
  } catch (const json::parse_error& error) {
    return Error{problem_of(error, text)};
  } catch (const Unfit& unfit) {
    return Error{unfit.text};
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    return Error{"expected a JSON Schema of draft 4 to 7, found: " + escape(error.what(), 300)};
  }
}

std::optional<std::string> Schema::mismatch(std::string_view text) const {
  if (is_too_deep(text)) {
    return "expected at most " + std::to_string(kMaxJsonDepth) + " levels of JSON, found more";
  }
  try {
    const json value = json::parse(text);
    if (compiled_->names_matched && has_long_name(value)) {
      return "expected names of at most " + std::to_string(kMaxForPattern) +
             " bytes, to be matched with patterns, found a longer one";
    }
    if (compiled_->fits(value, nullptr)) return std::nullopt;
    ValidationResults::Error first{{}, "does not fit"};
    try {
      ValidationResults results;
      outermost = &results;
      (void)compiled_->fits(value, &results);
      if (results.numErrors() > 0) first = *results.begin();
    } catch (const EnoughErrors& enough) {
      first = enough.first;
    }
    return place_of(first.context) + ": " + escape(first.description, 300);
  } catch (const json::parse_error& error) {
    return problem_of(error, text);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    return std::string("cannot be held against the schema: ") + escape(error.what(), 300);
  }
}

}  // namespace lope
