// The policy: deliveries and a store's answers in, what becomes of them out.
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/link.h"
#include "consumer/dedup.h"
#include "consumer/dedup_key.h"

using namespace lope;
using namespace lope::consumer;
using namespace std::chrono_literals;
using Kind = DedupAnswer::Kind;
using Op = DedupOp::Kind;

namespace {

const TimePoint kStart = TimePoint() + 1h;

GroupSettings by_id(
    DedupSettings::OnStoreFailure on_failure = DedupSettings::OnStoreFailure::wait) {
  GroupSettings group;
  group.dedup.key = DedupSettings::Key::message_id;
  group.dedup.on_store_failure = on_failure;
  return group;
}

struct Fixture {
  explicit Fixture(GroupSettings group = by_id()) : dedup(group, events()) {
    for (std::uint32_t i = 0; i < 5; ++i) {
      all[i].index = i;
      all[i].first_seen_ms = unix_ms();
    }
  }
  Dedup::Events events() {
    const auto note = [this](const char* what, const Delivery& delivery) {
      seen.push_back(std::string(what) + " " + std::to_string(delivery.index));
    };
    return {
        [=](Delivery& d, bool claimed) { note(claimed ? "free" : "unchecked", d); },
        [=](Delivery& d, const DedupAnswer& answer) {
          note(("double of " + answer.id + ":").c_str(), d);
        },
        [=](Delivery& d, const DedupAnswer&) { note("too soon", d); },
        [=, this](Delivery& d, const char*, std::chrono::milliseconds delay) {
          note(("away for " + std::to_string(delay.count()) + ":").c_str(), d);
        },
        [=](Delivery& d, bool noted) { note(noted ? "noted" : "not noted", d); },
    };
  }
  // What has been seen since this was last asked.
  std::vector<std::string> news() { return std::exchange(seen, {}); }
  // What is submitted at this time, and the token of the last.
  std::vector<DedupOp> submitted() {
    dedup.tend(now);
    std::vector<DedupOp> ops = std::exchange(dedup.to_submit(now), {});
    return ops;
  }
  std::vector<std::string> asked() {
    std::vector<std::string> texts;
    for (const DedupOp& op : submitted()) {
      static constexpr const char* kNames[] = {"claim", "done", "release", "renew"};
      texts.push_back(std::string(kNames[static_cast<int>(op.kind)]) + " " + op.key);
      tokens[op.key] = op.token;
    }
    return texts;
  }
  void answer(std::vector<DedupAnswer> answers, const std::string& trouble = {}) {
    dedup.take(answers, trouble, now);
  }
  // Claims and is answered.
  std::uint64_t claimed(int index, const std::string& key) {
    dedup.claim(all[index], key, "", now);
    const std::uint64_t token = submitted().back().token;
    answer({{.kind = Kind::claimed, .token = token}});
    return token;
  }

  std::vector<std::string> seen;
  std::map<std::string, std::uint64_t> tokens;
  Delivery all[5];
  TimePoint now = kStart;
  Dedup dedup;
};

using Texts = std::vector<std::string>;

}  // namespace

TEST_CASE("claim, run, note, ack", "[unit][dedup]") {
  Fixture it;
  it.dedup.claim(it.all[0], "k", "m0", it.now);
  CHECK(it.news().empty());
  CHECK(it.asked() == Texts{"claim k"});
  it.answer({{.kind = Kind::claimed, .token = it.tokens["k"]}});
  CHECK(it.news() == Texts{"free 0"});
  CHECK(it.dedup.done(it.all[0], it.now) == Dedup::Noting::begun);
  const auto ops = it.submitted();
  REQUIRE(ops.size() == 1);
  CHECK(ops[0].kind == Op::done);
  CHECK(ops[0].id == "m0");
  it.answer({{.kind = Kind::noted, .token = ops[0].token}});
  CHECK(it.news() == Texts{"noted 0"});
  it.dedup.over(it.all[0]);
  CHECK(it.asked().empty());
}

