#include "common/wall_time.h"

#include <catch2/catch.hpp>
#include <string>

namespace lope {
namespace {

using Catch::Matchers::Contains;

TEST_CASE("a time is a date, a time of day and an offset", "[unit][wall_time]") {
  struct Case {
    const char* text;
    std::int64_t expected;
  };
  const Case table[] = {
      {"1970-01-01T00:00:00Z", 0},
      {"1969-12-31T23:59:59Z", -1000},
      {"1970-01-01T00:00:00+00:01", -60'000},
      {"1970-01-01T08:00:00+08:00", 0},
      {"1969-12-31T19:00:00-05:00", 0},
      {"2027-02-03T00:00:00+08:00", 1'801'584'000'000},
      {"2024-02-29T12:30:45Z", 1'709'209'845'000},
      {"2016-12-31T23:59:60Z", 1'483'228'800'000},  // a leap second
      {"1970-01-01t00:00:01z", 1000},
      {"1970-01-01 00:00:01Z", 1000},
      {"1970-01-01T00:00:00.5Z", 500},
      {"1970-01-01T00:00:00.25+00:00", 250},
      {"1970-01-01T00:00:00.001000Z", 1},
      {"1970-01-01T00:00:00.0010000001Z", 2},  // never early
      {"1970-01-01T00:00:00.9999Z", 1000},
      {"9999-12-31T23:59:59Z", 253'402'300'799'000},
  };
  for (const Case& each : table) {
    CAPTURE(each.text);
    const auto time = parse_time(each.text);
    REQUIRE(time.ok());
    CHECK(*time == each.expected);
  }
}

TEST_CASE("a time that is none is refused with what was expected and found", "[unit][wall_time]") {
  for (const std::string text : {"",
                                 "now",
                                 "12:00",
                                 "2027-02-03",
                                 "2027-02-03T00:00:00",
                                 "2027-02-03T00:00Z",
                                 "2027-02-30T00:00:00Z",
                                 "2027-02-29T00:00:00Z",
                                 "2027-13-01T00:00:00Z",
                                 "2027-00-01T00:00:00Z",
                                 "2027-01-00T00:00:00Z",
                                 "2027-02-03T24:00:00Z",
                                 "2027-02-03T00:60:00Z",
                                 "2027-02-03T00:00:61Z",
                                 "2027-02-03T00:00:00.Z",
                                 "2027-02-03T00:00:00+0800",
                                 "2027-02-03T00:00:00+08",
                                 "2027-02-03T00:00:00+24:00",
                                 "2027-02-03T00:00:00+08:60",
                                 "2027-02-03T00:00:00Z ",
                                 " 2027-02-03T00:00:00Z",
                                 "27-02-03T00:00:00Z",
                                 "2027-2-3T00:00:00Z",
                                 "+2027-02-03T00:00:00Z"}) {
    CAPTURE(text);
    const auto time = parse_time(text);
    REQUIRE_FALSE(time.ok());
    CHECK_THAT(time.error(), Contains("expected a time with its offset from UTC"));
    CHECK_THAT(time.error(), Contains("found '" + text + "'"));
  }
}

TEST_CASE("a time is written so that it can be read again", "[unit][wall_time]") {
  CHECK(utc_text(0) == "1970-01-01T00:00:00Z");
  CHECK(utc_text(1'801'584'000'250) == "2027-02-02T16:00:00.250Z");
  CHECK(utc_text(-1) == "1969-12-31T23:59:59.999Z");
  for (const std::int64_t time : {std::int64_t{0}, std::int64_t{1'801'584'000'250}}) {
    const auto again = parse_time(time_text(time));
    REQUIRE(again.ok());
    CHECK(*again == time);
  }
}

}  // namespace
}  // namespace lope
