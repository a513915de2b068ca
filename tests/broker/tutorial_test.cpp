// The pages that are followed step by step, as they are written.
#include <catch2/catch.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "support/log_lines.h"
#include "support/page.h"

using namespace lope::test;

namespace {

// Who wrote the lines that contain `text`: the consumer's name and pid, and its worker.
std::set<std::string> writers(const std::string& output, std::string_view text) {
  std::set<std::string> result;
  for (const std::string& line : lines_with(output, text)) {
    const std::size_t name = line.find("lope-consumer[");
    REQUIRE(name != std::string::npos);
    result.insert(line.substr(name, line.find(']', name) - name) + "/" + field(line, "worker"));
  }
  return result;
}

TEST_CASE("the tutorial works as it is written", "[broker][tutorial]") {
  Page tutorial("tutorial.md", {"hello", "tasks", "fair"});
  tutorial.follow();

  // What the page says in words.
  const std::string work = tutorial.output("Work queues");
  CHECK(writers(work, "text=\"done").size() == 2);

  const std::string acknowledgement = tutorial.output("Acknowledgement");
  CHECK(lines_with(acknowledgement, "received Interrupted task").size() == 2);
  CHECK(lines_with(acknowledgement, "done Interrupted task").size() == 1);
  CHECK(lines_with(acknowledgement, "connection lost").empty());

  CHECK(lines_with(tutorial.output("Durable queues"), "received Lost").empty());

  const std::string fair = tutorial.output("Fair dispatch");
  for (const std::string kind : {"task", "job"}) {
    CAPTURE(kind);
    const auto busy = writers(fair, "received Long " + kind);
    const auto idle = writers(fair, "received Short " + kind);
    CHECK(busy.size() == 1);
    CHECK(idle.size() == 1);
    CHECK(busy != idle);
    CHECK(fair.rfind("done Short " + kind) < fair.find("done Long " + kind));
  }
}

TEST_CASE("a line of the page matches what it stands for", "[broker][tutorial]") {
  struct Case {
    const char* line;
    const char* shown;
    bool expected;
  };
  const Case table[] = {
      {"abc", "abc", true},
      {"abcd", "abc", false},
      {"xabc", "abc", false},
      {"xabc", "…abc", true},
      {"abcd", "abc…", true},
      {"1 a 2 b 3", "… a … b …", true},
      {"1 b 2 a 3", "… a … b …", false},
      {"a=5 c", "a=… b", false},
      {"", "", true},
  };
  for (const Case& each : table) {
    CAPTURE(each.line, each.shown);
    CHECK(matches(each.line, each.shown) == each.expected);
  }
  CHECK(missing("a\nb\na\n", {"a", "a", "b"}).empty());
  CHECK(missing("a\nb\n", {"a", "a", "c"}) == std::vector<std::string>{"a", "c"});
}

}  // namespace
