#include "consumer/delay_ladder.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <set>
#include <string>
#include <variant>
#include <vector>

namespace lope::consumer {

using namespace std::chrono_literals;
using Milliseconds = std::chrono::milliseconds;

namespace {

constexpr std::string_view kPrefix = "p";
constexpr std::uint64_t kMostUnits = (std::uint64_t{1} << kLadderLevels) - 1;

std::string level_name(int level) {
  return "p.v1-125ms-31." + std::string(level < 10 ? "0" : "") + std::to_string(level);
}

// What an entry's routing key says, as a number.
std::uint64_t units_of(const std::string& key) {
  REQUIRE(key.size() == 2 * kLadderLevels - 1);
  std::uint64_t units = 0;
  for (std::size_t i = 0; i < key.size(); ++i) {
    if (i % 2 == 1) {
      REQUIRE(key[i] == '.');
      continue;
    }
    REQUIRE((key[i] == '0' || key[i] == '1'));
    units = units * 2 + static_cast<std::uint64_t>(key[i] - '0');
  }
  return units;
}

std::vector<std::string_view> words(std::string_view text) {
  std::vector<std::string_view> result;
  while (true) {
    const std::size_t dot = text.find('.');
    result.push_back(text.substr(0, dot));
    if (dot == std::string_view::npos) return result;
    text.remove_prefix(dot + 1);
  }
}

// As a topic exchange does: * is one word, # is any number of them.
bool matches(const std::vector<std::string_view>& pattern, const std::vector<std::string_view>& key,
             std::size_t p = 0, std::size_t k = 0) {
  if (p == pattern.size()) return k == key.size();
  if (pattern[p] == "#") {
    for (std::size_t next = k; next <= key.size(); ++next) {
      if (matches(pattern, key, p + 1, next)) return true;
    }
    return false;
  }
  return k < key.size() && (pattern[p] == "*" || pattern[p] == key[k]) &&
         matches(pattern, key, p + 1, k + 1);
}

template <typename T>
const T& argument(const AmqpTable& arguments, std::string_view name) {
  const auto found = std::find_if(arguments.begin(), arguments.end(),
                                  [name](const AmqpEntry& each) { return each.first == name; });
  REQUIRE(found != arguments.end());
  return std::get<T>(found->second.value);
}

// A broker that has carried out some steps, and refuses those that cannot be.
class Model {
 public:
  explicit Model(const std::vector<Request>& steps) {
    for (const Request& step : steps) {
      CAPTURE(describe(step));
      if (const auto* declare = std::get_if<ExchangeDeclare>(&step)) {
        CHECK_FALSE(declare->passive);
        CHECK(declare->exchange.durable);
        CHECK_FALSE(declare->exchange.auto_delete);
        exchanges_[declare->exchange.name] = declare->exchange;
      } else if (const auto* queue = std::get_if<QueueDeclare>(&step)) {
        CHECK_FALSE(queue->passive);
        CHECK(queue->declaration.type == "quorum");
        CHECK(queue->declaration.durable);
        CHECK_FALSE(queue->declaration.exclusive);
        CHECK_FALSE(queue->declaration.auto_delete);
        queues_[queue->queue] = queue->declaration.arguments;
      } else if (const auto* bind = std::get_if<QueueBind>(&step)) {
        REQUIRE(exchanges_.contains(bind->binding.exchange));
        REQUIRE(queues_.contains(bind->queue));
        bindings_.push_back({bind->binding.exchange, bind->binding.key, bind->queue, true});
      } else if (const auto* chain = std::get_if<ExchangeBind>(&step)) {
        REQUIRE(exchanges_.contains(chain->source));
        REQUIRE(exchanges_.contains(chain->destination));
        bindings_.push_back({chain->source, chain->key, chain->destination, false});
      } else {
        FAIL("not a step of a ladder");
      }
    }
  }

  // The queues that a message published so gets into.
  std::set<std::string> route(const std::string& exchange, const std::string& key) const {
    std::set<std::string> queues;
    const auto found = exchanges_.find(exchange);
    REQUIRE(found != exchanges_.end());
    const auto key_words = words(key);
    for (const Binding& binding : bindings_) {
      if (binding.from != exchange) continue;
      if (found->second.type == "topic" && !matches(words(binding.pattern), key_words)) continue;
      if (binding.to_queue) {
        queues.insert(binding.to);
      } else {
        queues.merge(route(binding.to, key));
      }
    }
    if (queues.empty() && !found->second.arguments.empty()) {
      return route(argument<std::string>(found->second.arguments, "alternate-exchange"), key);
    }
    return queues;
  }

