// Reloads while messages flow: `lope reload`, HUP, and new handler files.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <string>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A folder of handlers, and a daemon whose configuration and handlers change.
struct Fixture {
  explicit Fixture(std::string lines = {}) : top(std::move(lines)) {}

  // Another version of a handler is the same with other bytes behind its end.
  void install(const std::string& name, const std::string& from, const std::string& tail = "") {
    const std::string draft = handlers.write(name + ".draft", built(from) + tail);
    fs::rename(draft, fs::path(draft).parent_path() / (name + ".so"));
  }
  static std::string built(const std::string& name) {
    return bytes_of(fs::path(LOPE_TEST_HANDLERS_DIR) / (name + ".so"));
  }
  LopeOptions options(const std::string& groups) const {
    return {.broker = broker.url(),
            .groups = groups,
            .top = top,
            .handlers_dir = handlers.path().string()};
  }
  Lope start(const std::string& groups) { return Lope(options(groups)); }
  void write(const Lope& daemon, const std::string& groups) const {
    daemon.dir().write("lope.yaml", config_text(options(groups)));
  }

  Broker broker;
  TempDir handlers;
  TempDir files;
  const std::string top;
};

std::string appending(const Fixture& fixture, const std::string& name, const std::string& queue,
                      const std::string& more = "", const std::string& handler = "append_id") {
  return "  " + name + ": { queue: " + queue + ", handler: " + handler +
         ", options: { file: " + fixture.files.file(name) + ", flag: true }" + more + " }\n";
}

// Everything that was published was handled once, by the handlers' own books.
void check_books(const RatePublisher& load, const std::string& file) {
  const LedgerReport report = compare_ledger(load.confirmed(), lines_of_file(file));
  CHECK(report.seen == load.confirmed().size());
  CHECK(report.missing.empty());
  CHECK(report.duplicates.empty());
  CHECK(report.unexpected.empty());
}

RatePublisher load_on(const Fixture& fixture, const std::string& queue, int per_second,
                      std::chrono::seconds length) {
  return RatePublisher(fixture.broker.url(), per_second, length, [queue](int i) {
    return Publication{.routing_key = queue, .body = "x", .message_id = std::to_string(i)};
  });
}

}  // namespace

TEST_CASE("a reload changes only the groups that differ", "[broker][reload]") {
  Fixture it;
  it.install("append_id", "append_id");
  it.install("other", "append_id");
  const std::string a = it.broker.make_queue("reload");
  const std::string b = it.broker.make_queue("reload");
  const std::string c = it.broker.make_queue("reload");
  const std::string first = appending(it, "a", a) + appending(it, "b", b, "", "other");
  Lope daemon = it.start(first);
  REQUIRE(daemon.wait_ready());
  const Json a_before = group_of(daemon, "a");
  const Json b_before = group_of(daemon, "b");
  const auto connections = it.broker.connections_named("lope ");

  CHECK(told(daemon, {"reload", "--wait"}) == "2 of 2 groups unchanged\n");
  SECTION("a new version of a handler: new workers, the same consumer and connection") {
    it.install("other", "append_id", "2");
    CHECK(told(daemon, {"reload", "--wait"}) == "1 of 2 groups unchanged; b: new workers\n");
    const Json b_after = group_of(daemon, "b");
    CHECK(b_after["consumer_pid"] == b_before["consumer_pid"]);
    CHECK(pids_in(b_after) != pids_in(b_before));
    CHECK(it.broker.connections_named("lope ") == connections);
  }
  SECTION("its settings: nothing is replaced") {
    it.write(daemon,
             appending(it, "a", a) + appending(it, "b", b, ", timeout: 7s, workers: 2", "other"));
    CHECK_THAT(told(daemon, {"reload", "--wait"}),
               Contains("b: its consumer goes on with other settings"));
    const Json b_after = group_of(daemon, "b");
    CHECK(b_after["consumer_pid"] == b_before["consumer_pid"]);
    CHECK(b_after["workers_ready"] == 2);
    CHECK(pids_in(b_after).contains(*pids_in(b_before).begin()));
  }
  SECTION("its options: new workers") {
    it.write(daemon, appending(it, "a", a) + appending(it, "b", b, ", threads: 2", "other"));
    CHECK_THAT(told(daemon, {"reload", "--wait"}), Contains("b: new workers"));
    CHECK(group_of(daemon, "b")["consumer_pid"] == b_before["consumer_pid"]);
  }
  SECTION("another queue: another consumer") {
    it.broker.publish(c, "x", "1");
    it.write(daemon, appending(it, "a", a) + appending(it, "b", c, "", "other"));
    CHECK_THAT(told(daemon, {"reload", "--wait"}), Contains("b: a new consumer"));
    CHECK(group_of(daemon, "b")["consumer_pid"] != b_before["consumer_pid"]);
    CHECK(eventually(10s, [&] { return lines_of_file(it.files.file("b")).size() == 1; }));
    CHECK(eventually(10s, [&] { return it.broker.consumer_count(b) == 0; }));
    CHECK(eventually(10s, [&] { return group_of(daemon, "b")["acked"] == 1; }));
  }
  SECTION("added and removed groups") {
    it.write(daemon, appending(it, "a", a) + appending(it, "c", c));
    CHECK(told(daemon, {"reload", "--wait"}) == "1 of 2 groups unchanged; c: added; b: removed\n");
    CHECK(eventually(10s, [&] { return it.broker.consumer_count(b) == 0; }));
    CHECK(it.broker.consumer_count(c) == 1);
    CHECK(daemon.wait_for_line("group is gone group=b"));
  }
  SECTION("HUP does the same") {
    it.write(daemon, appending(it, "a", a));
    daemon.process().signal_group(SIGHUP);
    CHECK(daemon.wait_for_line("group is gone group=b"));
  }
  CHECK(group_of(daemon, "a")["consumer_pid"] == a_before["consumer_pid"]);
  CHECK(pids_in(group_of(daemon, "a")) == pids_in(a_before));
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(daemon.all_gone());
}

