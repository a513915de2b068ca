// Runs docs/tutorial.md: writes its YAML blocks to files, runs its sh blocks in one shell, in
// order, and waits after each for what the text block behind it shows. So the page cannot say what
// is not so.
#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "support/broker.h"
#include "support/log_lines.h"
#include "support/process.h"
#include "support/temp_dir.h"

using namespace lope::test;

namespace {

struct Block {
  std::string section;   // the heading above it
  std::string language;  // "yaml", "sh", "text"
  std::vector<std::string> lines;
};

std::vector<std::string> split(std::string_view text, std::string_view at) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t end = text.find(at);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + at.size());
  }
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

std::vector<Block> blocks_of(const std::string& page) {
  std::vector<Block> blocks;
  std::string section;
  bool inside = false;
  for (const std::string& line : split(page, "\n")) {
    if (line.starts_with("```")) {
      inside = !inside;
      if (inside) blocks.push_back({section, line.substr(3), {}});
    } else if (inside) {
      blocks.back().lines.push_back(line);
    } else if (line.starts_with("#")) {
      section = line;
    }
  }
  return blocks;
}

// `shown` is a line of the page, where "…" stands for any text.
bool matches(std::string_view line, const std::string& shown) {
  const std::vector<std::string> parts = split(shown, "…");
  if (!line.starts_with(parts.front()) || !line.ends_with(parts.back())) return false;
  std::size_t from = 0;
  for (const std::string& part : parts) {
    const std::size_t at = line.find(part, from);
    if (at == std::string_view::npos) return false;
    from = at + part.size();
  }
  return true;
}

// The lines of the page that the output does not have, or not as often.
std::vector<std::string> missing(const std::string& output, const std::vector<std::string>& shown) {
  std::map<std::string, int> wanted;
  for (const std::string& line : shown) ++wanted[line];
  const std::vector<std::string> lines = split(output, "\n");
  std::vector<std::string> result;
  for (const auto& [line, count] : wanted) {
    const auto found = std::count_if(lines.begin(), lines.end(),
                                     [&](const std::string& each) { return matches(each, line); });
    if (found < count) result.push_back(line);
  }
  return result;
}

void replace_all(std::string& text, std::string_view from, const std::string& to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at)) {
    text.replace(at, from.size(), to);
    at += to.size();
  }
}

// What no page needs to say: where the broker of the tests is, and how it is restarted. A command
// that fails ends the shell.
constexpr const char* kPrelude = R"(set -eu
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
exec 9<>go  # for writing too: else the end of one writer could be taken for the next one's word
sudo() { "$@"; }
systemctl() {
  [ "$*" = "restart rabbitmq-server" ]
  "$BROKER_SCRIPT" stop "$LOPE_TEST_BROKER_DIR"
  "$BROKER_SCRIPT" start "$LOPE_TEST_BROKER_DIR" >/dev/null
}
step() {
  echo "@ done $1"
  read -r _ <&9
}
)";

// Ends what the shell has started, which leads process groups of its own.
class Shell {
 public:
  Shell(std::vector<std::string> argv, ProcessOptions options)
      : process_(std::move(argv), std::move(options)) {}
  ~Shell() {
    for (const pid_t lope : descendants_named(process_.pid(), "lope")) ::kill(-lope, SIGKILL);
  }
  Process& process() { return process_; }

 private:
  Process process_;
};

class Tutorial {
 public:
  Tutorial() : blocks_(blocks_of(read_file(LOPE_SOURCE_DIR "/docs/tutorial.md"))) {
    delete_queues();
    REQUIRE(run({"mkfifo", dir_.file("go")}).status == exited(0));
  }
  ~Tutorial() { delete_queues(); }

  // Every sh block is run, and what it shows was seen. Afterwards output() has what each section
  // wrote.
  void follow() {
    std::string script = kPrelude;
    int steps = 0;
    for (const Block& block : blocks_) {
      if (block.language == "yaml") write_config(block);
      if (block.language == "sh") {
        script += joined(block.lines) + "step " + std::to_string(steps++) + "\n";
      }
    }
    ProcessOptions options;
    options.directory = dir_.path().string();
    options.env = {{"PATH", LOPE_BIN_DIR ":" + std::string(::getenv("PATH"))},
                   {"LOPE_BROKER", broker_.url()},
                   {"LOPE_SOCKET", dir_.file("control.sock")},
                   {"BROKER_SCRIPT", LOPE_SOURCE_DIR "/tests/support/broker.sh"}};
    Shell shell({"bash", dir_.write("tutorial.sh", script)}, options);
    Process& process = shell.process();

    int step = 0;
    std::size_t from = 0;  // where the output of this step starts
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      const Block& block = blocks_[i];
      if (block.language != "sh") continue;
      INFO(block.section << "\n" << joined(block.lines));
      const std::string done = "@ done " + std::to_string(step++);
      const bool ended = process.wait_for_line(done, 60s).has_value();
      INFO(process.output().substr(from));
      REQUIRE(ended);
      if (i + 1 < blocks_.size() && blocks_[i + 1].language == "text") {
        std::vector<std::string> unseen;
        eventually(60s, [&] {
          unseen = missing(process.output().substr(from), blocks_[i + 1].lines);
          return unseen.empty();
        });
        CAPTURE(unseen, process.output().substr(from));
        REQUIRE(unseen.empty());
      }
      output_[block.section] += process.output().substr(from);
      from = process.output().size();
      REQUIRE(run({"sh", "-c", "echo >\"$0\"", dir_.file("go")}).status == exited(0));
    }
    CHECK(process.wait_exit() == exited(0));
  }

  // What was written in the section whose heading contains `heading`.
  std::string output(std::string_view heading) const {
    for (const auto& [section, text] : output_) {
      if (section.find(heading) != std::string::npos) return text;
    }
    FAIL("docs/tutorial.md has no section " << heading);
    return {};
  }

 private:
  // The page is for a Lope that is installed, and a broker at its usual place.
  void write_config(const Block& block) {
    REQUIRE(block.lines.at(0).starts_with("# "));
    std::string text = joined(block.lines);
    REQUIRE(text.find("broker: amqp://localhost\n") != std::string::npos);
    replace_all(text, "amqp://localhost", broker_.url());
    text += "handlers_dir: " LOPE_HANDLERS_BUILD_DIR "\n";
    dir_.write(block.lines[0].substr(2), text);
  }

  void delete_queues() {
    for (const char* queue : {"hello", "tasks", "fair"}) {
      if (broker_.queue_exists(queue)) broker_.delete_queue(queue);
    }
  }

  const std::vector<Block> blocks_;
  Broker broker_;
  TempDir dir_;
  std::map<std::string, std::string> output_;
};

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
  Tutorial tutorial;
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
