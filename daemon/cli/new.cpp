// `lope new`: makes a project for a handler of the templates in PREFIX/share/lope/new, which are
// those of all languages in common/, and in a folder for each language what is its own.
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "cli/programs.h"
#include "common/exit_code.h"
#include "common/result.h"
#include "common/text.h"
#include "supervisor/settings_loader.h"
#include "supervisor/yaml_tree.h"

namespace lope::cli {

namespace {

namespace fs = std::filesystem;

struct Language {
  std::string_view name;
  std::string_view title;
  std::string_view package;  // of Lope, to build it; or to run it
  std::string_view tools;    // Debian's packages, to build it
  std::string_view guide;    // below PREFIX/share
  std::string_view needs;    // below PREFIX/share/lope; empty: nothing
};
constexpr std::string_view kGuide = "doc/lope/docs/writing-a-handler.md";
constexpr Language kLanguages[] = {
    {"cpp", "C++", "lope-dev", "make cmake g++", kGuide, ""},
    {"c", "C", "lope-dev", "make cmake gcc", kGuide, ""},
    {"rust", "Rust", "lope-dev", "make cargo", "lope/rust/README.md", "rust"},
    {"go", "Go", "lope-dev", "make golang-go gcc libc6-dev", "lope/go/README.md", "go"},
    {"python", "Python", "lope-python", "make python3", kGuide, ""},
};

constexpr std::size_t kLongestName = 64;
// In a template's name, for the '.' that would hide it there.
constexpr std::string_view kDot = "dot-";

using Words = std::map<std::string, std::string, std::less<>>;  // "NAME": what stands for @NAME@

bool is_letter(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; }

Result<void> check_name(const std::string& name) {
  const auto fits = [](char c) {
    return is_letter(c) || std::isdigit(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-';
  };
  if (name.empty() || name.size() > kLongestName || !is_letter(name.front()) ||
      !std::ranges::all_of(name, fits)) {
    return Error{"name: expected a letter, then letters, digits, '_' and '-', " +
                 std::to_string(kLongestName) + " in all at most, found '" + escape(name, 80) +
                 "'"};
  }
  if (supervisor::yaml_scalar(name).type != supervisor::YamlType::text) {
    return Error{"name: expected a text, found '" + name + "', which is something else in YAML"};
  }
  const fs::path there = fs::path(supervisor::default_handlers_dir()) / (name + ".so");
  std::error_code error;
  if (fs::exists(there, error)) {
    return Error{"name: expected a new one, found a handler '" + there.string() + "'"};
  }
  return {};
}

// "my-handler" is MyHandler.
std::string class_name(const std::string& name) {
  std::string text;
  bool capital = true;
  for (const char c : name) {
    if (c == '_' || c == '-') {
      capital = true;
      continue;
    }
    text += capital ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : c;
    capital = false;
  }
  return text;
}

// With what stands for each @WORD@ that is in `words`; any other '@' stays.
std::string filled(std::string_view text, const Words& words) {
  std::string result;
  while (true) {
    const std::size_t at = text.find('@');
    result += text.substr(0, at);
    if (at == std::string_view::npos) return result;
    text.remove_prefix(at + 1);
    const std::size_t end = text.find('@');
    const auto word = words.find(text.substr(0, end));
    if (end == std::string_view::npos || word == words.end()) {
      result += '@';
    } else {
      result += word->second;
      text.remove_prefix(end + 1);
    }
  }
}

// A template's path in the project.
std::string place_of(const fs::path& path, const Words& words) {
  fs::path place;
  for (const fs::path& part : path) {
    const std::string name = filled(part.string(), words);
    place /= name.starts_with(kDot) ? "." + name.substr(kDot.size()) : name;
  }
  return place;
}

Result<std::string> read_file(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream content;
  content << stream.rdbuf();
  if (!stream) return Error{errno_text("read " + path.string(), errno)};
  return content.str();
}

Result<void> write_file(const fs::path& path, const std::string& content) {
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) return Error{path.parent_path().string() + ": " + error.message()};
  std::ofstream stream(path, std::ios::binary);
  stream << content;
  stream.close();
  if (!stream) return Error{errno_text("write " + path.string(), errno)};
  return {};
}

// Path in the project, and content.
using Project = std::map<std::string, std::string>;

Result<void> add_templates(const fs::path& folder, const Words& words, Project& project) {
  std::error_code error;
  for (fs::recursive_directory_iterator entry(folder, error), end; entry != end;
       entry.increment(error)) {
    if (!entry->is_regular_file()) continue;
    const auto content = read_file(entry->path());
    if (!content) return Error{content.error()};
    project[place_of(entry->path().lexically_relative(folder), words)] = filled(*content, words);
  }
  if (error) return Error{"templates '" + folder.string() + "': " + error.message()};
  return {};
}

// That the folder is new, or empty.
Result<void> check_folder(const fs::path& folder) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (status.type() == fs::file_type::not_found) return {};
  const std::string what = "folder '" + escape(folder.string(), 400) + "': ";
  if (error) return Error{what + error.message()};
  if (status.type() != fs::file_type::directory) {
    return Error{what + "expected none, found another file"};
  }
  const bool is_empty = fs::is_empty(folder, error);
  if (error) return Error{what + error.message()};
  if (!is_empty) return Error{what + "expected a new or an empty one, found files in it"};
  return {};
}

Result<Project> project_for(const std::string& name, const Language& language) {
  const auto prefix = installation();
  if (!prefix) return Error{prefix.error()};
  const fs::path share = fs::path(*prefix) / "share" / "lope";
  std::error_code error;
  if (!fs::is_directory(share / "new", error)) {
    return Error{"templates: expected in '" + (share / "new").string() + "', found none"};
  }
  if (!language.needs.empty() && !fs::is_directory(share / language.needs, error)) {
    return Error{"for " + std::string(language.title) + ": expected '" +
                 (share / language.needs).string() + "' of the package lope-dev, found none"};
  }
  const Words words = {
      {"NAME", name},
      {"CLASS", class_name(name)},
      {"PREFIX", *prefix},
      {"LANGUAGE", std::string(language.title)},
      {"PACKAGE", std::string(language.package)},
      {"TOOLS", std::string(language.tools)},
      {"GUIDE", *prefix + "/share/" + std::string(language.guide)},
  };
  Project project;
  for (const std::string_view folder : {std::string_view("common"), language.name}) {
    if (auto added = add_templates(share / "new" / folder, words, project); !added) {
      return Error{added.error()};
    }
  }
  return project;
}

Result<void> make(const NewOptions& options, const fs::path& folder) {
  const Language& language = *std::ranges::find(kLanguages, options.language, &Language::name);
  if (auto checked = check_name(options.name); !checked) return checked;
  if (auto checked = check_folder(folder); !checked) return checked;
  const auto project = project_for(options.name, language);
  if (!project) return Error{project.error()};
  const std::string shown = escape(folder.string(), 400);
  for (const auto& [path, content] : *project) {
    if (auto written = write_file(folder / path, content); !written) return written;
    std::printf("%s/%s\n", shown.c_str(), path.c_str());
  }
  const std::string packages = std::string(language.package) + " " + std::string(language.tools);
  std::printf(
      "\nNext, with the packages %s:\n  cd %s\n  make && make test\nREADME.md says the rest.\n",
      packages.c_str(), shown.c_str());
  return {};
}

}  // namespace

std::vector<std::string> known_languages() {
  std::vector<std::string> names;
  for (const Language& language : kLanguages) names.emplace_back(language.name);
  return names;
}

int new_command(const NewOptions& options) {
  const fs::path folder = options.folder.empty() ? options.name : options.folder;
  if (auto made = make(options, folder); !made) {
    std::fprintf(stderr, "lope: %s\n", made.error().c_str());
    return kExitFailed;
  }
  return kExitOk;
}

}  // namespace lope::cli