TEST_CASE("a refused reload changes nothing, and says why", "[broker][reload]") {
  Fixture it;
  it.install("append_id", "append_id");
  const std::string queue = it.broker.make_queue("reload");
  const std::string good = appending(it, "a", queue);
  Lope daemon = it.start(good);
  REQUIRE(daemon.wait_ready());
  const Json before = group_of(daemon);
  std::string said;
  std::string expected;
  SECTION("a configuration that is wrong, with every mistake") {
    it.write(daemon, appending(it, "a", queue, ", workers: 0, threads: two"));
    said = refused(daemon, {"reload"});
    CHECK_THAT(said, Contains("groups.a.threads: expected a whole number from 1 to 256"));
    expected = "groups.a.workers: expected";
  }
  SECTION("a file that is no handler") {
    it.handlers.write("append_id.so", "garbage");
    said = refused(daemon, {"reload", "--wait"});
    expected = "group 'a': handler '" + it.handlers.file("append_id.so") +
               "': expected a 64-bit little-endian ELF shared object";
  }
  SECTION("a handler that does not load") {
    it.install("append_id", "undefined_symbol");
    said = refused(daemon, {"reload"});
    expected = "expected a shared object that loads";
  }
  SECTION("a handler that refuses its options") {
    it.write(daemon, appending(it, "a", queue).replace(2, 1, "a") + "  b: { queue: " + queue +
                         ", handler: append_id }\n");
    said = refused(daemon, {"reload"});
    expected = "group 'b': handler '" + it.handlers.file("append_id.so") +
               "': option 'file': expected a value, found none";
  }
  SECTION("a handler that crashes when it is created") {
    it.install("append_id", "create_aborts");
    said = refused(daemon, {"reload"});
    expected = "group 'a': handler '" + it.handlers.file("append_id.so") +
               "': expected to become ready, found its worker dead by SIGABRT while in the "
               "handler's create()";
  }
  SECTION("a handler that hangs when it is created") {
    it.install("append_id", "create_hangs");
    it.write(daemon, appending(it, "a", queue, ", start_timeout: 300ms"));
    said = refused(daemon, {"reload"});
    expected = "expected to become ready within start_timeout (300 ms), found it hanging";
  }
  CHECK_THAT(said, Contains("lope reload: reload refused, nothing is changed: "));
  CHECK_THAT(said, Contains(expected));
  CHECK_THAT(daemon.log(), Contains("reload refused: nothing is changed"));
  CHECK_THAT(status_of(daemon)["last_reload"].get<std::string>(), Contains("refused: "));
  const Json after = group_of(daemon);
  CHECK(after["consumer_pid"] == before["consumer_pid"]);
  CHECK(pids_in(after) == pids_in(before));
  // Whatever is on disk, a worker that has to be replaced gets the handler that works.
  ::kill(*pids_in(before).begin(), SIGKILL);
  CHECK(eventually(10s, [&] { return has_settled(group_of(daemon), 1, pids_in(before)); }));
  it.broker.publish(queue, "x", "1");
  CHECK(eventually(10s, [&] { return lines_of_file(it.files.file("a")).size() == 1; }));
  CHECK(daemon.stop() == exited(kExitOk));
}

