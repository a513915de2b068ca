// The commands of `lope`: one function each, which does the command and returns the exit code of
// common/exit_code.h. main.cpp reads the command line; the commands that talk to a broker are in
// the program lope-client.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "supervisor/settings_loader.h"

namespace lope::cli {

inline constexpr const char* kDefaultConfigPath = "/etc/lope/lope.yaml";

// Runs the groups of the configuration until told to stop.
int run_command(const std::string& config_path);

// Judges the configuration and each group's handler. Problems go to standard error, a line for each
// group to standard output; with `json` everything to standard output, as one object. `broker`: it
// is to be logged in to next, so credentials are missed that are only noted otherwise.
int check_command(const std::string& config_path, bool json, bool broker);

// Describes a handler file.
int inspect_command(const std::string& path, bool json);

struct NewOptions {
  std::string name;
  std::string language;  // one of known_languages()
  std::string folder;    // empty: that of the name
};
std::vector<std::string> known_languages();
// Makes a folder with a project for a handler; prints its files.
int new_command(const NewOptions& options);

struct StatusOptions {
  std::string socket;  // empty: where daemons usually have it
  bool json = false;
  std::optional<std::chrono::milliseconds> watch;  // again each time this is over
};
// What a running daemon does. Exit code 75: none answers.
int status_command(const StatusOptions& options);

// The same, live, on the terminal.
int top_command(const std::string& socket);

struct StopOptions {
  std::string socket;
  bool now = false;  // as QUIT does it, otherwise as TERM
  bool wait = true;  // until it has ended
};
int stop_command(const StopOptions& options);

// Tells a running daemon to do something with one of its groups; prints what was done.
int group_command(const std::string& socket, const ControlRequest& request);

// Has a running daemon read its configuration again; `wait`: until what is new works.
int reload_command(const std::string& socket, bool wait);

// Changes what a running daemon logs.
int log_level_command(const std::string& socket, const std::string& level);

struct WatchOptions {
  std::string socket;
  std::string group;
  int messages = 1;
  bool json = false;
};
// Prints the way of the next messages of a group, each when it is over.
int watch_command(const WatchOptions& options);

// Errors and warnings to standard error, one a line: "file:line:column: error: text", with
// its level where that is the journal.
void print_problems(const supervisor::LoadedSettings& loaded);

}  // namespace lope::cli
