// Who dies with whom, who is started again and when, and what becomes of the processes that a
// handler has started. Without a broker.
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "common/exit_code.h"
#include "support/ledger.h"
#include "support/lope.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;

namespace {

constexpr auto kSoon = 10s;

// One that handler at_start has left behind.
struct Left {
  std::string word;
  pid_t pid = 0;
  pid_t worker = 0;
  int descriptors = -1;  // of the link
  int mappings = -1;     // of the board
};

std::vector<Left> left_in(const std::string& path) {
  std::vector<Left> result;
  for (const std::string& line : lines_of_file(path)) {
    Left left;
    std::istringstream in(line);
    in >> left.word >> left.pid >> left.worker >> left.descriptors >> left.mappings;
    if (in) result.push_back(left);
  }
  return result;
}

// Ends at the latest with the test what a handler left in a session of its own.
class Leftovers {
 public:
  Leftovers() : path_(dir_.file("left")) {}
  Leftovers(const Leftovers&) = delete;
  Leftovers& operator=(const Leftovers&) = delete;
  ~Leftovers() {
    for (const Left& left : all()) ::kill(left.pid, SIGKILL);
  }
  const std::string& path() const { return path_; }
  std::vector<Left> all() const { return left_in(path_); }
  // Waits until so many have reported.
  std::vector<Left> wait_for(std::size_t count) const {
    REQUIRE(eventually(kSoon, [&] { return all().size() >= count; }));
    return all();
  }

 private:
  const TempDir dir_;
  const std::string path_;
};

std::string at_start_group(const std::string& name, const std::string& words,
                           const Leftovers& leftovers, int workers = 1) {
  return "  " + name + ": { handler: at_start, workers: " + std::to_string(workers) +
         ", options: { do: \"" + words + "\", file: " + leftovers.path() + " } }\n";
}

bool gone(const std::vector<pid_t>& pids, std::chrono::milliseconds deadline) {
  return eventually(deadline, [&] { return std::none_of(pids.begin(), pids.end(), is_alive); });
}

std::vector<pid_t> pids_of(const std::vector<ProcessInfo>& infos) {
  std::vector<pid_t> pids;
  for (const ProcessInfo& info : infos) pids.push_back(info.pid);
  std::sort(pids.begin(), pids.end());
  return pids;
}

bool wait_for_workers(Lope& daemon, int count) {
  return eventually(kSoon, [&] { return daemon.process().count_lines("worker ready") >= count; });
}

// The consumer of a group, from the log's last word on it.
pid_t consumer_of(const Lope& daemon, const std::string& group) {
  const std::string log = daemon.log();
  const std::regex line("consumer started group=" + group + " consumer_pid=([0-9]+)");
  pid_t pid = 0;
  for (std::sregex_iterator at(log.begin(), log.end(), line), end; at != end; ++at) {
    pid = std::stoi((*at)[1]);
  }
  return pid;
}

std::vector<int> numbers_in_log(const Lope& daemon, const std::string& pattern) {
  const std::string log = daemon.log();
  const std::regex line(pattern);
  std::vector<int> numbers;
  for (std::sregex_iterator at(log.begin(), log.end(), line), end; at != end; ++at) {
    numbers.push_back(std::stoi((*at)[1]));
  }
  return numbers;
}

// Half of each pause is sure, half is jitter, and it doubles from 100 ms.
void check_growing(const std::vector<int>& pauses, std::size_t count) {
  REQUIRE(pauses.size() >= count);
  int whole = 100;
  for (std::size_t i = 0; i < count; ++i, whole *= 2) {
    INFO("pause " << i << " of " << pauses[i] << " ms");
    CHECK(pauses[i] >= whole / 2);
    CHECK(pauses[i] <= whole);
  }
}

}  // namespace

// ---- Deaths from above

