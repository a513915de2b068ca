#include "supervisor/yaml_tree.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "common/fd.h"
#include "common/json.h"
#include "common/result.h"
#include "common/text.h"

namespace lope::supervisor {

namespace {

// ---- The file ------------------------------------------------------------------------------

std::string file_kind(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a fifo";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

Result<std::string> read_text(const std::string& path) {
  // Without waiting for a fifo's other end.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.valid()) {
    const int error = errno;
    if (error == ENOENT) return Error{"expected a file, found none"};
    return Error{"expected a readable file, found: " + errno_text("open", error)};
  }
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return Error{errno_text("fstat", errno)};
  if (!S_ISREG(status.st_mode)) {
    return Error{"expected a regular file, found " + file_kind(status.st_mode)};
  }
  const Error too_large{"expected at most 1 MiB, found a larger file"};
  if (status.st_size > static_cast<off_t>(kMaxYamlBytes)) return too_large;
  std::string text(kMaxYamlBytes + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t n = ::read(fd.get(), text.data() + size, text.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error{"expected a readable file, found: " + errno_text("read", errno)};
    if (n == 0) break;
    size += static_cast<std::size_t>(n);
  }
  if (size > kMaxYamlBytes) return too_large;  // it grew meanwhile
  text.resize(size);
  return text;
}

// ---- Places --------------------------------------------------------------------------------

struct Place {
  int line = 0;
  int column = 0;
};

// Turns byte offsets into lines and columns of characters, as editors count them.
class Source {
 public:
  explicit Source(std::string_view text) : text_(text) {
    for (std::size_t at = 0; at != std::string_view::npos;) {
      line_starts_.push_back(at);
      at = text.find('\n', at);
      if (at != std::string_view::npos) ++at;
    }
  }

  Place place(const YAML::Mark& mark) const {
    if (mark.line < 0) return {};
    return place(static_cast<std::size_t>(mark.line), static_cast<std::size_t>(mark.column));
  }

  Place place_of_byte(std::size_t offset) const {
    const auto next = std::upper_bound(line_starts_.begin(), line_starts_.end(), offset);
    const auto line = static_cast<std::size_t>(next - line_starts_.begin()) - 1;
    return place(line, offset - line_starts_[line]);
  }

  std::string_view from(const YAML::Mark& mark) const {
    const auto line = static_cast<std::size_t>(mark.line);
    if (mark.line < 0 || line >= line_starts_.size()) return {};
    return text_.substr(
        std::min(text_.size(), line_starts_[line] + static_cast<std::size_t>(mark.column)));
  }

 private:
  Place place(std::size_t line, std::size_t bytes) const {
    std::size_t characters = bytes;
    if (line < line_starts_.size()) {
      const std::string_view before = text_.substr(line_starts_[line], bytes);
      characters -= static_cast<std::size_t>(std::count_if(
          before.begin(), before.end(), [](char c) { return (c & '\xC0') == '\x80'; }));
    }
    return {static_cast<int>(line) + 1, static_cast<int>(characters) + 1};
  }

  const std::string_view text_;
  std::vector<std::size_t> line_starts_;
};

// ---- Core schema ---------------------------------------------------------------------------

bool all_digits(std::string_view text, std::string_view digits = "0123456789") {
  return !text.empty() && text.find_first_not_of(digits) == std::string_view::npos;
}

std::string_view without_sign(std::string_view text) {
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
  return text;
}

bool is_integer(std::string_view text) {
  if (text.starts_with("0x")) return all_digits(text.substr(2), "0123456789abcdefABCDEF");
  if (text.starts_with("0o")) return all_digits(text.substr(2), "01234567");
  return all_digits(without_sign(text));
}

bool is_infinite_or_nan(std::string_view text) {
  const std::string_view word = without_sign(text);
  return word == ".inf" || word == ".Inf" || word == ".INF" || text == ".nan" || text == ".NaN" ||
         text == ".NAN";
}

// [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?
bool is_real(std::string_view text) {
  if (is_infinite_or_nan(text)) return true;
  text = without_sign(text);
  if (const std::size_t e = text.find_first_of("eE"); e != std::string_view::npos) {
    if (!all_digits(without_sign(text.substr(e + 1)))) return false;
    text = text.substr(0, e);
  }
  const std::size_t dot = text.find('.');
  if (dot == std::string_view::npos) return all_digits(text);
  const std::string_view whole = text.substr(0, dot);
  const std::string_view fraction = text.substr(dot + 1);
  if (whole.empty()) return all_digits(fraction);
  return all_digits(whole) && (fraction.empty() || all_digits(fraction));
}

// 8 to some readers of YAML, 10 to others, and an error to a third kind.
bool looks_octal(std::string_view text) {
  text = without_sign(text);
  return text.size() > 1 && text.starts_with('0') && all_digits(text, "0123456789_");
}

YamlType plain_type(std::string_view text) {
  if (text == "true" || text == "True" || text == "TRUE" || text == "false" || text == "False" ||
      text == "FALSE") {
    return YamlType::boolean;
  }
  if (is_integer(text)) return YamlType::integer;
  if (is_real(text)) return YamlType::real;
  return YamlType::text;
}

// ---- Building the tree ---------------------------------------------------------------------

// The word that a null was written with. `behind` starts there, or, when nothing was written, at
// what comes next: that may be a key that only looks like one.
std::string written_null(std::string_view behind) {
  for (const std::string_view word : {"null", "Null", "NULL"}) {
    if (!behind.starts_with(word)) continue;
    const std::string_view rest = behind.substr(word.size());
    if (rest.empty() ||
        std::string_view(" \t\r\n,]}").find(rest.front()) != std::string_view::npos) {
      return std::string(word);
    }
  }
  return {};
}

// Ends the reading of this file; the problem has been recorded.
struct GiveUp {};

class Problems {
 public:
  Problems(std::string file, std::vector<ConfigProblem>& list)
      : file_(std::move(file)), list_(list) {}

  void add(Place place, std::string text) {
    if (list_.size() >= kMaxProblems) {
      list_.push_back(
          {file_, place.line, place.column,
           "more than " + std::to_string(kMaxProblems) + " problems: the rest is not shown"});
      throw GiveUp{};
    }
    list_.push_back({file_, place.line, place.column, std::move(text)});
  }

  [[noreturn]] void give_up(Place place, std::string text) {
    add(place, std::move(text));
    throw GiveUp{};
  }

 private:
  const std::string file_;
  std::vector<ConfigProblem>& list_;
};

class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(const Source& source, Problems& problems) : source_(source), problems_(problems) {}

  std::optional<YamlNode> take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (started_) {
      problems_.give_up(source_.place(mark), source_.from(mark).starts_with("---")
                                                 ? "expected one document, found a second"
                                                 : "expected the end of the file, found more text");
    }
    started_ = true;
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    YamlNode null = node(YamlType::null, mark, "?", anchor);
    null.text = written_null(source_.from(mark));
    add(std::move(null));
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    YamlNode alias = node(YamlType::null, mark, "?", 0);
    refuse(alias,
           "expected no alias ('*'): aliases are not allowed; a text that starts with '*' goes in "
           "quotes");
    add(std::move(alias));
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode scalar = node(YamlType::text, mark, tag, anchor);
    scalar.text = value;
    scalar.quoted = tag == "!";
    if (!scalar.quoted) scalar.type = plain_type(value);
    if (value.find('\0') != std::string::npos) {
      refuse(scalar, "expected text, found a NUL character in it");
    }
    add(std::move(scalar));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(node(YamlType::list, mark, tag, anchor));
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(node(YamlType::map, mark, tag, anchor));
  }
  void OnMapEnd() override { close(); }

