// Every kind of handler that cannot be used: its group is refused with path, expected and found,
// and a good group beside it runs on. The same from `lope check` and `lope inspect`.
#include <elf.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "common/exit_code.h"
#include "support/lope.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

constexpr auto kSoon = 20s;

const std::string kBuilt = LOPE_TEST_HANDLERS_DIR;

std::string good_bytes() { return read_file(LOPE_HANDLERS_BUILD_DIR "/null.so"); }

// A folder with a good handler, good.so, and what a row makes of bad.so.
struct Folder {
  Folder() {
    fs::create_directory(path);
    fs::copy_file(LOPE_HANDLERS_BUILD_DIR "/null.so", path / "good.so");
  }
  const TempDir dir;
  const fs::path path = dir.path() / "handlers";
  std::string name = "bad";
};

void write_bad(const Folder& folder, const std::string& bytes) {
  folder.dir.write("handlers/bad.so", bytes);
}

std::function<void(Folder&)> built(const std::string& name) {
  return [name](Folder& folder) {
    fs::copy_file(kBuilt + "/" + name + ".so", folder.path / "bad.so");
  };
}

struct Row {
  std::string what;
  std::function<void(Folder&)> make;
  // In the refusal, beside the path.
  std::string expected;
  std::string found;
  // What only shows in a running worker: check and inspect say less or nothing.
  bool only_run = false;
  // `lope inspect` takes a path and knows of no folder that it must stay in.
  bool inspectable = true;
};

std::vector<Row> rows() {
  std::vector<Row> rows = {
      {"missing", [](Folder&) {}, "expected a file", "found none"},
      {"text", [](Folder& f) { write_bad(f, "hello\n"); }, "expected", "found no ELF file"},
      {"empty", [](Folder& f) { write_bad(f, ""); }, "expected", "found no ELF file"},
      {"a folder", [](Folder& f) { fs::create_directory(f.path / "bad.so"); }, "expected", "found"},
      {"cut short",
       [](Folder& f) { write_bad(f, good_bytes().substr(0, good_bytes().size() / 8)); }, "expected",
       "found a truncated or damaged one"},
      {"of another machine",
       [](Folder& f) {
         std::string bytes = good_bytes();
         bytes[offsetof(Elf64_Ehdr, e_machine)] = static_cast<char>(EM_AARCH64);
         write_bad(f, bytes);
       },
       "expected", "found one for aarch64"},
      {"no symbol", built("no_symbol"), "lope_plugin_v1", "found"},
      {"another major", built("other_major"), "lope_plugin_v1", "lope_plugin_v2"},
      {"a newer minor", built("newer_minor"), "expected", "found"},
      {"a newer member in use", built("newer_tail"), "expected", "found members behind the last"},
      {"no function", built("no_functions"), "expected lope_plugin_v1 to have handle",
       "found neither"},
      {"a table of zeros", built("zero_table"), "expected", "found"},
      {"a library that is nowhere", built("undefined_symbol"),
       "expected a shared object that loads", "lope_test_function_that_is_nowhere"},
      {"a constructor that throws", built("throwing_constructor"), "expected", "found"},
      {"a constructor that aborts", built("aborting_constructor"), "expected", "SIGABRT"},
      {"a constructor that hangs", built("hanging_constructor"), "expected", "found"},
      {"a create() that aborts", built("create_aborts"), "expected to become ready",
       "SIGABRT while in the handler's create()", true},
      {"a create() that hangs", built("create_hangs"),
       "expected to become ready within start_timeout",
       "found its worker hanging 2 times in a row, at last in the handler's create()", true},
      {"a create() that finds its configuration wrong", built("create_invalid"), "create() failed",
       "option 'colour' must be a colour", true},
      {"a world-writable file",
       [](Folder& f) {
         write_bad(f, good_bytes());
         REQUIRE(::chmod((f.path / "bad.so").c_str(), 0666) == 0);
       },
       "expected", "found mode 0666"},
      {"a link out of the folder",
       [](Folder& f) {
         f.dir.write("outside.so", good_bytes());
         fs::create_symlink(f.dir.path() / "outside.so", f.path / "bad.so");
       },
       "expected a file inside", "found a link to", false, false},
      {"a link into a folder below",
       [](Folder& f) {
         fs::create_directory(f.path / "below");
         f.dir.write("handlers/below/real.so", good_bytes());
         fs::create_symlink("below/real.so", f.path / "bad.so");
         REQUIRE(::chmod((f.path / "below").c_str(), 0777) == 0);
       },
       "expected", "found mode 0777"},
      {"../ in the name",
       [](Folder& f) {
         f.dir.write("outside.so", good_bytes());
         f.name = "../outside";
       },
       "expected a plain file name", "found '../outside'", false, false},
      {"an absolute name",
       [](Folder& f) {
         f.dir.write("outside.so", good_bytes());
         f.name = f.dir.file("outside");
       },
       "expected a plain file name", "found '/", false, false},
      {"a name with .so",
       [](Folder& f) {
         write_bad(f, good_bytes());
         f.name = "bad.so";
       },
       "the name goes without .so", "found none", false, false},
  };
  return rows;
}