TEST_CASE("a supervisor killed with SIGKILL takes every consumer and worker along",
          "[process][orphans]") {
  LopeOptions options;
  options.groups =
      "  g: { handler: scripted, workers: 2, threads: 3 }\n"
      "  h: { handler: scripted, workers: 2 }\n"
      "  hanging: { handler: create_hangs }\n";
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 4));
  REQUIRE(eventually(kSoon, [&] { return descendants_of(daemon.pid()).size() == 8; }));
  const std::vector<pid_t> below = pids_of(descendants_of(daemon.pid()));
  // Not even one that could not do anything about it lives on, nor the worker of one.
  REQUIRE(::kill(consumer_of(daemon, "h"), SIGSTOP) == 0);
  daemon.process().signal(SIGKILL);
  CHECK(gone(below, 2s));
  CHECK(daemon.process().wait_exit() == killed_by(SIGKILL));
}

TEST_CASE("a supervisor killed while it starts others leaves nobody", "[process][orphans]") {
  for (std::size_t processes = 1; processes <= 10; ++processes) {
    LopeOptions options;
    options.groups =
        "  g: { handler: scripted, workers: 4 }\n"
        "  h: { handler: scripted, workers: 4 }\n";
    Lope daemon(options);
    REQUIRE(eventually(kSoon, [&] { return descendants_of(daemon.pid()).size() >= processes; }));
    daemon.process().signal(SIGKILL);
    INFO("killed with " << processes << " processes");
    CHECK(daemon.all_gone(2s));
  }
}

TEST_CASE("a consumer killed with SIGKILL is replaced with its workers, and no other group notices",
          "[process][orphans]") {
  LopeOptions options;
  options.groups =
      "  g: { handler: scripted, workers: 3 }\n"
      "  h: { handler: scripted, workers: 2 }\n";
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 5));
  const pid_t killed = consumer_of(daemon, "g");
  const pid_t other = consumer_of(daemon, "h");
  const std::vector<pid_t> workers = pids_of(children_of(killed));
  const std::vector<pid_t> other_workers = pids_of(children_of(other));
  REQUIRE(workers.size() == 3);
  REQUIRE(other_workers.size() == 2);

  // One of them cannot read that its link has ended.
  REQUIRE(::kill(workers[0], SIGSTOP) == 0);
  REQUIRE(::kill(killed, SIGKILL) == 0);
  CHECK(gone(workers, 2s));
  REQUIRE(wait_for_workers(daemon, 8));
  const pid_t replacement = consumer_of(daemon, "g");
  CHECK(replacement != killed);
  CHECK(children_of(replacement).size() == 3);
  CHECK(consumer_of(daemon, "h") == other);
  CHECK(pids_of(children_of(other)) == other_workers);
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK_THAT(daemon.log(), Contains("the consumer ended: SIGKILL"));
}

TEST_CASE("a consumer that dies again and again comes back after growing pauses",
          "[process][orphans]") {
  LopeOptions options;
  options.groups = "  g: { handler: scripted }\n";
  Lope daemon(options);
  pid_t last = 0;
  for (int i = 0; i < 4; ++i) {
    REQUIRE(eventually(kSoon, [&] {
      const pid_t now = consumer_of(daemon, "g");
      return now != 0 && now != last;
    }));
    last = consumer_of(daemon, "g");
    REQUIRE(::kill(last, SIGKILL) == 0);
  }
  REQUIRE(eventually(
      kSoon, [&] { return daemon.process().count_lines("consumer to be started again") == 4; }));
  check_growing(numbers_in_log(daemon, "consumer to be started again .*delay_ms=([0-9]+)"), 4);
  // A stop between two of them waits for none.
  CHECK(daemon.stop(2s) == exited(kExitOk));
}