TEST_CASE("a claim that is over without being done is released", "[unit][dedup]") {
  Fixture it;
  it.claimed(0, "k");
  it.dedup.over(it.all[0]);
  CHECK(it.asked() == Texts{"release k"});
  // Also one whose answer is not there yet; it is ignored when it comes.
  it.dedup.claim(it.all[0], "k", "", it.now);
  CHECK(it.asked() == Texts{"claim k"});
  it.dedup.over(it.all[0]);
  it.news();
  it.answer({{.kind = Kind::claimed, .token = it.tokens["k"]}});
  CHECK(it.news().empty());
  CHECK(it.asked() == Texts{"release k"});
  // What nobody has claimed has nothing to release.
  it.dedup.over(it.all[3]);
  it.dedup.over(it.all[4]);
  CHECK(it.asked().empty());
}

TEST_CASE("min_interval counts from what a handler has begun", "[unit][dedup]") {
  GroupSettings group = by_id();
  group.dedup.min_interval = 1s;
  Fixture it(group);
  const auto released = [&] {
    it.dedup.over(it.all[0]);
    const auto ops = it.submitted();
    REQUIRE(ops.size() == 1);
    CHECK(ops[0].kind == Op::release);
    return ops[0].begun_ms;
  };
  it.claimed(0, "k");
  CHECK(released() == 0);
  it.claimed(0, "k");
  it.dedup.begun(it.all[0]);
  CHECK(released() > 0);
  // A worker had it, and has not begun it.
  it.claimed(0, "k");
  it.dedup.begun(it.all[0]);
  it.dedup.not_begun(it.all[0]);
  CHECK(released() == 0);
  // Nor did a second worker; but the first had.
  it.claimed(0, "k");
  it.dedup.begun(it.all[0]);
  it.dedup.begun(it.all[0]);
  it.dedup.not_begun(it.all[0]);
  CHECK(released() > 0);
}

TEST_CASE("a double is told whose it is", "[unit][dedup]") {
  Fixture it;
  it.dedup.claim(it.all[0], "k", "", it.now);
  it.asked();
  it.answer({{.kind = Kind::is_done, .token = it.tokens["k"], .id = "m7"}});
  CHECK(it.news() == Texts{"double of m7: 0"});
  it.dedup.over(it.all[0]);
  CHECK(it.asked().empty());
}

TEST_CASE("one that waits for another here asks when that ends", "[unit][dedup]") {
  const bool done = GENERATE(true, false);
  Fixture it;
  const std::uint64_t first = it.claimed(0, "k");
  it.dedup.claim(it.all[1], "k", "", it.now);
  it.asked();
  it.answer({{.kind = Kind::taken, .token = it.tokens["k"], .by = first}});
  it.now += 500ms;
  CHECK(it.asked().empty());
  if (done) {
    CHECK(it.dedup.done(it.all[0], it.now) == Dedup::Noting::begun);
  } else {
    it.dedup.over(it.all[0]);
  }
  CHECK(it.asked() == Texts{done ? "done k" : "release k", "claim k"});
  it.news();
  it.answer({{.kind = done ? Kind::is_done : Kind::claimed, .token = it.tokens["k"]}});
  CHECK(it.news() == Texts{done ? "double of : 1" : "free 1"});
}

TEST_CASE("one found taken by a claim that is over, or about to be, asks at once",
          "[unit][dedup]") {
  Fixture it;
  const std::uint64_t first = it.claimed(0, "k");
  it.dedup.claim(it.all[1], "k", "", it.now);
  it.asked();
  SECTION("its release is on its way, or was lost") {
    it.dedup.over(it.all[0]);
    it.asked();
    it.answer({{.kind = Kind::taken,
                .token = it.dedup.to_submit(it.now).empty() ? (std::uint64_t{2} << 24 | 1) : 0,
                .by = first}});
    const auto ops = it.submitted();
    REQUIRE(ops.size() == 1);
    CHECK(ops[0].kind == Op::claim);
    CHECK(ops[0].instead == first);
  }
  SECTION("it is being noted") {
    CHECK(it.dedup.done(it.all[0], it.now) == Dedup::Noting::begun);
    CHECK(it.asked() == Texts{"done k"});
    it.answer({{.kind = Kind::taken, .token = std::uint64_t{2} << 24 | 1, .by = first}});
    const auto ops = it.submitted();
    REQUIRE(ops.size() == 1);
    CHECK(ops[0].kind == Op::claim);
    CHECK(ops[0].instead == 0);
  }
}

