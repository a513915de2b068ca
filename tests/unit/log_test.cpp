// The shape of log lines, and what happens when they cannot be written.
#include "common/log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "support/temp_dir.h"

namespace {

using lope::Fields;
using lope::log_error;
using lope::log_info;
using lope::LogFormat;
using lope::LogLevel;
using lope::LogSettings;
using lope::open_log;
using lope::reopen_log;
using lope::test::read_file;
using lope::test::TempDir;

// Leaves the process logging to standard error, as the other tests expect.
class LogFile {
 public:
  explicit LogFile(LogFormat format = LogFormat::text, LogLevel level = LogLevel::info) {
    REQUIRE(open_log({level, format, path()}, "lope-test").ok());
  }
  ~LogFile() { (void)open_log(LogSettings{}, "lope"); }

  std::string path() const { return dir_.file("lope.log"); }
  std::string content() const { return read_file(path()); }
  const TempDir& dir() const { return dir_; }

 private:
  TempDir dir_;
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// The part of a text line that the test decides: after "program[pid] ".
std::string tail(const std::string& line) {
  const std::string mark = "lope-test[" + std::to_string(::getpid()) + "] ";
  const auto at = line.find(mark);
  return at == std::string::npos ? "no '" + mark + "' in: " + line : line.substr(at + mark.size());
}

// Standard error goes to a file while this lives.
class StderrTo {
 public:
  explicit StderrTo(const std::string& path) : saved_(::dup(STDERR_FILENO)) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0);
    REQUIRE(::dup2(fd, STDERR_FILENO) == STDERR_FILENO);
    ::close(fd);
  }
  ~StderrTo() {
    ::dup2(saved_, STDERR_FILENO);
    ::close(saved_);
  }

 private:
  int saved_;
};

}  // namespace

TEST_CASE("a text line holds time, level, program, pid, event and fields", "[unit][log]") {
  const LogFile log;
  log_info("group ready", {{"group", "hello"}, {"workers", 2}});
  const auto lines = lines_of(log.content());
  REQUIRE(lines.size() == 1);
  const std::regex shape(
      R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info  lope-test\[\d+\] group ready group=hello workers=2)");
  INFO(lines[0]);
  CHECK(std::regex_match(lines[0], shape));
}

