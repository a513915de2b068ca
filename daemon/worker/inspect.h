// What is judged in this throw-away process, and told on a descriptor: a handler file
// (`lope-worker --inspect`), a JSON Schema (`lope-worker --schema`). The caller sets the time limit
// and reads the exit status.
#pragma once

#include <string>

namespace lope::worker {

// Writes one JSON PluginDescription, or {"error": "..."} to `output_fd`. Returns the exit code.
// `handlers_dir` empty: `name` is a path (check_plugin), otherwise a name in that folder
// (find_plugin).
int run_inspect(const std::string& handlers_dir, const std::string& name, int output_fd);
// Of the schema in the file `input_fd`: a line for each note, or, with kExitRefused, what is wrong.
int run_check_schema(int input_fd, int output_fd);

}  // namespace lope::worker
