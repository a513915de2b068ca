#include "consumer/body_store.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <vector>

namespace lope::consumer {

using namespace std::chrono_literals;

TEST_CASE("memory of large bodies is used again, for bodies of about its size",
          "[unit][body_store]") {
  BodyStore store;
  BodyStore::Segment* first = store.take(100'000);
  REQUIRE(first != nullptr);
  CHECK(first->capacity >= 100'000);
  std::memset(first->data, 1, 100'000);
  BodyStore::Segment* second = store.take(100'000);
  REQUIRE(second != nullptr);
  CHECK(second->id != first->id);
  CHECK_FALSE(store.has_free());
  store.give_back(first);
  CHECK(store.has_free());
  CHECK(store.take(90'000) == first);
  store.give_back(first);
  // Too small for it, and much too large.
  BodyStore::Segment* larger = store.take(10'000'000);
  REQUIRE(larger != nullptr);
  CHECK(larger != first);
  store.give_back(larger);
  CHECK(store.take(100'001) == first);
  CHECK(store.take(100'001) != larger);
}

TEST_CASE("what nobody needed for a while is given back", "[unit][body_store]") {
  BodyStore store;
  BodyStore::Segment* used = store.take(50'000);
  BodyStore::Segment* idle = store.take(50'000);
  REQUIRE(used != nullptr);
  REQUIRE(idle != nullptr);
  const std::uint64_t id = idle->id;
  store.give_back(idle);
  CHECK(store.trim(Clock::now() - 1h).empty());
  CHECK(store.trim(Clock::now() + 1h) == std::vector<std::uint64_t>{id});
  CHECK_FALSE(store.has_free());
  used->data[0] = 'x';  // the other lives
  BodyStore::Segment* next = store.take(50'000);
  REQUIRE(next != nullptr);
  CHECK(next->id > id);
}

TEST_CASE("a worker can map a body, but not write to it", "[unit][body_store]") {
  BodyStore store;
  BodyStore::Segment* segment = store.take(40'000);
  REQUIRE(segment != nullptr);
  std::strcpy(segment->data, "body");
  void* const read =
      ::mmap(nullptr, segment->capacity, PROT_READ, MAP_SHARED, segment->fd.get(), 0);
  REQUIRE(read != MAP_FAILED);
  CHECK(std::strcmp(static_cast<const char*>(read), "body") == 0);
  CHECK(::mprotect(read, segment->capacity, PROT_READ | PROT_WRITE) != 0);
  CHECK(::mmap(nullptr, segment->capacity, PROT_READ | PROT_WRITE, MAP_SHARED, segment->fd.get(),
               0) == MAP_FAILED);
  ::munmap(read, segment->capacity);
}

TEST_CASE("there are only so many; then there is none", "[unit][body_store]") {
  BodyStore store;
  int count = 0;
  while (store.take(kSharedBody) != nullptr) REQUIRE(++count < 1000);
  CHECK(count == 512);
}

}  // namespace lope::consumer
