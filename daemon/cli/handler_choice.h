// Which handler `lope try` and `lope test` run, and with what settings: those of a file, of a name
// in the folder of handlers, or of a group of a configuration.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cli/trial.h"
#include "common/result.h"
#include "common/settings.h"
#include "supervisor/yaml_tree.h"

namespace lope::cli {

// Where it comes from. An error is ready to be shown.
struct HandlerChoice {
  std::string handler;        // a file, or a name in the folder; empty: the group's own
  std::string config, group;  // both or neither
};
Result<TrialSettings> trial_settings(const HandlerChoice& choice);

// The options there are and `more` of them, a map that stands in `file`: what is in both is that of
// `more`, where it stands in no map of its own.
Result<void> add_options(GroupSettings& group, const supervisor::YamlNode& more,
                         const std::string& file);

// "greeting=Hello", "store.dsn=…", "command=[sort, -r]": as entries of such a map. What begins with
// '[' or '{' is YAML.
Result<supervisor::YamlNode> option_map(const std::vector<std::string>& texts);

}  // namespace lope::cli
