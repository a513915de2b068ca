// What a test case expects of an attempt, and how what came differs from it. Pure.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "cli/trial.h"

namespace lope::cli {

// A text, as somebody expects it.
struct TextMatcher {
  enum class Kind {
    equals,
    contains,
    matches,   // a regular expression (ECMAScript), somewhere in it
    json,      // the same JSON value, however it is written
    includes,  // a JSON value with at least these members
  };
  Kind kind = Kind::equals;
  std::string text;  // of json and includes: a JSON document
  std::shared_ptr<const std::regex> expression = {};

  bool accepts(std::string_view found) const;
  // "expected 'x'", "expected a text that contains 'x'"
  std::string to_string() const;
};

struct PublicationMatcher {
  // As a publication is shown: "routing_key", "headers", … . Headers are at least these.
  std::vector<std::pair<std::string, std::string>> members;  // name, JSON
  std::optional<TextMatcher> body;
};

struct LineMatcher {
  std::string source;  // "info", "stdout", …; empty: any
  TextMatcher text;
};

struct Expectation {
  std::optional<TrialOutcome> outcome = TrialOutcome::ack;
  std::optional<TextMatcher> reason;
  std::optional<std::vector<PublicationMatcher>> publications, replies;  // all, in this order
  std::optional<std::vector<LineMatcher>> lines;  // each somewhere among them; empty: none at all
  std::optional<std::uint32_t> attempts;          // that were made
  std::optional<std::string> dead_letter;         // its code
  std::optional<std::chrono::milliseconds> again_after;
};

// One line for each thing that is not as expected, of the last attempt; empty: nothing.
std::vector<std::string> differences(const Expectation& expectation, const TrialResult& result);

}  // namespace lope::cli
