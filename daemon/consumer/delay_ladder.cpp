#include "consumer/delay_ladder.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <system_error>

namespace lope::consumer {

namespace {

std::string level_name(std::string_view prefix, int level) {
  std::string number = std::to_string(level);
  if (number.size() < 2) number.insert(0, 1, '0');
  return std::string(prefix) + ".v1-" + std::to_string(kLadderUnit.count()) + "ms-" +
         std::to_string(kLadderLevels) + "." + number;
}

// Matches the keys whose bit of this level is `bit`.
std::string level_pattern(int level, char bit) {
  std::string pattern;
  for (int i = kLadderLevels - 1; i > level; --i) pattern += "*.";
  pattern += bit;
  pattern += ".#";
  return pattern;
}

DeclareSettings quorum_queue() {
  DeclareSettings declaration;
  declaration.type = "quorum";
  return declaration;
}

ExchangeSettings make_exchange(std::string name, std::string type) {
  ExchangeSettings exchange;
  exchange.name = std::move(name);
  exchange.type = std::move(type);
  return exchange;
}

BindingSettings make_binding(std::string from, std::string key) {
  BindingSettings binding;
  binding.exchange = std::move(from);
  binding.key = std::move(key);
  return binding;
}

}  // namespace

bool has_delay_ladder(std::string_view broker_version) {
  // Quorum queues expire messages, and hand on at least once what has expired, from 3.10 on.
  int major = 0, minor = 0;
  const char* const end = broker_version.data() + broker_version.size();
  const auto [point, error] = std::from_chars(broker_version.data(), end, major);
  if (error != std::errc{} || point == end || *point != '.') return true;
  if (std::from_chars(point + 1, end, minor).ec != std::errc{}) return true;
  return major > 3 || (major == 3 && minor >= 10);
}

std::string due_name(std::string_view prefix) { return std::string(prefix) + ".due"; }

std::string undeliverable_name(std::string_view prefix) {
  return std::string(prefix) + ".undeliverable";
}

LadderEntry ladder_entry(std::string_view prefix, std::chrono::milliseconds delay) {
  const auto wanted = std::clamp(delay, kLadderUnit, kLongestDelay);
  const auto units =
      static_cast<std::uint64_t>((wanted.count() + kLadderUnit.count() - 1) / kLadderUnit.count());
  LadderEntry entry;
  entry.level = static_cast<int>(std::bit_width(units)) - 1;
  entry.exchange = level_name(prefix, entry.level);
  for (int i = kLadderLevels - 1; i >= 0; --i) {
    entry.routing_key += (units >> i & 1) != 0 ? '1' : '0';
    if (i > 0) entry.routing_key += '.';
  }
  return entry;
}

std::vector<Request> ladder_steps(std::string_view prefix, int level) {
  std::vector<Request> steps = ladder_end_steps(prefix);
  std::string below = due_name(prefix);
  for (int i = 0; i <= level; ++i) {
    const std::string name = level_name(prefix, i);
    DeclareSettings queue = quorum_queue();
    queue.arguments = {{"x-dead-letter-strategy", {std::string("at-least-once")}},
                       {"x-overflow", {std::string("reject-publish")}},
                       {"x-message-ttl", {(kLadderUnit * (std::int64_t{1} << i)).count()}},
                       {"x-dead-letter-exchange", {below}}};
    steps.emplace_back(ExchangeDeclare{make_exchange(name, "topic")});
    steps.emplace_back(QueueDeclare{name, queue});
    steps.emplace_back(QueueBind{name, make_binding(name, level_pattern(i, '1'))});
    steps.emplace_back(ExchangeBind{below, name, level_pattern(i, '0')});
    below = name;
  }
  return steps;
}

std::vector<Request> ladder_end_steps(std::string_view prefix) {
  const std::string due = due_name(prefix);
  const std::string undeliverable = undeliverable_name(prefix);
  ExchangeSettings end = make_exchange(due, "topic");
  end.arguments = {{"alternate-exchange", {undeliverable}}};
  return {ExchangeDeclare{make_exchange(undeliverable, "fanout")},
          QueueDeclare{undeliverable, quorum_queue()},
          QueueBind{undeliverable, make_binding(undeliverable, "")},
          ExchangeDeclare{end},
          QueueDeclare{due, quorum_queue()},
          QueueBind{due, make_binding(due, "#")}};
}

}  // namespace lope::consumer
