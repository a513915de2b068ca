#include "cli/expectation.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/message_json.h"
#include "common/text.h"
#include "common/units.h"

namespace lope::cli {

namespace {

using Json = nlohmann::json;

constexpr std::size_t kShown = 400;

std::string in_quotes(std::string_view text) { return "'" + escape(text, kShown) + "'"; }

// JSON is harmless as it is, but not cut in the middle of a character.
std::string shown(const std::string& json) {
  if (json.size() <= kShown) return json;
  std::string_view part = std::string_view(json).substr(0, kShown);
  return std::string(part.substr(0, first_invalid_utf8(part))) + "…";
}

// What a publication has that does not show it.
Json default_of(const std::string& member) {
  if (member == "persistent") return true;
  if (member == "may_be_unroutable") return false;
  if (member == "headers") return Json::object();
  if (member == "priority" || member == "expiration_ms" || member == "delay_ms") return 0;
  return "";
}

// Every member that `expected` has, at any depth; lists have to be as long.
bool includes(const Json& found, const Json& expected) {
  if (expected.is_object()) {
    if (!found.is_object()) return false;
    return std::ranges::all_of(expected.items(), [&found](const auto& member) {
      const auto same = found.find(member.key());
      return same != found.end() && includes(*same, member.value());
    });
  }
  if (expected.is_array()) {
    return found.is_array() && found.size() == expected.size() &&
           std::equal(found.begin(), found.end(), expected.begin(), includes);
  }
  return found == expected;
}

std::string body_of(const Json& publication) {
  if (const auto body = publication.find("body"); body != publication.end()) return *body;
  const auto bytes = base64_decode(publication.value("body_base64", std::string()));
  return bytes ? *bytes : std::string();
}

void compare(const std::string& what, const PublicationMatcher& expected, const Json& found,
             std::vector<std::string>& list) {
  for (const auto& [name, json] : expected.members) {
    const Json value = Json::parse(json);
    const auto member = found.find(name);
    const Json there = member != found.end() ? *member : default_of(name);
    if (includes(there, value)) continue;
    list.push_back(what + "." + name + ": expected " + shown(json) + ", found " +
                   (member != found.end() ? shown(there.dump()) : "none"));
  }
  if (!expected.body) return;
  const std::string body = body_of(found);
  if (!expected.body->accepts(body)) {
    list.push_back(what + ".body: " + expected.body->to_string() + ", found " + in_quotes(body));
  }
}

void compare(const std::string& what, bool replies,
             const std::optional<std::vector<PublicationMatcher>>& expected,
             const TrialAttempt& attempt, std::vector<std::string>& list) {
  if (!expected) return;
  std::vector<Json> found;
  for (const auto& publication : attempt.publications) {
    if (publication.reply == replies) found.push_back(Json::parse(publication.json));
  }
  if (found.size() != expected->size()) {
    list.push_back(what + ": expected " + std::to_string(expected->size()) + ", found " +
                   std::to_string(found.size()));
    for (const Json& each : found) list.push_back("  " + shown(each.dump()));
    return;
  }
  for (std::size_t i = 0; i < found.size(); ++i) {
    compare(what + "[" + std::to_string(i) + "]", (*expected)[i], found[i], list);
  }
}

void compare_lines(const std::vector<LineMatcher>& expected, const TrialAttempt& attempt,
                   std::vector<std::string>& list) {
  if (expected.empty() && !attempt.lines.empty()) {
    list.push_back("logs: expected none, found " + in_quotes(attempt.lines.front().text));
  }
  for (const LineMatcher& line : expected) {
    const bool there = std::ranges::any_of(attempt.lines, [&line](const auto& found) {
      return (line.source.empty() || line.source == found.source) && line.text.accepts(found.text);
    });
    if (there) continue;
    list.push_back("logs: " + line.text.to_string() +
                   (line.source.empty() ? "" : " of '" + line.source + "'") + ", found" +
                   (attempt.lines.empty() ? " none" : ":"));
    for (const auto& found : attempt.lines) {
      list.push_back("  " + found.source + " " + in_quotes(found.text));
    }
  }
}

template <typename T>
void compare_texts(const char* what, const T& expected, const T& found,
                   std::vector<std::string>& list) {
  if (expected == found) return;
  list.push_back(std::string(what) + ": expected " + expected + ", found " + found);
}

}  // namespace

bool TextMatcher::accepts(std::string_view found) const {
  switch (kind) {
    case Kind::equals: return found == text;
    case Kind::contains: return found.find(text) != std::string_view::npos;
    case Kind::matches: return std::regex_search(found.begin(), found.end(), *expression);
    case Kind::json:
    case Kind::includes: {
      const Json value = Json::parse(found, nullptr, false);
      const Json expected = Json::parse(text);
      if (value.is_discarded()) return false;
      return kind == Kind::json ? value == expected : includes(value, expected);
    }
  }
  return false;
}

std::string TextMatcher::to_string() const {
  switch (kind) {
    case Kind::equals: return "expected " + in_quotes(text);
    case Kind::contains: return "expected a text that contains " + in_quotes(text);
    case Kind::matches: return "expected a text that matches " + in_quotes(text);
    case Kind::json: return "expected the JSON " + shown(text);
    case Kind::includes: return "expected JSON with at least " + shown(text);
  }
  return "";
}

std::vector<std::string> differences(const Expectation& expectation, const TrialResult& result) {
  std::vector<std::string> list;
  const TrialAttempt& last = result.attempts.back();
  if (expectation.outcome && *expectation.outcome != last.outcome) {
    list.push_back(std::string("outcome: expected ") + to_string(*expectation.outcome) +
                   ", found " + to_string(last.outcome) +
                   (last.reason.empty() ? "" : ": " + escape(last.reason, kShown)));
  }
  if (expectation.reason && !expectation.reason->accepts(last.reason)) {
    list.push_back("reason: " + expectation.reason->to_string() + ", found " +
                   in_quotes(last.reason));
  }
  compare("publications", false, expectation.publications, last, list);
  compare("replies", true, expectation.replies, last, list);
  if (expectation.lines) compare_lines(*expectation.lines, last, list);
  if (expectation.attempts) {
    compare_texts("attempts", std::to_string(*expectation.attempts),
                  std::to_string(result.attempts.size()), list);
  }
  if (expectation.dead_letter) {
    compare_texts("dead_letter", "'" + *expectation.dead_letter + "'", "'" + last.dead_code + "'",
                  list);
  }
  if (expectation.again_after) {
    compare_texts("again_after", duration_text(*expectation.again_after),
                  last.again_after ? duration_text(*last.again_after) : std::string("never"), list);
  }
  return list;
}

}  // namespace lope::cli
