#include "common/uuid.h"

#include <catch2/catch.hpp>
#include <set>
#include <string>
#include <thread>

namespace lope {

TEST_CASE("a UUID says that it is a random one", "[unit][uuid]") {
  for (int i = 0; i < 100; ++i) {
    const std::string id = uuid();
    INFO(id);
    REQUIRE(id.size() == 36);
    for (std::size_t k = 0; k < id.size(); ++k) {
      const bool dash = k == 8 || k == 13 || k == 18 || k == 23;
      CHECK((dash ? id[k] == '-' : std::string("0123456789abcdef").find(id[k]) < 16));
    }
    CHECK(id[14] == '4');
    CHECK(std::string("89ab").find(id[19]) < 4);
  }
}

TEST_CASE("no UUID is made twice, whichever thread makes it", "[unit][uuid]") {
  std::set<std::string> here, there;
  std::thread other([&] {
    for (int i = 0; i < 1000; ++i) there.insert(uuid());
  });
  for (int i = 0; i < 1000; ++i) here.insert(uuid());
  other.join();
  here.merge(there);
  CHECK(here.size() == 2000);
  CHECK(there.empty());
}

}  // namespace lope
