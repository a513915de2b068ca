// Whole ways, under faults, at size: what was confirmed to the publisher against what the handlers
// wrote down and what lies among the dead letters. With LOPE_CAMPAIGN set at full size, otherwise
// in a short form.
#include <signal.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <map>
#include <random>
#include <set>
#include <string_view>
#include <thread>

#include "support/courier.h"
#include "support/ladder.h"
#include "support/log_lines.h"

using namespace lope::test;

namespace {

using SteadyClock = std::chrono::steady_clock;

// How late a retry may come.
constexpr std::int64_t kLatest = 2000;  // ms
// After a restart, once what has come together is worked off: the ladder's levels have their own.
constexpr std::int64_t kSettling = 5000;  // ms

bool campaign() { return std::getenv("LOPE_CAMPAIGN") != nullptr; }
// Of the queues that are tried: both, or the one that LOPE_CAMPAIGN names.
std::vector<std::string> queue_types() {
  const std::string only = campaign() ? std::getenv("LOPE_CAMPAIGN") : "";
  if (only == "classic" || only == "quorum") return {only};
  return {"classic", "quorum"};
}
// Then crashes are not reported by us, and memory knows no limit.
bool sanitized() { return !std::string_view(LOPE_SANITIZE).empty(); }
int scaled(int short_form, int full) { return campaign() ? full : short_form; }
// In the short form quorum queues get a quarter.
int scaled(const std::string& type, int short_form, int full) {
  return campaign() ? full : type == "quorum" ? short_form / 4 : short_form;
}

// What a message's calls came to.
struct Way {
  int starts = 0;
  int last_attempt = 0;
  int crashes = 0;  // as its last call was told
  int acks = 0;
};

std::map<std::string, Way> ways(const Couriered& it) {
  std::map<std::string, Way> ways;
  for (const CourierStart& start : it.starts()) {
    Way& way = ways[start.id];
    ++way.starts;
    way.last_attempt = std::max(way.last_attempt, start.attempt);
    way.crashes = std::max(way.crashes, start.crashes);
  }
  for (const CourierEnd& end : it.ends()) {
    if (end.outcome == "ack") ++ways[end.id].acks;
  }
  return ways;
}

// What a message's calls were, by attempt, in order.
using Runs = std::map<int, std::vector<CourierStart>>;

std::map<std::string, Runs> runs_by_id(const Couriered& it) {
  std::map<std::string, Runs> runs;
  for (const CourierStart& start : it.starts()) runs[start.id][start.attempt].push_back(start);
  for (auto& [id, run] : runs) {
    for (auto& [attempt, starts] : run) {
      std::sort(starts.begin(), starts.end(),
                [](const auto& one, const auto& other) { return one.now_ms < other.now_ms; });
    }
  }
  return runs;
}

struct Repeats {
  int extra = 0;         // calls beyond one for each attempt
  int unexplained = 0;   // attempts
  std::size_t last = 1;  // how often the last attempt was made
};

// An attempt may be made as often as the one before, by the broker's word, or because the message
// was on its way between two attempts when something went down: was_cut(from, to), in ms since
// 1970.
template <typename F>
Repeats repeats(const Runs& run, F was_cut) {
  Repeats result;
  std::int64_t before_ms = 0;
  for (const auto& [attempt, starts] : run) {
    const auto flagged = static_cast<std::size_t>(std::count_if(
        starts.begin(), starts.end(), [](const auto& start) { return start.redelivered; }));
    const bool explained = starts.size() <= result.last + flagged ||
                           (attempt > 1 && was_cut(before_ms, starts.back().now_ms));
    result.extra += static_cast<int>(starts.size()) - 1;
    if (!explained) ++result.unexplained;
    result.last = starts.size();
    before_ms = starts.front().now_ms;
  }
  return result;
}

double percentile(std::vector<long> values, double fraction) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto last = static_cast<double>(values.size() - 1);
  return static_cast<double>(values[static_cast<std::size_t>(last * fraction)]);
}

