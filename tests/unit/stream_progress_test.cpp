#include "consumer/stream_progress.h"

#include <catch2/catch.hpp>

namespace lope::consumer {

namespace {

using Arrival = StreamProgress::Arrival;
using From = StreamOffset::From;
using Ranges = std::vector<StreamPosition::Range>;

constexpr std::int64_t kNow = 1'800'000'000;

StreamPosition from_first() {
  StreamPosition position;
  position.begin = {From::first, 0};
  return position;
}

// Offsets `first` to `last` come, each with a print of its own.
void deliver(StreamProgress& progress, std::int64_t first, std::int64_t last) {
  for (std::int64_t offset = first; offset <= last; ++offset) {
    REQUIRE(progress.arrived(offset) == Arrival::take);
    REQUIRE(progress.complete(offset, static_cast<std::uint64_t>(offset) + 1000));
  }
}

}  // namespace

TEST_CASE("what is settled out of order leaves what is open", "[unit][stream_progress]") {
  struct Row {
    std::vector<std::int64_t> settled;
    Ranges open;
    std::int64_t next;
  };
  const std::vector<Row> rows = {
      {{}, {{0, 5}}, 0},
      {{0}, {{1, 5}}, 1},
      {{5}, {{0, 4}}, 0},
      {{2, 3}, {{0, 1}, {4, 5}}, 0},
      {{1, 3, 5}, {{0, 0}, {2, 2}, {4, 4}}, 0},
      {{5, 4, 3, 2, 1}, {{0, 0}}, 0},
      {{5, 4, 3, 2, 1, 0}, {}, 6},
      {{0, 0, 7}, {{1, 5}}, 1},  // twice, and one that never came
  };
  for (const Row& row : rows) {
    StreamProgress progress(from_first());
    progress.subscribe(kNow);
    CHECK(progress.next() == -1);
    deliver(progress, 0, 5);
    for (const std::int64_t offset : row.settled) progress.settled(offset);
    const StreamPosition position = progress.position();
    CHECK(position.open == row.open);
    CHECK(position.seen == 5);
    CHECK(progress.next() == row.next);
    CHECK(position.print == static_cast<std::uint64_t>(position.resume_at()) + 1000);
  }
}

TEST_CASE("numbers that are not in the stream are no gap", "[unit][stream_progress]") {
  StreamProgress progress(from_first());
  progress.subscribe(kNow);
  for (const std::int64_t offset : {3, 10, 11, 100})
    REQUIRE(progress.arrived(offset) == Arrival::take);
  CHECK(progress.lost() == 0);
  for (const std::int64_t offset : {3, 10, 100}) progress.settled(offset);
  CHECK(progress.position().open == Ranges{{11, 11}});
}

TEST_CASE("a long open message costs no memory for those behind it", "[unit][stream_progress]") {
  StreamProgress progress(from_first());
  progress.subscribe(kNow);
  REQUIRE(progress.arrived(0) == Arrival::take);
  for (std::int64_t offset = 1; offset <= 100'000; ++offset) {
    REQUIRE(progress.arrived(offset) == Arrival::take);
    REQUIRE(progress.complete(offset, 1));
    progress.settled(offset);
    REQUIRE(progress.arrived(offset) == Arrival::skip);
    REQUIRE(progress.entries() <= 200);
  }
  CHECK(progress.next() == 0);
  progress.settled(0);
  CHECK(progress.next() == 100'001);
}

TEST_CASE("a subscription goes on with what is open, and skips what is not",
          "[unit][stream_progress]") {
  StreamProgress progress(from_first());
  CHECK(progress.subscribe(kNow) == StreamOffset{From::first, 0});
  deliver(progress, 0, 5);
  for (const std::int64_t offset : {0, 2, 5}) progress.settled(offset);
  progress.given_back(3);  // 1 and 4 are still in hand
  CHECK(progress.subscribe(kNow) == StreamOffset{From::number, 1});
  CHECK(progress.arrived(1) == Arrival::compare);
  CHECK(progress.complete(1, 1001));
  CHECK(progress.arrived(2) == Arrival::skip);
  CHECK(progress.arrived(3) == Arrival::take);
  CHECK(progress.arrived(4) == Arrival::skip);
  CHECK(progress.arrived(5) == Arrival::skip);
  CHECK(progress.arrived(6) == Arrival::take);
  CHECK(progress.lost() == 0);
  // In hand since before: counts whatever the subscription it came by.
  for (const std::int64_t offset : {1, 3, 4, 6}) progress.settled(offset);
  CHECK(progress.next() == 7);
  progress.given_back(4);  // too late
  CHECK(progress.next() == 7);
}

TEST_CASE("all settled: the last one is asked for, to be compared", "[unit][stream_progress]") {
  StreamProgress progress(from_first());
  progress.subscribe(kNow);
  deliver(progress, 0, 1);
  progress.settled(0);
  progress.settled(1);
  const auto kept = parse_position(position_text("s", progress.position()));
  REQUIRE(kept);
  CHECK(kept->resume_at() == 1);

  SECTION("the same") {
    StreamProgress next(*kept);
    CHECK(next.resumes());
    CHECK(next.subscribe(kNow) == StreamOffset{From::number, 1});
    CHECK(next.arrived(1) == Arrival::compare);
    CHECK(next.complete(1, 1001));
    CHECK(next.arrived(2) == Arrival::take);
  }
  SECTION("another message has its number") {
    StreamProgress next(*kept);
    next.subscribe(kNow);
    CHECK(next.arrived(1) == Arrival::compare);
    CHECK_FALSE(next.complete(1, 7));
    next.start_over();
    CHECK(next.arrived(2) == Arrival::skip);  // of the subscription that is ending
    CHECK_FALSE(next.resumes());
    CHECK(next.subscribe(kNow) == StreamOffset{From::first, 0});
    CHECK(next.arrived(0) == Arrival::take);
  }
}

TEST_CASE("the last one's print is known again when it was done behind one that was not",
          "[unit][stream_progress]") {
  StreamProgress first(from_first());
  first.subscribe(kNow);
  deliver(first, 0, 3);
  for (const std::int64_t offset : {0, 2, 3}) first.settled(offset);

  StreamProgress progress(first.position());
  CHECK(progress.subscribe(kNow) == StreamOffset{From::number, 1});
  CHECK(progress.arrived(1) == Arrival::take);
  CHECK(progress.complete(1, 1001));
  progress.settled(1);
  CHECK(progress.position().print == 0);
  CHECK(progress.arrived(2) == Arrival::skip);
  const std::uint64_t before = progress.changes();
  CHECK(progress.arrived(3) == Arrival::compare);
  CHECK(progress.complete(3, 1003));
  CHECK(progress.changes() != before);  // to be kept
  CHECK(progress.position().print == 1003);
  CHECK(progress.arrived(3) == Arrival::skip);

  StreamProgress of_another(progress.position());
  of_another.subscribe(kNow);
  CHECK(of_another.arrived(3) == Arrival::compare);
  CHECK_FALSE(of_another.complete(3, 7));
}

TEST_CASE("what the stream has dropped is counted, and waited for no more",
          "[unit][stream_progress]") {
  struct Row {
    std::vector<std::int64_t> settled;
    std::int64_t comes, lost;
    Ranges open;
  };
  const std::vector<Row> rows = {
      {{0, 1, 2, 3}, 4, 0, {{4, 4}}}, {{0, 1, 2, 3}, 10, 6, {{10, 10}}},
      {{0, 2}, 10, 8, {{10, 10}}},  // 1, 3, and 4 to 9
      {{0, 2}, 3, 1, {{3, 3}}},     // 1
      {{0, 1, 2}, 3, 0, {{3, 3}}},
  };
  for (const Row& row : rows) {
    StreamProgress first(from_first());
    first.subscribe(kNow);
    deliver(first, 0, 3);
    for (const std::int64_t offset : row.settled) first.settled(offset);
    StreamProgress progress(first.position());
    progress.subscribe(kNow);
    CHECK(progress.arrived(row.comes) == Arrival::take);
    CHECK(progress.lost() == row.lost);
    CHECK(progress.position().open == row.open);
    CHECK(progress.arrived(row.comes + 5) == Arrival::take);  // only the first tells
    CHECK(progress.lost() == 0);
  }
}

TEST_CASE("what comes after `next` or `last` was asked for is not passed over",
          "[unit][stream_progress]") {
  const From from = GENERATE(From::next, From::last);
  StreamPosition fresh;
  fresh.begin = {from, 0};
  StreamProgress progress(fresh);
  const std::uint64_t before = progress.changes();
  CHECK(progress.subscribe(kNow) == StreamOffset{from, 0});
  CHECK(progress.changes() != before);  // to be kept
  // The broker's clock is another one.
  const StreamOffset then{From::time, kNow - StreamProgress::kClockMargin_s};
  CHECK(progress.subscribe(kNow + 60) == then);
  StreamProgress later(progress.position());
  CHECK(later.subscribe(kNow + 90) == then);
  CHECK_FALSE(later.resumes());
}

TEST_CASE("a kept position is read as it was written, and nothing else is",
          "[unit][stream_progress]") {
  const std::vector<StreamPosition> positions = {
      {},
      {{From::first, 0}, -1, {}, 0},
      {{From::time, kNow}, -1, {}, 0},
      {{From::number, 12'345}, -1, {}, 0},
      {{From::last, 0}, 0, {}, 1},
      {{From::next, 0}, 99, {{3, 3}, {7, 98}}, UINT64_MAX},
  };
  for (const StreamPosition& position : positions) {
    const std::string text = position_text("a stream\nof two lines", position);
    INFO(text);
    const auto read = parse_position(text);
    REQUIRE(read);
    CHECK(*read == position);
    for (std::size_t size = 0; size < text.size(); ++size) {
      CHECK_FALSE(parse_position(text.substr(0, size)));
    }
    for (std::size_t at = 0; at < text.size(); ++at) {
      std::string damaged = text;
      damaged[at] = static_cast<char>(damaged[at] ^ 1);
      CHECK_FALSE(parse_position(damaged));
    }
    CHECK_FALSE(parse_position(text + "\n"));
  }
}

TEST_CASE("a print tells messages apart", "[unit][stream_progress]") {
  const std::string body(100, 'x');
  const std::uint64_t begun = begin_print("id", "key", 1, body.size());
  CHECK(end_print(begun, body) == end_print(begin_print("id", "key", 1, body.size()), body));
  CHECK(end_print(begin_print("ie", "key", 1, body.size()), body) != end_print(begun, body));
  CHECK(end_print(begin_print("id", "kez", 1, body.size()), body) != end_print(begun, body));
  CHECK(end_print(begin_print("id", "key", 2, body.size()), body) != end_print(begun, body));
  for (std::size_t i = 0; i < body.size(); ++i) {
    std::string other = body;
    other[i] = 'y';
    CHECK(end_print(begun, other) != end_print(begun, body));
  }
}

}  // namespace lope::consumer