TEST_CASE("a worker that dies idle comes back after growing pauses, the others stay",
          "[process][orphans]") {
  LopeOptions options;
  options.groups = "  g: { handler: scripted, workers: 2 }\n";
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 2));
  const pid_t consumer = consumer_of(daemon, "g");
  const std::vector<int> second =
      numbers_in_log(daemon, "worker ready group=g worker=1 worker_pid=([0-9]+)");
  REQUIRE(second.size() == 1);
  for (int i = 0; i < 4; ++i) {
    const auto pids = [&] {
      return numbers_in_log(daemon, "worker ready group=g worker=0 worker_pid=([0-9]+)");
    };
    REQUIRE(eventually(kSoon, [&] { return pids().size() == static_cast<std::size_t>(i) + 1; }));
    REQUIRE(::kill(pids().back(), SIGKILL) == 0);
  }
  REQUIRE(wait_for_workers(daemon, 6));
  check_growing(numbers_in_log(daemon, "worker ended .*next=\"a new worker in ([0-9]+) ms\""), 4);
  CHECK(is_alive(second[0]));
  CHECK(consumer_of(daemon, "g") == consumer);
  CHECK(is_alive(consumer));
  CHECK_THAT(daemon.log(), Contains("how=SIGKILL stage=ready"));
  // They were dead already when their links closed.
  CHECK(daemon.process().count_lines("killing a worker") == 0);
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("a worker that lives but ended its link is killed", "[process][orphans]") {
  LopeOptions options;
  options.groups =
      "  g: { handler: at_start, options: { do: deaf } }\n  h: { handler: scripted }\n";
  Lope daemon(options);
  const bool refused =
      eventually(kSoon, [&] { return daemon.process().count_lines("group refused group=g") == 1; });
  INFO(daemon.log());
  CHECK(refused);
  CHECK(daemon.process().count_lines("killing a worker") == 5);
  CHECK_THAT(daemon.log(), Contains("the worker closed its link"));
  CHECK(daemon.workers().size() == 1);
}

// ---- What handlers leave behind

TEST_CASE("what a handler left behind is killed and reaped when its worker dies",
          "[process][orphans]") {
  struct Row {
    const char* word;
    std::size_t processes;
  };
  const auto row =
      GENERATE(values<Row>({{"child", 1}, {"daemon", 1}, {"family", 2}, {"holder", 1}}));
  const Leftovers leftovers;
  LopeOptions options;
  options.groups = at_start_group("g", row.word, leftovers, 2);
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 2));
  const std::vector<Left> left = leftovers.wait_for(2 * row.processes);
  const pid_t consumer = consumer_of(daemon, "g");
  const pid_t dying = left[0].worker;
  std::vector<pid_t> of_the_dying, of_the_other;
  for (const Left& each : left) {
    (each.worker == dying ? of_the_dying : of_the_other).push_back(each.pid);
  }
  REQUIRE(of_the_dying.size() == row.processes);
  REQUIRE(of_the_other.size() == row.processes);
  for (const Left& each : left) CHECK(is_alive(each.pid));

  REQUIRE(::kill(dying, SIGKILL) == 0);
  INFO(row.word);
  CHECK(gone(of_the_dying, 2s));
  CHECK(eventually(2s, [&] { return zombies_of(consumer).empty(); }));
  REQUIRE(wait_for_workers(daemon, 3));
  for (const pid_t pid : of_the_other) CHECK(is_alive(pid));

  CHECK(daemon.stop() == exited(kExitOk));
  for (const Left& each : leftovers.all()) CHECK_FALSE(is_alive(each.pid));
  CHECK(daemon.all_gone(0s));
}

TEST_CASE("what a handler left behind is gone after every kind of end", "[process][orphans]") {
  const int signal = GENERATE(SIGTERM, SIGINT, SIGQUIT);
  const bool group = GENERATE(false, true);
  const Leftovers leftovers;
  LopeOptions options;
  // Those in a session of their own do not even get the group's signals.
  options.groups = at_start_group("g", "daemon,family,holder", leftovers, 2);
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 2));
  REQUIRE(leftovers.wait_for(8).size() == 8);
  group ? daemon.process().signal_group(signal) : daemon.process().signal(signal);
  const auto status = daemon.process().wait_exit(kSoon);
  INFO("signal " << signal << '\n' << daemon.log());
  CHECK(status == exited(kExitOk));
  for (const Left& each : leftovers.all()) {
    INFO(each.word);
    CHECK(gone({each.pid}, 1s));
  }
}

