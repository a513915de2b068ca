// Where Lope's other programs are.
#pragma once

#include <string>

#include "common/result.h"

namespace lope::cli {

// The program of that name beside this one (a build folder), or in ../libexec/lope (installed).
Result<std::string> program_path(const std::string& name);

// PREFIX of PREFIX/bin/lope and PREFIX/libexec/lope/…; a build folder looks like one.
Result<std::string> installation();

}  // namespace lope::cli