TEST_CASE("one taken elsewhere is asked for again, and then sent away", "[unit][dedup]") {
  Fixture it;
  it.dedup.claim(it.all[0], "k", "", it.now);
  int times = 0;
  while (true) {
    const auto ops = it.submitted();
    if (!it.seen.empty()) break;
    if (!ops.empty()) {
      ++times;
      it.answer({{.kind = Kind::taken, .token = ops[0].token}});
    }
    it.now = it.dedup.tend(it.now);
    REQUIRE(times < 100);
  }
  CHECK(it.news() == Texts{"away for 1000: 0"});
  CHECK(it.now == kStart + Dedup::kKept);
  CHECK(times == 20);
  it.dedup.over(it.all[0]);
  CHECK(it.asked().empty());
}

TEST_CASE("one that waits for another here is sent away in the end", "[unit][dedup]") {
  Fixture it;
  const std::uint64_t first = it.claimed(0, "k");
  it.news();
  it.all[1].first_seen_ms = unix_ms() - 20'000;
  it.dedup.claim(it.all[1], "k", "", it.now);
  it.asked();
  it.answer({{.kind = Kind::taken, .token = it.tokens["k"], .by = first}});
  it.now += Dedup::kKept;
  it.dedup.tend(it.now);
  REQUIRE(it.seen.size() == 1);
  CHECK(it.seen[0].starts_with("away for 10"));
}

TEST_CASE("in a group that keeps an order what waits stays here", "[unit][dedup]") {
  GroupSettings group = by_id();
  group.order.by = OrderSettings::By::routing_key;
  group.dedup.min_interval = 10s;
  Fixture it(group);
  it.dedup.claim(it.all[0], "k", "", it.now);
  int times = 0;
  while (it.now < kStart + 10 * Dedup::kKept) {
    if (const auto ops = it.submitted(); !ops.empty() && ops[0].kind == DedupOp::Kind::claim) {
      ++times;
      it.answer({{.kind = Kind::taken, .token = ops[0].token}});
    }
    it.now = it.dedup.tend(it.now);
  }
  CHECK(times == 38);  // every 100 ms, from 2 s on every second
  CHECK(it.news() == Texts{});

  // It comes too soon: as long as that takes.
  it.answer({{.kind = Kind::too_soon, .token = it.tokens["k"], .wait = 5s}});
  CHECK(it.news() == Texts{});
}

TEST_CASE("how long one is sent away grows with its age", "[unit][dedup]") {
  CHECK(dedup_wait(0s) == 1s);
  CHECK(dedup_wait(2s) == 1s);
  CHECK(dedup_wait(20s) == 10s);
  CHECK(dedup_wait(1h) == 30s);
}

TEST_CASE("too soon: dropped where that is said and the other was done, otherwise delayed",
          "[unit][dedup]") {
  struct Row {
    DedupSettings::TooSoon then;
    bool was_done;
    std::chrono::milliseconds wait;
    std::string seen;
  };
  const auto row = GENERATE(values<Row>({
      {DedupSettings::TooSoon::delay, true, 5s, "away for 5000: 0"},
      {DedupSettings::TooSoon::delay, false, 5s, "away for 5000: 0"},
      {DedupSettings::TooSoon::drop, true, 5s, "too soon 0"},
      {DedupSettings::TooSoon::drop, false, 5s, "away for 5000: 0"},  // or it would be lost
      {DedupSettings::TooSoon::delay, true, 300ms, ""},
  }));
  GroupSettings group = by_id();
  group.dedup.min_interval = 10s;
  group.dedup.too_soon = row.then;
  Fixture it(group);
  it.dedup.claim(it.all[0], "k", "", it.now);
  it.asked();
  it.answer({{.kind = Kind::too_soon,
              .token = it.tokens["k"],
              .was_done = row.was_done,
              .wait = row.wait}});
  CHECK(it.news() == (row.seen.empty() ? Texts{} : Texts{row.seen}));
  if (!row.seen.empty()) return;
  it.now += row.wait;
  CHECK(it.asked() == Texts{"claim k"});
}