// In the short form some dozens of them.
TEST_CASE("reloads under load, good and bad in turn: nothing lost, nothing twice",
          "[broker][reload]") {
  const bool campaign = std::getenv("LOPE_CAMPAIGN") != nullptr;
  const int rounds = campaign ? 1000 : 40;
  const int rate = campaign ? 5000 : 2000;
  Fixture it;
  it.install("one", "append_id");
  it.install("two", "append_id");
  it.install("three", "append_id");
  const std::string a = it.broker.make_queue("reload");
  const std::string b = it.broker.make_queue("reload");
  const std::string still = it.broker.make_queue("reload");
  int version = 0;
  bool more = false;
  const auto groups = [&](const std::string& bad = "") {
    return appending(it, "still", still, ", prefetch: 300", "three") +
           appending(it, "a", a, ", prefetch: 300, workers: 2", "one") +
           appending(it, "b", b,
                     std::string(", prefetch: 300, timeout: ") + (more ? "1m" : "2m") + bad, "two");
  };
  Lope daemon = it.start(groups());
  REQUIRE(daemon.wait_ready());
  const Json still_before = group_of(daemon, "still");
  const auto connections = it.broker.connections_named("lope ");
  const auto length = std::chrono::seconds(campaign ? 1800 : 60);
  RatePublisher on_a = load_on(it, a, rate / 2, length);
  RatePublisher on_still = load_on(it, still, rate / 2, length);
  for (int round = 0; round < rounds; ++round) {
    INFO("round " << round);
    if (round % 2 == 1) {
      if (round % 4 == 1) {
        it.write(daemon, groups(", workers: none"));
      } else {
        it.write(daemon, groups());
        it.handlers.write("one.so", "garbage " + std::to_string(round));
      }
      CHECK_THAT(refused(daemon, {"reload", "--wait"}), Contains("nothing is changed"));
      it.install("one", "append_id", std::to_string(version));
      continue;
    }
    std::string expected = "b: its consumer goes on with other settings";
    more = !more;
    if (round % 10 == 0) {  // one of five good ones
      it.install("one", "append_id", std::to_string(++version));
      expected = "a: new workers; " + expected;
    }
    it.write(daemon, groups());
    CHECK_THAT(told(daemon, {"reload", "--wait"}), Contains(expected));
  }
  on_a.stop();
  on_still.stop();
  on_a.join();
  on_still.join();
  CHECK(eventually(60s, [&] { return it.broker.is_empty(a) && it.broker.is_empty(still); }));
  CHECK(it.broker.connections_named("lope ") == connections);
  const Json still_after = group_of(daemon, "still");
  CHECK(pids_in(still_after) == pids_in(still_before));
  CHECK(still_after["consumer_pid"] == still_before["consumer_pid"]);
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(daemon.all_gone());
  check_books(on_a, it.files.file("a"));
  check_books(on_still, it.files.file("still"));
  CHECK(lines_with(daemon.log(), "message retried").empty());
  CHECK(lines_with(daemon.log(), "killing").empty());
  WARN(rounds << " reloads, " << on_a.confirmed().size() + on_still.confirmed().size()
              << " messages, " << version << " versions");
}

TEST_CASE("another consumer takes over under load: nothing lost, nothing twice",
          "[broker][reload]") {
  const std::string kind = GENERATE("shared", "single-active");
  Fixture it;
  it.install("append_id", "append_id");
  const std::string queue = it.broker.unique_queue("reload");
  int prefetch = 50;
  const auto groups = [&] {
    return appending(it, "g", queue,
                     ", prefetch: " + std::to_string(prefetch) +
                         ", declare: { arguments: { x-single-active-consumer: " +
                         (kind == "shared" ? "false" : "true") + " } }");
  };
  Lope daemon = it.start(groups());
  REQUIRE(daemon.wait_ready());
  RatePublisher load = load_on(it, queue, 1000, 60s);
  for (int round = 0; round < 8; ++round) {
    INFO(kind << ", round " << round);
    ++prefetch;
    it.write(daemon, groups());
    const Json before = group_of(daemon);
    CHECK_THAT(told(daemon, {"reload", "--wait"}), Contains("g: a new consumer"));
    CHECK(eventually(10s, [&] { return it.broker.consumer_count(queue) == 1; }));
    CHECK(group_of(daemon)["consumer_pid"] != before["consumer_pid"]);
    CHECK(group_of(daemon)["acked"] >= before["acked"]);
  }
  load.stop();
  load.join();
  CHECK(eventually(60s, [&] { return it.broker.is_empty(queue); }));
  CHECK(daemon.stop() == exited(kExitOk));
  // What the old one had not begun goes back, and comes again as "redelivered": it was handled
  // once.
  std::vector<std::string> handled;
  for (std::string line : lines_of_file(it.files.file("g"))) {
    handled.push_back(line.substr(0, line.find(' ')));
  }
  const LedgerReport report = compare_ledger(load.confirmed(), handled);
  CHECK(report.seen == load.confirmed().size());
  CHECK(report.missing.empty());
  CHECK(report.duplicates.empty());
  CHECK(lines_with(daemon.log(), "cannot consume").empty());
}

