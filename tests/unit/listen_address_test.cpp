#include "supervisor/listen_address.h"

#include <catch2/catch.hpp>

using namespace lope;
using namespace lope::supervisor;
using Catch::Contains;

TEST_CASE("an address to listen on is a port, or an address and a port", "[unit][listen_address]") {
  struct Row {
    const char* text;
    ListenAddress expected;
    const char* shown;
    bool loopback;
  };
  const Row row = GENERATE(values<Row>({
      {"9419", {"127.0.0.1", 9419}, "127.0.0.1:9419", true},
      {":9419", {"127.0.0.1", 9419}, "127.0.0.1:9419", true},
      {"localhost:9419", {"127.0.0.1", 9419}, "127.0.0.1:9419", true},
      {"127.1.2.3:1", {"127.1.2.3", 1}, "127.1.2.3:1", true},
      {"0", {"127.0.0.1", 0}, "127.0.0.1:0", true},
      {"0.0.0.0:65535", {"0.0.0.0", 65535}, "0.0.0.0:65535", false},
      {"192.0.2.1:80", {"192.0.2.1", 80}, "192.0.2.1:80", false},
      {"[::1]:80", {"::1", 80}, "[::1]:80", true},
      {"[::]:80", {"::", 80}, "[::]:80", false},
      {"[2001:db8::1]:80", {"2001:db8::1", 80}, "[2001:db8::1]:80", false},
  }));
  INFO(row.text);
  const auto address = parse_listen_address(row.text);
  REQUIRE(address.ok());
  CHECK(*address == row.expected);
  CHECK(to_string(*address) == row.shown);
  CHECK(is_loopback(*address) == row.loopback);
}

TEST_CASE("what is no address to listen on is refused with what was expected",
          "[unit][listen_address]") {
  struct Row {
    const char* text;
    const char* why;
  };
  const Row row = GENERATE(values<Row>({
      {"", "(a port is 0 to 65535), found ''"},
      {":", "(a port is 0 to 65535)"},
      {"x", "(a port is 0 to 65535), found 'x'"},
      {"65536", "(a port is 0 to 65535)"},
      {"-1", "(a port is 0 to 65535)"},
      {"99999999999999999999", "(a port is 0 to 65535)"},
      {"127.0.0.1", "(a port is 0 to 65535)"},
      {"127.0.0.1:", "(a port is 0 to 65535)"},
      {"127.0.0.1:9419 ", "(a port is 0 to 65535)"},
      {"mq.example:9419", "(a name is none: write the address itself)"},
      {"*:9419", "(a name is none: write the address itself)"},
      {"256.0.0.1:9419", "(a name is none: write the address itself)"},
      {"[]:9419", "(a name is none: write the address itself)"},
      {"[::1:9419", "(a name is none: write the address itself)"},
      {"::1:9419", "(an IPv6 address in brackets, no other)"},
      {"[127.0.0.1]:9419", "(an IPv6 address in brackets, no other)"},
  }));
  INFO(row.text);
  const auto address = parse_listen_address(row.text);
  REQUIRE_FALSE(address.ok());
  CHECK_THAT(address.error(), Contains("expected a port, or an address and a port"));
  CHECK_THAT(address.error(), Contains(row.why));
}

TEST_CASE("of two listeners at one address the second is told why not", "[unit][listen_address]") {
  ListenAddress address;
  const auto first = listen_on(address);
  REQUIRE(first.ok());
  CHECK(address.port != 0);
  const auto second = listen_on(address);
  REQUIRE_FALSE(second.ok());
  CHECK(second.error() == "bind " + to_string(address) + ": Address already in use");
}