TEST_CASE("a store that fails: messages wait until it works", "[unit][dedup]") {
  Fixture it;
  it.dedup.claim(it.all[0], "k", "", it.now);
  for (int i = 0; i < 20; ++i) {
    REQUIRE(it.asked() == Texts{"claim k"});
    it.answer({{.kind = Kind::failed, .token = it.tokens["k"]}}, "no store");
    CHECK(it.dedup.trouble() == "no store");
    CHECK(it.news().empty());
    const TimePoint next = it.dedup.tend(it.now);
    CHECK(next <= it.now + 10s);
    it.now = next;
  }
  it.asked();
  it.answer({{.kind = Kind::claimed, .token = it.tokens["k"]}});
  CHECK(it.news() == Texts{"free 0"});
  CHECK(it.dedup.trouble().empty());
}

TEST_CASE("a store that fails: messages run without it, and it is tried again", "[unit][dedup]") {
  Fixture it(by_id(DedupSettings::OnStoreFailure::run));
  it.dedup.claim(it.all[0], "k", "", it.now);
  it.asked();
  it.answer({{.kind = Kind::failed, .token = it.tokens["k"]}}, "no store");
  CHECK(it.news() == Texts{"unchecked 0"});
  it.dedup.over(it.all[0]);
  it.now += 10s;
  it.dedup.claim(it.all[1], "l", "", it.now);
  CHECK(it.asked() == Texts{"claim l"});
  it.answer({{.kind = Kind::claimed, .token = it.tokens["l"]}});
  CHECK(it.news() == Texts{"free 1"});
  CHECK(it.dedup.trouble().empty());
}

TEST_CASE("a store that fails is tried again though nothing comes", "[unit][dedup]") {
  const bool run = GENERATE(true, false);
  Fixture it(by_id(run ? DedupSettings::OnStoreFailure::run : DedupSettings::OnStoreFailure::wait));
  it.dedup.claim(it.all[0], "k", "", it.now);
  it.asked();
  it.dedup.over(it.all[0]);
  it.answer({{.kind = Kind::failed, .token = it.tokens["k"]}}, "no store");
  int trials = 0;
  const TimePoint from = it.now;
  for (int i = 0; i < 100 && it.now < from + 60s; ++i) {
    it.now = std::max(it.now, it.dedup.tend(it.now));
    const Texts asked = it.asked();
    if (std::find(asked.begin(), asked.end(), "claim ?") == asked.end()) continue;
    ++trials;
    CHECK(it.dedup.tend(it.now) > it.now);  // its answer is waited for
    it.answer({{.kind = Kind::failed, .token = it.tokens["?"]}}, "no store");
  }
  CHECK(it.now >= from + 60s);
  CHECK(trials >= 6);
  CHECK(trials <= 60);
  it.now += 10s;
  CHECK(it.asked() == Texts{"claim ?"});
  const bool free = GENERATE(true, false);  // or another tries it too
  it.answer({{.kind = free ? Kind::claimed : Kind::taken, .token = it.tokens["?"]}});
  CHECK(it.dedup.trouble().empty());
  CHECK(it.asked() == (free ? Texts{"release ?"} : Texts{}));
  it.now += 60s;
  CHECK(it.asked().empty());
  CHECK(it.news().empty());
}

