#include "cli/test_file.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <sstream>
#include <utility>

#include "cli/handler_choice.h"
#include "cli/message_json.h"
#include "common/json.h"
#include "common/text.h"
#include "common/units.h"
#include "supervisor/yaml_tree.h"

namespace lope::cli {

namespace {

namespace fs = std::filesystem;
using supervisor::ConfigProblem;
using supervisor::YamlNode;
using supervisor::YamlType;

// Of a file and of each of its cases: what stands in the case counts.
constexpr std::string_view kFileKeys[] = {"handler",  "config",  "group", "options",
                                          "attempts", "timeout", "batch", "cases"};
constexpr std::string_view kCaseKeys[] = {"name",    "handler",  "config",  "group",
                                          "options", "attempts", "timeout", "batch",
                                          "message", "messages", "expect"};
constexpr std::string_view kExpectKeys[] = {"outcome", "reason",   "publications", "replies",
                                            "logs",    "attempts", "dead_letter",  "again_after"};
constexpr std::string_view kMatcherKeys[] = {"contains", "matches", "json", "includes"};
constexpr std::string_view kPublicationKeys[] = {
    "exchange",          "routing_key",    "message_id", "content_type",
    "content_encoding",  "correlation_id", "reply_to",   "type",
    "priority",          "expiration_ms",  "delay_ms",   "persistent",
    "may_be_unroutable", "headers",        "body"};
constexpr std::string_view kSources[] = {"debug", "info", "warn", "error", "stdout", "stderr"};
constexpr TrialOutcome kOutcomes[] = {
    TrialOutcome::ack,     TrialOutcome::retry,     TrialOutcome::reject,
    TrialOutcome::hold,    TrialOutcome::crash,     TrialOutcome::timeout,
    TrialOutcome::expired, TrialOutcome::too_large, TrialOutcome::refused};
// A test that hangs is to be told of soon.
constexpr std::chrono::milliseconds kTimeout{10'000};
constexpr std::chrono::milliseconds kWholeLimit{60'000};
constexpr int kMostAttempts = 1000;

std::string list_of(std::span<const std::string_view> words) {
  std::string text;
  for (const std::string_view word : words) text += (text.empty() ? "" : ", ") + std::string(word);
  return text;
}

class Reader {
 public:
  Reader(const std::string& path, const std::string& handler, std::vector<ConfigProblem>& problems)
      : path_(path), handler_(handler), problems_(problems) {}

  std::vector<TestCase> read() {
    const std::size_t before = problems_.size();
    const auto root = supervisor::read_yaml_file(path_, problems_);
    if (!root || problems_.size() > before || !is_map(*root, "the file", kFileKeys)) return {};
    const YamlNode* const cases = find(*root, "cases");
    if (cases == nullptr || cases->type != YamlType::list || cases->items.empty()) {
      wrong(cases == nullptr ? *root : *cases, "cases: expected a list of test cases");
      return {};
    }
    std::vector<TestCase> list;
    for (const YamlNode& each : cases->items) {
      if (is_map(each, "a case", kCaseKeys)) list.push_back(test_case(*root, each));
    }
    return list;
  }

 private:
  void wrong(const YamlNode& node, const std::string& text) {
    problems_.push_back({path_, node.line, node.column, text});
  }

  static const YamlNode* find(const YamlNode& map, std::string_view key) {
    for (std::size_t i = 0; i < map.keys.size(); ++i) {
      if (map.keys[i].text == key) return &map.items[i];
    }
    return nullptr;
  }

  bool is_map(const YamlNode& node, const std::string& what,
              std::span<const std::string_view> known) {
    if (node.type != YamlType::map) {
      wrong(node, what + ": expected a map with " + list_of(known));
      return false;
    }
    for (const YamlNode& key : node.keys) {
      if (std::ranges::find(known, key.text) != known.end()) continue;
      const std::string near = nearest(key.text, known);
      wrong(key,
            what + ": unknown key '" + escape(key.text, 80) + "'" +
                (near.empty() ? "; known: " + list_of(known) : ": did you mean '" + near + "'?"));
    }
    return true;
  }

  // A scalar's text.
  std::string text(const YamlNode& node, const std::string& what) {
    if (!node.is_scalar()) wrong(node, what + ": expected a text");
    return node.text;
  }

  std::string beside(const std::string& file) const {
    const fs::path path(file);
    if (path.is_absolute()) return file;
    return (fs::path(path_).parent_path() / path).lexically_normal();
  }

  TestCase test_case(const YamlNode& file, const YamlNode& node) {
    TestCase made;
    made.file = path_;
    made.line = node.line;
    const YamlNode* const name = find(node, "name");
    made.name = name != nullptr ? text(*name, "name") : "line " + std::to_string(node.line);
    settings(file, node, made);
    messages(node, made);
    expectations(node, made);
    // Whatever it does, it ends: a handler can say for ever that it is alive.
    made.settings.whole_limit =
        kWholeLimit + made.settings.group.timeout * static_cast<int>(made.messages.size());
    return made;
  }

  const YamlNode* shared(const YamlNode& file, const YamlNode& node, std::string_view key) const {
    const YamlNode* const own = find(node, key);
    return own != nullptr ? own : find(file, key);
  }

  void settings(const YamlNode& file, const YamlNode& node, TestCase& made) {
    HandlerChoice choice;
    const YamlNode* const handler = shared(file, node, "handler");
    if (!handler_.empty()) {
      choice.handler = handler_;
    } else if (handler != nullptr) {
      choice.handler = text(*handler, "handler");
      if (choice.handler.find('/') != std::string::npos || choice.handler.ends_with(".so")) {
        choice.handler = beside(choice.handler);
        if (choice.handler.find('/') == std::string::npos) choice.handler.insert(0, "./");
      }
    }
    const YamlNode* const config = shared(file, node, "config");
    const YamlNode* const group = shared(file, node, "group");
    if ((config == nullptr) != (group == nullptr)) {
      wrong(node, "expected config and group together, found one of them");
      return;
    }
    if (config != nullptr) {
      choice.config = beside(text(*config, "config"));
      choice.group = text(*group, "group");
    }
    if (choice.handler.empty() && group == nullptr) {
      wrong(node, "expected a handler, or config and group, found neither");
      return;
    }
    auto loaded = trial_settings(choice);
    if (!loaded) {
      wrong(config != nullptr ? *config : handler != nullptr ? *handler : node, loaded.error());
      return;
    }
    made.settings = std::move(*loaded);
    GroupSettings& target = made.settings.group;
    has_group_ = config != nullptr;
    if (!has_group_) target.timeout = kTimeout;
    target.start_timeout = std::min(target.start_timeout, kTimeout);
    made.settings.ending_limit = std::min(made.settings.ending_limit, kTimeout);
    for (const YamlNode* const map : {&file, &node}) {
      const YamlNode* const options = find(*map, "options");
      if (options == nullptr) continue;
      if (auto added = add_options(target, *options, path_); !added) wrong(*options, added.error());
    }
    if (const YamlNode* const timeout = shared(file, node, "timeout")) {
      const auto length = parse_duration(text(*timeout, "timeout"));
      if (length) target.timeout = *length;
      if (!length) wrong(*timeout, "timeout: " + length.error());
    }
    if (const YamlNode* const attempts = shared(file, node, "attempts")) {
      made.settings.attempts = number(*attempts, "attempts");
    }
    if (const YamlNode* const batch = shared(file, node, "batch")) {
      target.batch_size = number(*batch, "batch", kMaxBatch);
      has_group_ = true;  // it is said
    }
  }

  int number(const YamlNode& node, const std::string& what, int most = kMostAttempts) {
    const auto value =
        node.type == YamlType::integer ? supervisor::yaml_integer(node) : std::nullopt;
    if (value && *value >= 1 && *value <= most) return static_cast<int>(*value);
    wrong(node, what + ": expected a number from 1 to " + std::to_string(most));
    return 1;
  }

  void messages(const YamlNode& node, TestCase& made) {
    const YamlNode* const one = find(node, "message");
    const YamlNode* const several = find(node, "messages");
    if ((one == nullptr) == (several == nullptr)) {
      wrong(node, "expected message, or messages, in a case");
      return;
    }
    if (one != nullptr) {
      message(*one, made);
    } else if (several->type != YamlType::list || several->items.empty()) {
      wrong(*several, "messages: expected a list of messages");
    } else {
      for (const YamlNode& each : several->items) message(each, made);
      // Together, where the handler takes them so, and no group says otherwise.
      if (!has_group_) {
        made.settings.group.batch_size =
            static_cast<int>(std::min<std::size_t>(several->items.size(), kMaxBatch));
      }
    }
  }

  // Written out, or the name of a JSON file.
  void message(const YamlNode& node, TestCase& made) {
    std::string json;
    std::string what = "message: ";
    if (node.is_scalar() && !node.text.empty()) {
      const std::string file = beside(node.text);
      std::ifstream stream(file, std::ios::binary);
      std::ostringstream content;
      content << stream.rdbuf();
      if (!stream) {
        wrong(node,
              "message: expected a file '" + escape(file, 400) + "', found none that can be read");
        return;
      }
      json = content.str();
      what = "message file '" + escape(file, 400) + "': ";
    } else {
      json = supervisor::yaml_json(node);
    }
    auto parsed = message_from_json(json);
    if (!parsed) {
      wrong(node, what + parsed.error());
      return;
    }
    made.messages.push_back(std::move(*parsed));
  }

  void expectations(const YamlNode& node, TestCase& made) {
    const YamlNode* const expect = find(node, "expect");
    if (expect == nullptr) {
      made.expectations.resize(made.messages.size());
    } else if (expect->type != YamlType::list) {
      made.expectations.assign(made.messages.size(), expectation(*expect));
    } else if (expect->items.size() != made.messages.size()) {
      wrong(*expect, "expect: expected one for each of the " +
                         std::to_string(made.messages.size()) + " messages, found " +
                         std::to_string(expect->items.size()));
    } else {
      for (const YamlNode& each : expect->items) made.expectations.push_back(expectation(each));
    }
  }

  Expectation expectation(const YamlNode& node) {
    Expectation made;
    if (!is_map(node, "expect", kExpectKeys)) return made;
    if (const YamlNode* const outcome = find(node, "outcome")) {
      made.outcome.reset();
      for (const TrialOutcome each : kOutcomes) {
        if (outcome->text == to_string(each)) made.outcome = each;
      }
      if (!made.outcome) {
        wrong(*outcome,
              "outcome: expected ack, retry, reject, hold, crash, timeout, expired, too-large or "
              "refused");
      }
    }
    if (const YamlNode* const reason = find(node, "reason")) {
      made.reason = matcher(*reason, "reason");
    }
    made.publications = publications(node, "publications");
    made.replies = publications(node, "replies");
    if (const YamlNode* const logs = find(node, "logs")) made.lines = lines(*logs);
    if (const YamlNode* const attempts = find(node, "attempts")) {
      made.attempts = static_cast<std::uint32_t>(number(*attempts, "attempts"));
    }
    if (const YamlNode* const dead = find(node, "dead_letter")) {
      made.dead_letter = text(*dead, "dead_letter");
    }
    if (const YamlNode* const again = find(node, "again_after")) {
      const auto length = parse_duration(text(*again, "again_after"));
      if (length) made.again_after = *length;
      if (!length) wrong(*again, "again_after: " + length.error());
    }
    return made;
  }

  TextMatcher matcher(const YamlNode& node, const std::string& what) {
    TextMatcher made;
    if (node.is_scalar()) {
      made.text = node.text;
      return made;
    }
    if (!is_map(node, what, kMatcherKeys)) return made;
    if (node.keys.size() != 1) {
      wrong(node, what + ": expected a text, or one of " + list_of(kMatcherKeys));
      return made;
    }
    const std::string& key = node.keys.front().text;
    const YamlNode& value = node.items.front();
    if (key == "json" || key == "includes") {
      made.kind = key == "json" ? TextMatcher::Kind::json : TextMatcher::Kind::includes;
      made.text = supervisor::yaml_json(value);
      return made;
    }
    made.kind = key == "contains" ? TextMatcher::Kind::contains : TextMatcher::Kind::matches;
    made.text = text(value, what + "." + key);
    if (made.kind == TextMatcher::Kind::matches) {
      try {
        // Polynomial: no expression and no text make it take for ever, or all of the stack.
        made.expression = std::make_shared<const std::regex>(
            made.text, std::regex::ECMAScript | std::regex_constants::__polynomial);
      } catch (const std::regex_error& error) {
        wrong(value, what + ".matches: expected a regular expression: " + error.what());
        made.kind = TextMatcher::Kind::contains;
      }
    }
    return made;
  }

  std::optional<std::vector<PublicationMatcher>> publications(const YamlNode& expect,
                                                              const std::string& key) {
    const YamlNode* const list = find(expect, key);
    if (list == nullptr) return std::nullopt;
    std::vector<PublicationMatcher> made;
    if (list->type != YamlType::list) {
      wrong(*list, key + ": expected a list ([] for none)");
      return made;
    }
    for (const YamlNode& each : list->items) {
      PublicationMatcher& publication = made.emplace_back();
      if (!is_map(each, key, kPublicationKeys)) continue;
      for (std::size_t i = 0; i < each.keys.size(); ++i) {
        const std::string& name = each.keys[i].text;
        if (name == "body") {
          publication.body = matcher(each.items[i], key + ".body");
        } else {
          publication.members.emplace_back(name, member_json(name, each.items[i]));
        }
      }
    }
    return made;
  }

  // Texts are texts, however they look.
  static std::string member_json(const std::string& name, const YamlNode& node) {
    constexpr std::string_view kNoTexts[] = {"priority",   "expiration_ms",     "delay_ms",
                                             "persistent", "may_be_unroutable", "headers"};
    const bool is_text = std::ranges::find(kNoTexts, name) == std::end(kNoTexts);
    return is_text && node.is_scalar() ? json_quote(node.text) : supervisor::yaml_json(node);
  }

  // Texts and matchers, also behind the source of the line: {warn: …}.
  std::vector<LineMatcher> lines(const YamlNode& node) {
    std::vector<LineMatcher> made;
    if (node.type != YamlType::list) {
      wrong(node, "logs: expected a list ([] for none)");
      return made;
    }
    for (const YamlNode& each : node.items) {
      LineMatcher& line = made.emplace_back();
      const bool has_source =
          each.type == YamlType::map && each.keys.size() == 1 &&
          std::ranges::find(kSources, each.keys.front().text) != std::end(kSources);
      if (has_source) line.source = each.keys.front().text;
      line.text = matcher(has_source ? each.items.front() : each, "logs");
    }
    return made;
  }

  const std::string& path_;
  const std::string& handler_;
  std::vector<ConfigProblem>& problems_;
  bool has_group_ = false;  // the case's batches are not ours to choose
};

}  // namespace

std::vector<TestCase> read_test_file(const std::string& path, const std::string& handler,
                                     std::vector<ConfigProblem>& problems) {
  return Reader(path, handler, problems).read();
}

std::vector<TestKeys> known_test_keys() {
  const auto keys = [](auto& list) {
    return std::vector<std::string_view>(std::begin(list), std::end(list));
  };
  return {{"file", keys(kFileKeys)},
          {"case", keys(kCaseKeys)},
          {"expect", keys(kExpectKeys)},
          {"text", keys(kMatcherKeys)},
          {"publication", keys(kPublicationKeys)},
          {"logs", keys(kSources)}};
}

}  // namespace lope::cli
