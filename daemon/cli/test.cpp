#include "cli/test.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>

#include "cli/test_file.h"
#include "cli/try.h"
#include "common/clock.h"
#include "common/exit_code.h"
#include "common/log.h"
#include "common/text.h"

namespace lope::cli {

namespace {

namespace fs = std::filesystem;

constexpr const char* kCommand = "lope test";

struct TestReport {
  const TestCase* test = nullptr;
  std::vector<std::string> failures;
  std::string output;  // what the handler said
  double seconds = 0;
};

// The files meant, or nothing when one is not there; then it has said so.
std::optional<std::vector<std::string>> find_files(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!fs::is_directory(path, error)) {
      if (!fs::exists(path, error)) {
        std::fprintf(stderr, "%s: '%s': expected a folder or a file, found none\n", kCommand,
                     escape(path, 4096).c_str());
        return std::nullopt;
      }
      files.push_back(path);
      continue;
    }
    std::vector<std::string> inside;
    for (fs::directory_iterator each(path, error), end; !error && each != end;
         each.increment(error)) {
      const std::string extension = each->path().extension();
      const bool is_file = each->is_regular_file(error);
      if (is_file && (extension == ".yaml" || extension == ".yml")) inside.push_back(each->path());
    }
    if (error) {
      std::fprintf(stderr, "%s: '%s': %s\n", kCommand, escape(path, 4096).c_str(),
                   error.message().c_str());
      return std::nullopt;
    }
    std::ranges::sort(inside);
    files.insert(files.end(), inside.begin(), inside.end());
  }
  return files;
}

// It may be several.
std::string line_text(const TrialAttempt::Line& line) {
  std::string text = line.source + " ";
  for (std::size_t at = 0; at <= line.text.size();) {
    const std::size_t end = std::min(line.text.find('\n', at), line.text.size());
    text += harmless(std::string_view(line.text).substr(at, end - at)) + "\n";
    at = end + 1;
  }
  return text;
}

std::string output_of(const TrialResult& result) {
  std::string text;
  for (const TrialAttempt& attempt : result.attempts) {
    for (const auto& line : attempt.lines) {
      text += line_text(line);
    }
  }
  return text;
}

// True: go on with the next.
bool run_case(const TestCase& test, TestReport& report) {
  report.test = &test;
  const TimePoint began = Clock::now();
  auto trial = Trial::create(test.settings);
  if (!trial) {
    report.failures.push_back(trial.error());
    return true;
  }
  const auto failure = (*trial)->run(test.messages, [&](const TrialResult& result) {
    const std::string where =
        test.messages.size() > 1 ? "message " + std::to_string(result.message + 1) + ": " : "";
    for (const std::string& difference : differences(test.expectations[result.message], result)) {
      report.failures.push_back(where + difference);
    }
    report.output += output_of(result);
  });
  for (const auto& line : (*trial)->other_lines()) {
    report.output += line_text(line);
  }
  if (failure) report.failures.push_back(failure->reason);
  if (!failure && !(*trial)->ending_trouble().empty()) {
    report.failures.push_back("the handler does not end well: " + (*trial)->ending_trouble());
  }
  report.seconds = std::chrono::duration<double>(Clock::now() - began).count();
  return !failure || !failure->interrupted;
}

void print_indented(const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::printf("        %s\n", text.substr(at, end - at).c_str());
    at = end + 1;
  }
}

void print(const TestReport& report, bool verbose) {
  const bool passed = report.failures.empty();
  std::printf("  %s  %s  (%.0f ms)\n", passed ? "ok  " : "FAIL",
              escape(report.test->name, 400).c_str(), report.seconds * 1e3);
  if (!passed) std::printf("        %s:%d\n", report.test->file.c_str(), report.test->line);
  for (const std::string& failure : report.failures) print_indented(failure);
  if ((verbose || !passed) && !report.output.empty()) {
    std::printf("        what the handler said:\n");
    print_indented(report.output);
  }
  std::fflush(stdout);
}

