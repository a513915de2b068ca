// The store of a host, as several processes use it and as they die.
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "consumer/dedup_local.h"
#include "consumer/dedup_owner.h"
#include "support/eventually.h"
#include "support/temp_dir.h"

using namespace lope;
using namespace lope::consumer;
using namespace lope::test;
using Kind = DedupAnswer::Kind;

namespace {

constexpr DedupTimes kTimes{60s, 600s, 0s};

DedupOp claim_of(const std::string& key, std::uint64_t token, std::uint64_t instead = 0) {
  return {.kind = DedupOp::Kind::claim, .token = token, .instead = instead, .key = key};
}
DedupOp done_of(const std::string& key, std::uint64_t token, const std::string& id = {},
                std::int64_t begun_ms = 0) {
  return {.kind = DedupOp::Kind::done, .token = token, .begun_ms = begun_ms, .key = key, .id = id};
}
DedupOp release_of(const std::string& key, std::uint64_t token, std::int64_t begun_ms = 0) {
  return {.kind = DedupOp::Kind::release, .token = token, .begun_ms = begun_ms, .key = key};
}

std::vector<DedupAnswer> ask(DedupLocal& store, const std::vector<DedupOp>& ops,
                             const DedupTimes& times = kTimes) {
  std::vector<DedupAnswer> answers;
  const auto applied = store.apply(ops, times, answers);
  INFO((applied ? "" : applied.error()));
  REQUIRE(applied);
  return answers;
}

Kind claim(DedupLocal& store, const std::string& key, std::uint64_t token,
           const DedupTimes& times = kTimes) {
  return ask(store, {claim_of(key, token)}, times).front().kind;
}

// Runs in a process of its own, to its end; what it returned, or minus the signal it died of.
int in_another_process(const std::function<int()>& action) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(action());
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

// The same, and it stays: until the object is gone.
class OtherProcess {
 public:
  explicit OtherProcess(const std::function<void()>& action) {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      action();
      [[maybe_unused]] const ssize_t n = ::write(ends[1], "x", 1);
      for (;;) ::pause();
    }
    ::close(ends[1]);
    char byte = 0;
    ready_ = ::read(ends[0], &byte, 1) == 1;
    ::close(ends[0]);
  }
  ~OtherProcess() { kill(); }
  bool ready() const { return ready_; }
  pid_t pid() const { return pid_; }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
  bool ready_ = false;
};

int claim_in_child(const std::string& folder, const std::string& key) {
  return in_another_process([&] {
    DedupLocal store(folder);
    std::vector<DedupAnswer> answers;
    if (!store.apply(std::vector{claim_of(key, 1)}, kTimes, answers)) return 99;
    return static_cast<int>(answers.front().kind);
  });
}

}  // namespace

TEST_CASE("a key is claimed once, done once, and free again when it was released",
          "[unit][dedup]") {
  const TempDir dir;
  DedupLocal store(dir.file("dedup/group"));
  CHECK(claim(store, "a", 1) == Kind::claimed);
  const DedupAnswer taken = ask(store, {claim_of("a", 2)}).front();
  CHECK(taken.kind == Kind::taken);
  CHECK(taken.by == 1);
  CHECK(claim(store, "a", 1) == Kind::claimed);  // asked twice: the same claim
  CHECK(ask(store, {release_of("a", 2)}).empty());
  CHECK(claim(store, "a", 3) == Kind::taken);  // another's release changes nothing
  ask(store, {release_of("a", 1)});
  CHECK(claim(store, "a", 3) == Kind::claimed);
  CHECK(ask(store, {done_of("a", 3, "m7")}).front().kind == Kind::noted);
  const DedupAnswer again = ask(store, {claim_of("a", 4)}).front();
  CHECK(again.kind == Kind::is_done);
  CHECK(again.id == "m7");
  ask(store, {release_of("a", 3)});  // late: it stays done
  CHECK(claim(store, "a", 5) == Kind::is_done);
  CHECK(claim(store, "b", 6) == Kind::claimed);
}