TEST_CASE("text values are quoted only when a reader would need it", "[unit][log]") {
  struct Row {
    std::string value;
    std::string written;
  };
  const auto row = GENERATE(values<Row>({
      {"plain", "plain"},
      {"a/b:c,d", "a/b:c,d"},
      {"naïve", "naïve"},
      {"", "\"\""},
      {"two words", "\"two words\""},
      {"k=v", "\"k=v\""},
      {"say \"hi\"", R"("say \"hi\"")"},
      {"a\nb", R"("a\nb")"},
      {"\x1b[31m", R"("\x1B[31m")"},
  }));
  const LogFile log;
  log_info("value", {{"v", row.value}});
  const auto lines = lines_of(log.content());
  REQUIRE(lines.size() == 1);
  CHECK(tail(lines[0]) == "value v=" + row.written);
}

TEST_CASE("a long value is cut", "[unit][log]") {
  const auto format = GENERATE(LogFormat::text, LogFormat::json);
  const LogFile log(format);
  log_info("value", {{"v", std::string(1'000'000, 'x')}});
  CHECK(log.content().size() < 2'000);
  CHECK(log.content().find("…") != std::string::npos);
}

TEST_CASE("a JSON line is an object with its numbers as numbers", "[unit][log]") {
  const LogFile log(LogFormat::json);
  const std::string value = "a \"quoted\" \\ line\nand\tmore \x01 \x7f naïve";
  log_error("worker died", {{"text", value}, {"pid_of_worker", 4711}, {"negative", -3}});
  const auto lines = lines_of(log.content());
  REQUIRE(lines.size() == 1);
  const auto object = nlohmann::json::parse(lines[0]);
  CHECK(object.at("level") == "error");
  CHECK(object.at("program") == "lope-test");
  CHECK(object.at("pid") == ::getpid());
  CHECK(object.at("event") == "worker died");
  CHECK(object.at("text") == value);
  CHECK(object.at("pid_of_worker") == 4711);
  CHECK(object.at("negative") == -3);
  CHECK(std::regex_match(object.at("time").get<std::string>(),
                         std::regex(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)")));
}

TEST_CASE("a JSON line is valid UTF-8 whatever a value holds", "[unit][log]") {
  const auto bytes = GENERATE(values<std::string>({
      "\xff\xfe",
      "\xc3",
      "\xc0\x80",
      "\xed\xa0\x80",
      "\xf4\x90\x80\x80",
      "\xe2\x82",
      "ok \x80 ok",
      std::string("a\0b", 3),
  }));
  const LogFile log(LogFormat::json);
  log_info("value", {{"v", bytes}});
  const auto lines = lines_of(log.content());
  REQUIRE(lines.size() == 1);
  CHECK(nlohmann::json::accept(lines[0]));
}

TEST_CASE("a level below the one set is not written", "[unit][log]") {
  const LogFile log(LogFormat::text, LogLevel::warn);
  lope::log_debug("one");
  log_info("two");
  lope::log_warn("three");
  log_error("four");
  const auto lines = lines_of(log.content());
  REQUIRE(lines.size() == 2);
  CHECK(tail(lines[0]) == "three");
  CHECK(tail(lines[1]) == "four");
  CHECK_FALSE(lope::log_enabled(LogLevel::info));
  CHECK(lope::log_enabled(LogLevel::warn));
}

TEST_CASE("reopening follows a log file that was moved away", "[unit][log]") {
  const LogFile log;
  log_info("before");
  const std::string moved = log.dir().file("lope.log.1");
  std::filesystem::rename(log.path(), moved);
  log_info("still the old file");
  REQUIRE(reopen_log().ok());
  log_info("after");
  REQUIRE(lines_of(read_file(moved)).size() == 2);
  REQUIRE(lines_of(log.content()).size() == 1);
  CHECK(tail(lines_of(log.content())[0]) == "after");
}

TEST_CASE("a log file that cannot be opened again leaves the old one in use", "[unit][log]") {
  const LogFile log;
  const std::string moved = log.dir().file("lope.log.1");
  std::filesystem::rename(log.path(), moved);
  std::filesystem::create_directory(log.path());
  const auto reopened = reopen_log();
  REQUIRE_FALSE(reopened.ok());
  CHECK_THAT(reopened.error(), Catch::Contains(log.path()) && Catch::Contains("Is a directory"));
  log_info("still written");
  REQUIRE(lines_of(read_file(moved)).size() == 1);
}

TEST_CASE("a log file in a folder that is not there is refused by name", "[unit][log]") {
  const TempDir dir;
  const std::string path = dir.file("missing/lope.log");
  const auto opened = open_log({LogLevel::info, LogFormat::text, path}, "lope-test");
  REQUIRE_FALSE(opened.ok());
  CHECK_THAT(opened.error(), Catch::Contains(path) && Catch::Contains("No such file"));
}

TEST_CASE("lines that a full disk swallowed are counted on the first one that is written",
          "[unit][log]") {
  const TempDir dir;
  const std::string path = dir.file("lope.log");
  std::filesystem::create_symlink("/dev/full", path);
  REQUIRE(open_log({LogLevel::info, LogFormat::text, path}, "lope-test").ok());
  log_info("one");
  log_info("two");
  log_info("three");
  std::filesystem::remove(path);
  REQUIRE(reopen_log().ok());
  log_info("four");
  log_info("five");
  const auto lines = lines_of(read_file(path));
  REQUIRE(open_log(LogSettings{}, "lope").ok());
  REQUIRE(lines.size() == 3);
  CHECK_THAT(lines[0], Catch::Contains(" warn "));
  CHECK_THAT(tail(lines[0]),
             Catch::StartsWith("log lines lost count=3") && Catch::Contains("No space left"));
  CHECK(tail(lines[1]) == "four");
  CHECK(tail(lines[2]) == "five");
}

TEST_CASE("lines of several processes in one file do not mix", "[unit][log]") {
  constexpr int kProcesses = 4;
  constexpr int kLines = 400;
  const LogFile log;
  const std::string filler(700, 'x');
  std::vector<pid_t> children;
  for (int child = 0; child < kProcesses; ++child) {
    const pid_t pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      const bool opened = open_log({LogLevel::info, LogFormat::text, log.path()}, "child").ok();
      for (int i = 0; i < kLines; ++i) log_info("line", {{"filler", filler}, {"n", i}});
      ::_exit(opened ? 0 : 1);
    }
    children.push_back(pid);
  }
  for (const pid_t pid : children) {
    int status = 0;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    CHECK(status == 0);
  }
  const auto lines = lines_of(log.content());
  CHECK(lines.size() == kProcesses * kLines);
  const std::regex shape(R"(\S+ info  child\[\d+\] line filler=x{700} n=\d+)");
  for (const std::string& line : lines) {
    if (!std::regex_match(line, shape)) FAIL("a mixed line: " << line);
  }
}

TEST_CASE("under systemd lines carry a priority and leave the time to the journal", "[unit][log]") {
  const TempDir dir;
  const std::string path = dir.file("journal");
  {
    const StderrTo redirected(path);
    struct stat info {};
    REQUIRE(::fstat(STDERR_FILENO, &info) == 0);
    const std::string stream = std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino);
    ::setenv("JOURNAL_STREAM", stream.c_str(), 1);
    const bool opened = open_log({LogLevel::debug, LogFormat::text, ""}, "lope-test").ok();
    ::unsetenv("JOURNAL_STREAM");
    lope::log_debug("d");
    log_info("i", {{"n", 1}});
    lope::log_warn("w");
    log_error("e");
    const bool closed = open_log(LogSettings{}, "lope").ok();
    REQUIRE((opened && closed));
  }
  const std::string start = "lope-test[" + std::to_string(::getpid()) + "] ";
  CHECK(lines_of(read_file(path)) ==
        std::vector<std::string>{"<7>" + start + "d", "<6>" + start + "i n=1", "<4>" + start + "w",
                                 "<3>" + start + "e"});
}

TEST_CASE("a standard error that is not the journal's stream gets ordinary lines", "[unit][log]") {
  const auto stream =
      GENERATE(values<std::string>({"1:2", "", "x", "1:", "18446744073709551616:1"}));
  const TempDir dir;
  const std::string path = dir.file("stderr");
  {
    const StderrTo redirected(path);
    ::setenv("JOURNAL_STREAM", stream.c_str(), 1);
    const bool opened = open_log({LogLevel::info, LogFormat::text, ""}, "lope-test").ok();
    ::unsetenv("JOURNAL_STREAM");
    log_info("i");
    const bool closed = open_log(LogSettings{}, "lope").ok();
    REQUIRE((opened && closed));
  }
  CHECK_THAT(read_file(path), Catch::Contains("Z info  lope-test["));
}
