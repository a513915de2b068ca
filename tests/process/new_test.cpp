// `lope new`: the names it takes, the folders it does not touch, what is in what it makes. That its
// projects build and run is seen in tests/system/first_hour_test.sh.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/lope.h"

using namespace lope::test;

namespace {

namespace fs = std::filesystem;

RunResult make_new(const TempDir& dir, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "new");
  return run_lope(std::move(arguments), {.env = {}, .directory = dir.path(), .standard_input = {}});
}

std::string content_of(const fs::path& path) {
  std::ifstream stream(path);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

std::set<std::string> files_in(const fs::path& folder) {
  std::set<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files.insert(entry.path().lexically_relative(folder));
  }
  return files;
}

}  // namespace

TEST_CASE("a new project has what its language needs, and no place left open", "[process][new]") {
  struct Row {
    const char* language;
    std::vector<std::string> own;
  };
  const auto row = GENERATE(values<Row>({
      {"cpp", {"CMakeLists.txt", "my-greet.cpp"}},
      {"c", {"CMakeLists.txt", "my-greet.c"}},
      {"rust", {"Cargo.toml", "src/lib.rs"}},
      {"go", {"go.mod", "main.go", "table.c"}},
      {"python", {"my-greet.py"}},
  }));
  const TempDir dir;
  const RunResult result = make_new(dir, {"my-greet", "--lang", row.language});
  INFO(result.output);
  REQUIRE(result.status == exited(0));
  std::set<std::string> expected = {".github/workflows/ci.yml",
                                    ".gitignore",
                                    "Makefile",
                                    "README.md",
                                    "lope.yaml",
                                    "message.json",
                                    "tests/my-greet.yaml"};
  expected.insert(row.own.begin(), row.own.end());
  const fs::path folder = fs::path(dir.path()) / "my-greet";
  CHECK(files_in(folder) == expected);
  for (const std::string& file : expected) {
    INFO(file);
    CHECK(result.output.find("my-greet/" + file + "\n") != std::string::npos);
    const std::string content = content_of(folder / file);
    CHECK(!content.empty());
    for (const char* word :
         {"@NAME@", "@CLASS@", "@PREFIX@", "@LANGUAGE@", "@PACKAGE@", "@TOOLS@", "@GUIDE@"}) {
      CHECK(content.find(word) == std::string::npos);
    }
  }
  CHECK(content_of(folder / ".github/workflows/ci.yml").find("actions/checkout@v4") !=
        std::string::npos);
  CHECK(result.output.find("make && make test") != std::string::npos);
}

TEST_CASE("a name becomes a class", "[process][new]") {
  const TempDir dir;
  REQUIRE(make_new(dir, {"my_new-greet2", "-l", "cpp"}).status == exited(0));
  const std::string source = content_of(dir.file("my_new-greet2/my_new-greet2.cpp"));
  CHECK(source.find("class MyNewGreet2 final") != std::string::npos);
  CHECK(source.find("LOPE_HANDLER_WITH(MyNewGreet2, \"my_new-greet2\"") != std::string::npos);
}

TEST_CASE("a name that cannot be one is refused, and nothing is made", "[process][new]") {
  struct Row {
    std::string name;
    const char* text;
  };
  const auto row = GENERATE(values<Row>({
      {"", "expected a letter"},
      {"1st", "found '1st'"},
      {"_x", "found '_x'"},
      {"a b", "found 'a b'"},
      {"../up", "found '../up'"},
      {"caf\xC3\xA9", "expected a letter"},
      {std::string(65, 'x'), "64 in all at most"},
      {"true", "something else in YAML"},
      {"log", "found a handler"},
  }));
  const TempDir dir;
  const RunResult result = make_new(dir, {"--lang", "c", "--", row.name});
  INFO(row.name);
  CHECK(result.status == exited(1));
  CHECK(result.output.find(row.text) != std::string::npos);
  CHECK(files_in(dir.path()).empty());
}

TEST_CASE("a folder with something in it stays as it is", "[process][new]") {
  const TempDir dir;
  const std::string folder = dir.file("here");
  REQUIRE(make_new(dir, {"first", "--lang", "c", "--dir", folder}).status == exited(0));
  const auto files = files_in(folder);
  const RunResult again = make_new(dir, {"second", "--lang", "go", "--dir", folder});
  CHECK(again.status == exited(1));
  CHECK(again.output.find("expected a new or an empty one, found files in it") !=
        std::string::npos);
  CHECK(files_in(folder) == files);
  const RunResult file = make_new(dir, {"third", "--lang", "go", "--dir", folder + "/first.c"});
  CHECK(file.status == exited(1));
  CHECK(file.output.find("found another file") != std::string::npos);
  fs::create_directory(dir.file("empty"));
  CHECK(make_new(dir, {"fourth", "--lang", "c", "--dir", dir.file("empty")}).status == exited(0));
}

TEST_CASE("a folder that cannot be written to is named", "[process][new]") {
  const TempDir dir;
  const RunResult result = make_new(dir, {"first", "--lang", "c", "--dir", "/proc/none"});
  CHECK(result.status == exited(1));
  CHECK(result.output.find("/proc/none") != std::string::npos);
}

TEST_CASE("the language is one of five", "[process][new]") {
  const TempDir dir;
  CHECK(make_new(dir, {"first"}).status == exited(2));
  CHECK(make_new(dir, {"first", "--lang", "java"}).status == exited(2));
  CHECK(files_in(dir.path()).empty());
}
