#include "common/schema.h"

#include "common/schema_compiler.h"
#include "common/schema_json.h"
#include "common/schema_visit.h"

namespace lope {

namespace {

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
  const auto document = schema::parse(text);
  if (!document) return Error{document.error()};
  try {
    auto compiled = std::make_unique<Compiled>();
    compiled->nodes = schema::compile(*document);
    return Schema(std::move(compiled));
  } catch (const schema::Unfit& unfit) {
    return Error{unfit.text};
  }
}

const std::vector<std::string>& Schema::notes() const { return compiled_->nodes.notes; }

std::optional<std::string> Schema::mismatch(std::string_view text) const {
  const auto value = schema::parse(text);
  if (!value) return value.error();
  try {
    schema::Visit visit(max_schema_steps(text.size()));
    if (visit.fits(*compiled_->nodes.root, *value)) return std::nullopt;
    return visit.told();
  } catch (const schema::TooMuch& much) {
    return told(much, text.size());
  }
}

}  // namespace lope
