#include "cli/progress.h"

#include <catch2/catch.hpp>

namespace lope::cli {
namespace {

using namespace std::chrono_literals;

constexpr TimePoint kStart{1000s};

TEST_CASE("a quick command shows no progress", "[unit][progress]") {
  const bool terminal = GENERATE(true, false);
  Progress progress(100, {terminal, 80}, kStart);
  CHECK(progress.update(1, kStart).empty());
  CHECK(progress.update(99, kStart + 499ms).empty());
  CHECK(progress.clear().empty());
}

TEST_CASE("what a terminal shows", "[unit][progress]") {
  struct Case {
    std::uint64_t total, done;
    int columns;
    const char* shown;
  };
  const Case table[] = {
      {1000, 0, 60, "  0% [........................................] 0/1000 0/s"},
      {1000, 500, 60, " 50% [##############..............] 500/1000 250/s 2 s left"},
      {1000, 1000, 60, "100% [####################################] 1000/1000 500/s"},
      {1000, 500, 200, " 50% [####################....................] 500/1000 250/s 2 s left"},
      {100000, 10, 200, "  0% [........................................] 10/100000 5/s 6 h left"},
      {10000, 10, 200, "  0% [........................................] 10/10000 5/s 33 min left"},
      {1000, 500, 36, " 50% 500/1000 250/s 2 s left"},
      {1000, 500, 16, " 50% 500/1000 2"},
      {1000, 500, 1, ""},
      {0, 500, 60, "500 250/s"},
      {10, 20, 60, "100% [########################################] 20/10 10/s"},
  };
  for (const Case& each : table) {
    CAPTURE(each.total, each.done, each.columns);
    Progress progress(each.total, {true, each.columns}, kStart);
    const std::string text = progress.update(each.done, kStart + 2s);
    CHECK(text == std::string("\r") + each.shown + "\x1b[K");
    // Less than the line, which would wrap otherwise.
    CHECK(std::string_view(each.shown).size() < static_cast<std::size_t>(each.columns));
  }
}

TEST_CASE("a bar is drawn again ten times a second, and taken away once", "[unit][progress]") {
  Progress progress(100, {true, 80}, kStart);
  CHECK(progress.next() == kStart + 500ms);
  CHECK_FALSE(progress.update(10, kStart + 500ms).empty());
  CHECK(progress.next() == kStart + 600ms);
  CHECK(progress.update(11, kStart + 599ms).empty());
  CHECK_FALSE(progress.update(12, kStart + 600ms).empty());
  CHECK(progress.clear() == "\r\x1b[K");
  CHECK(progress.clear().empty());
}

TEST_CASE("without a terminal there is a plain line each ten seconds", "[unit][progress]") {
  Progress progress(1000, {false, 80}, kStart);
  CHECK(progress.update(10, kStart + 9999ms).empty());
  CHECK(progress.update(100, kStart + 10s) == "100/1000 10/s 90 s left\n");
  CHECK(progress.update(150, kStart + 19s).empty());
  CHECK(progress.update(400, kStart + 20s) == "400/1000 20/s 30 s left\n");
  CHECK(progress.clear().empty());
}

}  // namespace
}  // namespace lope::cli
