// A YAML file as a plain tree, after everything that makes YAML dangerous or surprising was
// refused: size, depth, aliases, tags, several documents, duplicate keys, numbers that look octal.
// The only place that knows yaml-cpp. What the keys mean is settings_loader's business.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "supervisor/settings_loader.h"

namespace lope::supervisor {

// What a value is by YAML's core schema.
enum class YamlType { null, boolean, integer, real, text, list, map };

struct YamlNode {
  YamlType type = YamlType::null;
  bool quoted = false;   // a text in quotes or a block
  bool refused = false;  // a problem of it was reported: nothing more to say about it
  std::string text;  // of a scalar: as written (unquoted, unescaped); of a null: its word, if any
  int line = 0;      // from 1
  int column = 0;    // from 1, in characters
  std::vector<YamlNode> keys;   // of a map, one for each of `items`
  std::vector<YamlNode> items;  // of a list or a map

  bool is_scalar() const { return type != YamlType::list && type != YamlType::map; }
};

inline constexpr std::size_t kMaxYamlBytes = 1 << 20;
inline constexpr int kMaxYamlDepth = 32;
// A file with more is not told about all of them.
inline constexpr std::size_t kMaxProblems = 1000;

// Reads the file, once. Nothing when it cannot be read as YAML at all; a tree with `refused` parts
// when the rest of it can still be judged. What is wrong is appended to `problems` (of which there
// are never more than kMaxProblems + 1).
std::optional<YamlNode> read_yaml_file(const std::string& path,
                                       std::vector<ConfigProblem>& problems);

// The same with a text; `name` stands for the file in problems.
std::optional<YamlNode> read_yaml_text(std::string_view text, const std::string& name,
                                       std::vector<ConfigProblem>& problems);

// A scalar that was given without a file: of the type that it would have there without quotes.
YamlNode yaml_scalar(std::string text);

// As JSON. What JSON has no number for (.inf) is null.
std::string yaml_json(const YamlNode& node);

// Of a node of type boolean.
bool yaml_boolean(const YamlNode& node);
// Of a node of type integer (decimal, 0x…, 0o…); nothing when it does not fit.
std::optional<std::int64_t> yaml_integer(const YamlNode& node);
// Of a node of type real; nothing for .inf, .nan and what does not fit.
std::optional<double> yaml_real(const YamlNode& node);

// Text of the file made fit for a message: escaped, cut, and without the login of a URL.
std::string shown(std::string_view text);

}  // namespace lope::supervisor
