// Private copies of handler files. A worker loads the copy, so whatever happens to the file itself,
// it goes on. A copy is in a folder named by its content, and never changes; debuggers find it
// there.
#pragma once

#include <string>
#include <vector>

#include "common/fd.h"
#include "common/result.h"
#include "common/settings.h"

namespace lope::supervisor {

// Sets handler_hash, handler_copy and handler_missing of each group, as its file is now; all stay
// empty for a file that cannot be a handler, which its worker refuses with the reason. Copies go to
// `<cache_dir>/handlers/<hash>`, made when they are missing. Returns why some handlers are loaded
// without one. Slow: it reads the files.
std::vector<std::string> keep_handlers(Settings& settings, const std::string& cache_dir);

// As long as it lives nobody takes the copy away.
Result<UniqueFd> hold_copy(const std::string& path);

// Removes copies that nobody holds and that were not looked at for an hour.
void tidy_copies(const std::string& cache_dir);

}  // namespace lope::supervisor