std::string summary(const std::vector<long>& lateness) {
  return "p50 " + std::to_string(std::lround(percentile(lateness, 0.5))) + " ms, p99 " +
         std::to_string(std::lround(percentile(lateness, 0.99))) + " ms, most " +
         std::to_string(std::lround(percentile(lateness, 1))) + " ms";
}

// Of how many publications, the copies of retries among them, a lost connection has left the fate
// open: they are sent again.
int left_open(const std::string& log) {
  int count = 0;
  for (const std::string& number : fields_of(log, "connection=publishing", "unconfirmed")) {
    count += std::stoi(number);
  }
  return count;
}

void tell(const std::string& text) { std::cout << text << std::endl; }

std::int64_t unix_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// As eventually(), for a condition that is dear to look at.
template <typename F>
bool sooner_or_later(std::chrono::milliseconds deadline, F condition) {
  const auto end = SteadyClock::now() + deadline;
  while (!condition()) {
    if (SteadyClock::now() >= end) return false;
    std::this_thread::sleep_for(1500ms);
  }
  return true;
}

// Of the messages that have been acked.
std::set<std::string> acked_ids(const Couriered& it) {
  std::set<std::string> ids;
  for (const auto& [id, way] : ways(it)) {
    if (way.acks > 0) ids.insert(id);
  }
  return ids;
}

std::vector<Received> drained(Broker& broker, const std::string& queue) {
  return broker.queue_exists(queue) ? broker.drain(queue) : std::vector<Received>{};
}

}  // namespace