TEST_CASE("a new handler that dies at once is rolled back", "[broker][reload]") {
  Fixture it;
  it.install("h", "append_id");
  const std::string queue = it.broker.make_queue("reload");
  const auto groups = [&](const std::string& more) {
    return appending(it, "g", queue, ", retry: { delay: 0s, attempts: 100 }, crashes: 100" + more,
                     "h");
  };
  Lope daemon = it.start(groups(""));
  REQUIRE(daemon.wait_ready());
  it.install("h", "dies");
  const bool in_place = GENERATE(true, false);
  if (!in_place) it.write(daemon, groups(", prefetch: 7"));
  told(daemon, {"reload", "--wait"});
  for (int i = 0; i < 20; ++i) it.broker.publish(queue, "x", std::to_string(i));
  const auto line = daemon.wait_for_line("rolled back", 20s);
  REQUIRE(line);
  CHECK_THAT(*line, Contains("group=g"));
  INFO(daemon.log());
  CHECK(eventually(20s, [&] { return lines_of_file(it.files.file("g")).size() == 20; }));
  CHECK(eventually(20s, [&] { return group_of(daemon)["state"] == "consuming"; }));
  CHECK_THAT(group_of(daemon)["note"].get<std::string>(),
             Contains("rolled back: its new workers die at once"));
  // The file on disk is still the bad one: asked again, it is tried again.
  it.install("h", "append_id", "3");
  told(daemon, {"reload", "--wait"});
  CHECK(group_of(daemon)["note"] == "");
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(it.broker.message_count(queue) == 0);
}