LopeOptions options_for(const Folder& folder) {
  LopeOptions options;
  options.handlers_dir = folder.path.string();
  options.groups = "  bad: { handler: " + folder.name +
                   ", start_timeout: 500ms }\n"
                   "  good: { handler: good, workers: 2 }\n";
  return options;
}

// The path that a refusal names: of a link inside the folder, where it leads.
std::string path_in_refusal(const Folder& folder) {
  std::error_code error;
  const std::string real = fs::canonical(folder.path / (folder.name + ".so"), error).string();
  if (!error && real.starts_with(folder.path.string() + "/")) return real;
  return folder.path.string() + "/" + folder.name;
}

}  // namespace

TEST_CASE("a bad handler's group is refused, and the others run on", "[process][plugins]") {
  const Row row = GENERATE(from_range(rows()));
  Folder folder;
  row.make(folder);
  Lope daemon(options_for(folder));
  // What is not there yet may come.
  const bool waits = row.what == std::string_view("missing");
  const std::string phrase = waits ? "group waits for its handler" : "group refused";
  const bool refused = daemon.wait_for_line(phrase, kSoon).has_value();
  INFO(row.what << '\n' << daemon.log());
  REQUIRE(refused);
  CHECK(eventually(kSoon, [&] {
    return daemon.process().count_lines("worker ready group=good") == 2 &&
           daemon.process().count_lines("group will not be started again group=bad") ==
               (waits ? 0 : 1) &&
           daemon.process().count_lines("cannot connect") == 1;  // the good one is at work
  }));
  const std::string log = daemon.log();
  const std::string refusal = log.substr(log.find(phrase));
  const std::string line = refusal.substr(0, refusal.find('\n'));
  INFO(line);
  CHECK_THAT(line, Contains("group=bad"));
  CHECK_THAT(line, Contains(path_in_refusal(folder)));
  CHECK_THAT(line, Contains(row.expected));
  CHECK_THAT(line, Contains(row.found));
  CHECK(daemon.consumers().size() == 1);
  CHECK(daemon.workers().size() == 2);
  // Nobody of the good group has ended meanwhile.
  CHECK(daemon.process().count_lines("worker ended group=good") == 0);
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(daemon.all_gone(0s));
}

TEST_CASE("check refuses a bad handler and passes a good one beside it", "[process][plugins]") {
  const Row row = GENERATE(from_range(rows()));
  Folder folder;
  row.make(folder);
  const std::string config = folder.dir.write("lope.yaml", config_text(options_for(folder)));
  const RunResult result = run_lope({"check", "--config", config});
  INFO(row.what << '\n' << result.output);
  CHECK_THAT(result.output, Contains("group 'good': ok"));
  if (row.only_run) {
    // create() is not called by a check.
    CHECK(result.status == exited(kExitOk));
    return;
  }
  CHECK(result.status == exited(kExitRefused));
  CHECK_THAT(result.output, Contains("group 'bad': refused"));
  CHECK_THAT(result.output, Contains(config + ":"));
  CHECK_THAT(result.output, Contains(path_in_refusal(folder)));
  CHECK_THAT(result.output, Contains("expected"));
  CHECK_THAT(result.output, Contains("found"));
}