TEST_CASE("a claim of this process that is over does not stand in the way", "[unit][dedup]") {
  const TempDir dir;
  DedupLocal store(dir.file("group"));
  CHECK(claim(store, "a", 1) == Kind::claimed);
  CHECK(ask(store, {claim_of("a", 2, 1)}).front().kind == Kind::claimed);
  CHECK(ask(store, {claim_of("a", 3, 1)}).front().kind == Kind::taken);
}

TEST_CASE("what is done expires, little by little, and its space is used again", "[unit][dedup]") {
  const TempDir dir;
  DedupLocal store(dir.file("group"));
  constexpr DedupTimes kShort{60s, 1ms, 0s};
  std::uint64_t token = 0;
  std::size_t most = 0;
  for (int round = 0; round < 50; ++round) {
    std::vector<DedupOp> ops;
    for (int i = 0; i < 200; ++i) {
      const std::string key = "key " + std::to_string(round) + " " + std::to_string(i);
      ops.push_back(claim_of(key, ++token));
      ops.push_back(done_of(key, token));
    }
    ask(store, ops, kShort);
    most = std::max(most, store.size()->done);
  }
  CHECK(most < 2000);
  REQUIRE(eventually(10s, [&] {
    store.tend();
    return store.size()->done == 1;  // the last one stays, for its number
  }));
  CHECK(store.size()->claims == 0);
  CHECK(store.size()->indexed <= 1);
  CHECK(claim(store, "key 0 0", ++token) == Kind::claimed);
}

