// Reads a configuration file, the files it includes, and the secrets it names, into Settings.
// The only place that knows YAML. Does not look at handlers or at the broker.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/settings.h"

namespace lope::supervisor {

// One thing wrong with a configuration. `line` and `column` count from 1; 0 when the file as a
// whole is meant (not there, a folder, too large).
struct ConfigProblem {
  std::string file;
  int line = 0;
  int column = 0;
  std::string text;  // what was expected and what was found

  // "file:line:column: text"
  std::string to_string() const;
};

// Where something of a group stands, for who judges it later.
struct ConfigPlace {
  std::string file;
  int line = 0;
  int column = 0;
};

struct GroupPlaces {
  ConfigPlace handler;
  ConfigPlace schema;                // of `validate`, where that is
  std::vector<ConfigPlace> options;  // one for each of GroupSettings::options
};

struct LoadedSettings {
  Settings settings;                    // meaningful only when errors is empty
  std::vector<ConfigProblem> errors;    // every one, in the order of the files
  std::vector<ConfigProblem> warnings;  // for example a password written into the file
  std::vector<ConfigProblem> notes;     // what was not looked at, and why
  std::vector<GroupPlaces> places;      // one for each of Settings::groups
};

// Passwords that are not needed are not looked for where they are kept; of_journal_alone: what
// monitor.journal names is read, no other; of_service: all are read, but credentials where systemd
// has given none are noted. Never throws; reads each file at most once; needs well under a second
// whatever the file holds.
enum class Passwords { read, not_needed, of_journal_alone, of_service };
LoadedSettings load_settings(const std::string& path, Passwords passwords = Passwords::read);

// The options of a handler that stand elsewhere: in `map`, a part of the file.
struct YamlNode;
struct LoadedOptions {
  std::string json = "{}";                                  // as GroupSettings::options_json
  std::vector<std::pair<std::string, std::string>> values;  // as GroupSettings::options
  std::vector<ConfigProblem> errors;
};
LoadedOptions load_options(const YamlNode& map, const std::string& file);

// The folder handlers are looked for in when `handlers_dir` is not given.
std::string default_handlers_dir();

// The keys the loader knows in each kind of map of the file, for the test that holds the JSON
// Schema against them.
struct KnownKeys {
  std::string_view map;  // "file", "broker", "password", "log", "defaults", "group", "queue", …
  std::span<const std::string_view> keys;
};
std::span<const KnownKeys> known_keys();

}  // namespace lope::supervisor
