#include "consumer/orphans.h"

#include <sys/prctl.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <csignal>
#include <set>
#include <string>
#include <vector>

#include "common/log.h"
#include "common/spawn.h"
#include "support/eventually.h"
#include "support/process.h"

namespace lope::consumer {

namespace {

using namespace std::chrono_literals;

// A process that stays, with `id` as its worker's in its environment.
pid_t start(const std::string& id, const std::string& script = "read line") {
  const auto program = open_program("/bin/sh");
  REQUIRE(program);
  SpawnOptions options;
  options.program_fd = program->get();
  options.argv = {"sh", "-c", script};
  options.env = {"PATH=/usr/bin:/bin", "BEFORE=x"};
  if (!id.empty()) options.env.push_back(std::string(kWorkerIdVariable) + "=" + id);
  options.env.push_back("AFTER=x");
  // Open for as long as the test lasts: the shell waits for its end.
  static auto pipe = make_pipe();
  REQUIRE(pipe);
  options.fds = {{pipe->first.get(), 0}, {STDERR_FILENO, 2}};
  auto child = spawn(options);
  REQUIRE(child);
  return child->pid;
}

void kill_and_reap(pid_t pid) {
  ::kill(pid, SIGKILL);
  CHECK(test::eventually(5s, [&] {
    sweep_orphans({});
    return ::kill(pid, 0) < 0;
  }));
}

bool is_gone(pid_t pid) { return ::kill(pid, 0) < 0; }

}  // namespace

TEST_CASE("worker ids are never given twice", "[unit][orphans]") {
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) ids.insert(new_worker_id());
  CHECK(ids.size() == 1000);
  CHECK(ids.begin()->starts_with(std::to_string(::getpid()) + "."));
}

TEST_CASE("only what belongs to no live worker is killed", "[unit][orphans]") {
  const std::string dead = new_worker_id();
  const std::string alive = new_worker_id();
  const pid_t worker = start(alive);
  const pid_t of_the_dead = start(dead);
  const pid_t of_the_living = start(alive);
  const pid_t longer_id = start(alive + "1");  // another worker, whose id begins alike
  const pid_t stranger = start("");
  const LiveWorker live[] = {{worker, alive}};

  CHECK(sweep_orphans(live) == 2);
  CHECK(test::eventually(5s, [&] { return sweep_orphans(live) == 0; }));
  CHECK(is_gone(of_the_dead));
  CHECK(is_gone(longer_id));
  for (const pid_t pid : {worker, of_the_living, stranger}) CHECK_FALSE(is_gone(pid));
  for (const pid_t pid : {worker, of_the_living, stranger}) kill_and_reap(pid);
}

TEST_CASE("what has ended is reaped, a live worker is left to its owner", "[unit][orphans]") {
  const std::string id = new_worker_id();
  const pid_t worker = start(id, "exit 0");
  const pid_t other = start("", "exit 0");
  const LiveWorker live[] = {{worker, id}};
  CHECK(test::eventually(5s, [&] {
    sweep_orphans(live);
    return is_gone(other);
  }));
  CHECK(test::eventually(
      5s, [&] { return test::zombies_of(::getpid()) == std::vector<pid_t>{worker}; }));
  CHECK(sweep_orphans(live) == 0);
  CHECK_FALSE(is_gone(worker));
  sweep_orphans({});
  CHECK(is_gone(worker));
}

TEST_CASE("children of what is killed come to us, and are killed next", "[unit][orphans]") {
  REQUIRE(::prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  const std::string dead = new_worker_id();
  const pid_t parent = start(dead, "tail -f /dev/null & wait");
  std::vector<test::ProcessInfo> below;
  REQUIRE(test::eventually(5s, [&] { return !(below = test::children_of(parent)).empty(); }));
  CHECK(sweep_orphans({}) == 1);
  CHECK(test::eventually(5s, [&] {
    sweep_orphans({});
    return is_gone(parent) && is_gone(below[0].pid);
  }));
  ::prctl(PR_SET_CHILD_SUBREAPER, 0);
}

}  // namespace lope::consumer
