// JSON Schema, drafts 4 to 7. The only place that knows valijson.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"

namespace lope {

inline constexpr int kMaxJsonDepth = 256;

class Schema {
 public:
  // An error says where in `text` and what: no JSON, no schema, a reference to another document.
  // Recursion without end in a schema ends the process: to be judged where that does no harm.
  static Result<Schema> compile(std::string_view text);
  Schema(Schema&&) noexcept;
  Schema& operator=(Schema&&) noexcept;
  ~Schema();

  // [any thread] What is wrong with a JSON text, and where: "/items/3/price: expected number, found
  // string". Nothing: it fits. Throws std::bad_alloc.
  std::optional<std::string> mismatch(std::string_view json) const;

 private:
  struct Compiled;
  explicit Schema(std::unique_ptr<Compiled> compiled);
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace lope
