// JSON Schema, drafts 4, 6 and 7.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace lope {

inline constexpr int kMaxJsonDepth = 256;

// What a message of `size` bytes may cost: each schema that a value is held against is a step, each
// 16 to 64 bytes of a text that are looked at, each item of a pattern that is tried. All that there
// may be take seconds.
constexpr std::uint64_t max_schema_steps(std::size_t size) {
  return std::min<std::uint64_t>(10'000'000 + 50ull * size, 250'000'000);
}

class Schema {
 public:
  // An error says where in `text` and what: no JSON, no schema, a reference to another document, no
  // end.
  static Result<Schema> compile(std::string_view text);
  Schema(Schema&&) noexcept;
  Schema& operator=(Schema&&) noexcept;
  ~Schema();

  // What is in it and is no keyword, each with its place, up to 20.
  const std::vector<std::string>& notes() const;

  // [any thread] What is wrong with a JSON text, and where: "/items/3/price: expected number, found
  // string". Nothing: it fits. Throws std::bad_alloc.
  std::optional<std::string> mismatch(std::string_view json) const;

 private:
  struct Compiled;
  explicit Schema(std::unique_ptr<Compiled> compiled);
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace lope