 private:
  void refuse(YamlNode& node, std::string text) {
    problems_.add({node.line, node.column}, std::move(text));
    node.refused = true;
  }

  // The names of anchors and tags are not shown: `password: &x` is a password without its quotes.
  YamlNode node(YamlType type, const YAML::Mark& mark, const std::string& tag,
                YAML::anchor_t anchor) {
    const Place place = source_.place(mark);
    YamlNode result;
    result.type = type;
    result.line = place.line;
    result.column = place.column;
    if (anchor != 0) {
      refuse(result,
             "expected no anchor ('&'): anchors are not allowed; a text that starts with '&' goes "
             "in quotes");
    }
    if (!tag.empty() && tag != "?" && tag != "!") {
      refuse(result,
             "expected no tag ('!'): tags are not allowed; a text that starts with '!' goes in "
             "quotes");
    }
    return result;
  }

  void open(YamlNode node) {
    if (static_cast<int>(open_.size()) >= kMaxYamlDepth) {
      problems_.give_up(
          {node.line, node.column},
          "expected at most " + std::to_string(kMaxYamlDepth) + " levels of nesting, found more");
    }
    open_.push_back(std::move(node));
  }

  void close() {
    YamlNode done = std::move(open_.back());
    open_.pop_back();
    add(std::move(done));
  }

