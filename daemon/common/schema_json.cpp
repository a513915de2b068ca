#include "common/schema_json.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "common/schema.h"
#include "common/text.h"

namespace lope::schema {

namespace {

using nlohmann::json;

// `byte` counts from 1.
std::string no_json(std::string_view text, std::size_t byte, std::string_view found) {
  const std::string_view before = text.substr(0, byte == 0 ? 0 : byte - 1);
  const auto line = 1 + std::ranges::count(before, '\n');
  const std::size_t start = before.rfind('\n') + 1;  // npos + 1 is 0
  return "line " + std::to_string(line) + ", column " + std::to_string(before.size() - start + 1) +
         ": expected JSON, found " + escape(found, 200);
}

// nlohmann's own words are for programmers, and quote what was read last.
std::string_view problem_in(std::string_view what) {
  what = what.substr(0, what.find("; last read"));
  const std::size_t colon = what.rfind(": ");
  return colon == std::string_view::npos ? what : what.substr(colon + 2);
}

// nlohmann's own lets the last of several members of one name win.
class Builder {
 public:
  explicit Builder(std::string_view text) : text_(text) {}

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(std::int64_t value) { return add(value); }
  bool number_unsigned(std::uint64_t value) { return add(value); }
  bool number_float(double value, const std::string&) { return add(value); }
  bool string(const std::string& value) { return add(value); }
  bool binary(const json::binary_t&) { return false; }  // JSON has none
  bool start_object(std::size_t) { return open(json::value_t::object); }
  bool start_array(std::size_t) { return open(json::value_t::array); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(const std::string& name) {
    const auto [member, is_new] = open_.back()->get_ref<json::object_t&>().try_emplace(name);
    member_ = &member->second;
    if (!is_new)
      problem = place() + ": expected each member once, found '" + escape(name, 80) + "' twice";
    return is_new;
  }

  bool parse_error(std::size_t byte, const std::string&, const json::exception& error) {
    constexpr int kOutOfRange = 406;
    problem = error.id == kOutOfRange ? "expected numbers up to 1.8e308, found a larger one"
                                      : no_json(text_, byte, problem_in(error.what()));
    return false;
  }

  json root;
  std::string problem;

 private:
  bool add(json value) {
    place_of_next() = std::move(value);
    return true;
  }

  json& place_of_next() {
    if (open_.empty()) return root;
    return open_.back()->is_array() ? open_.back()->emplace_back() : *member_;
  }

  bool open(json::value_t type) {
    if (open_.size() == kMaxJsonDepth) {
      problem = "expected at most " + std::to_string(kMaxJsonDepth) + " levels of JSON, found more";
      return false;
    }
    json& opened = place_of_next();
    opened = type;
    open_.push_back(&opened);
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string place() const {
    std::string place;
    for (std::size_t i = 0; i + 1 < open_.size() && place.size() < 300; ++i) {
      if (open_[i]->is_array()) {
        place += "/" + std::to_string(open_[i]->size() - 1);
        continue;
      }
      for (const auto& [name, value] : open_[i]->get_ref<const json::object_t&>()) {
        if (&value == open_[i + 1]) place += "/" + escape(name, 80);
      }
    }
    return place.empty() ? "(root)" : place;
  }

  const std::string_view text_;
  std::vector<json*> open_;  // each in the one before
  json* member_ = nullptr;   // that the next value is of
};

}  // namespace

Result<json> parse(std::string_view text) {
  // nlohmann takes it for the end.
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos)
    return Error{no_json(text, nul + 1, "a NUL")};
  Builder builder(text);
  if (!json::sax_parse(text, &builder)) return Error{std::move(builder.problem)};
  return std::move(builder.root);
}

}  // namespace lope::schema