  // The queues that hold a message one after another, and how long they do in all.
  std::vector<std::string> way(const LadderEntry& entry, Milliseconds& held) const {
    std::vector<std::string> visited;
    std::string exchange = entry.exchange;
    held = 0ms;
    while (true) {
      const auto queues = route(exchange, entry.routing_key);
      REQUIRE(queues.size() == 1);
      visited.push_back(*queues.begin());
      const AmqpTable& arguments = queues_.at(visited.back());
      if (arguments.empty()) return visited;
      held += Milliseconds(argument<std::int64_t>(arguments, "x-message-ttl"));
      exchange = argument<std::string>(arguments, "x-dead-letter-exchange");
      REQUIRE(visited.size() <= kLadderLevels);
    }
  }

  const std::map<std::string, AmqpTable>& queues() const { return queues_; }

 private:
  struct Binding {
    std::string from, pattern, to;
    bool to_queue;
  };
  std::map<std::string, ExchangeSettings> exchanges_;
  std::map<std::string, AmqpTable> queues_;
  std::vector<Binding> bindings_;
};

}  // namespace

TEST_CASE("a delay enters the ladder at its highest bit, rounded up to whole units",
          "[unit][delay_ladder]") {
  struct Row {
    Milliseconds delay;
    std::uint64_t units;
    int level;
  };
  const Row rows[] = {
      {Milliseconds::min(), 1, 0},
      {-1ms, 1, 0},
      {0ms, 1, 0},
      {1ms, 1, 0},
      {124ms, 1, 0},
      {125ms, 1, 0},
      {126ms, 2, 1},
      {250ms, 2, 1},
      {251ms, 3, 1},
      {375ms, 3, 1},
      {376ms, 4, 2},
      {1s, 8, 3},
      {10s, 80, 6},
      {1h, 28'800, 14},
      {365 * 24h, 252'288'000, 27},
      {kLongestDelay / 2, kMostUnits / 2 + 1, 30},
      {kLongestDelay - 125ms, kMostUnits - 1, 30},
      {kLongestDelay - 124ms, kMostUnits, 30},
      {kLongestDelay, kMostUnits, 30},
      {kLongestDelay + 1ms, kMostUnits, 30},
      {Milliseconds::max(), kMostUnits, 30},
  };
  for (const Row& row : rows) {
    CAPTURE(row.delay.count());
    const LadderEntry entry = ladder_entry(kPrefix, row.delay);
    CHECK(units_of(entry.routing_key) == row.units);
    CHECK(entry.level == row.level);
    CHECK(entry.exchange == level_name(row.level));
  }
}

TEST_CASE("no delay comes out early, and none later than by a unit", "[unit][delay_ladder]") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 2000; ++i) {
    const Milliseconds delay(1 + static_cast<std::int64_t>(random() >> (random() % 40 + 20)) %
                                     kLongestDelay.count());
    CAPTURE(delay.count());
    const LadderEntry entry = ladder_entry(kPrefix, delay);
    const std::uint64_t units = units_of(entry.routing_key);
    const Milliseconds held = kLadderUnit * static_cast<std::int64_t>(units);
    CHECK(held >= delay);
    CHECK(held < delay + kLadderUnit);
    CHECK(units >> entry.level == 1);
  }
}

TEST_CASE("a message rests at the levels whose bits are set, the highest first, and comes out",
          "[unit][delay_ladder]") {
  const Model broker(ladder_steps(kPrefix, kLadderLevels - 1));
  std::mt19937_64 random(2);
  std::vector<std::uint64_t> all = {1, 2, 3, kMostUnits, kMostUnits - 1, kMostUnits / 2 + 1};
  for (int i = 0; i < 300; ++i) all.push_back(1 + (random() >> (random() % 31 + 33)) % kMostUnits);
  for (const std::uint64_t units : all) {
    CAPTURE(units);
    const Milliseconds delay = kLadderUnit * static_cast<std::int64_t>(units);
    const LadderEntry entry = ladder_entry(kPrefix, delay);
    std::vector<std::string> expected;
    for (int level = kLadderLevels - 1; level >= 0; --level) {
      if ((units >> level & 1) != 0) expected.push_back(level_name(level));
    }
    expected.emplace_back("p.due");
    Milliseconds held{};
    CHECK(broker.way(entry, held) == expected);
    CHECK(held == delay);
  }
}

