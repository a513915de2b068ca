#include "cli/expectation.h"

#include <catch2/catch.hpp>
#include <fstream>

#include "cli/handler_choice.h"
#include "cli/test_file.h"
#include "support/temp_dir.h"

namespace lope::cli {
namespace {

using namespace std::chrono_literals;
using Kind = TextMatcher::Kind;

TextMatcher text(Kind kind, const std::string& value) {
  TextMatcher made{kind, value};
  if (kind == Kind::matches) made.expression = std::make_shared<const std::regex>(value);
  return made;
}

PublicationMatcher publication(std::vector<std::pair<std::string, std::string>> members,
                               std::optional<TextMatcher> body = {}) {
  return {std::move(members), std::move(body)};
}

TrialResult a_result() {
  TrialAttempt attempt;
  attempt.outcome = TrialOutcome::retry;
  attempt.reason = "busy";
  attempt.again_after = 10s;
  attempt.lines = {{"info", "one"}, {"stdout", "two"}};
  attempt.publications = {
      {false, R"({"exchange":"e","routing_key":"k","headers":{"a":1,"b":"x"},"body":"{\"z\":1}"})"},
      {true, R"({"exchange":"","routing_key":"r","body_base64":"AAE="})"}};
  return {0, {attempt}};
}

TEST_CASE("texts are matched as told", "[unit][expectation]") {
  struct Row {
    Kind kind;
    const char* expected;
    const char* found;
    bool accepted;
  };
  const auto row = GENERATE(values<Row>({
      {Kind::equals, "a", "a", true},
      {Kind::equals, "a", "ab", false},
      {Kind::contains, "b", "abc", true},
      {Kind::contains, "x", "abc", false},
      {Kind::matches, "^a.c$", "abc", true},
      {Kind::matches, "b", "abc", true},
      {Kind::matches, "^b", "abc", false},
      {Kind::json, R"({"a":1,"b":[2]})", R"({ "b": [2], "a": 1.0 })", true},
      {Kind::json, R"({"a":1})", R"({"a":1,"b":2})", false},
      {Kind::json, R"({"a":1})", "no json", false},
      {Kind::includes, R"({"a":1})", R"({"a":1,"b":2})", true},
      {Kind::includes, R"({"a":{"b":1}})", R"({"a":{"b":1,"c":2}})", true},
      {Kind::includes, R"({"a":[1]})", R"({"a":[1,2]})", false},
      {Kind::includes, R"([{"a":1}])", R"([{"a":1,"b":2}])", true},
      {Kind::includes, R"({"a":1})", "[1]", false},
  }));
  INFO(row.expected << " / " << row.found);
  CHECK(text(row.kind, row.expected).accepts(row.found) == row.accepted);
}

TEST_CASE("what is as expected differs in nothing", "[unit][expectation]") {
  Expectation all;
  all.outcome = TrialOutcome::retry;
  all.reason = text(Kind::equals, "busy");
  all.publications = {publication({{"exchange", "\"e\""}, {"headers", R"({"a":1})"}},
                                  text(Kind::json, R"({"z":1})"))};
  all.replies = {
      publication({{"routing_key", "\"r\""}}, text(Kind::equals, std::string("\0\1", 2)))};
  all.lines = {LineMatcher{"stdout", text(Kind::equals, "two")},
               LineMatcher{"", text(Kind::contains, "ne")}};
  all.attempts = 1;
  all.dead_letter = "";
  all.again_after = 10s;
  CHECK(differences(all, a_result()).empty());
}

TEST_CASE("each thing that is not as expected is told", "[unit][expectation]") {
  struct Row {
    std::function<void(Expectation&)> set;
    std::vector<std::string> told;
  };
  const Row rows[] = {
      {[](Expectation& e) { e.outcome = TrialOutcome::ack; },
       {"outcome: expected ack, found retry: busy"}},
      {[](Expectation& e) { e.reason = text(Kind::contains, "x"); },
       {"reason: expected a text that contains 'x', found 'busy'"}},
      {[](Expectation& e) { e.publications.emplace(); },
       {"publications: expected 0, found 1",
        R"(  {"body":"{\"z\":1}","exchange":"e","headers":{"a":1,"b":"x"},"routing_key":"k"})"}},
      {[](Expectation& e) {
         e.replies = {publication({{"routing_key", "\"q\""}, {"type", "\"t\""}})};
       },
       {R"(replies[0].routing_key: expected "q", found "r")",
        R"(replies[0].type: expected "t", found none)"}},
      {[](Expectation& e) {
         e.publications = {publication({{"headers", R"({"a":2})"}})};
       },
       {R"(publications[0].headers: expected {"a":2}, found {"a":1,"b":"x"})"}},
      {[](Expectation& e) { e.publications = {publication({}, text(Kind::equals, "no"))}; },
       {R"(publications[0].body: expected 'no', found '{\"z\":1}')"}},
      {[](Expectation& e) {
         e.lines = {LineMatcher{"warn", text(Kind::equals, "one")}};
       },
       {"logs: expected 'one' of 'warn', found:", "  info 'one'", "  stdout 'two'"}},
      {[](Expectation& e) { e.lines.emplace(); }, {"logs: expected none, found 'one'"}},
      {[](Expectation& e) { e.attempts = 2; }, {"attempts: expected 2, found 1"}},
      {[](Expectation& e) { e.dead_letter = "attempts"; },
       {"dead_letter: expected 'attempts', found ''"}},
      {[](Expectation& e) { e.again_after = 5s; }, {"again_after: expected 5s, found 10s"}},
  };
  for (const Row& row : rows) {
    Expectation expectation;
    expectation.outcome = TrialOutcome::retry;
    row.set(expectation);
    CHECK(differences(expectation, a_result()) == row.told);
  }
}

TEST_CASE("options of the command line become a map", "[unit][expectation]") {
  GroupSettings group;
  group.options_json = R"({"keep":"me","store":{"dsn":"old","size":1}})";
  const auto map = option_map({"store.dsn=new", "n=7", "list=[a, 2]", "zip=01234",
                               "empty=", "map={x: {y: z}}", "map.x.w=5"});
  REQUIRE(map);
  REQUIRE(add_options(group, *map, "--options"));
  CHECK(group.options_json ==
        R"({"keep":"me","store":{"dsn":"new","size":1},"n":7,"list":["a",2],"zip":"01234",)"
        R"("empty":"","map":{"x":{"y":"z","w":5}}})");
  const std::vector<std::pair<std::string, std::string>> flat = {
      {"keep", "me"},   {"store.dsn", "new"}, {"store.size", "1"}, {"n", "7"},
      {"list.0", "a"},  {"list.1", "2"},      {"zip", "01234"},    {"empty", ""},
      {"map.x.y", "z"}, {"map.x.w", "5"}};
  CHECK(group.options == flat);
  CHECK_FALSE(option_map({"novalue"}));
  CHECK_FALSE(option_map({"=x"}));
  CHECK_FALSE(option_map({"l=[a"}));
}

std::vector<std::string> problems_of(const std::string& yaml) {
  const test::TempDir dir;
  const std::string path = dir.file("cases.yaml");
  std::ofstream(path) << yaml;
  std::vector<supervisor::ConfigProblem> problems;
  (void)read_test_file(path, "", problems);
  std::vector<std::string> texts;
  for (const auto& problem : problems) {
    texts.push_back(std::to_string(problem.line) + ":" + std::to_string(problem.column) + " " +
                    problem.text);
  }
  return texts;
}

TEST_CASE("what is wrong with a file of test cases is told with its place", "[unit][expectation]") {
  using Told = std::vector<std::string>;
  CHECK(problems_of("handler: x\n") == Told{"1:1 cases: expected a list of test cases"});
  CHECK(problems_of("handlr: x\ncases: [{message: {}}]\n") ==
        Told{"1:1 the file: unknown key 'handlr': did you mean 'handler'?",
             "2:9 expected a handler, or config and group, found neither"});
  CHECK(problems_of("cases:\n  - message: {}\n") ==
        Told{"2:5 expected a handler, or config and group, found neither"});
  CHECK(problems_of("handler: x\ncases:\n  - message: {bdy: 1}\n") ==
        Told{"3:14 message: 'bdy': no such member of a message: did you mean 'body'?"});
  CHECK(problems_of("handler: x\ncases:\n  - message: {}\n    expect: {outcome: good}\n") ==
        Told{"4:23 outcome: expected ack, retry, reject, hold, crash, timeout, expired, "
             "too-large or refused"});
  CHECK(problems_of("handler: x\ncases:\n  - messages: [{}, {}]\n    expect: [{}]\n") ==
        Told{"4:13 expect: expected one for each of the 2 messages, found 1"});
}

TEST_CASE("a test case gets what stands above it", "[unit][expectation]") {
  const test::TempDir dir;
  const std::string path = dir.file("cases.yaml");
  std::ofstream(dir.file("one.json")) << R"({"body":"from a file"})";
  std::ofstream(path) << "handler: ../build/greet.so\n"
                         "options: { a: 1, b: 2 }\n"
                         "timeout: 3s\n"
                         "cases:\n"
                         "  - message: one.json\n"
                         "    options: { b: 3 }\n"
                         "  - name: second\n"
                         "    handler: log\n"
                         "    messages: [ {body: x}, {body: y} ]\n"
                         "    timeout: 4s\n"
                         "    attempts: 7\n";
  std::vector<supervisor::ConfigProblem> problems;
  const std::vector<TestCase> cases = read_test_file(path, "", problems);
  REQUIRE(problems.empty());
  REQUIRE(cases.size() == 2);
  CHECK(cases[0].name == "line 5");
  CHECK(cases[0].settings.group.handler == "greet");
  CHECK(cases[0].settings.handlers_dir ==
        (std::filesystem::path(dir.file("")).parent_path().parent_path() / "build").string());
  CHECK(cases[0].settings.group.options_json == R"({"a":1,"b":3})");
  CHECK(cases[0].settings.group.timeout == 3s);
  REQUIRE(cases[0].messages.size() == 1);
  CHECK(cases[0].messages[0].body == "from a file");
  CHECK(cases[1].settings.group.handler == "log");
  CHECK(cases[1].settings.group.timeout == 4s);
  CHECK(cases[1].settings.group.batch_size == 2);
  CHECK(cases[1].settings.attempts == 7);
  CHECK(cases[1].expectations.size() == 2);
}

TEST_CASE("each key of a test file is documented", "[unit][expectation]") {
  const std::string page = test::read_file(LOPE_SOURCE_DIR "/docs/testing.md");
  for (const TestKeys& map : known_test_keys()) {
    for (const std::string_view key : map.keys) {
      INFO(map.map << ": " << key);
      const std::string name(key);
      const bool there = page.find("`" + name + "`") != std::string::npos ||
                         page.find("{ " + name + ": ") != std::string::npos ||
                         page.find("\n" + name + ":") != std::string::npos;
      CHECK(there);
    }
  }
}

}  // namespace
}  // namespace lope::cli
