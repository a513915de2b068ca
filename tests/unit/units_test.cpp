#include "common/units.h"

#include <catch2/catch.hpp>

namespace lope {
namespace {

using namespace std::chrono_literals;
using Catch::Matchers::Contains;

TEST_CASE("a duration is a whole number with its unit", "[unit][units]") {
  struct Case {
    const char* text;
    std::chrono::milliseconds expected;
  };
  const Case table[] = {{"500ms", 500ms}, {"90s", 90s},  {"5m", 5min},
                        {"1h", 1h},       {"30d", 720h}, {"0s", 0ms},
                        {"007s", 7s},     {"0ms", 0ms},  {"106751991167d", 106751991167 * 24h}};
  for (const Case& each : table) {
    CAPTURE(each.text);
    const auto parsed = parse_duration(each.text);
    REQUIRE(parsed.ok());
    CHECK(*parsed == each.expected);
  }
}

TEST_CASE("a duration that is none is refused with what was expected and found", "[unit][units]") {
  for (const std::string text : {"", "5", "s", "-5s", "1.5s", "5 s", "5S", "5sec", "5s ", "1h30m",
                                 "106751991168d", "99999999999999999999s"}) {
    CAPTURE(text);
    const auto parsed = parse_duration(text);
    REQUIRE_FALSE(parsed.ok());
    CHECK_THAT(parsed.error(), Contains("expected a duration with a unit (ms, s, m, h, d)"));
    CHECK_THAT(parsed.error(), Contains("found '" + text + "'"));
  }
}

TEST_CASE("a duration is written in the largest unit that fits", "[unit][units]") {
  CHECK(duration_text(0ms) == "0s");
  CHECK(duration_text(1500ms) == "1500ms");
  CHECK(duration_text(90s) == "90s");
  CHECK(duration_text(120s) == "2m");
  CHECK(duration_text(48h) == "2d");
}

}  // namespace
}  // namespace lope