// What XML does not allow at all is left out.
std::string xml(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const std::size_t length = utf8_sequence_length(text);
    const char c = text.front();
    switch (c) {
      case '&': result += "&amp;"; break;
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '"': result += "&quot;"; break;
      case '\n': result += "&#10;"; break;
      default:
        if (length > 1 || (length == 1 && (static_cast<unsigned char>(c) >= 0x20 || c == '\t'))) {
          result += text.substr(0, length);
        }
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return result;
}

// As Jenkins, GitLab and others read it: one suite a file.
bool write_junit(const std::string& path, const std::vector<TestReport>& reports) {
  std::string text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n";
  char seconds[32];
  for (std::size_t i = 0; i < reports.size();) {
    const std::string& file = reports[i].test->file;
    std::string cases;
    std::size_t count = 0, failed = 0;
    double total = 0;
    for (; i < reports.size() && reports[i].test->file == file; ++i, ++count) {
      const TestReport& report = reports[i];
      total += report.seconds;
      std::snprintf(seconds, sizeof seconds, "%.3f", report.seconds);
      cases += "    <testcase classname=\"" + xml(fs::path(file).stem().string()) + "\" name=\"" +
               xml(report.test->name) + "\" file=\"" + xml(file) + "\" line=\"" +
               std::to_string(report.test->line) + "\" time=\"" + seconds + "\">\n";
      if (!report.failures.empty()) {
        ++failed;
        std::string all;
        for (const std::string& failure : report.failures) all += failure + "\n";
        cases += "      <failure message=\"" + xml(report.failures.front()) + "\">" + xml(all) +
                 "</failure>\n";
      }
      if (!report.output.empty()) {
        cases += "      <system-out>" + xml(report.output) + "</system-out>\n";
      }
      cases += "    </testcase>\n";
    }
    std::snprintf(seconds, sizeof seconds, "%.3f", total);
    text += "  <testsuite name=\"" + xml(file) + "\" tests=\"" + std::to_string(count) +
            "\" failures=\"" + std::to_string(failed) + "\" errors=\"0\" time=\"" + seconds +
            "\">\n" + cases + "  </testsuite>\n";
  }
  text += "</testsuites>\n";
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream << text;
  stream.close();
  if (stream) return true;
  std::fprintf(stderr, "%s: --junit '%s': %s\n", kCommand, escape(path, 4096).c_str(),
               errno_text("write", errno).c_str());
  return false;
}

}  // namespace

int run_tests(const TestOptions& options) {
  if (auto opened =
          open_log({.level = LogLevel::error, .format = LogFormat::text, .file = {}}, "lope");
      !opened) {
    std::fprintf(stderr, "%s: %s\n", kCommand, opened.error().c_str());
    return kExitFailed;
  }
  const auto files = find_files(options.paths);
  if (!files) return kExitUsage;
  std::vector<TestCase> tests;
  std::vector<supervisor::ConfigProblem> problems;
  for (const std::string& file : *files) {
    for (TestCase& test : read_test_file(file, options.handler, problems)) {
      if (test.name.find(options.filter) != std::string::npos) tests.push_back(std::move(test));
    }
  }
  for (const auto& problem : problems) std::fprintf(stderr, "%s\n", problem.to_string().c_str());
  if (!problems.empty()) return kExitUsage;
  if (tests.empty()) {
    std::fprintf(stderr, "%s: expected test cases, found none\n", kCommand);
    return kExitUsage;
  }
  std::vector<TestReport> reports;
  std::string file;
  bool go_on = true;
  for (const TestCase& test : tests) {
    if (!go_on) break;
    if (std::exchange(file, test.file) != test.file) std::printf("%s\n", file.c_str());
    go_on = run_case(test, reports.emplace_back());
    print(reports.back(), options.verbose);
  }
  const auto failed = static_cast<std::size_t>(std::ranges::count_if(
      reports, [](const TestReport& report) { return !report.failures.empty(); }));
  std::printf("%zu passed, %zu failed", reports.size() - failed, failed);
  if (reports.size() < tests.size()) std::printf(", %zu not run", tests.size() - reports.size());
  std::printf("\n");
  std::fflush(stdout);
  if (std::ferror(stdout) != 0) {
    std::fprintf(stderr, "%s: standard output: not all of it could be written\n", kCommand);
    return kExitFailed;
  }
  if (!options.junit.empty() && !write_junit(options.junit, reports)) return kExitFailed;
  if (!go_on) return 128 + SIGINT;
  return failed == 0 ? kExitOk : kExitFailed;
}

}  // namespace lope::cli
