// What a handler file is, found out without running any of it here: its ELF first, the rest in a
// throw-away lope-worker with a time limit.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "common/fd.h"
#include "common/json.h"
#include "common/result.h"

namespace lope::cli {

inline constexpr std::chrono::seconds kInspectLimit{5};

// The lope-worker that belongs to this program.
Result<UniqueFd> open_worker_program();

// `handlers_dir` empty: `name` is a path (check_plugin), otherwise a name in that folder
// (find_plugin). `env` is what the throw-away process gets; what it prints goes to our standard
// error. The error text names the file, what was expected and what was found.
Result<PluginDescription> inspect_plugin(int worker_program_fd, const std::string& handlers_dir,
                                         const std::string& name,
                                         const std::vector<std::string>& env);

// Is it a JSON Schema? Found out in such a process too. Notes of what is no keyword in it; the
// error says where in `schema` and what.
Result<std::vector<std::string>> check_schema(int worker_program_fd, const std::string& schema,
                                              const std::vector<std::string>& env);

}  // namespace lope::cli