TEST_CASE("a store that does not answer fails", "[unit][dedup]") {
  const bool run = GENERATE(true, false);
  Fixture it(by_id(run ? DedupSettings::OnStoreFailure::run : DedupSettings::OnStoreFailure::wait));
  it.dedup.claim(it.all[0], "k", "", it.now);
  it.asked();
  CHECK(it.dedup.tend(it.now) == it.now + Dedup::kPatience);
  it.now += Dedup::kPatience;
  it.dedup.tend(it.now);
  CHECK(it.news() == (run ? Texts{"unchecked 0"} : Texts{}));
  CHECK(it.dedup.trouble() == "the dedup store has not answered for 5000 ms");
  // What comes meanwhile asks nothing.
  it.dedup.claim(it.all[1], "l", "", it.now);
  it.now += 10s;
  CHECK(it.asked().empty());
  CHECK(it.news() == (run ? Texts{"unchecked 1"} : Texts{}));
  // Late, but it counts.
  it.answer({{.kind = Kind::claimed, .token = it.tokens["k"]}});
  CHECK(it.news() == (run ? Texts{} : Texts{"free 0"}));
  CHECK(it.dedup.trouble().empty());
  CHECK(it.dedup.done(it.all[0], it.now) == Dedup::Noting::begun);
}

TEST_CASE("what was done and cannot be noted is acked after a while", "[unit][dedup]") {
  const bool run = GENERATE(true, false);
  Fixture it(by_id(run ? DedupSettings::OnStoreFailure::run : DedupSettings::OnStoreFailure::wait));
  it.claimed(0, "k");
  it.news();
  CHECK(it.dedup.done(it.all[0], it.now) == Dedup::Noting::begun);
  it.asked();
  it.answer({{.kind = Kind::failed, .token = it.tokens["k"]}}, "no store");
  CHECK(it.news() == (run ? Texts{"not noted 0"} : Texts{}));
  if (run) return;
  while (it.seen.empty() && it.now < kStart + 30s) {
    it.now = std::max(it.now + 1ms, it.dedup.tend(it.now));
    if (!it.asked().empty())
      it.answer({{.kind = Kind::failed, .token = it.tokens["k"]}}, "no store");
  }
  CHECK(it.news() == Texts{"not noted 0"});
  CHECK(it.now >= kStart + Dedup::kNoting);
  CHECK(it.now <= kStart + Dedup::kNoting + 1s);
}

TEST_CASE("claims are renewed while their messages are here", "[unit][dedup]") {
  GroupSettings group = by_id();
  group.timeout = 60s;
  CHECK(dedup_lease(group) == 90s);
  group.timeout = 0s;
  CHECK(dedup_lease(group) > 5min);
  group.timeout = 60s;
  Fixture it(group);
  it.dedup.tend(it.now);
  it.claimed(0, "k");
  it.claimed(1, "l");
  it.dedup.over(it.all[1]);
  CHECK(it.asked() == Texts{"release l"});
  CHECK(it.dedup.tend(it.now) == kStart + 30s);
  it.now += 30s;
  CHECK(it.asked() == Texts{"renew k"});
  it.now += 30s;
  CHECK(it.asked() == Texts{"renew k"});
}

TEST_CASE("a shorter lease, and a store that works again, renew what is claimed at once",
          "[unit][dedup]") {
  GroupSettings group = by_id();
  group.timeout = 600s;
  Fixture it(group);
  it.claimed(0, "k");
  it.now += 1s;
  CHECK(it.asked().empty());
  group.timeout = 30s;
  it.dedup.take_settings(group);
  CHECK(it.asked() == Texts{"renew k"});
  CHECK(it.asked().empty());
  group.timeout = 600s;
  it.dedup.take_settings(group);
  CHECK(it.asked().empty());  // no hurry

  it.dedup.claim(it.all[1], "l", "", it.now);
  CHECK(it.asked() == Texts{"claim l"});
  it.answer({{.kind = Kind::failed, .token = it.tokens["l"]}}, "no store");
  it.now += 10s;
  CHECK(it.asked() == Texts{"claim l"});
  it.answer({{.kind = Kind::claimed, .token = it.tokens["l"]}});
  CHECK(it.asked() == Texts{"renew k", "renew l"});
}