TEST_CASE("min_interval: a key is not begun again before", "[unit][dedup]") {
  const TempDir dir;
  DedupLocal store(dir.file("group"));
  const auto now = static_cast<std::int64_t>(unix_ms());
  constexpr DedupTimes kEvery{60s, 0s, 60s};
  CHECK(claim(store, "done", 1, kEvery) == Kind::claimed);
  ask(store, {done_of("done", 1, "m1", now)}, kEvery);
  const DedupAnswer soon = ask(store, {claim_of("done", 2)}, kEvery).front();
  CHECK(soon.kind == Kind::too_soon);
  CHECK(soon.was_done);
  CHECK(soon.id == "m1");
  CHECK(soon.wait > 50s);
  CHECK(soon.wait <= 60s);
  CHECK(claim(store, "failed", 3, kEvery) == Kind::claimed);
  ask(store, {release_of("failed", 3, now)}, kEvery);
  const DedupAnswer failed = ask(store, {claim_of("failed", 4)}, kEvery).front();
  CHECK(failed.kind == Kind::too_soon);
  CHECK_FALSE(failed.was_done);
  CHECK(claim(store, "not begun", 5, kEvery) == Kind::claimed);
  ask(store, {release_of("not begun", 5)}, kEvery);
  CHECK(claim(store, "not begun", 6, kEvery) == Kind::claimed);
  CHECK(claim(store, "long ago", 7, kEvery) == Kind::claimed);
  ask(store, {done_of("long ago", 7, "", now - 70'000)}, kEvery);
  CHECK(claim(store, "long ago", 8, kEvery) == Kind::claimed);
}

TEST_CASE("a clock that is set back: what was noted before is over", "[unit][dedup]") {
  const TempDir dir;
  std::uint64_t now = unix_ms();
  DedupLocal store(dir.file("group"), DedupLocal::kFirstMap, DedupLocal::kLargestMap,
                   [&] { return now; });
  constexpr DedupTimes kBoth{60s, 600s, 5s};
  const auto begun = static_cast<std::int64_t>(now);
  ask(store, {claim_of("a", 1), done_of("a", 1, "m1", begun)}, kBoth);
  ask(store, {claim_of("b", 2), release_of("b", 2, begun)}, kBoth);
  ask(store, {claim_of("open", 3)}, kBoth);
  now -= 30'000;  // as a clock is corrected
  CHECK(claim(store, "a", 4, kBoth) == Kind::is_done);
  CHECK(claim(store, "b", 5, kBoth) == Kind::too_soon);
  now -= 24 * 3600 * 1000;
  CHECK(claim(store, "a", 6, kBoth) == Kind::claimed);
  CHECK(claim(store, "b", 7, kBoth) == Kind::claimed);
  // What was begun before it was set back is noted now: the interval counts from now.
  ask(store, {done_of("open", 3, "m3", begun)}, {60s, 0s, 5s});
  const DedupAnswer soon = ask(store, {claim_of("open", 8)}, kBoth).front();
  CHECK(soon.kind == Kind::too_soon);
  CHECK(soon.wait == 5s);
  // What was before does not keep what came since from being removed.
  store.tend();
  CHECK(store.size()->done == 1);
  now += 5000;
  CHECK(claim(store, "open", 9, kBoth) == Kind::claimed);
}

TEST_CASE("a claim of a process that lives stands, of one that died it does not", "[unit][dedup]") {
  const TempDir dir;
  const std::string folder = dir.file("group");
  OtherProcess other([&] {
    auto* const store = new DedupLocal(folder);
    ask(*store, {claim_of("a", 1), claim_of("b", 2), done_of("b", 2, "mb")});
  });
  REQUIRE(other.ready());
  DedupLocal store(folder);
  const DedupAnswer taken = ask(store, {claim_of("a", 1)}).front();
  CHECK(taken.kind == Kind::taken);
  CHECK(taken.by == 0);
  other.kill();
  CHECK(claim(store, "a", 1) == Kind::claimed);
  CHECK(claim(store, "b", 2) == Kind::is_done);
}

TEST_CASE("a lease that is over ends the claim of a process that cannot be looked at",
          "[unit][dedup]") {
  const TempDir dir;
  const std::string folder = dir.file("group");
  OtherProcess other([&] {
    auto* const store = new DedupLocal(folder);
    ask(*store, {claim_of("a", 1)}, {0s, 600s, 0s});
    ask(*store, {claim_of("b", 2)}, {0s, 600s, 0s});
    // Renewed: it holds.
    ask(*store, {{.kind = DedupOp::Kind::renew, .token = 2, .key = "b"}});
  });
  REQUIRE(other.ready());
  DedupLocal store(folder);
  CHECK(claim(store, "a", 7) == Kind::claimed);
  CHECK(claim(store, "b", 8) == Kind::taken);
}

TEST_CASE("writers that are killed at any point leave a store that works", "[unit][dedup]") {
  const TempDir dir;
  const std::string folder = dir.file("group");
  for (int round = 0; round < 30; ++round) {
    // A page for each: how far its last one has come it cannot say.
    auto* const noted = static_cast<std::uint64_t*>(
        ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    *noted = 0;
    const pid_t pid = ::fork();
    if (pid == 0) {
      DedupLocal store(folder);
      std::vector<DedupAnswer> answers;
      for (std::uint64_t token = 1;; ++token) {
        const std::string key = std::to_string(round) + "/" + std::to_string(token);
        answers.clear();
        if (!store.apply(std::vector{claim_of(key, token), done_of(key, token)}, kTimes, answers))
          ::_exit(1);
        *static_cast<volatile std::uint64_t*>(noted) = token;
      }
    }
    const auto wanted = static_cast<std::uint64_t>(10 + round * 7);
    REQUIRE(
        eventually(20s, [&] { return *static_cast<volatile std::uint64_t*>(noted) >= wanted; }));
    ::kill(pid, SIGKILL);
    int status = 0;
    ::waitpid(pid, &status, 0);
    REQUIRE(WIFSIGNALED(status));
    DedupLocal store(folder);
    for (std::uint64_t token = 1; token <= *noted; ++token) {
      CHECK(claim(store, std::to_string(round) + "/" + std::to_string(token), 1'000'000 + token) ==
            Kind::is_done);
    }
    ::munmap(noted, 4096);
  }
}

TEST_CASE("a full map grows, for others too, and one that may not is an error", "[unit][dedup]") {
  const TempDir dir;
  const std::string folder = dir.file("group");
  const auto many = [](std::uint64_t from) {
    std::vector<DedupOp> ops;
    for (std::uint64_t i = from; i < from + 2000; ++i) {
      const std::string key = "key " + std::to_string(i) + std::string(200, 'x');
      ops.push_back(claim_of(key, i + 1));
      ops.push_back(done_of(key, i + 1));
    }
    return ops;
  };
  {
    DedupLocal store(folder, 256 << 10);
    ask(store, many(0));
    CHECK(store.size()->map_bytes > 256 << 10);
    CHECK(store.size()->done == 2000);
    // Another process makes it larger still.
    REQUIRE(in_another_process([&] {
              DedupLocal other(folder, 256 << 10);
              std::vector<DedupAnswer> answers;
              return other.apply(many(10'000), kTimes, answers) ? 0 : 1;
            }) == 0);
    ask(store, many(20'000));
    CHECK(store.size()->done == 6000);
  }
  const std::string small = dir.file("small");
  DedupLocal store(small, 256 << 10, 512 << 10);
  std::vector<DedupAnswer> answers;
  const auto applied = store.apply(many(0), kTimes, answers);
  REQUIRE_FALSE(applied);
  CHECK(applied.error().find(small) != std::string::npos);
  CHECK(applied.error().find("MDB_MAP_FULL") != std::string::npos);
  CHECK(answers.empty());
  CHECK(claim(store, "a", 1) == Kind::claimed);  // what has room goes on
}

TEST_CASE("a damaged file is set aside, and the store begins anew", "[unit][dedup]") {
  const TempDir dir;
  const std::string folder = dir.file("group");
  const std::string data = folder + "/data.mdb";
  { CHECK(claim(*std::make_unique<DedupLocal>(folder), "a", 1) == Kind::claimed); }
  const int damage = GENERATE(0, 1, 2);
  if (damage == 0) {
    std::ofstream(data, std::ios::trunc) << std::string(100'000, 'x');
  } else if (damage == 1) {
    std::filesystem::resize_file(data, 100);
  } else {
    std::ofstream(data, std::ios::trunc) << "";  // as if it had just been made: not damaged
  }
  DedupLocal store(folder);
  CHECK(claim(store, "a", 2) == Kind::claimed);
  CHECK(std::filesystem::exists(folder + "/data.mdb.aside") == (damage != 2));
}

TEST_CASE("what was open when the machine went down is not trusted", "[unit][dedup]") {
  const TempDir dir;
  const std::string folder = dir.file("group");
  const auto state = [&] {
    std::ifstream file(folder + "/state");
    std::string text(std::istreambuf_iterator<char>(file), {});
    CHECK(text.size() == 64);  // one takes the place of another at once
    return text.substr(0, text.find_last_not_of(" \n") + 1);
  };
  {
    DedupLocal store(folder);
    ask(store, {claim_of("a", 1), done_of("a", 1)});
    CHECK(state() == "open " + boot_id() + " 0");
  }
  CHECK(state() == "clean");
  SECTION("closed in good order before it did") {
    DedupLocal store(folder);
    CHECK(claim(store, "a", 2) == Kind::is_done);
  }
  SECTION("it was in use") {
    std::ofstream(folder + "/state") << "open 00000000-another-boot 1";
    DedupLocal store(folder);
    CHECK(claim(store, "a", 2) == Kind::claimed);
    CHECK(std::filesystem::exists(folder + "/data.mdb.aside"));
  }
  SECTION("what it says is not known") {
    const std::string said =
        GENERATE("", "clea", "closed", "open", "open " + boot_id(), "open " + boot_id() + " x");
    INFO(said);
    std::ofstream(folder + "/state") << said;
    DedupLocal store(folder);
    CHECK(claim(store, "a", 2) == Kind::claimed);
    CHECK(std::filesystem::exists(folder + "/data.mdb.aside"));
  }
  SECTION("the process that used it was killed, and the machine goes on") {
    std::ofstream(folder + "/state") << "open " + boot_id() + " 1";
    DedupLocal store(folder);
    CHECK(claim(store, "a", 2) == Kind::is_done);
    CHECK(state() == "open " + boot_id() + " 0");
  }
  SECTION("process after process died of it") {
    std::ofstream(folder + "/state") << "open " + boot_id() + " 8";
    DedupLocal store(folder);
    CHECK(claim(store, "a", 2) == Kind::claimed);
  }
}

TEST_CASE("a store that another process has set aside is left for the new one", "[unit][dedup]") {
  const TempDir dir;
  const std::string folder = dir.file("group");
  DedupLocal store(folder);
  CHECK(claim(store, "a", 1) == Kind::claimed);
  std::filesystem::rename(folder + "/data.mdb", folder + "/data.mdb.aside");
  std::filesystem::remove(folder + "/lock.mdb");
  OtherProcess other([&] {
    auto* const fresh = new DedupLocal(folder);
    ask(*fresh, {claim_of("b", 1)});
  });
  REQUIRE(other.ready());
  store.tend();
  CHECK(claim(store, "b", 2) == Kind::taken);
}

TEST_CASE("a store is not said to be closed while another process has it open", "[unit][dedup]") {
  const TempDir dir;
  const std::string folder = dir.file("group");
  const auto is_clean = [&] {
    std::ifstream file(folder + "/state");
    return std::string(std::istreambuf_iterator<char>(file), {}).starts_with("clean");
  };
  auto first = std::make_unique<DedupLocal>(folder);
  CHECK(claim(*first, "a", 1) == Kind::claimed);
  OtherProcess other([&] {
    auto* const store = new DedupLocal(folder);
    ask(*store, {claim_of("b", 1)});
    // Has found that it is not alone, and has to be there for the others all the same.
    ask(*store, {claim_of("c", 2)});
  });
  REQUIRE(other.ready());
  first.reset();
  CHECK_FALSE(is_clean());
  {
    DedupLocal third(folder);
    CHECK(claim(third, "b", 3) == Kind::taken);
  }
  CHECK_FALSE(is_clean());
  other.kill();
  { CHECK(claim(*std::make_unique<DedupLocal>(folder), "b", 4) == Kind::claimed); }
  CHECK(is_clean());
}

TEST_CASE("a damaged store is set aside by one process only", "[unit][dedup]") {
  const TempDir dir;
  const std::string folder = dir.file("group");
  DedupLocal store(folder);
  CHECK(claim(store, "a", 1) == Kind::claimed);
  // Another has done so and begun anew. What is found damaged here is the old one.
  const std::string data = folder + "/data.mdb";
  std::filesystem::rename(data, data + ".aside");
  std::filesystem::remove(folder + "/lock.mdb");
  OtherProcess other([&] {
    auto* const fresh = new DedupLocal(folder);
    ask(*fresh, {claim_of("b", 1)});
  });
  REQUIRE(other.ready());
  {
    // All but the two pages that say where the others are.
    std::fstream file(data + ".aside", std::ios::in | std::ios::out);
    file.seekp(2 * 4096);
    file << std::string(std::filesystem::file_size(data + ".aside") - 2 * 4096, 'x');
  }
  CHECK(claim(store, "b", 2) == Kind::taken);
}

TEST_CASE("a state that cannot be written is an error", "[unit][dedup]") {
  const TempDir dir;
  const std::string folder = dir.file("group");
  std::filesystem::create_directories(folder);
  std::filesystem::create_symlink("/dev/full", folder + "/state");
  DedupLocal store(folder);
  std::vector<DedupAnswer> answers;
  const auto applied = store.apply(std::vector{claim_of("a", 1)}, kTimes, answers);
  REQUIRE_FALSE(applied);
  CHECK(applied.error().find(folder + "/state") != std::string::npos);
}

TEST_CASE("a claim that has lapsed is made anew when it is renewed", "[unit][dedup]") {
  const TempDir dir;
  const std::string folder = dir.file("group");
  const DedupOp renew{.kind = DedupOp::Kind::renew, .token = 1, .key = "a"};
  DedupLocal store(folder);
  ask(store, {claim_of("a", 1)}, {0s, 600s, 0s});
  store.tend();
  CHECK(store.size()->claims == 0);
  ask(store, {renew});
  CHECK(claim(store, "a", 2) == Kind::taken);
  // Unless another has it.
  ask(store, {claim_of("a", 3, 1), renew});
  CHECK(ask(store, {claim_of("a", 4)}).front().by == 3);
}

TEST_CASE("a folder that cannot be had is an error that names it", "[unit][dedup]") {
  const TempDir dir;
  const std::string file = dir.write("file", "x");
  DedupLocal store(file + "/group");
  std::vector<DedupAnswer> answers;
  const auto applied = store.apply(std::vector{claim_of("a", 1)}, kTimes, answers);
  REQUIRE_FALSE(applied);
  CHECK(applied.error() == "dedup store '" + file + "/group': mkdir: Not a directory");
  std::filesystem::remove(file);
  CHECK(claim(store, "a", 1) == Kind::claimed);  // the next call tries anew
}

TEST_CASE("an owner is told from another with its number", "[unit][dedup]") {
  CHECK(life_of(own_name()) == OwnerLife::alive);
  std::string earlier = own_name();
  earlier.pop_back();
  CHECK(life_of(earlier) == OwnerLife::dead);
  std::string ended;
  OtherProcess other([] {});
  CHECK(life_of("x y z") == OwnerLife::unknown);
  CHECK(life_of("") == OwnerLife::unknown);
  CHECK(life_of("other 1 2 3") == OwnerLife::other_boot);
  CHECK(life_of(boot_id() + " 1 2 3") == OwnerLife::unknown);
}

// As systemd's ProtectProc=invisible hides them.
TEST_CASE("an owner that is hidden counts as dead only when there is none", "[unit][dedup]") {
  const std::string living = own_name();
  std::string ended;
  {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    in_another_process([&] {
      const std::string name = own_name();
      return ::write(ends[1], name.data(), name.size()) > 0 ? 0 : 1;
    });
    char name[256];
    ended.assign(
        name, static_cast<std::size_t>(std::max<ssize_t>(::read(ends[0], name, sizeof name), 0)));
    ::close(ends[0]);
    ::close(ends[1]);
  }
  CHECK(life_of(ended) == OwnerLife::dead);
  constexpr int kCannot = 99;
  const int seen = in_another_process([&] {
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("proc", "/proc", "proc", 0, "hidepid=2") != 0 || ::setgroups(0, nullptr) != 0 ||
        ::setgid(65534) != 0 || ::setuid(65534) != 0) {
      return kCannot;
    }
    if (::access(("/proc/" + std::to_string(::getppid())).c_str(), F_OK) == 0) return kCannot;
    if (life_of(own_name()) != OwnerLife::alive) return 1;
    if (life_of(ended) != OwnerLife::dead) return 2;
    return life_of(living) == OwnerLife::unknown ? 0 : 3;
  });
  if (seen == kCannot) {
    WARN("needs to be root, and a kernel that hides");
    return;
  }
  CHECK(seen == 0);
}

TEST_CASE("a process that cannot see which boot it is trusts what the service is told",
          "[unit][dedup]") {
  CHECK(boot_id().find('-') == std::string::npos);
  CHECK(in_another_process([&] {
          const std::string boot = boot_id();
          if (::unshare(CLONE_NEWNS) != 0 ||
              ::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
              ::mount("proc", "/proc", "proc", 0, "subset=pid") != 0) {
            return 0;  // needs to be root
          }
          ::unsetenv("LOPE_BOOT_ID");
          if (!boot_id().empty()) return 1;
          if (life_of(own_name()) != OwnerLife::unknown) return 2;
          ::setenv("LOPE_BOOT_ID", boot.c_str(), 1);
          if (boot_id() != boot) return 3;
          return life_of(own_name()) == OwnerLife::alive ? 0 : 4;
        }) == 0);
}

TEST_CASE("what is killed while it holds the lock does not stop others", "[unit][dedup]") {
  const TempDir dir;
  const std::string folder = dir.file("group");
  CHECK(claim_in_child(folder, "a") == static_cast<int>(Kind::claimed));
  CHECK(claim_in_child(folder, "a") == static_cast<int>(Kind::claimed));  // its owner is dead
  // Stopped in the middle of writing, then killed: a store of many pages to write.
  const pid_t pid = ::fork();
  if (pid == 0) {
    DedupLocal store(folder);
    std::vector<DedupAnswer> answers;
    for (std::uint64_t token = 1;; ++token) {
      std::vector<DedupOp> ops;
      for (int i = 0; i < 500; ++i)
        ops.push_back(done_of(std::to_string(token) + "/" + std::to_string(i), token));
      (void)store.apply(ops, kTimes, answers);
    }
  }
  DedupLocal store(folder);
  std::uint64_t token = 1'000'000;
  REQUIRE(eventually(20s, [&] { return store.size()->done > 5000; }));
  ::kill(pid, SIGSTOP);
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  CHECK(claim(store, "b", ++token) == Kind::claimed);
}