  void add(YamlNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    YamlNode& parent = open_.back();
    if (parent.type == YamlType::map && parent.keys.size() == parent.items.size()) {
      parent.keys.push_back(std::move(node));
      return;
    }
    if (parent.type == YamlType::map && node.type == YamlType::null) {
      // yaml-cpp puts what is not there at the token that follows.
      node.line = parent.keys.back().line;
      node.column = parent.keys.back().column;
    }
    parent.items.push_back(std::move(node));
  }

  const Source& source_;
  Problems& problems_;
  bool started_ = false;
  std::vector<YamlNode> open_;
  std::optional<YamlNode> root_;
};

// ---- Judging it ----------------------------------------------------------------------------

// A password in braces but without its quotes is a map whose key is the password.
bool hides_keys(const YamlNode& key) { return key.text == "password"; }

void check_key(const YamlNode& key, YamlNode& value, Problems& problems) {
  const auto refuse = [&](std::string text) {
    problems.add({key.line, key.column}, std::move(text));
    value.refused = true;
  };
  if (key.refused) {
    value.refused = true;
  } else if (!key.is_scalar() || key.type == YamlType::null) {
    refuse("expected a text as key, found " + std::string(key.type == YamlType::list  ? "a list"
                                                          : key.type == YamlType::map ? "a map"
                                                                                      : "nothing"));
  } else if (key.text == "<<" && !key.quoted) {
    refuse("expected no merge key ('<<'): merging is not available");
  } else if (key.text.empty()) {
    refuse("expected a text as key, found an empty one");
  }
}

void check_keys(YamlNode& map, bool hidden, Problems& problems) {
  std::unordered_map<std::string_view, const YamlNode*> first;
  for (std::size_t i = 0; i < map.keys.size(); ++i) {
    const YamlNode& key = map.keys[i];
    check_key(key, map.items[i], problems);
    if (!key.is_scalar() || key.refused || key.type == YamlType::null) continue;
    const auto [place, added] = first.emplace(key.text, &key);
    if (added || map.items[i].refused) continue;
    problems.add({key.line, key.column}, (hidden ? std::string("a key is given twice")
                                                 : "key '" + shown(key.text) + "' is given twice") +
                                             ": first at line " +
                                             std::to_string(place->second->line) + ", column " +
                                             std::to_string(place->second->column));
    map.items[i].refused = true;
  }
}

// As deep as kMaxYamlDepth.
void check_tree(YamlNode& node, bool hidden, Problems& problems) {
  if (node.is_scalar()) {
    if (!node.refused && !node.quoted && looks_octal(node.text)) {
      // The number itself may be a secret.
      problems.add(
          {node.line, node.column},
          "expected a number without a leading zero (is it octal or decimal?), or a text in "
          "quotes; an octal number starts with 0o");
      node.refused = true;
    }
    return;
  }
  if (node.type == YamlType::map) check_keys(node, hidden, problems);
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    check_tree(node.items[i], hidden || (node.type == YamlType::map && hides_keys(node.keys[i])),
               problems);
  }
}

// yaml-cpp's text without what it quotes from the file.
std::string parser_text(const YAML::Exception& exception) {
  const std::string& text = exception.msg;
  if (text.starts_with("the referenced anchor")) {
    return "expected no alias ('*'): aliases are not allowed; a text that starts with '*' goes in "
           "quotes";
  }
  if (text.starts_with("unknown token")) {
    return "not YAML: unknown token (a text that starts with a special character goes in quotes)";
  }
  return "not YAML: " + escape(text.substr(0, text.find(':')), 200);
}

