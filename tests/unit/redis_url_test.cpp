#include "common/redis_url.h"

#include <catch2/catch.hpp>
#include <string>

using namespace lope;

TEST_CASE("the URL of a Redis server", "[unit][redis_url]") {
  const auto cache = parse_redis_url("redis://cache");
  REQUIRE(cache);
  CHECK(*cache == RedisUrl{"cache", 6379, 0, "", ""});
  const auto local = parse_redis_url("redis://[::1]:7000/");
  REQUIRE(local);
  CHECK(*local == RedisUrl{"::1", 7000, 0, "", ""});
  const auto all = parse_redis_url("redis://app:a%2fb@cache:6380/3");
  REQUIRE(all);
  CHECK(*all == RedisUrl{"cache", 6380, 3, "app", "a/b"});
}

TEST_CASE("what is wrong with the URL of a Redis server, without its words", "[unit][redis_url]") {
  struct Row {
    std::string url, expected;
  };
  const Row rows[] = {
      {"redis://:hunter2%-1@cache", "two hexadecimal digits"},
      {"redis://:hunter2%+1@cache", "two hexadecimal digits"},
      {"redis://:hunter2%@cache", "two hexadecimal digits"},
      {"redis://%zz:hunter2@cache", "two hexadecimal digits"},
      {"redis://:hunter2%00@cache", "found a NUL character"},
      {"redis://hunter2@cache", "found no ':'"},
      {"redis://app:@cache", "expected a password"},
      {"redis://:hunter2@", "expected a host"},
      {"redis://:hunter2@cache:0", "expected a port"},
      {"redis://:hunter2@cache/x", "expected the number of a database"},
      {"rediss://:hunter2@cache", "'rediss' is not available"},
  };
  for (const Row& row : rows) {
    INFO(row.url);
    const auto parsed = parse_redis_url(row.url);
    REQUIRE_FALSE(parsed);
    CHECK(parsed.error().find(row.expected) != std::string::npos);
    CHECK(parsed.error().find("hunter2") == std::string::npos);
  }
}
