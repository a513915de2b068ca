#include "pins_cpp.h"

static_assert(__cplusplus > 201703L, "compiled as C++20");
