#include "worker/plugin.h"

#define BOOST_DLL_USE_STD_FS
#include <dlfcn.h>

#include <algorithm>
#include <boost/dll/shared_library.hpp>
#include <cstddef>
#include <exception>
#include <list>
#include <set>
#include <string_view>
#include <system_error>
#include <vector>

#include "common/option_kind.h"
#include "common/text.h"

namespace lope::worker {

namespace {

static_assert(kHandlerAbiMinor == LOPE_ABI_MINOR);
static_assert(kSmallestPluginTable == offsetof(lope_plugin, handle) + sizeof(lope_plugin::handle));
static_assert(offsetof(lope_plugin, struct_size) == 0 && offsetof(lope_plugin, abi_minor) == 4,
              "check_elf() reads them there");

// A table that lacks its end must not have us walk through all memory.
constexpr std::size_t kMaxOptions = 4096;

Error refusal(const std::string& path, std::string_view expected, std::string_view found) {
  return Error{"handler '" + escape(path, 4096) + "': expected " + std::string(expected) +
               ", found " + std::string(found)};
}

Result<void> check_option(const std::string& path, const lope_option& option) {
  const std::string what = "option '" + escape(option.name, 128) + "'";
  if (*option.name == '\0') return refusal(path, "options with names", "one without");
  switch (option.kind) {
    case 0:
    case LOPE_TEXT:
    case LOPE_INT64:
    case LOPE_UINT64:
    case LOPE_DOUBLE:
    case LOPE_BOOL: break;
    default:
      return refusal(path, what + " to be of a kind that this Lope knows",
                     "kind " + std::to_string(option.kind));
  }
  if ((option.flags & ~std::uint32_t{LOPE_OPTION_SECRET}) != 0) {
    return refusal(path, what + " to have flags that this Lope knows",
                   "flags " + std::to_string(option.flags));
  }
  if (option.reserved[0] != nullptr || option.reserved[1] != nullptr) {
    return refusal(path, what + " with its reserved members zero", "something there");
  }
  return {};
}

Result<void> check_table(const std::string& path, const lope_plugin& table) {
  if (table.name == nullptr || *table.name == '\0') {
    return refusal(path, "lope_plugin_v1 to give a name", "none");
  }
  if (table.version == nullptr || *table.version == '\0') {
    return refusal(path, "lope_plugin_v1 to give a version", "none");
  }
  const bool has_batch =
      LOPE_HAS(&table, lope_plugin, handle_batch) && table.handle_batch != nullptr;
  if (table.handle == nullptr && !has_batch) {
    return refusal(path, "lope_plugin_v1 to have handle or handle_batch", "neither");
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(&table);
  if (table.struct_size > sizeof(lope_plugin) &&
      std::any_of(bytes + sizeof(lope_plugin), bytes + table.struct_size,
                  [](unsigned char byte) { return byte != 0; })) {
    return refusal(
        path,
        "a lope_plugin_v1 that uses nothing newer than ABI 1." + std::to_string(LOPE_ABI_MINOR),
        "members behind the last that this Lope knows");
  }
  if (table.options == nullptr) return {};
  std::set<std::string_view> names;
  for (const lope_option* option = table.options; option->name != nullptr; ++option) {
    if (auto checked = check_option(path, *option); !checked) return checked;
    if (!names.insert(option->name).second) {
      return refusal(path, "each option once", "'" + escape(option->name, 128) + "' twice");
    }
    if (names.size() > kMaxOptions) {
      return refusal(path, "an option table that ends with a NULL name", "no end");
    }
  }
  return {};
}

}  // namespace

std::string_view kind_name(std::int32_t kind) {
  switch (kind) {
    case LOPE_INT64: return "int64";
    case LOPE_UINT64: return "uint64";
    case LOPE_DOUBLE: return "double";
    case LOPE_BOOL: return "bool";
    default: return "text";
  }
}

bool Plugin::has_batch() const {
  return LOPE_HAS(table, lope_plugin, handle_batch) && table->handle_batch != nullptr;
}

bool Plugin::has_flush() const {
  return LOPE_HAS(table, lope_plugin, flush) && table->flush != nullptr;
}

Result<Plugin> load_plugin(const PluginFile& file) {
  try {
    std::error_code error;
    ::dlerror();
    // Never unloaded: a handler's threads, thread-locals and atexit functions may outlive any
    // moment we could choose. So the list is never destroyed.
    static auto& libraries = *new std::list<boost::dll::shared_library>();
    boost::dll::shared_library& library = libraries.emplace_back();
    library.load(file.copy.empty() ? file.path : file.copy, error,
                 boost::dll::load_mode::rtld_now | boost::dll::load_mode::rtld_local);
    if (error || !library.is_loaded()) {
      const char* text = ::dlerror();
      return refusal(file.path, "a shared object that loads",
                     escape(text != nullptr ? text : error.message(), 2048));
    }
    const auto& table = library.get<const lope_plugin>("lope_plugin_v1");
    // The same numbers as in the file, or its constructors have written over them.
    if (table.struct_size != file.struct_size || table.abi_minor != file.abi_minor) {
      return refusal(file.path,
                     "lope_plugin_v1 to stay as it is in the file: struct_size " +
                         std::to_string(file.struct_size),
                     "struct_size " + std::to_string(table.struct_size) + " after loading");
    }
    if (auto checked = check_table(file.path, table); !checked) return Error{checked.error()};
    Plugin plugin;
    plugin.table = &table;
    plugin.path = file.path;
    return plugin;
  } catch (const std::exception& exception) {
    return refusal(file.path, "a shared object that loads", escape(exception.what(), 2048));
  } catch (...) {
    return refusal(file.path, "a shared object that loads",
                   "an exception of unknown type from its constructors");
  }
}

Result<void> check_options(const Plugin& plugin,
                           const std::vector<std::pair<std::string, std::string>>& options) {
  const lope_option* const table = plugin.table->options;
  if (table == nullptr) return {};
  std::string problems;
  const auto problem = [&problems](const std::string& key, const std::string& text) {
    problems += (problems.empty() ? "" : "; ") + ("option '" + escape(key, 128) + "': " + text);
  };

  std::vector<std::string_view> known;
  for (const lope_option* option = table; option->name != nullptr; ++option) {
    known.emplace_back(option->name);
  }
  for (const auto& [key, value] : options) {
    const std::size_t place = option_for(known, key);
    if (place == known.size()) {
      const std::string near = nearest(key, known);
      problem(key, "the handler takes no such option" +
                       (near.empty() ? "" : ", did you mean '" + escape(near, 128) + "'?"));
      continue;
    }
    const lope_option& option = table[place];
    const std::string_view expected = expected_instead(kind_name(option.kind), value);
    if (expected.empty()) continue;
    const bool secret = (option.flags & LOPE_OPTION_SECRET) != 0;
    problem(key, "expected " + std::string(expected) + ", found " +
                     (secret ? "something else" : "'" + escape(value, 128) + "'"));
  }
  for (const lope_option* option = table; option->name != nullptr; ++option) {
    const bool configured = std::ranges::any_of(
        options, [&](const auto& entry) { return option_covers(option->name, entry.first); });
    if (configured) continue;
    if (option->default_value == nullptr) {
      problem(option->name, "expected a value, found none");
    } else if (const auto expected =
                   expected_instead(kind_name(option->kind), option->default_value);
               !expected.empty() && *option->default_value != '\0') {
      const bool secret = (option->flags & LOPE_OPTION_SECRET) != 0;
      problem(option->name,
              "expected " + std::string(expected) + " as default, found " +
                  (secret ? "something else" : "'" + escape(option->default_value, 128) + "'"));
    }
  }
  if (problems.empty()) return {};
  return Error{"handler '" + escape(plugin.path, 4096) + "': " + problems};
}

}  // namespace lope::worker
