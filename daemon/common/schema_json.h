// From the text of a JSON document to its value.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "common/result.h"

namespace lope::schema {

// An error says where and what: no JSON, deeper than kMaxJsonDepth, a member that is there twice, a
// number that no double holds. Throws std::bad_alloc.
Result<nlohmann::json> parse(std::string_view text);

}  // namespace lope::schema
