#include "supervisor/load_child.h"

#include <catch2/catch.hpp>
#include <chrono>
#include <optional>
#include <string>

#include "common/event_loop.h"
#include "common/spawn.h"
#include "support/temp_dir.h"

using namespace lope;
using namespace lope::supervisor;
using namespace std::chrono_literals;

TEST_CASE("a report that is too large ends the reload at once, and that is why",
          "[unit][load_child]") {
  auto loop = EventLoop::create();
  REQUIRE(loop);
  const auto shell = open_program("/bin/sh");
  REQUIRE(shell);
  const test::TempDir dir;
  const std::string script = dir.write("script", "exec head -c 300000000 /dev/zero >&5\n");
  std::optional<Result<LoadReport>> ended;
  auto child = LoadChild::start(**loop, shell->get(), script, Settings{},
                                [&](const Result<LoadReport>& report) { ended = report; });
  REQUIRE(child);
  const auto deadline = std::chrono::steady_clock::now() + 20s;
  while (!ended && std::chrono::steady_clock::now() < deadline) {
    REQUIRE((*loop)->run_once(100ms));
  }
  REQUIRE(ended);
  REQUIRE_FALSE(*ended);
  CHECK(ended->error().find("at most 256 MiB") != std::string::npos);
}
