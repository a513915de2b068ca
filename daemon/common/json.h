// What travels between our programs as JSON. Settings (in a memfd) carry the build id, and another
// is refused. What travels to and from the control socket is in status.h.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/settings.h"

namespace lope {

std::string to_json(const ConsumerSettings& settings);
std::string to_json(const WorkerSettings& settings);
std::string to_json(const Settings& settings);
std::string to_json(const MonitorSettings& settings);
Result<ConsumerSettings> consumer_settings_from_json(std::string_view text);
Result<WorkerSettings> worker_settings_from_json(std::string_view text);
Result<Settings> settings_from_json(std::string_view text);
Result<MonitorSettings> monitor_settings_from_json(std::string_view text);

// What a throw-away child found in the configuration for a reload; see supervisor/load_child.h.
struct LoadReport {
  std::vector<std::string> errors;  // every one; then the settings mean nothing
  std::vector<std::string> warnings;
  Settings settings;
};
std::string to_json(const LoadReport& report);
Result<LoadReport> load_report_from_json(std::string_view text);

// What a throw-away child found out about a handler file; see worker/inspect.h.
struct PluginDescription {
  struct Option {
    std::string name;
    bool required = false;
    std::string default_value;  // empty for a secret
    std::string help;
    std::string kind;  // "text", "int64", "uint64", "double", "bool"
    bool secret = false;
  };
  std::string path;
  std::string name, version, description;
  int abi_major = 0, abi_minor = 0;
  bool takes_any_option = false;
  std::vector<Option> options;
  bool has_batch = false, has_flush = false;
};

// `indent` < 0: on one line.
std::string to_json(const PluginDescription& description, int indent = -1);
// {"error": text}: what the child writes instead when it has to refuse the file.
std::string error_json(std::string_view text);
// Of either; an {"error": ...} becomes the error.
Result<PluginDescription> plugin_description_from_json(std::string_view text);

// `text` as a JSON string, quotes included, for who writes a little JSON by hand. What is no UTF-8
// becomes U+FFFD.
std::string json_quote(std::string_view text);

}  // namespace lope
