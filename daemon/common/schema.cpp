#include "common/schema.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/schema_compiler.h"
#include "common/schema_visit.h"
#include "common/text.h"

namespace lope {

namespace {

using nlohmann::json;

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

constexpr const char* kHugeNumber = "expected numbers up to 1.8e308, found a larger one";

std::string told(const schema::TooMuch& much, std::size_t size) {
  switch (much.of) {
    case schema::TooMuch::steps: break;
    case schema::TooMuch::depth:
      return "expected at most " + std::to_string(schema::kMaxDepth) +
             " schemas to be gone into, one inside the other, found more";
    case schema::TooMuch::memory:
      return "expected to be matched with a pattern in " +
             std::to_string(schema::Matcher::kMaxMib) + " MiB, found that it takes more";
  }
  return "expected to be held against the schema in " + std::to_string(max_schema_steps(size)) +
         " steps, found that it takes more";
}

}  // namespace

struct Schema::Compiled {
  schema::Nodes nodes;
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
    auto compiled = std::make_unique<Compiled>();
    compiled->nodes = schema::compile(json::parse(text));
    return Schema(std::move(compiled));
  } catch (const json::parse_error& error) {
    return Error{problem_of(error, text)};
  } catch (const json::out_of_range&) {
    return Error{kHugeNumber};
  } catch (const schema::Unfit& unfit) {
    return Error{unfit.text};
  }
}

std::optional<std::string> Schema::mismatch(std::string_view text) const {
  if (is_too_deep(text)) {
    return "expected at most " + std::to_string(kMaxJsonDepth) + " levels of JSON, found more";
  }
  try {
    const json value = json::parse(text);
    schema::Visit visit(max_schema_steps(text.size()));
    if (visit.fits(*compiled_->nodes.root, value)) return std::nullopt;
    return visit.told();
  } catch (const json::parse_error& error) {
    return problem_of(error, text);
  } catch (const json::out_of_range&) {
    return kHugeNumber;
  } catch (const schema::TooMuch& much) {
    return told(much, text.size());
  }
}

}  // namespace lope