TEST_CASE("the steps for a level are enough for whatever enters there", "[unit][delay_ladder]") {
  std::mt19937_64 random(3);
  for (int level = 0; level < kLadderLevels; ++level) {
    CAPTURE(level);
    const Model broker(ladder_steps(kPrefix, level));
    CHECK(broker.queues().size() == static_cast<std::size_t>(level) + 3);
    const std::uint64_t highest = std::uint64_t{1} << level;
    for (int i = 0; i < 10; ++i) {
      const std::uint64_t units = highest | random() % highest;
      const Milliseconds delay = kLadderUnit * static_cast<std::int64_t>(units);
      const LadderEntry entry = ladder_entry(kPrefix, delay);
      REQUIRE(entry.level == level);
      Milliseconds held{};
      CHECK(broker.way(entry, held).back() == "p.due");
      CHECK(held == delay);
    }
  }
}

TEST_CASE("a level is declared when all below it are there, with the arguments that lose nothing",
          "[unit][delay_ladder]") {
  const std::vector<Request> steps = ladder_steps(kPrefix, 2);
  std::vector<std::string> texts;
  for (const Request& step : steps) texts.push_back(describe(step));
  const auto bind_queue = [](const std::string& name) {
    return "bind queue '" + name + "' to exchange '" + name + "'";
  };
  std::vector<std::string> expected = {"declare exchange 'p.undeliverable'",
                                       "declare queue 'p.undeliverable'",
                                       bind_queue("p.undeliverable"),
                                       "declare exchange 'p.due'",
                                       "declare queue 'p.due'",
                                       bind_queue("p.due")};
  std::string below = "p.due";
  for (int level = 0; level <= 2; ++level) {
    const std::string name = level_name(level);
    expected.push_back("declare exchange '" + name + "'");
    expected.push_back("declare queue '" + name + "'");
    expected.push_back(bind_queue(name));
    expected.push_back("bind exchange '" + below + "' to exchange '" + name + "'");
    below = name;
  }
  CHECK(texts == expected);

  const Model broker(steps);
  for (int level = 0; level <= 2; ++level) {
    CAPTURE(level);
    const AmqpTable& arguments = broker.queues().at(level_name(level));
    CHECK(arguments.size() == 4);
    CHECK(argument<std::string>(arguments, "x-dead-letter-strategy") == "at-least-once");
    CHECK(argument<std::string>(arguments, "x-overflow") == "reject-publish");
    CHECK(argument<std::int64_t>(arguments, "x-message-ttl") == 125 << level);
    CHECK(argument<std::string>(arguments, "x-dead-letter-exchange") ==
          (level == 0 ? "p.due" : level_name(level - 1)));
  }
  CHECK(broker.queues().at("p.due").empty());
  CHECK(broker.queues().at("p.undeliverable").empty());
}

TEST_CASE("what comes out and has no queue is undeliverable, not lost", "[unit][delay_ladder]") {
  std::vector<Request> steps = ladder_end_steps(kPrefix);
  std::erase_if(steps, [](const Request& step) {
    const auto* bind = std::get_if<QueueBind>(&step);
    return bind != nullptr && bind->queue == due_name(kPrefix);
  });
  CHECK(Model(steps).route(due_name(kPrefix), "1.0") ==
        std::set<std::string>{undeliverable_name(kPrefix)});
}

TEST_CASE("a broker carries the ladder from version 3.10 on", "[unit][delay_ladder]") {
  struct Row {
    std::string_view version;
    bool expected;
  };
  const Row rows[] = {
      {"3.9.29", false},
      {"3.0.0", false},
      {"2.10.0", false},
      {"3.10.0", true},
      {"3.10.8", true},
      {"3.10", true},
      {"3.13.7", true},
      {"4.0.1", true},
      {"10.0.0", true},
      // No versions: nothing is known against them.
      {"", true},
      {"3", true},
      {"3.", true},
      {"3.x", true},
      {".9", true},
      {"v3.9.29", true},
      {"banana", true},
  };
  for (const Row& row : rows) {
    CAPTURE(row.version);
    CHECK(has_delay_ladder(row.version) == row.expected);
  }
}

TEST_CASE("the longest delay is of years", "[unit][delay_ladder]") {
  CHECK(kLongestDelay > 8 * 365 * 24h);
  CHECK(due_name("lope.delay") == "lope.delay.due");
  CHECK(undeliverable_name("lope.delay") == "lope.delay.undeliverable");
}

}  // namespace lope::consumer
