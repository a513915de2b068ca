#include "support/page.h"

#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <utility>

#include "support/process.h"

namespace lope::test {

namespace {

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
python3() { exec /usr/bin/python3 "$@"; }  # that of the packages; always in the background
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

}  // namespace

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

std::vector<Page::Block> Page::blocks_of(const std::string& page) {
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

Page::Page(const std::string& name, std::vector<std::string> queues)
    : name_("docs/" + name),
      blocks_(blocks_of(read_file(LOPE_SOURCE_DIR "/" + name_))),
      queues_(std::move(queues)) {
  delete_queues();
  REQUIRE(run({"mkfifo", dir_.file("go")}).status == exited(0));
}

Page::~Page() { delete_queues(); }

void Page::follow() {
  std::string script = kPrelude;
  int steps = 0;
  for (const Block& block : blocks_) {
    if (block.language == "yaml" || block.language == "python") write_file(block);
    if (block.language == "sh") {
      script += joined(block.lines) + "step " + std::to_string(steps++) + "\n";
    }
  }
  ProcessOptions options;
  options.directory = dir_.path().string();
  options.env = {{"PATH", LOPE_BIN_DIR ":" + std::string(::getenv("PATH"))},
                 {"LOPE_BROKER", broker_.url()},
                 {"LOPE_SOCKET", dir_.file("control.sock")},
                 {"PYTHONUNBUFFERED", std::nullopt},  // it tears lines apart
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

std::string Page::output(std::string_view heading) const {
  for (const auto& [section, text] : output_) {
    if (section.find(heading) != std::string::npos) return text;
  }
  FAIL(name_ << " has no section " << heading);
  return {};
}

// The page is for a Lope that is installed, and a broker at its usual place.
void Page::write_file(const Block& block) {
  REQUIRE(block.lines.at(0).starts_with("# "));
  std::string text = joined(block.lines);
  replace_all(text, "amqp://localhost", broker_.url());
  if (block.language == "yaml") {
    REQUIRE(text.find("broker: " + broker_.url() + "\n") != std::string::npos);
    text += "handlers_dir: " LOPE_HANDLERS_BUILD_DIR "\n";
  }
  dir_.write(block.lines[0].substr(2), text);
}

void Page::delete_queues() {
  for (const std::string& queue : queues_) {
    if (broker_.queue_exists(queue)) broker_.delete_queue(queue);
  }
}

}  // namespace lope::test