TEST_CASE("after two bad handlers in a row the good one comes back", "[broker][reload]") {
  Fixture it("watch: true\n");
  it.install("h", "append_id");
  it.install("other", "append_id");
  const std::string queue = it.broker.make_queue("reload");
  Lope daemon = it.start(
      appending(it, "g", queue, ", retry: { delay: 0s, attempts: 100 }, crashes: 100", "h") +
      appending(it, "o", it.broker.make_queue("reload"), "", "other"));
  REQUIRE(daemon.wait_ready());
  for (const char* const version : {"2", "3"}) {
    const auto before = pids_in(group_of(daemon, "g"));
    it.install("h", "dies", version);
    REQUIRE(eventually(10s, [&] { return has_settled(group_of(daemon, "g"), 1, before); }));
  }
  it.broker.publish(queue, "x", "1");
  CHECK(eventually(20s, [&] { return lines_of_file(it.files.file("g")).size() == 1; }));
  const Json good = group_of(daemon, "g");
  CHECK_THAT(good["note"].get<std::string>(), Contains("rolled back: "));
  CHECK(good["handler_name"] == "append_id");
  // Somebody else's new handler is no reason to try the bad one again.
  const auto other = pids_in(group_of(daemon, "o"));
  it.install("other", "append_id", "2");
  CHECK(eventually(10s, [&] { return has_settled(group_of(daemon, "o"), 1, other); }));
  CHECK(pids_in(group_of(daemon, "g")) == pids_in(good));
  CHECK(lines_with(daemon.log(), "rolled back").size() == 1);
  // The file says again what the group has: it is over.
  it.install("h", "append_id");
  CHECK_THAT(told(daemon, {"reload", "--wait"}), Contains("2 of 2 groups unchanged"));
  CHECK(group_of(daemon, "g")["note"] == "");
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("to a queue that is not there, and back: an exclusive one is had again",
          "[broker][reload]") {
  Fixture it;
  it.install("append_id", "append_id");
  const std::string queue = it.broker.unique_queue("reload");
  const std::string nowhere = it.broker.unique_queue("reload");
  const std::string there =
      appending(it, "g", queue, ", declare: { exclusive: true, durable: false }");
  Lope daemon = it.start(there);
  REQUIRE(daemon.wait_ready());
  it.write(daemon, appending(it, "g", nowhere));
  told(daemon, {"reload"});
  REQUIRE(eventually(10s, [&] { return group_of(daemon)["state"] == "connecting"; }));
  it.write(daemon, there);
  told(daemon, {"reload", "--wait"});
  CHECK(group_of(daemon)["state"] == "consuming");
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(daemon.all_gone());
}

TEST_CASE("with watch, a handler is taken when it is there, and garbage is left alone",
          "[broker][reload]") {
  Fixture it("watch: true\n");
  const std::string queue = it.broker.make_queue("reload");
  Lope daemon = it.start(appending(it, "g", queue, "", "late"));
  REQUIRE(daemon.wait_for_line("group waits for its handler"));
  const Json waiting = group_of(daemon);
  CHECK(waiting["state"] == "waiting");
  CHECK_THAT(waiting["reason"].get<std::string>(), Contains("expected a file, found none"));
  // A part of it, then all.
  it.handlers.write("late.so", Fixture::built("append_id").substr(0, 5000));
  CHECK(daemon.wait_for_line("handler left alone"));
  CHECK(group_of(daemon)["state"] == "waiting");
  it.install("late", "append_id");
  CHECK(eventually(20s, [&] { return group_of(daemon)["state"] == "consuming"; }));
  it.broker.publish(queue, "x", "1");
  CHECK(eventually(10s, [&] { return lines_of_file(it.files.file("g")).size() == 1; }));
  const auto first = pids_in(group_of(daemon));
  it.install("late", "append_id", "2");
  CHECK(eventually(20s, [&] { return has_settled(group_of(daemon), 1, first); }));
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("the schema of a group that waits for its handler is judged at a reload",
          "[broker][reload]") {
  Fixture it;
  it.install("append_id", "append_id");
  const std::string queue = it.broker.make_queue("reload");
  const std::string file = it.files.write("schema.json", "{}");
  Lope daemon = it.start(appending(it, "a", queue) +
                         appending(it, "g", queue, ", validate: " + file, "late"));
  REQUIRE(daemon.wait_ready());
  CHECK(group_of(daemon, "g")["state"] == "waiting");
  it.files.write("schema.json", R"({"type":"int"})");
  CHECK_THAT(refused(daemon, {"reload"}),
             Contains("group 'g': '" + file + "': /type: expected null, boolean"));
  it.files.write("schema.json", R"({"type":"object"})");
  told(daemon, {"reload"});
  CHECK(group_of(daemon, "g")["state"] == "waiting");
  it.install("late", "append_id");
  told(daemon, {"reload", "--wait"});
  CHECK(group_of(daemon, "g")["state"] == "consuming");
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("whatever happens to a handler's file, no running worker notices", "[broker][reload]") {
  const bool campaign = std::getenv("LOPE_CAMPAIGN") != nullptr;
  const int rounds = campaign ? 100 : 12;
  Fixture it("watch: true\n");
  it.install("h", "append_id");
  const std::string queue = it.broker.make_queue("reload");
  Lope daemon = it.start(appending(it, "g", queue, ", workers: 2, prefetch: 300", "h"));
  REQUIRE(daemon.wait_ready());
  const Json before = group_of(daemon);
  RatePublisher load = load_on(it, queue, 2000, 600s);
  const std::string path = it.handlers.file("h.so");
  for (int round = 0; round < rounds; ++round) {
    INFO("round " << round);
    const int sent = load.sent();
    if (round % 3 == 0) {  // in place: the same inode
      std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
      file << "garbage, much of it " << std::string(100'000, static_cast<char>('a' + round % 26));
      file.close();
      CHECK_THAT(refused(daemon, {"reload"}), Contains("found no ELF file"));
    } else if (round % 3 == 1) {
      fs::resize_file(path, 1000 + static_cast<std::uintmax_t>(round));
      CHECK_THAT(refused(daemon, {"reload"}), Contains("h.so': expected"));
    } else {
      fs::remove(path);
      CHECK_THAT(told(daemon, {"reload"}), Contains("1 of 1 groups unchanged"));
    }
    // Messages go on, through more than what was on its way.
    CHECK(eventually(20s, [&] { return group_of(daemon)["acked"] > sent; }));
    it.install("h", "append_id");
    told(daemon, {"reload", "--wait"});
  }
  load.stop();
  load.join();
  CHECK(eventually(60s, [&] { return it.broker.is_empty(queue); }));
  const Json after = group_of(daemon);
  CHECK(pids_in(after) == pids_in(before));
  CHECK(after["worker_deaths"] == 0);
  CHECK(daemon.stop() == exited(kExitOk));
  check_books(load, it.files.file("g"));
}
