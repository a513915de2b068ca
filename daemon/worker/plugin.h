// A loaded handler file. The only place that knows Boost.DLL. Loaded RTLD_NOW | RTLD_LOCAL, never
// unloaded: the object keeps the library open until the process ends.
#pragma once

#include <lope/handler.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/plugin_file.h"
#include "common/result.h"

namespace lope::worker {

struct Plugin {
  const lope_plugin* table = nullptr;  // valid for ever
  std::string path;

  // The member, or zero when the plugin was built before it existed.
  bool has_batch() const;
  bool has_flush() const;
};

// dlopen runs the file's constructors: they may crash or hang this process. On failure the text
// names path, expected and found (dlerror's text, a missing function, a non-zero tail from a newer
// header).
Result<Plugin> load_plugin(const PluginFile& file);

// "int64", "uint64", "double", "bool" or "text" for the ABI's LOPE_INT64 and so on.
std::string_view kind_name(std::int32_t kind);

// Whether the configured options (nested keys joined with '.') fit the plugin's table: no unknown
// key, no required one missing, each value and default of its kind. Every mistake in one text; a
// secret's value is not in it.
Result<void> check_options(const Plugin& plugin,
                           const std::vector<std::pair<std::string, std::string>>& options);

}  // namespace lope::worker