TEST_CASE("a daemon that a handler starts lives as long as its worker", "[process][orphans]") {
  const Leftovers leftovers;
  LopeOptions options;
  options.groups =
      at_start_group("g", "daemon", leftovers) + "  h: { handler: scripted, workers: 2 }\n";
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 3));
  const std::vector<Left> left = leftovers.wait_for(1);
  // It has long been the consumer's child; deaths elsewhere make nobody sweep it away.
  const pid_t consumer = consumer_of(daemon, "g");
  REQUIRE(eventually(kSoon, [&] {
    const std::vector<pid_t> children = pids_of(children_of(consumer));
    return std::find(children.begin(), children.end(), left[0].pid) != children.end();
  }));
  for (const ProcessInfo& info : children_of(consumer_of(daemon, "h"))) ::kill(info.pid, SIGKILL);
  REQUIRE(wait_for_workers(daemon, 5));
  CHECK(is_alive(left[0].pid));
}

TEST_CASE("a child that ends by itself is reaped while its worker lives", "[process][orphans]") {
  const Leftovers leftovers;
  LopeOptions options;
  options.groups = at_start_group("g", "daemon", leftovers);
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 1));
  const std::vector<Left> left = leftovers.wait_for(1);
  REQUIRE(::kill(left[0].pid, SIGTERM) == 0);  // with the default action, which ends it
  CHECK(gone({left[0].pid}, 2s));
  CHECK(eventually(2s, [&] { return zombies_of(consumer_of(daemon, "g")).empty(); }));
  CHECK(daemon.process().count_lines("worker ended") == 0);
}

TEST_CASE("a handler's forked child has neither the link nor the board", "[process][orphans]") {
  const Leftovers leftovers;
  LopeOptions options;
  options.groups = at_start_group("g", "child,daemon,family,holder", leftovers);
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 1));
  for (const Left& each : leftovers.wait_for(5)) {
    INFO(each.word);
    if (each.word == "holder") {
      // Past the C library there is nothing to be done: this is the one that shows that the others
      // would be seen.
      CHECK(each.descriptors == 2);
      CHECK(each.mappings == 1);
    } else {
      CHECK(each.descriptors == 0);
      CHECK(each.mappings == 0);
    }
  }
}

TEST_CASE("a program that a handler starts has default signals and none blocked",
          "[process][orphans]") {
  const Leftovers leftovers;
  LopeOptions options;
  options.groups = at_start_group("g", "program", leftovers);
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 1));
  const std::string masks = read_file(leftovers.path() + ".signals");
  INFO(masks);
  CHECK(std::regex_search(masks, std::regex("SigBlk:\\s*0+\n")));
  CHECK(std::regex_search(masks, std::regex("SigIgn:\\s*0+\n")));
}

TEST_CASE("a worker itself ignores the group's signals and blocks none", "[process][orphans]") {
  LopeOptions options;
  options.groups = "  g: { handler: scripted, threads: 2 }\n";
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon, 1));
  const std::vector<pid_t> workers = daemon.workers();
  REQUIRE(workers.size() == 1);
  const std::string status = read_file("/proc/" + std::to_string(workers[0]) + "/status");
  std::smatch match;
  REQUIRE(std::regex_search(status, match, std::regex("SigIgn:\\s*([0-9a-f]+)\n")));
  const unsigned long long ignored = std::stoull(match[1], nullptr, 16);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2}) {
    INFO(signal);
    CHECK((ignored >> (signal - 1) & 1) == 1);
  }
  CHECK(std::regex_search(status, std::regex("SigBlk:\\s*0+\n")));
}
