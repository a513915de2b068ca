#include "worker/inspect.h"

#include <lope/handler.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <exception>
#include <string_view>

#include "common/exit_code.h"
#include "common/fd.h"
#include "common/json.h"
#include "common/plugin_file.h"
#include "common/schema.h"
#include "common/text.h"
#include "worker/plugin.h"

namespace lope::worker {

namespace {

std::string text_or_empty(const char* text) { return text == nullptr ? "" : text; }

PluginDescription describe(const Plugin& plugin) {
  const lope_plugin& table = *plugin.table;
  PluginDescription description;
  description.path = plugin.path;
  description.name = table.name;
  description.version = table.version;
  description.description = text_or_empty(table.description);
  description.abi_major = LOPE_ABI_MAJOR;
  description.abi_minor = static_cast<int>(table.abi_minor);
  description.takes_any_option = table.options == nullptr;
  description.has_batch = plugin.has_batch();
  description.has_flush = plugin.has_flush();
  for (const lope_option* option = table.options; option != nullptr && option->name != nullptr;
       ++option) {
    PluginDescription::Option shown;
    shown.name = option->name;
    shown.required = option->default_value == nullptr;
    shown.secret = (option->flags & LOPE_OPTION_SECRET) != 0;
    if (!shown.secret) shown.default_value = text_or_empty(option->default_value);
    shown.help = text_or_empty(option->help);
    shown.kind = kind_name(option->kind);
    description.options.push_back(std::move(shown));
  }
  return description;
}

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

// An exception cannot pass dlopen() and ends in std::terminate(): say so instead of a bare abort.
struct Loading {
  int output_fd = -1;
  std::string path;
} loading;

[[noreturn]] void refuse_exception() {
  std::string what = "an exception that is no std::exception";
  if (const std::exception_ptr thrown = std::current_exception()) {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& exception) {
      what = "the exception '" + escape(exception.what(), 256) + "'";
    } catch (...) {
    }
  } else {
    what = "a call of std::terminate()";
  }
  const std::string text = "handler '" + escape(loading.path, 4096) +
                           "': expected constructors that return, found " + what;
  write_all(loading.output_fd, error_json(text) + "\n");
  std::_Exit(kExitRefused);
}

}  // namespace

int run_inspect(const std::string& handlers_dir, const std::string& name, int output_fd) {
  const auto refuse = [output_fd](const std::string& text) {
    return write_all(output_fd, error_json(text) + "\n") ? kExitRefused : kExitFailed;
  };
  const auto file = handlers_dir.empty() ? check_plugin(name) : find_plugin(handlers_dir, name);
  if (!file) return refuse(file.error());
  loading = {output_fd, file->path};
  std::set_terminate(refuse_exception);
  const auto plugin = load_plugin(*file);
  std::set_terminate(std::abort);
  if (!plugin) return refuse(plugin.error());
  return write_all(output_fd, to_json(describe(*plugin)) + "\n") ? kExitOk : kExitFailed;
}

int run_check_schema(int input_fd, int output_fd) {
  const auto text = read_all_at(input_fd);
  const auto schema = text ? Schema::compile(*text) : Result<Schema>(Error{text.error()});
  std::string answer;
  if (schema) {
    for (const std::string& note : schema->notes()) answer += note + "\n";
  } else {
    answer = schema.error() + "\n";
  }
  if (!write_all(output_fd, answer)) return kExitFailed;
  return schema ? kExitOk : kExitRefused;
}

}  // namespace lope::worker
