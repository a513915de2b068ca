// Everything that can be known about a handler's file without running any of it: where it is,
// who may write to it, and what its ELF says. Used before dlopen by the worker and by `lope
// inspect`.
#pragma once

#include <cstdint>
#include <string>

#include "common/result.h"

namespace lope {

// Of <lope/handler.h>, which only the worker includes; worker/plugin.cpp holds them against it.
inline constexpr std::uint32_t kHandlerAbiMinor = 0;       // what this host speaks
inline constexpr std::uint32_t kSmallestPluginTable = 64;  // up to lope_plugin::handle

struct PluginFile {
  std::string path;           // resolved: no symlink left in it
  std::uint32_t struct_size;  // of lope_plugin_v1, as written in the file
  std::uint32_t abi_minor;    // the lowest host minor it asks for
  bool looks_around = false;  // for libraries beside it ($ORIGIN): a copy elsewhere would not load
  std::string copy = {};      // of it, the one to load; empty: the file itself
};

// `<handlers_dir>/<name>.so` if the name is a plain file name, its real path stays inside the real
// handlers_dir, file and every parent directory belong to root or to this process's user and cannot
// be written by others (a root-owned sticky folder is fine), the ELF is a shared object for this
// machine and exports a lope_plugin_v1 that this host can serve.
// On failure the text names the path, what was expected and what was found.
Result<PluginFile> find_plugin(const std::string& handlers_dir, const std::string& name);

// The same for a path given directly (`lope inspect x.so`): no folder to stay inside.
Result<PluginFile> check_plugin(const std::string& path);

}  // namespace lope