TEST_CASE("claims are renewed although the store has failed last", "[unit][dedup]") {
  Fixture it(by_id(DedupSettings::OnStoreFailure::run));
  it.claimed(0, "k");
  it.dedup.claim(it.all[1], "l", "", it.now);
  CHECK(it.asked() == Texts{"claim l"});
  it.answer({{.kind = Kind::failed, .token = it.tokens["l"]}}, "no store");
  it.now += 1h;
  CHECK(it.asked() == Texts{"renew k", "claim ?"});
}

TEST_CASE("nothing waits longer than the interval, whatever the store's clock says",
          "[unit][dedup]") {
  GroupSettings group = by_id();
  group.dedup.min_interval = 10s;
  Fixture it(group);
  it.dedup.claim(it.all[0], "k", "", it.now);
  it.asked();
  it.answer({{.kind = Kind::too_soon, .token = it.tokens["k"], .was_done = true, .wait = 1h}});
  CHECK(it.news() == Texts{"away for 10000: 0"});
}

TEST_CASE("keys tell messages apart by name, kind and value", "[unit][dedup]") {
  ByteBuffer buffer;
  HeaderWriter writer(buffer);
  writer.add_scalar("int", HeaderKind::int64, 7);
  writer.add_scalar("unsigned", HeaderKind::uint64, 7);
  writer.add_scalar("real", HeaderKind::real, 7);
  writer.add_scalar("bool", HeaderKind::boolean, 1);
  writer.add_scalar("time", HeaderKind::timestamp, 7);
  writer.add_text("text", HeaderKind::text, "7");
  writer.add_text("bytes", HeaderKind::bytes, "7");
  writer.add_text("same text", HeaderKind::text, "7");
  writer.add_text("longest", HeaderKind::text, std::string(255, 'x'));
  writer.add_text("long", HeaderKind::text, std::string(1000, 'x'));
  writer.add_text("same long", HeaderKind::text, std::string(1000, 'x'));
  writer.add_text("longer", HeaderKind::text, std::string(1001, 'x'));
  writer.add_text("empty", HeaderKind::text, "");
  writer.add_text("null", HeaderKind::null, "");
  writer.add_text("other", HeaderKind::other, "");
  DeliveryView view;
  view.headers = {buffer.data(), buffer.size()};
  view[TextProperty::message_id] = "id";
  DedupSettings settings;
  settings.key = DedupSettings::Key::header;
  std::set<std::string> keys;
  std::size_t longest = 0;
  for (const char* name : {"int", "unsigned", "real", "bool", "time", "text", "bytes", "same text",
                           "longest", "long", "same long", "longer", "empty"}) {
    settings.header = name;
    const std::string key = dedup_key(settings, view, "");
    CHECK_FALSE(key.empty());
    longest = std::max(longest, key.size());
    CHECK(dedup_key(settings, view, "other body") == key);
    keys.insert(key);
  }
  CHECK(keys.size() == 13);
  CHECK(longest == kLongestKey);
  for (const char* name : {"null", "other", "missing", "Int"}) {
    settings.header = name;
    CHECK(dedup_key(settings, view, "").empty());
  }
  settings.key = DedupSettings::Key::message_id;
  CHECK(dedup_key(settings, view, "x") == "mid");
  view[TextProperty::message_id] = "";
  CHECK(dedup_key(settings, view, "x").empty());
  settings.key = DedupSettings::Key::body;
  CHECK(dedup_key(settings, view, "x") != dedup_key(settings, view, "y"));
  CHECK(dedup_key(settings, view, "") != dedup_key(settings, view, std::string(1, '\0')));
  CHECK(dedup_key(settings, view, "").size() == 25);
}
