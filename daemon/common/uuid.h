// Random names for messages.
#pragma once

#include <string>

namespace lope {

// A UUID of version 4 as text, 36 characters. [any thread] Not for both sides of a fork: they would
// make the same ones.
std::string uuid();

}  // namespace lope
