// The handler python with functions that do next to nothing, for the Python clients to be held
// against.
#pragma once

#include <vector>

#include "measure.h"

namespace lope::bench {

// "handlers: python, …", each with a function of clients/empty.py.
std::vector<Load> python_loads();

}  // namespace lope::bench