std::optional<YamlNode> parse(std::string_view text, Problems& problems) {
  const Source source(text);
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) {
    problems.give_up(source.place_of_byte(nul), "expected text, found a NUL byte");
  }
  if (const std::size_t bad = first_invalid_utf8(text); bad != std::string_view::npos) {
    problems.give_up(source.place_of_byte(bad), "expected UTF-8, found another byte");
  }
  TreeBuilder builder(source, problems);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    if (parser.HandleNextDocument(builder)) parser.HandleNextDocument(builder);
  } catch (const YAML::Exception& exception) {
    problems.give_up(source.place(exception.mark), parser_text(exception));
  }
  auto root = builder.take();
  if (!root || (root->type == YamlType::null && !root->refused)) {
    problems.give_up({}, "expected a map of settings, found an empty file");
  }
  check_tree(*root, false, problems);
  return root;
}

}  // namespace

std::optional<YamlNode> read_yaml_file(const std::string& path, std::vector<ConfigProblem>& list) {
  Problems problems(path, list);
  try {
    const auto text = read_text(path);
    if (!text) problems.give_up({}, text.error());
    std::string_view content = *text;
    if (content.starts_with("\xEF\xBB\xBF")) content.remove_prefix(3);
    return parse(content, problems);
  } catch (const GiveUp&) {
    return std::nullopt;
  }
}

std::optional<YamlNode> read_yaml_text(std::string_view text, const std::string& name,
                                       std::vector<ConfigProblem>& list) {
  Problems problems(name, list);
  try {
    return parse(text, problems);
  } catch (const GiveUp&) {
    return std::nullopt;
  }
}

YamlNode yaml_scalar(std::string text) {
  YamlNode node;
  node.type = text.empty() || looks_octal(text) ? YamlType::text : plain_type(text);
  node.text = std::move(text);
  return node;
}

// JSON has no sign before a number, and no '.5' or '5.'.
std::string yaml_json(const YamlNode& node) {
  switch (node.type) {
    case YamlType::null: return "null";
    case YamlType::boolean: return yaml_boolean(node) ? "true" : "false";
    case YamlType::text: return json_quote(node.text);
    case YamlType::real: {
      const auto real = yaml_real(node);
      if (!real) return "null";
      char buffer[64];
      const auto written = std::to_chars(buffer, buffer + sizeof buffer, *real);
      std::string text(buffer, written.ptr);
      if (text.find_first_of(".e") == std::string::npos) text += ".0";
      return text;
    }
    case YamlType::integer:
      if (const auto number = yaml_integer(node)) return std::to_string(*number);
      if (node.text.find_first_of("xo") != std::string::npos) return "null";
      // More than 64 bits: JSON has no limit, and the reader may.
      return node.text.starts_with('+') ? node.text.substr(1) : node.text;
    case YamlType::list:
    case YamlType::map: break;
  }
  const bool is_map = node.type == YamlType::map;
  std::string json(1, is_map ? '{' : '[');
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    if (json.size() > 1) json += ',';
    if (is_map) json += json_quote(node.keys[i].text) + ":";
    json += yaml_json(node.items[i]);
  }
  return json + (is_map ? "}" : "]");
}

bool yaml_boolean(const YamlNode& node) {
  return node.text.front() == 't' || node.text.front() == 'T';
}

std::optional<std::int64_t> yaml_integer(const YamlNode& node) {
  std::string_view text = node.text;
  int base = 10;
  if (text.starts_with("0x")) base = 16;
  if (text.starts_with("0o")) base = 8;
  if (base != 10) text.remove_prefix(2);
  if (text.starts_with('+')) text.remove_prefix(1);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> yaml_real(const YamlNode& node) {
  std::string_view text = node.text;
  if (text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value)) {
    return std::nullopt;
  }
  return value;
}

std::string shown(std::string_view text) {
  const std::size_t scheme = text.find("://");
  const std::size_t at = text.rfind('@');
  if (scheme == std::string_view::npos || at == std::string_view::npos || at < scheme) {
    return escape(text, 80);
  }
  return escape(text.substr(0, scheme + 3), 20) + "…" + escape(text.substr(at), 60);
}

}  // namespace lope::supervisor
