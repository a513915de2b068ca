#include "common/scoreboard.h"

#include <catch2/catch.hpp>
#include <thread>
#include <vector>

namespace lope {

namespace {

BoardMapping<WorkerBoard> new_board() {
  UniqueFd fd;
  auto board = BoardMapping<WorkerBoard>::create("test", fd);
  REQUIRE(board.ok());
  return std::move(*board);
}

}  // namespace

TEST_CASE("outcomes come out of the ring in the order they went in", "[unit][scoreboard]") {
  auto board = new_board();
  OutcomeReader reader;
  OutcomeReader::Outcome outcome;
  std::uint64_t expected = 0;
  for (std::uint64_t round = 0; round < 3 * kOutcomeRingSize; ++round) {
    push_outcome(*board, 10 + round, static_cast<std::int32_t>(round % 3), round,
                 round % 2 == 0 ? kExplained : 0);
    if (round % 100 != 99) continue;
    while (reader.next(*board, outcome)) {
      REQUIRE(outcome.sequence == 10 + expected);
      REQUIRE(outcome.outcome == static_cast<std::int32_t>(expected % 3));
      REQUIRE(outcome.flags == (expected % 2 == 0 ? kExplained : 0));
      ++expected;
    }
    REQUIRE(expected == round + 1);
  }
}

TEST_CASE("many threads of a worker lose no outcome", "[unit][scoreboard]") {
  auto board = new_board();
  constexpr std::uint64_t kThreads = 4, kEach = 900;  // all fit the ring
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&board, t] {
      for (std::uint64_t i = 0; i < kEach; ++i) push_outcome(*board, t * kEach + i + 1, 1, 0, 0);
    });
  }
  std::vector<bool> seen(kThreads * kEach + 1);
  OutcomeReader reader;
  OutcomeReader::Outcome outcome;
  while (reader.count() < kThreads * kEach) {
    if (!reader.next(*board, outcome)) continue;
    REQUIRE(outcome.sequence >= 1);
    REQUIRE(outcome.sequence <= kThreads * kEach);
    REQUIRE_FALSE(seen[outcome.sequence]);
    seen[outcome.sequence] = true;
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_FALSE(reader.next(*board, outcome));
}

TEST_CASE("after a death the entry it was writing is stepped over", "[unit][scoreboard]") {
  auto board = new_board();
  push_outcome(*board, 1, 1, 0, 0);
  board->tail.fetch_add(1);  // killed between taking the ticket and writing the entry
  push_outcome(*board, 3, 1, 0, 0);
  OutcomeReader reader;
  OutcomeReader::Outcome outcome;
  REQUIRE(reader.next(*board, outcome));
  CHECK(outcome.sequence == 1);
  CHECK_FALSE(reader.next(*board, outcome));
  REQUIRE(reader.next_after_death(*board, outcome));
  CHECK(outcome.sequence == 3);
  CHECK_FALSE(reader.next_after_death(*board, outcome));
}

TEST_CASE("a scribbled tail does not keep its reader for ever", "[unit][scoreboard]") {
  auto board = new_board();
  board->tail = ~0ull;
  OutcomeReader reader;
  OutcomeReader::Outcome outcome;
  CHECK_FALSE(reader.next_after_death(*board, outcome));
}

TEST_CASE("only a sleeping consumer is woken, and once", "[unit][scoreboard]") {
  auto board = new_board();
  CHECK_FALSE(push_outcome(*board, 1, 1, 0, 0));
  board->consumer_asleep = 1;
  CHECK(push_outcome(*board, 2, 1, 0, 0));
  CHECK_FALSE(push_outcome(*board, 3, 1, 0, 0));
}

TEST_CASE("a board of another build is refused", "[unit][scoreboard]") {
  UniqueFd fd;
  auto board = BoardMapping<GroupBoard>::create("test", fd);
  REQUIRE(board.ok());
  CHECK(BoardMapping<GroupBoard>::open(fd.get()).ok());
  CHECK_FALSE(BoardMapping<WorkerBoard>::open(fd.get()).ok());
  (*board)->build_id ^= 1;
  CHECK_FALSE(BoardMapping<GroupBoard>::open(fd.get()).ok());
}

TEST_CASE("the last error is kept, cut to its room", "[unit][scoreboard]") {
  UniqueFd fd;
  auto board = BoardMapping<GroupBoard>::create("test", fd);
  REQUIRE(board.ok());
  CHECK((*board)->last_error.get().empty());
  (*board)->last_error.set("connect: refused");
  CHECK((*board)->last_error.get() == "connect: refused");
  (*board)->last_error.set(std::string(10'000, 'x'));
  CHECK((*board)->last_error.get() == std::string(511, 'x'));
  (*board)->last_error.set("");
  CHECK((*board)->last_error.get().empty());
}

}  // namespace lope