TEST_CASE(
    "retries with delays over two restarts of the broker: each message ends after exactly its "
    "attempts, none early, none lost",
    "[broker][ledger]") {
  const std::string type = GENERATE(from_range(queue_types()));
  const int count = scaled(type, 20'000, 100'000);
  Couriered it(type);
  const Ladder ladder(it.broker);
  Lope lope(it.options("    retry: { attempts: 4, delay: 5s }\n    workers: 2\n    prefetch: 500\n",
                       ladder.top() + "log: { level: info }\nshutdown_timeout: 60s\n"));
  REQUIRE(eventually(30s, [&] { return it.broker.consumer_count(it.queue) == 1; }));
  const auto began = SteadyClock::now();
  // What the message with this number asks for: how many retries, after so many ms each.
  const auto retries_of = [](int i) { return i % 10 == 0 ? 1 + i / 10 % 4 : 0; };
  const auto delay_of = [](int i) { return 1000 + i * 37 % 7001; };
  const int per_second = 1000;
  RatePublisher load(
      it.broker.url(), per_second, std::chrono::seconds(count / per_second), [&](int i) {
        const int retries = retries_of(i);
        return Publication{.routing_key = it.queue,
                           .body = retries == 0 ? "ack"
                                                : "retry " + std::to_string(retries) + " " +
                                                      std::to_string(delay_of(i)),
                           .message_id = "m" + std::to_string(i)};
      });
  // Two restarts while retries are on their way.
  struct Restart {
    std::int64_t from, up, over;  // ms since 1970
  };
  std::vector<Restart> down;
  for (const int at : {count / 4, count * 2 / 3}) {
    REQUIRE(eventually(120s, [&] { return load.sent() >= at; }));
    const auto from = unix_ms();
    it.broker.stop_node();
    it.broker.start_node();
    REQUIRE(eventually(30s, [&] { return it.broker.consumer_count(it.queue) == 1; }));
    const auto up = unix_ms();
    // Until the publisher is back, and what has come together is worked off.
    const int enough = std::min(count, load.sent() + 2 * per_second);
    REQUIRE(eventually(60s, [&] {
      return load.sent() >= enough && it.broker.message_count(it.queue) == 0 &&
             it.broker.message_count(ladder.prefix + ".due").value_or(0) == 0;
    }));
    down.push_back({from, up, unix_ms()});
  }
  load.join();
  const auto published = SteadyClock::now();
  std::map<std::string, int> wanted;  // id to attempts
  for (const std::string& id : load.confirmed()) {
    wanted[id] = std::min(retries_of(std::stoi(id.substr(1))) + 1, 4);
  }
  const auto all_ended = [&] {
    const auto all = ways(it);
    return std::all_of(wanted.begin(), wanted.end(), [&](const auto& want) {
      const auto way = all.find(want.first);
      if (way == all.end()) return false;
      const bool dies = retries_of(std::stoi(want.first.substr(1))) >= 4;
      return dies ? way->second.last_attempt == want.second : way->second.acks > 0;
    });
  };
  CHECK(sooner_or_later(120s, all_ended));
  const auto ended = SteadyClock::now();
  // What is there twice comes to its end as well.
  const auto on_the_ladder = [&] {
    int messages = 0;
    for (const auto& row : it.broker.list({"list_queues", "name", "messages"})) {
      if (row[0].starts_with(ladder.prefix)) messages += std::stoi(row[1]);
    }
    return messages;
  };
  CHECK(sooner_or_later(60s, [&] { return it.broker.is_empty(it.queue) && on_the_ladder() == 0; }));
  CHECK(lope.stop(60s) == exited(0));

  std::map<std::string, int> letters;
  for (const Received& letter : drained(it.broker, it.dead())) {
    ++letters[letter.message_id];
    CHECK(letter.header("x-lope-dead-code") == "attempts");
    CHECK(letter.number("x-lope-dead-attempts") == 4);
  }
  int lost = 0, early = 0, extra = 0, unexplained = 0, wrong = 0, twice_dead = 0;
  auto runs = runs_by_id(it);
  const auto was_cut = [&](std::int64_t from_ms, std::int64_t to_ms) {
    return std::any_of(down.begin(), down.end(), [&](const auto& window) {
      return from_ms <= window.over && window.from <= to_ms;
    });
  };
  const auto all = ways(it);
  for (const auto& [id, attempts] : wanted) {
    const int dead = letters.contains(id) ? letters[id] : 0;
    auto& run = runs[id];
    const auto way = all.find(id);
    if (run.empty() || (way->second.acks == 0 && dead == 0)) {
      ++lost;
      continue;
    }
    const long delay_ms = delay_of(std::stoi(id.substr(1)));
    bool right = run.begin()->first == 1 && run.rbegin()->first == attempts &&
                 static_cast<int>(run.size()) == attempts;
    right = right && (dead > 0) == (retries_of(std::stoi(id.substr(1))) >= 4);
    if (!right) ++wrong;
    const Repeats repeated = repeats(run, was_cut);
    extra += repeated.extra;
    unexplained += repeated.unexplained;
    // By the handler's own clock, not by what the header says.
    for (auto one = run.begin(), next = std::next(one); next != run.end(); one = next++) {
      if (next->second.front().now_ms < one->second.front().now_ms + delay_ms) ++early;
    }
    if (dead > 1) ++twice_dead;
    if (dead > 1 && std::cmp_greater(dead, repeated.last)) ++unexplained;
  }
  std::vector<long> lateness, lateness_in_restarts;
  std::string latest;
  std::map<std::int64_t, long> worst;  // of every five seconds after a restart
  std::set<std::pair<std::string, int>> came;
  for (const CourierStart& start : it.starts()) {
    if (!start.late_ms) continue;
    if (*start.late_ms < 0) ++early;
    // What was on time and comes again, since its ack was lost with a connection, is not late.
    if (!came.emplace(start.id, start.attempt).second) continue;
    // Due before it was over, and not handled when it began.
    const std::int64_t due = start.now_ms - *start.late_ms;
    const bool in_restart = std::any_of(down.begin(), down.end(), [&](const auto& restart) {
      return due >= restart.from - kLatest && due <= restart.over + kSettling &&
             start.now_ms >= restart.from;
    });
    (in_restart ? lateness_in_restarts : lateness).push_back(*start.late_ms);
    if (!in_restart && *start.late_ms > kLatest && latest.size() < 2000) {
      latest += " " + start.id + " attempt " + std::to_string(start.attempt) + " due";
      for (const Restart& restart : down) latest += " " + std::to_string(due - restart.up);
      latest += " ms after the restarts, late " + std::to_string(*start.late_ms) + " ms;";
    }
    const auto after = std::find_if(down.rbegin(), down.rend(),
                                    [&](const auto& window) { return window.up <= start.now_ms; });
    if (after == down.rend()) continue;
    long& most = worst[(start.now_ms - after->up) / 5000 * 5];
    most = std::max(most, *start.late_ms);
  }
  std::string recovery;
  for (const auto& [seconds, most] : worst) {
    recovery += " " + std::to_string(seconds) + " s: " + std::to_string(most) + " ms;";
  }
  using std::chrono::duration;
  std::string windows;
  for (const Restart& restart : down) {
    windows += std::to_string(restart.up - restart.from) + " ms, over after " +
               std::to_string(restart.over - restart.from) + " ms; ";
  }
  tell(type + ": " + std::to_string(wanted.size()) + " messages confirmed, " +
       std::to_string(lateness.size() + lateness_in_restarts.size()) + " retries, lost " +
       std::to_string(lost) + ", wrong attempts " + std::to_string(wrong) + ", run more often " +
       std::to_string(extra) + " (copies left open by a lost connection, by the log: " +
       std::to_string(left_open(lope.log())) + "), unexplained " + std::to_string(unexplained) +
       ", dead twice " + std::to_string(twice_dead) + ", early " + std::to_string(early) +
       "; outside the restarts (" + windows + "and " + std::to_string(kSettling / 1000) +
       " s more) " + std::to_string(lateness.size()) + " retries, late " + summary(lateness) +
       "; in them late " + summary(lateness_in_restarts) +
       "; the latest by time since a restart:" + recovery +
       (latest.empty() ? "" : " too late:" + latest) + " dead " + std::to_string(letters.size()) +
       "; published in " + std::to_string(duration<double>(published - began).count()) +
       " s, over after " + std::to_string(duration<double>(ended - began).count()) + " s");
  CHECK(lost == 0);
  CHECK(wrong == 0);
  CHECK(early == 0);
  CHECK(unexplained == 0);
  CHECK(eventually(30s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(on_the_ladder() == 0);
  // How late is a matter of the machine; the campaign has it to itself.
  if (campaign()) CHECK(percentile(lateness, 1) <= kLatest);
}

TEST_CASE("poison: each killer is set aside after exactly its crashes, and no innocent is charged",
          "[broker][ledger]") {
  struct Shape {
    std::string name, lines;
  };
  const Shape shape = GENERATE(
      Shape{"4 workers", "    workers: 4\n"},
      Shape{"4 workers, 4 threads", "    workers: 4\n    threads: 4\n"},
      Shape{"4 workers, batches of 20", "    workers: 4\n    batch: { size: 20, wait: 50ms }\n"});
  const std::string type = GENERATE(from_range(queue_types()));
  INFO(shape.name << ", " << type);
  const int count = scaled(type, 4'000, 100'000);
  const int every = scaled(type, 400, 1000);
  Couriered it(type);
  const Ladder ladder(it.broker);
  Lope lope(it.options(
      "    prefetch: 50\n    crashes: 3\n    retry: { attempts: 10, delay: 500ms }\n" + shape.lines,
      ladder.top() + "log: { level: info }\n", sanitized() ? "" : "memory: 1024"));
  REQUIRE(eventually(30s, [&] { return it.broker.consumer_count(it.queue) == 1; }));
  std::vector<std::pair<std::string, std::string>> kinds = {
      {"segv", "SIGSEGV"}, {"abort", "SIGABRT"}, {"exit0", "exit 0"}, {"overflow", "SIGSEGV"}};
  if (!sanitized()) kinds.emplace_back("oom", "SIGABRT");
  std::map<std::string, std::string> killers;  // id to how its worker dies
  Publisher publisher = it.broker.publisher();
  publisher.publish_many(count, [&](int i) {
    const std::string id = "m" + std::to_string(i);
    std::string body = "ack";
    if (i % every == every / 2) {
      const auto& [kind, how] = kinds[static_cast<std::size_t>(i / every) % kinds.size()];
      body = kind;
      killers[id] = how;
    }
    return Publication{.routing_key = it.queue, .body = body, .message_id = id};
  });
  const auto enough = static_cast<int>(killers.size());
  std::vector<Received> dead;
  std::set<std::string> dead_ids;
  const auto take_dead = [&] {
    for (Received& letter : drained(it.broker, it.dead())) {
      dead_ids.insert(letter.message_id);
      dead.push_back(std::move(letter));
    }
  };
  CHECK(sooner_or_later(std::chrono::seconds(scaled(120, 1200)), [&] {
    take_dead();
    return static_cast<int>(dead_ids.size()) >= enough &&
           static_cast<int>(acked_ids(it).size()) >= count - enough;
  }));
  CHECK(lope.stop() == exited(0));
  take_dead();
  std::map<std::string, int> letters;
  for (const Received& letter : dead) {
    INFO(letter.message_id << " " << letter.header("x-lope-dead-reason"));
    ++letters[letter.message_id];
    REQUIRE(killers.contains(letter.message_id));  // no innocent
    CHECK(letter.header("x-lope-dead-code") == "crashes");
    CHECK(letter.header("x-lope-dead-reason") == "its worker died: " + killers[letter.message_id]);
    CHECK(letter.number("x-lope-dead-crashes") == 3);
  }
  // What crashed has said so, each time, and by the right name.
  if (!sanitized()) {
    std::map<std::string, int> reports;
    for (const std::string& line : lines_with(lope.log(), "lope-worker: SIG")) {
      const auto at = line.find("message_id '");
      if (at == std::string::npos) continue;  // of a batch
      const std::string id = line.substr(at + 12, line.find('\'', at + 12) - at - 12);
      INFO(line);
      REQUIRE(killers.contains(id));
      CHECK(line.find("lope-worker: " + killers[id] + " in thread ") != std::string::npos);
      ++reports[id];
    }
    for (const auto& [id, how] : killers) CHECK(reports[id] >= (how == "exit 0" ? 0 : 3));
  }
  const auto all = ways(it);
  int lost = 0, charged = 0, twice = 0;
  for (int i = 0; i < count; ++i) {
    const std::string id = "m" + std::to_string(i);
    const auto way = all.find(id);
    if (killers.contains(id)) {
      CHECK(letters[id] == 1);
      continue;
    }
    if (way == all.end() || way->second.acks == 0) {
      ++lost;
      continue;
    }
    if (way->second.last_attempt != 1 || way->second.crashes != 0) ++charged;
    if (way->second.starts > 1) ++twice;
  }
  const auto alone = fields_of(lope.log(), "message to be run again, alone", "message_id");
  tell(shape.name + ", " + type + ": " + std::to_string(count) + " messages, " +
       std::to_string(killers.size()) + " killers, dead letters " + std::to_string(letters.size()) +
       ", innocents lost " + std::to_string(lost) + ", charged " + std::to_string(charged) +
       ", run twice " + std::to_string(twice) +
       " (run again alone, by the log: " + std::to_string(alone.size()) + ")");
  CHECK(lost == 0);
  CHECK(charged == 0);
  CHECK(twice <= static_cast<int>(alone.size()));
}

TEST_CASE(
    "the publishing connection is cut at random while handlers publish: nothing is acked "
    "without its publications",
    "[broker][ledger]") {
  const std::string type = GENERATE(from_range(queue_types()));
  const int cuts_wanted = scaled(type, 15, 200);
  Couriered it(type);
  const std::string to = it.broker.make_queue("to", {.text_arguments = {{"x-queue-type", type}}});
  Lope lope(
      it.options("    prefetch: 200\n    workers: 2\n    retry: { attempts: 20, delay: 0s }\n",
                 "delays: { relay: false }\nlog: { level: info }\n"));
  REQUIRE(eventually(30s, [&] { return it.broker.consumer_count(it.queue) == 1; }));
  // In the node, since each rabbitmqctl takes the better part of a second.
  const std::string cutting =
      "register(cutter, spawn(fun() -> Cut = fun Again() -> timer:sleep(100 + rand:uniform(400)),"
      " Ps = [P || P <- rabbit_networking:connections(),"
      "  {longstr, Name} <- [case catch lists:keyfind(<<\"connection_name\">>, 1,"
      "   proplists:get_value(client_properties, rabbit_networking:connection_info(P, "
      "[client_properties]))) of {_, T, V} -> {T, V}; _ -> none end],"
      "  nomatch =/= binary:match(Name, <<\"publishing\">>)],"
      " [exit(P, kill) || P <- Ps], Again() end, Cut() end)).";
  const int per_second = scaled(type, 1500, 1500);
  RatePublisher load(it.broker.url(), per_second, std::chrono::seconds(scaled(60, 1200)),
                     [&](int i) {
                       return Publication{.routing_key = it.queue,
                                          .body = "publish " + to + " 2",
                                          .message_id = "m" + std::to_string(i)};
                     });
  it.broker.ctl({"eval", cutting});
  CHECK(sooner_or_later(std::chrono::seconds(scaled(60, 1200)), [&] {
    return lines_with(lope.log(), "connection=publishing").size() >=
           static_cast<std::size_t>(cuts_wanted);
  }));
  it.broker.ctl({"eval", "exit(whereis(cutter), kill)."});
  load.stop();
  load.join();
  std::map<std::string, int> seen;
  const auto take_published = [&] {
    for (const Received& each : it.broker.drain(to)) ++seen[each.message_id];
  };
  CHECK(sooner_or_later(60s, [&] {
    take_published();
    const auto done = acked_ids(it);
    return std::all_of(load.confirmed().begin(), load.confirmed().end(), [&](const auto& id) {
      return done.contains(id) && seen.contains(id + ".0") && seen.contains(id + ".1");
    });
  }));
  CHECK(lope.stop() == exited(0));
  take_published();
  int unpublished = 0, duplicates = 0;
  for (const std::string& id : load.confirmed()) {
    for (const char* number : {".0", ".1"}) {
      const int times = seen.contains(id + number) ? seen[id + number] : 0;
      if (times == 0) ++unpublished;
      duplicates += std::max(0, times - 1);
    }
  }
  const int unconfirmed = left_open(lope.log());
  const auto lost_lines = lines_with(lope.log(), "connection=publishing");
  const auto retried = lines_with(lope.log(), "message retried");
  tell(type + ": " + std::to_string(lost_lines.size()) + " cuts of the publishing connection, " +
       std::to_string(load.confirmed().size()) + " causes, publications missing " +
       std::to_string(unpublished) + ", published twice " + std::to_string(duplicates) +
       " (unconfirmed at the cuts, by the log: " + std::to_string(unconfirmed) +
       "), causes retried " + std::to_string(retried.size()));
  CHECK(unpublished == 0);
  CHECK(duplicates <= unconfirmed + 2 * static_cast<int>(retried.size()));
}

TEST_CASE("consumers and supervisors killed at random moments of all of it: nothing is lost",
          "[broker][ledger]") {
  const std::string type = GENERATE(from_range(queue_types()));
  const int kills = scaled(type, 12, 200);
  Couriered it(type);
  const Ladder ladder(it.broker);
  const std::string to = it.broker.make_queue("to", {.text_arguments = {{"x-queue-type", type}}});
  const LopeOptions options = it.options(
      "    prefetch: 100\n    workers: 2\n    crashes: 2\n    retry: { attempts: 6, delay: 300ms "
      "}\n",
      ladder.top() + "log: { level: info }\n");
  auto lope = std::make_unique<Lope>(options);
  const auto is_up = [&] { return it.broker.consumer_count(it.queue).value_or(0) > 0; };
  REQUIRE(eventually(30s, is_up));
  RatePublisher load(it.broker.url(), 500, std::chrono::seconds(scaled(type, 20, 400)), [&](int i) {
    std::string body = "ack";
    if (i % 10 == 1) body = "retry 1 300";
    if (i % 10 == 2) body = "publish " + to + " 1";
    if (i % 10 == 3) body = "later 700 publish " + to + " 1";
    if (i % 10 == 4) body = "sleep 20";
    if (i % 10 == 5) body = "retry 2 0";
    if (i % 200 == 6) body = "segv";
    if (i % 200 == 106) body = "reject";
    return Publication{
        .routing_key = it.queue, .body = body, .message_id = "m" + std::to_string(i)};
  });
  std::minstd_rand random(7);
  std::vector<std::int64_t> relay_killed;  // ms since 1970
  for (int i = 1; i <= kills; ++i) {
    REQUIRE(eventually(40s, is_up));
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 600));  // the moment is random
    if (i % 3 == 0) {
      // Its successor starts without a pause; so does the one after.
      relay_killed.push_back(unix_ms());
      lope->process().signal(SIGKILL);
      REQUIRE(lope->process().wait_exit(10s));
      CHECK(lope->all_gone());
      lope = std::make_unique<Lope>(options);
    } else {
      for (const pid_t consumer : lope->consumers()) ::kill(consumer, SIGKILL);
    }
  }
  load.join();
  const auto publishes = [](const std::string& id) {
    const int number = std::stoi(id.substr(1));
    return number % 10 == 2 || number % 10 == 3;
  };
  std::set<std::string> letters, published;
  const auto take_arrived = [&] {
    for (const Received& each : drained(it.broker, it.dead())) letters.insert(each.message_id);
    for (const Received& each : it.broker.drain(to)) published.insert(each.message_id);
  };
  CHECK(sooner_or_later(120s, [&] {
    take_arrived();
    const auto done = acked_ids(it);
    return std::all_of(load.confirmed().begin(), load.confirmed().end(), [&](const auto& id) {
      return (done.contains(id) || letters.contains(id)) &&
             (!publishes(id) || published.contains(id + ".0"));
    });
  }));
  CHECK(lope->stop() == exited(0));
  take_arrived();
  const auto all = ways(it);
  auto runs = runs_by_id(it);
  // A relay that is killed may have published what it had already.
  const auto relay_was_killed = [&](std::int64_t from_ms, std::int64_t to_ms) {
    return std::any_of(relay_killed.begin(), relay_killed.end(),
                       [&](std::int64_t at) { return from_ms <= at && at <= to_ms; });
  };
  int lost = 0, unpublished = 0, wrongly_dead = 0, extra = 0, unexplained = 0;
  for (const std::string& id : load.confirmed()) {
    const Repeats repeated = repeats(runs[id], relay_was_killed);
    extra += repeated.extra;
    unexplained += repeated.unexplained;
    const int number = std::stoi(id.substr(1));
    const auto way = all.find(id);
    const bool acked = way != all.end() && way->second.acks > 0;
    if (!acked && !letters.contains(id)) ++lost;
    const bool may_die = number % 200 == 6 || number % 200 == 106;
    if (letters.contains(id) && !may_die) ++wrongly_dead;
    if (publishes(id) && !published.contains(id + ".0")) ++unpublished;
  }
  tell(type + ": " + std::to_string(kills) + " kills of consumers and supervisors, " +
       std::to_string(load.confirmed().size()) + " messages, lost " + std::to_string(lost) +
       ", publications missing " + std::to_string(unpublished) + ", run more often " +
       std::to_string(extra) + ", unexplained " + std::to_string(unexplained) + ", wrongly dead " +
       std::to_string(wrongly_dead) + ", dead letters " + std::to_string(letters.size()));
  CHECK(lost == 0);
  CHECK(unpublished == 0);
  CHECK(unexplained == 0);
  CHECK(wrongly_dead == 0);
}

