// From the text of a JSON Schema to its nodes.
#pragma once

#include "common/schema_node.h"

namespace lope::schema {

// What is wrong with the schema, and where.
struct Unfit {
  std::string text;
};

// Throws Unfit.
Nodes compile(const nlohmann::json& root);

}  // namespace lope::schema
