#include "consumer/settlement.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <set>

namespace lope::consumer {

namespace {

SettleOp ack_up_to(std::uint64_t tag) { return {Verdict::ack, true, tag}; }
SettleOp ack_one(std::uint64_t tag) { return {Verdict::ack, false, tag}; }
SettleOp reject_one(std::uint64_t tag) { return {Verdict::reject, false, tag}; }

struct Finish {
  std::uint64_t tag;
  Verdict verdict;
};

}  // namespace

TEST_CASE("finished tags become the fewest operations that say the same", "[unit][settlement]") {
  struct Row {
    const char* what;
    std::uint64_t delivered;
    std::vector<std::vector<Finish>> rounds;  // a flush after each
    std::vector<SettleOp> expected;           // of the last flush
  };
  const auto a = [](std::uint64_t tag) { return Finish{tag, Verdict::ack}; };
  const auto r = [](std::uint64_t tag) { return Finish{tag, Verdict::reject}; };
  const Row rows[] = {
      {"nothing finished is nothing to say", 3, {{}}, {}},
      {"an unbroken run is one multiple ack", 3, {{a(1), a(2), a(3)}}, {ack_up_to(3)}},
      {"a gap in acked tags ends the multiple-ack run",
       4,
       {{a(1), a(2), a(4)}},
       {ack_up_to(2), ack_one(4)}},
      {"tags behind an unfinished first one are acked singly, ascending",
       4,
       {{a(4), a(2), a(3)}},
       {ack_one(2), ack_one(3), ack_one(4)}},
      {"a reject in the run splits it",
       5,
       {{a(1), a(2), r(3), a(4), a(5)}},
       {ack_up_to(2), reject_one(3), ack_up_to(5)}},
      {"a reject at the head does not stop the run behind it",
       3,
       {{r(1), a(2), a(3)}},
       {reject_one(1), ack_up_to(3)}},
      {"tags settled singly before are covered by a later run",
       5,
       {{a(2), a(3)}, {a(1), a(4)}},
       {ack_up_to(4)}},
      {"the order of finishing does not matter", 3, {{a(3), a(1), a(2)}}, {ack_up_to(3)}},
      {"what was flushed is not said again", 2, {{a(1)}, {a(2)}, {}}, {}},
  };
  for (const Row& row : rows) {
    SECTION(row.what) {
      Settlement settlement;
      for (std::uint64_t tag = 1; tag <= row.delivered; ++tag) REQUIRE(settlement.delivered(tag));
      std::vector<SettleOp> ops;
      for (const auto& round : row.rounds) {
        ops.clear();
        for (const Finish& finish : round) settlement.finish(finish.tag, finish.verdict);
        settlement.flush(ops);
      }
      CHECK(ops == row.expected);
      CHECK(settlement.pending() == 0);
    }
  }
}

TEST_CASE("hand-back and requeue keep their own verdict", "[unit][settlement]") {
  Settlement settlement;
  for (std::uint64_t tag = 1; tag <= 3; ++tag) REQUIRE(settlement.delivered(tag));
  settlement.finish(1, Verdict::requeue);
  settlement.finish(2, Verdict::hand_back);
  settlement.finish(3, Verdict::ack);
  std::vector<SettleOp> ops;
  settlement.flush(ops);
  CHECK(ops == std::vector<SettleOp>{
                   {Verdict::requeue, false, 1}, {Verdict::hand_back, false, 2}, ack_up_to(3)});
}

TEST_CASE("a broker that follows the operations ends with each tag settled once, as decided",
          "[unit][settlement]") {
  // A model of the broker: which tags are unacked, and what became of the others.
  std::mt19937 random(GENERATE(range(1u, 30u)));
  Settlement settlement;
  std::set<std::uint64_t> unacked, unfinished;
  std::map<std::uint64_t, Verdict> decided, told;
  std::uint64_t next = 1;
  std::vector<SettleOp> ops;
  for (int step = 0; step < 3000; ++step) {
    const auto dice = random() % 10;
    if (dice < 5) {
      REQUIRE(settlement.delivered(next));
      unacked.insert(next);
      unfinished.insert(next++);
    } else if (dice < 9 && !unfinished.empty()) {
      auto which = unfinished.begin();
      std::advance(which, random() % std::min<std::size_t>(unfinished.size(), 20));
      const auto verdict = static_cast<Verdict>(random() % 8 < 5 ? 0 : random() % 4);
      settlement.finish(*which, verdict);
      decided[*which] = verdict;
      unfinished.erase(which);
    } else {
      ops.clear();
      settlement.flush(ops);
      std::uint64_t last = 0;
      for (const SettleOp& op : ops) {
        REQUIRE(op.tag > last);
        last = op.tag;
        if (op.multiple) {
          REQUIRE(op.verdict == Verdict::ack);
          REQUIRE(unacked.contains(op.tag));  // the broker refuses an unknown tag
          while (!unacked.empty() && *unacked.begin() <= op.tag) {
            told[*unacked.begin()] = Verdict::ack;
            unacked.erase(unacked.begin());
          }
        } else {
          REQUIRE(unacked.erase(op.tag) == 1);
          told[op.tag] = op.verdict;
        }
      }
      REQUIRE(told == decided);
      REQUIRE(settlement.unfinished() == unfinished.size());
    }
  }
}

TEST_CASE("a tag out of turn is not taken", "[unit][settlement]") {
  Settlement settlement;
  CHECK_FALSE(settlement.delivered(0));
  CHECK_FALSE(settlement.delivered(2));
  CHECK(settlement.delivered(1));
  CHECK_FALSE(settlement.delivered(1));
  CHECK(settlement.delivered(2));
  CHECK(settlement.unfinished() == 2);
}

TEST_CASE("after a reset the tags start again", "[unit][settlement]") {
  Settlement settlement;
  REQUIRE(settlement.delivered(1));
  REQUIRE(settlement.delivered(2));
  settlement.finish(2, Verdict::ack);
  settlement.reset();
  CHECK(settlement.pending() == 0);
  CHECK(settlement.unfinished() == 0);
  REQUIRE(settlement.delivered(1));
  settlement.finish(1, Verdict::ack);
  std::vector<SettleOp> ops;
  settlement.flush(ops);
  CHECK(ops == std::vector<SettleOp>{ack_up_to(1)});
}

}  // namespace lope::consumer