TEST_CASE(
    "delayed messages come when they are due; a destination that is gone or full holds up "
    "nobody else",
    "[broker][ledger]") {
  const std::string type = GENERATE(from_range(queue_types()));
  const int count = scaled(type, 10'000, 100'000);
  const int longest_ms = scaled(30'000, 600'000);
  Couriered it(type);
  const Ladder ladder(it.broker);
  // Ten destinations, of which the first eight are handled.
  std::vector<std::string> to;
  for (int i = 0; i < 9; ++i) {
    to.push_back(it.broker.make_queue("to", {.text_arguments = {{"x-queue-type", type}}}));
  }
  to.push_back(it.broker.make_queue(
      "full", {.text_arguments = {{"x-queue-type", type}, {"x-overflow", "reject-publish"}},
               .number_arguments = {{"x-max-length", 1}}}));
  const std::string arrivals = it.files.file("arrivals");
  LopeOptions options = it.options(
      "    prefetch: 500\n",
      ladder.top(campaign() ? ", retry: 60s, give_up: 3m" : ", retry: 5s, give_up: 10s") +
          "log: { level: info }\n");
  options.groups +=
      "  arrivals:\n    handler: courier\n    prefetch: 200\n    options: { file: " + arrivals +
      " }\n    queues:\n";
  for (int i = 0; i < 8; ++i) options.groups += "      - " + to[static_cast<std::size_t>(i)] + "\n";
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  std::minstd_rand random(3);
  Publisher publisher = it.broker.publisher();
  std::map<std::string, int> destination;
  publisher.publish_many(count, [&](int i) {
    const int which = i % 10;
    const std::string id = "m" + std::to_string(i);
    destination[id + ".0"] = which;
    // For the one that is deleted not before the others are half over: what had arrived there would
    // be lost with it.
    const int least_ms = which == 8 ? longest_ms / 2 : 1000;
    const long ms =
        least_ms + static_cast<long>(random() % static_cast<unsigned>(longest_ms - least_ms));
    return Publication{.routing_key = it.queue,
                       .body = "later " + std::to_string(ms) + " publish " +
                               to[static_cast<std::size_t>(which)] + " 1",
                       .message_id = id};
  });
  CHECK(eventually(60s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(it.broker.message_count(to[8]) == 0);
  it.broker.delete_queue(to[8]);  // while its messages are on their way
  const auto arrived = [&] { return lines_of_file(arrivals).size() / 2; };
  const auto wanted = static_cast<std::size_t>(count) / 10 * 8;
  CHECK(sooner_or_later(std::chrono::milliseconds(longest_ms) + 60s,
                        [&] { return arrived() >= wanted; }));
  const std::string undeliverable = ladder.prefix + ".undeliverable";
  // But for those that the full one has taken: a quorum queue notices late that it is full.
  const auto stranded = [&] { return it.broker.message_count(undeliverable).value_or(0); };
  CHECK(eventually(std::chrono::seconds(scaled(60, 600)), [&] {
    return stranded() + it.broker.message_count(to[9]).value_or(0) >= count / 10 * 2;
  }));
  CHECK(stranded() > count / 10);
  CHECK(lope.stop() == exited(0));
  std::map<std::string, int> seen;
  std::vector<long> lateness;
  int early = 0;
  for (const std::string& line : lines_of_file(arrivals)) {
    std::istringstream words(line);
    std::string word, id, attempt, crashes, late;
    if (!(words >> word >> id >> attempt >> crashes >> late) || word != "start") continue;
    ++seen[id];
    lateness.push_back(std::stol(late));
    if (lateness.back() < 0) ++early;
  }
  for (const Received& each : it.broker.drain(to[9])) ++seen[each.message_id];
  int wrongly = 0;
  const std::vector<Received> letters = it.broker.drain(undeliverable);
  for (const Received& each : letters) {
    ++seen[each.message_id];
    if (destination[each.message_id] < 8) ++wrongly;
    CHECK_FALSE(each.header("x-lope-reason").empty());
  }
  int lost = 0, duplicates = 0;
  for (const auto& [id, which] : destination) {
    if (!seen.contains(id)) ++lost;
    duplicates += std::max(0, seen[id] - 1);
  }
  tell(type + ": " + std::to_string(count) + " delayed messages over 1 to " +
       std::to_string(longest_ms / 1000) + " s: lost " + std::to_string(lost) + ", twice " +
       std::to_string(duplicates) + ", early " + std::to_string(early) + ", late " +
       summary(lateness) + "; undeliverable " + std::to_string(letters.size()) + ", wrongly " +
       std::to_string(wrongly));
  CHECK(lost == 0);
  CHECK(duplicates == 0);
  CHECK(early == 0);
  CHECK(wrongly == 0);
  if (campaign()) CHECK(percentile(lateness, 0.99) < 1000);
}
