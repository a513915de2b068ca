#include "cli/handler_choice.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "common/text.h"
#include "supervisor/settings_loader.h"

namespace lope::cli {

namespace {

namespace fs = std::filesystem;
using supervisor::YamlNode;
using supervisor::YamlType;

constexpr std::string_view kSuffix = ".so";

std::string text_of(const std::vector<supervisor::ConfigProblem>& problems) {
  std::string text;
  for (const auto& problem : problems) text += (text.empty() ? "" : "\n") + problem.to_string();
  return text;
}

Result<void> take_group(const HandlerChoice& choice, TrialSettings& settings) {
  supervisor::LoadedSettings loaded =
      supervisor::load_settings(choice.config, supervisor::Passwords::not_needed);
  if (!loaded.errors.empty()) return Error{text_of(loaded.errors)};
  auto& groups = loaded.settings.groups;
  const auto group = std::ranges::find(groups, choice.group, &GroupSettings::name);
  if (group == groups.end()) {
    std::vector<std::string_view> names;
    for (const GroupSettings& each : groups) names.push_back(each.name);
    const std::string near = nearest(choice.group, names);
    return Error{choice.config + ": expected a group '" + escape(choice.group, 80) +
                 "', found none" + (near.empty() ? "" : ": did you mean '" + near + "'?")};
  }
  settings.group = std::move(*group);
  settings.handlers_dir = loaded.settings.handlers_dir;
  settings.max_message_bytes = loaded.settings.broker.max_message_bytes;
  settings.ending_limit = loaded.settings.shutdown_timeout;
  settings.secret_env = std::move(loaded.settings.secret_env);
  return {};
}

// The entries of `more` into those of `base`.
void merge(YamlNode& base, const YamlNode& more) {
  for (std::size_t i = 0; i < more.items.size(); ++i) {
    const auto same = std::ranges::find(base.keys, more.keys[i].text, &YamlNode::text);
    if (same == base.keys.end()) {
      base.keys.push_back(more.keys[i]);
      base.items.push_back(more.items[i]);
      continue;
    }
    YamlNode& target = base.items[static_cast<std::size_t>(same - base.keys.begin())];
    if (target.type == YamlType::map && more.items[i].type == YamlType::map) {
      merge(target, more.items[i]);
    } else {
      target = more.items[i];
    }
  }
}

YamlNode key_of(const std::string& text) {
  YamlNode key;
  key.type = YamlType::text;
  key.text = text;
  return key;
}

}  // namespace

Result<TrialSettings> trial_settings(const HandlerChoice& choice) {
  TrialSettings settings;
  settings.handlers_dir = supervisor::default_handlers_dir();
  if (!choice.group.empty()) {
    if (auto taken = take_group(choice, settings); !taken) return Error{taken.error()};
  }
  GroupSettings& group = settings.group;
  if (!choice.handler.empty()) {
    const bool is_file =
        choice.handler.find('/') != std::string::npos || choice.handler.ends_with(kSuffix);
    group.handler = choice.handler;
    if (is_file) {
      std::error_code error;
      const fs::path path = fs::absolute(choice.handler, error);
      if (error || !choice.handler.ends_with(kSuffix)) {
        return Error{"handler '" + escape(choice.handler, 4096) +
                     "': expected a file NAME.so, found another name"};
      }
      settings.handlers_dir = path.parent_path().lexically_normal();
      group.handler = path.stem();
    }
  }
  if (group.handler.empty()) return Error{"expected a handler, found none"};
  if (group.name.empty()) group.name = group.handler;
  if (group.queues.empty()) group.queues.emplace_back().name = group.name;
  return settings;
}

Result<void> add_options(GroupSettings& group, const YamlNode& more, const std::string& file) {
  if (more.type != YamlType::map) {
    return Error{file + ":" + std::to_string(more.line) + ":" + std::to_string(more.column) +
                 ": options: expected a map of the handler's options"};
  }
  std::vector<supervisor::ConfigProblem> problems;
  auto all = supervisor::read_yaml_text(group.options_json, "options", problems);
  if (!all) return Error{text_of(problems)};
  merge(*all, more);
  supervisor::LoadedOptions loaded = supervisor::load_options(*all, file);
  if (!loaded.errors.empty()) return Error{text_of(loaded.errors)};
  group.options_json = std::move(loaded.json);
  group.options = std::move(loaded.values);
  return {};
}

Result<YamlNode> option_map(const std::vector<std::string>& texts) {
  YamlNode map;
  map.type = YamlType::map;
  for (const std::string& text : texts) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      return Error{"expected KEY=VALUE, found '" + escape(text, 80) + "'"};
    }
    const std::string value = text.substr(equals + 1);
    YamlNode node = supervisor::yaml_scalar(value);
    if (value.starts_with('[') || value.starts_with('{')) {
      std::vector<supervisor::ConfigProblem> problems;
      auto parsed = supervisor::read_yaml_text(value, "option " + text.substr(0, equals), problems);
      if (!parsed || !problems.empty()) return Error{text_of(problems)};
      node = std::move(*parsed);
    }
    // From the innermost key outwards.
    std::string key = text.substr(0, equals);
    if (key.starts_with('.') || key.ends_with('.') || key.find("..") != std::string::npos) {
      return Error{"expected keys joined with '.', found '" + escape(key, 80) + "'"};
    }
    for (std::size_t dot = key.rfind('.'); dot != std::string::npos; dot = key.rfind('.')) {
      YamlNode outer;
      outer.type = YamlType::map;
      outer.keys.push_back(key_of(key.substr(dot + 1)));
      outer.items.push_back(std::move(node));
      node = std::move(outer);
      key.resize(dot);
    }
    YamlNode one;
    one.type = YamlType::map;
    one.keys.push_back(key_of(key));
    one.items.push_back(std::move(node));
    merge(map, one);
  }
  return map;
}

}  // namespace lope::cli
