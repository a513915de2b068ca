#include "consumer/span_exporter.h"

#include <signal.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

using namespace lope;
using namespace lope::consumer;

namespace {

std::set<std::string> threads() {
  std::set<std::string> found;
  for (const auto& each : std::filesystem::directory_iterator("/proc/self/task")) {
    found.insert(each.path().filename());
  }
  return found;
}

std::uint64_t blocked_by(const std::string& thread) {
  std::ifstream status("/proc/self/task/" + thread + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("SigBlk:")) return std::stoull(line.substr(7), nullptr, 16);
  }
  return 0;
}

}  // namespace

TEST_CASE("no signal comes to the thread that sends spans", "[unit][telemetry]") {
  const std::set<std::string> before = threads();
  GroupBoard board{};
  auto exporter = SpanExporter::create({}, "{}", "g", board);
  REQUIRE(exporter);
  int started = 0;
  for (const std::string& thread : threads()) {
    if (before.contains(thread)) continue;
    ++started;
    CHECK((blocked_by(thread) & std::uint64_t{1} << (SIGCHLD - 1)) != 0);
  }
  CHECK(started == 1);
  sigset_t now;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &now);
  CHECK_FALSE(::sigismember(&now, SIGCHLD));
}
