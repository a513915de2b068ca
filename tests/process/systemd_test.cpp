// The units as systemd's own tools see it, and its numbers against the daemon's.
#include <catch2/catch.hpp>
#include <chrono>
#include <regex>
#include <sstream>
#include <string>

#include "common/exit_code.h"
#include "common/settings.h"
#include "support/process.h"
#include "support/temp_dir.h"

namespace {

using lope::test::exited;
using lope::test::read_file;
using lope::test::run;
using lope::test::RunResult;
using lope::test::TempDir;

const std::string kUnit = LOPE_BUILD_DIR "/systemd/lope.service";
const std::string kTemplate = LOPE_BUILD_DIR "/systemd/lope@.service";

// The value of `key`, which must be given once.
std::string setting(const std::string& key) {
  std::istringstream lines(read_file(kUnit));
  std::string found;
  int times = 0;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(key + "=")) continue;
    found = line.substr(key.size() + 1);
    ++times;
  }
  INFO(key);
  REQUIRE(times == 1);
  return found;
}

std::chrono::seconds seconds(const std::string& key) {
  const std::string value = setting(key);
  INFO(key << "=" << value);
  REQUIRE(std::regex_match(value, std::regex("[0-9]+s")));
  return std::chrono::seconds(std::stoi(value));
}

// verify wants the program to be there: a copy of the unit that runs the one just built. The answer
// is what systemd has to say about it.
std::string verify(const std::string& unit_text, const std::string& name = "lope.service") {
  const TempDir dir;
  const std::string installed = "=/usr/bin/lope ";
  std::string text = unit_text;
  int programs = 0;
  for (auto at = text.find(installed); at != std::string::npos; at = text.find(installed)) {
    text.replace(at, installed.size(), "=" LOPE_BIN_DIR "/lope ");
    ++programs;
  }
  REQUIRE(programs == 2);  // ExecStart= and ExecReload=
  const std::string path = dir.write(name, text);
  const RunResult result = run({"systemd-analyze", "verify", "--man=no", path});
  REQUIRE(result.status.has_value());
  std::istringstream lines(result.output);
  std::string about_us;
  for (std::string line; std::getline(lines, line);) {
    if (line.find("lope") != std::string::npos) about_us += line + "\n";
  }
  return about_us;
}

}  // namespace

TEST_CASE("systemd-analyze verify has nothing to say about the units", "[process][systemd]") {
  CHECK(verify(read_file(kUnit)) == "");
  CHECK(verify(read_file(kTemplate), "lope@one.service") == "");
}

TEST_CASE("systemd-analyze verify would have said that a key is misspelt", "[process][systemd]") {
  std::string text = read_file(kUnit);
  text.replace(text.find("WatchdogSec="), 12, "WatchdogSecs=");
  CHECK_THAT(verify(text), Catch::Contains("WatchdogSecs"));
}

TEST_CASE("the units' exposure is at most 1.5", "[process][systemd]") {
  const std::string unit = GENERATE(kUnit, kTemplate);
  const TempDir dir;
  const std::string name = unit == kTemplate ? "lope@one.service" : "lope.service";
  const RunResult result = run({"systemd-analyze", "security", "--offline=true", "--threshold=15",
                                "--no-pager", dir.write(name, read_file(unit))});
  INFO(result.output);
  CHECK(result.status == exited(0));
  std::smatch match;
  REQUIRE(std::regex_search(result.output, match,
                            std::regex("Overall exposure level for " + name + ": ([0-9.]+)")));
  CHECK(std::stod(match[1]) <= 1.5);
}

TEST_CASE("instances share no folder, neither with each other nor with the service",
          "[process][systemd]") {
  std::istringstream lines(read_file(kTemplate));
  int folders = 0;
  for (std::string line; std::getline(lines, line);) {
    if (!std::regex_match(line, std::regex("(Runtime|State|Cache|Logs)Directory=.*"))) continue;
    CHECK_THAT(line, Catch::EndsWith("=lope-%i"));
    ++folders;
  }
  CHECK(folders == 4);
}

TEST_CASE("the unit does not start again what was refused", "[process][systemd]") {
  CHECK(setting("RestartPreventExitStatus") == std::to_string(lope::kExitRefused));
  CHECK(setting("Restart") == "on-failure");
}

TEST_CASE("the unit waits longer than the daemon's own limits", "[process][systemd]") {
  const lope::Settings defaults;
  CHECK(seconds("TimeoutStartSec") > defaults.ready_timeout);
  CHECK(seconds("TimeoutStopSec") > defaults.shutdown_timeout);
}

TEST_CASE("the unit lets the supervisor end the others and outlive a worker's OOM kill",
          "[process][systemd]") {
  CHECK(setting("Type") == "notify");
  CHECK(setting("NotifyAccess") == "main");
  CHECK(setting("KillMode") == "mixed");
  CHECK(setting("OOMPolicy") == "continue");
}
