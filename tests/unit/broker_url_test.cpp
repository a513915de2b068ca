// URLs of brokers, good and bad.
#include "common/broker_url.h"

#include <catch2/catch.hpp>
#include <string>

using namespace lope;

TEST_CASE("a good URL gives its parts", "[unit][broker_url]") {
  struct Row {
    std::string url;
    BrokerAddress address;
    bool has_user, has_password;
  };
  const auto row = GENERATE(values<Row>({
      {"amqp://localhost", {}, false, false},
      {"AMQP://localhost", {}, false, false},
      {"amqp://mq.example:5673/shop", {"mq.example", 5673, "shop", "guest", "guest"}, false, false},
      {"amqps://mq", {"mq", 5671, "/", "guest", "guest", true}, false, false},
      {"AMQPS://app:secret@mq:5672/shop", {"mq", 5672, "shop", "app", "secret", true}, true, true},
      {"amqp://app:secret@mq/shop", {"mq", 5672, "shop", "app", "secret"}, true, true},
      {"amqp://app@mq", {"mq", 5672, "/", "app", "guest"}, true, false},
      {"amqp://app:@mq", {"mq", 5672, "/", "app", ""}, true, true},
      {"amqp://mq/", {"mq", 5672, "", "guest", "guest"}, false, false},
      {"amqp://mq/%2f", {"mq", 5672, "/", "guest", "guest"}, false, false},
      {"amqp://mq/%2F", {"mq", 5672, "/", "guest", "guest"}, false, false},
      {"amqp://mq/a%2fb%25c", {"mq", 5672, "a/b%c", "guest", "guest"}, false, false},
      {"amqp://u%3as%40r:p%40ss%2Fw%3A:rd@mq",
       {"mq", 5672, "/", "u:s@r", "p@ss/w::rd"},
       true,
       true},
      {"amqp://gr%c3%bc%c3%9fe:ü@mq/日本", {"mq", 5672, "日本", "grüße", "ü"}, true, true},
      {"amqp://[::1]", {"::1", 5672, "/", "guest", "guest"}, false, false},
      {"amqp://a:b@[2001:db8::7]:1/v", {"2001:db8::7", 1, "v", "a", "b"}, true, true},
      {"amqp://127.0.0.1:65535", {"127.0.0.1", 65535, "/", "guest", "guest"}, false, false},
  }));
  INFO(row.url);
  const auto parsed = parse_broker_url(row.url);
  REQUIRE(parsed);
  CHECK(parsed->address == row.address);
  CHECK(parsed->has_user == row.has_user);
  CHECK(parsed->has_password == row.has_password);
}

TEST_CASE("a bad URL is an error that says what was expected and shows no part of it",
          "[unit][broker_url]") {
  struct Row {
    std::string url;
    const char* expected;
  };
  const auto row = GENERATE(values<Row>({
      {"", "does not start with 'amqp://'"},
      {"hunter2", "does not start with 'amqp://'"},
      {"http://app:hunter2@mq", "does not start with 'amqp://'"},
      {"amqp:/app:hunter2@mq", "does not start with 'amqp://'"},
      {"amqpss://app:hunter2@mq", "does not start with 'amqp://' or 'amqps://'"},
      {"amqps://app:hunter2@mq:x", "expected a port"},
      {"amqp://", "expected a host"},
      {"amqp:///vhost", "expected a host"},
      {"amqp://app:hunter2@", "expected a host"},
      {"amqp://app:hunter2@:5672", "expected a host"},
      {"amqp://:hunter2@mq", "expected a user"},
      {"amqp://mq:", "expected a port"},
      {"amqp://mq:0", "expected a port"},
      {"amqp://mq:65536", "expected a port"},
      {"amqp://mq:56x", "expected a port"},
      {"amqp://app:hunter2", "expected a port"},
      {"amqp://app:hunt:er2@mq:1:2", "expected a port"},
      {"amqp://mq host", "expected no spaces"},
      {"amqp://mq\n", "expected no spaces"},
      {"amqp://mq!", "expected a host name"},
      {"amqp://app:hunter2@mq/a/b", "expected one '/'"},
      {"amqp://app:hunt/er2@mq", "expected no '@' behind the first '/'"},
      {"amqp://app:hunt@er2@mq", "expected one '@'"},
      {"amqp://app:hunt%er2@mq", "password: expected two hexadecimal digits"},
      {"amqp://app:hunter2%@mq", "password: expected two hexadecimal digits"},
      {"amqp://app:hunter2%4@mq", "password: expected two hexadecimal digits"},
      {"amqp://app:hunter2%00@mq", "password: expected text, found a NUL"},
      {"amqp://app:hunter2%ff@mq", "password: expected UTF-8"},
      {"amqp://%zz:hunter2@mq", "user: expected two hexadecimal digits"},
      {"amqp://mq/%", "vhost: expected two hexadecimal digits"},
      {"amqp://mq/" + std::string(256, 'v'), "vhost: expected at most 255 bytes"},
      {"amqp://app:hunter2@mq?heartbeat=5", "expected no '?'"},
      {"amqp://app:hunter2@mq/#x", "expected no '#'"},
      {"amqp://[::1", "expected ']'"},
      {"amqp://[::1]5672", "expected ':' or '/'"},
      {"amqp://[mq]", "expected an IPv6 address"},
      {"amqp://::1", "expected a host"},
  }));
  INFO(row.url);
  const auto parsed = parse_broker_url(row.url);
  REQUIRE_FALSE(parsed);
  CHECK_THAT(parsed.error(), Catch::Contains(row.expected));
  for (const char* part : {"hunt", "er2", "app:"})
    CHECK_THAT(parsed.error(), !Catch::Contains(part));
}
