// An option that is a map of names and templates, and lists of names: of headers, mostly.
#pragma once

#include <lope/handler.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "message_template.hpp"

namespace lope::plugins {

struct NamedTemplate {
  std::string name;
  MessageTemplate value;
};

// The entries of the map `option`, which is declared as "option.*"; none when it is not configured.
// Throws InvalidConfiguration when it is no map of texts.
inline std::vector<NamedTemplate> template_map(const Host& host, const std::string& option) {
  std::vector<NamedTemplate> map;
  const auto options = nlohmann::json::parse(host.options_json());
  const auto found = options.find(option);
  if (found == options.end()) return map;
  if (!found->is_object()) {
    throw InvalidConfiguration("option '" + option +
                               "': expected a map of names and texts, found " + found->dump());
  }
  for (const auto& [name, value] : found->items()) {
    const std::string entry = option + "." + name;
    const auto text = host.option(entry);
    if (!text) {
      throw InvalidConfiguration("option '" + entry + "': expected a text, found " + value.dump());
    }
    map.push_back({name, MessageTemplate::parse(entry, *text)});
  }
  return map;
}

// Does one of the list cover `name`? One that ends in '*' covers all that begin with what is
// before.
inline bool covers(const std::vector<std::string>& list, std::string_view name) {
  for (const std::string_view each : list) {
    const bool open = !each.empty() && each.back() == '*';
    const std::string_view begin = each.substr(0, each.size() - (open ? 1 : 0));
    if (open ? name.substr(0, begin.size()) == begin : name == each) return true;
  }
  return false;
}

}  // namespace lope::plugins
