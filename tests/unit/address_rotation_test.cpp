#include "consumer/address_rotation.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "common/backoff.h"

namespace lope::consumer {

using namespace std::chrono_literals;

TEST_CASE("each address is tried once without a pause, then there is one for each round",
          "[unit][address_rotation]") {
  struct Row {
    const char* what;
    std::size_t addresses;
    std::vector<std::chrono::milliseconds> pauses;
  };
  const Row rows[] = {
      {"one", 1, {200ms, 400ms, 800ms, 1600ms, 3000ms, 3000ms}},
      {"two", 2, {0ms, 200ms, 0ms, 400ms, 0ms, 800ms}},
      {"three", 3, {0ms, 0ms, 200ms, 0ms, 0ms, 400ms}},
  };
  for (const Row& row : rows) {
    SECTION(row.what) {
      AddressRotation rotation(row.addresses, [] { return 0.5; });
      std::vector<std::chrono::milliseconds> pauses;
      for (std::size_t i = 0; i < row.pauses.size(); ++i) pauses.push_back(rotation.failed(1));
      CHECK(pauses == row.pauses);
    }
  }
}

TEST_CASE("a connection that lasted lets the next address be tried at once",
          "[unit][address_rotation]") {
  AddressRotation rotation(2, random_fraction);
  CHECK(rotation.failed(1) == 0ms);
  CHECK(rotation.failed(1) == 200ms);
  rotation.failed(1);
  CHECK(rotation.failed(1) == 400ms);
  CHECK(rotation.in_first_rounds());
  rotation.failed(1);
  CHECK_FALSE(rotation.in_first_rounds());
  const std::size_t good = rotation.current();
  rotation.lasted();
  CHECK(rotation.in_first_rounds());
  CHECK(rotation.current() == good);
  CHECK(rotation.failed(1) == 0ms);
  CHECK(rotation.current() != good);
}

TEST_CASE("before one that has gone silent the others are tried twice",
          "[unit][address_rotation]") {
  const auto count = GENERATE(1, 2, 3);
  AddressRotation rotation(static_cast<std::size_t>(count), [] { return 0.99; });  // as they are
  rotation.pass_over();
  std::string tried;
  for (int i = 0; i < 7; ++i) {
    rotation.failed(0);
    tried += std::to_string(rotation.current());
  }
  CHECK(tried == (count == 1 ? "0000000" : count == 2 ? "1101010" : "1212012"));
}

TEST_CASE("what was silent before a connection that lasted is tried like the others",
          "[unit][address_rotation]") {
  AddressRotation rotation(2, [] { return 0.99; });
  rotation.pass_over();
  rotation.failed(0);
  REQUIRE(rotation.current() == 1);
  rotation.lasted();
  rotation.failed(0);
  CHECK(rotation.current() == 0);
  rotation.pass_over();  // this time it is the one that lasted
  rotation.lasted();
  rotation.failed(0);
  CHECK(rotation.current() == 1);
  rotation.failed(0);
  CHECK(rotation.current() == 1);
}

TEST_CASE("a round has every address, and what failed comes last", "[unit][address_rotation]") {
  AddressRotation rotation(5, random_fraction);
  const std::size_t first = rotation.current();
  std::set<std::size_t> seen;
  for (int i = 0; i < 5; ++i) {
    seen.insert(rotation.current());
    rotation.failed(0);
  }
  CHECK(seen == std::set<std::size_t>{0, 1, 2, 3, 4});
  CHECK(rotation.current() == first);
}

TEST_CASE("many clients spread over the addresses, also when one of them is gone",
          "[unit][address_rotation]") {
  constexpr int kClients = 6000;
  std::map<std::size_t, int> first, second;
  for (int i = 0; i < kClients; ++i) {
    AddressRotation rotation(3, random_fraction);
    const std::size_t tried = rotation.current();
    ++first[tried];
    rotation.failed(0);
    if (tried == 0) ++second[rotation.current()];
  }
  for (const std::size_t address : {0, 1, 2}) {
    INFO(address << ": " << first[address]);
    CHECK(std::abs(first[address] - kClients / 3) < kClients / 15);
  }
  INFO(second[1] << " and " << second[2]);
  CHECK(second.size() == 2);
  CHECK(std::abs(second[1] - second[2]) < kClients / 15);
}

// A generator may give its upper end.
TEST_CASE("a random number of 1 is in range", "[unit][address_rotation]") {
  AddressRotation rotation(3, [] { return 1.0; });
  CHECK(rotation.current() < 3);
}

}  // namespace lope::consumer