TEST_CASE("inspect refuses a bad handler's file", "[process][plugins]") {
  const Row row = GENERATE(from_range(rows()));
  if (row.only_run || !row.inspectable) return;
  Folder folder;
  row.make(folder);
  const std::string path = (folder.path / "bad.so").string();
  const RunResult result = run_lope({"inspect", path});
  INFO(row.what << '\n' << result.output);
  CHECK(result.status == exited(kExitRefused));
  // Of a link, the file that it leads to.
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  CHECK_THAT(result.output, Contains(path) || Contains(real.string()));
  CHECK_THAT(result.output, Contains("expected"));
  CHECK_THAT(result.output, Contains("found"));
}

TEST_CASE("a folder that others may write to is refused with all that is in it",
          "[process][plugins]") {
  // The folder itself, or the one that it lies in.
  const bool parent = GENERATE(false, true);
  Folder folder;
  const fs::path writable = parent ? folder.dir.path() : folder.path;
  folder.name = "good";
  const std::string config = folder.dir.write("lope.yaml", config_text(options_for(folder)));
  REQUIRE(::chmod(writable.c_str(), 0777) == 0);

  const RunResult ran = run_lope({"run", "--config", config});
  INFO(ran.output);
  CHECK(ran.status == exited(kExitRefused));
  CHECK_THAT(ran.output,
             Contains("group refused group=bad") && Contains("group refused group=good"));
  CHECK_THAT(ran.output, Contains(folder.path.string() + "/good.so"));
  CHECK_THAT(ran.output, Contains("'" + writable.string() + "'") && Contains("found mode 0777"));

  const RunResult checked = run_lope({"check", "--config", config});
  CHECK(checked.status == exited(kExitRefused));
  CHECK_THAT(checked.output, Contains("found mode 0777"));

  const RunResult inspected = run_lope({"inspect", (folder.path / "good.so").string()});
  CHECK(inspected.status == exited(kExitRefused));
  CHECK_THAT(inspected.output, Contains("found mode 0777"));
}

TEST_CASE("a handler that says that it cannot start yet is tried again", "[process][plugins]") {
  LopeOptions options;
  options.groups = "  later: { handler: create_failed }\n  good: { handler: scripted }\n";
  Lope daemon(options);
  REQUIRE(
      eventually(kSoon, [&] { return daemon.process().count_lines("the database is away") >= 6; }));
  INFO(daemon.log());
  CHECK(daemon.process().count_lines("group refused") == 0);
  CHECK(daemon.consumers().size() == 2);
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("a handler built for a newer Lope that uses nothing of it runs", "[process][plugins]") {
  LopeOptions options;
  options.groups = "  a: { handler: newer_unused }\n  b: { handler: frozen_1_0 }\n";
  Lope daemon(options);
  CHECK(daemon.wait_for_line("worker ready", kSoon));
  CHECK(daemon.wait_for_line("worker ready", kSoon));
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("a worker that hangs only once is replaced", "[process][plugins]") {
  const TempDir dir;
  LopeOptions options;
  options.groups = "  g: { handler: at_start, start_timeout: 500ms, options: { do: hang, file: " +
                   dir.file("hung") + " } }\n";
  Lope daemon(options);
  const bool ready =
      eventually(kSoon, [&] { return daemon.process().count_lines("worker ready") > 0; });
  INFO(daemon.log());
  REQUIRE(ready);
  CHECK_THAT(daemon.log(), Contains("not ready within start_timeout") &&
                               Contains("stage=\"in the handler's create()\""));
  CHECK(daemon.process().count_lines("group refused") == 0);
}

TEST_CASE("a group that has worked is not given up for a handler that is refused later",
          "[process][plugins]") {
  const TempDir dir;
  const std::string file = dir.file("refuse");
  LopeOptions options;
  options.groups = "  g: { handler: at_start, options: { do: refuse, file: " + file + " } }\n";
  Lope daemon(options);
  REQUIRE(daemon.wait_for_line("worker ready", kSoon));
  std::ofstream(file) << "from now on";
  REQUIRE(daemon.workers().size() == 1);
  REQUIRE(::kill(daemon.workers().front(), SIGKILL) == 0);
  for (int i = 0; i < 3; ++i) CHECK(daemon.wait_for_line("told to refuse", kSoon));
  REQUIRE(::unlink(file.c_str()) == 0);
  CHECK(daemon.wait_for_line("worker ready", kSoon));
  INFO(daemon.log());
  CHECK(daemon.process().count_lines("group refused") == 0);
  CHECK(daemon.stop() == exited(kExitOk));
}
