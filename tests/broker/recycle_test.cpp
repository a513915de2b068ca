// Workers that are replaced before they grow too old, too large or too used, while messages come.
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <thread>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"

using namespace lope;
using namespace lope::test;

namespace {

constexpr long kMiB = 1024;  // in KiB, as /proc has it

bool campaign() { return std::getenv("LOPE_CAMPAIGN") != nullptr; }
bool sanitized() { return std::string_view(LOPE_SANITIZE) != ""; }

// The most memory that each of a daemon's workers ever had, in KiB, for as long as this lives.
class Peaks {
 public:
  explicit Peaks(const Lope& daemon) : daemon_(daemon), thread_([this] { watch(); }) {}
  ~Peaks() { stop(); }
  std::map<pid_t, long> stop() {
    done_ = true;
    if (thread_.joinable()) thread_.join();
    return peaks_;
  }

 private:
  void watch() {
    while (!done_) {
      for (const pid_t pid : daemon_.workers()) {
        std::ifstream status("/proc/" + std::to_string(pid) + "/status");
        for (std::string line; std::getline(status, line);) {
          if (line.starts_with("VmHWM:")) peaks_[pid] = std::atol(line.c_str() + 6);
        }
      }
      std::this_thread::sleep_for(10ms);
    }
  }

  const Lope& daemon_;
  std::map<pid_t, long> peaks_;
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

// A group that writes down every message.
std::string appending(const std::string& queue, const std::string& path, const std::string& more) {
  return "  g: { queue: " + queue + ", handler: append_id, options: { file: " + path +
         ", flag: true }, " + more + " }\n";
}

// Nothing was interrupted, and the connection stayed.
void check_undisturbed(const Lope& daemon) {
  CHECK(lines_with(daemon.log(), "connection lost").empty());
  CHECK(lines_with(daemon.log(), "killing a worker").empty());
  CHECK(lines_with(daemon.log(), "message retried").empty());
  CHECK(lines_with(daemon.log(), "outcome dropped").empty());
}

}  // namespace

TEST_CASE("workers are replaced after so many messages: nothing lost, nothing twice",
          "[broker][recycle]") {
  Broker broker;
  const std::string queue = broker.make_queue("recycle");
  const TempDir files;
  const std::string path = files.file("ids");
  Lope daemon(
      {.broker = broker.url(),
       .groups = appending(queue, path,
                           "workers: 3, threads: 2, prefetch: 100, recycle: { messages: 500 }")});
  REQUIRE(daemon.wait_ready());
  RatePublisher load(broker.url(), 5000, 4s, [&](int i) {
    return Publication{.routing_key = queue, .body = "x", .message_id = std::to_string(i)};
  });
  load.join();
  CHECK(eventually(60s, [&] { return broker.is_empty(queue); }));
  CHECK(daemon.stop() == exited(0));
  const LedgerReport report = compare_ledger(load.confirmed(), lines_of_file(path));
  CHECK(report.missing.empty());
  CHECK(report.duplicates.empty());
  CHECK(report.seen == load.confirmed().size());
  const auto replaced = lines_with(daemon.log(), "worker to be replaced");
  CHECK(replaced.size() >= load.confirmed().size() / 500 / 2);
  for (const std::string& line : replaced) {
    CHECK(field(line, "reason") == "messages");
    CHECK(std::stoi(field(line, "messages")) >= 450);
  }
  check_undisturbed(daemon);
}

TEST_CASE("a handler that leaks a mebibyte a message stays within its memory, none lost",
          "[broker][recycle]") {
  const int messages = campaign() ? 1'000'000 : 3'000;
  Broker broker;
  const std::string queue = broker.make_queue("recycle");
  const TempDir files;
  const std::string path = files.file("ids");
  broker.publisher().publish_many(messages, [&](int i) {
    return Publication{
        .routing_key = queue, .body = "leak:1048576", .message_id = std::to_string(i)};
  });
  Lope daemon({.broker = broker.url(),
               .groups = "  g: { queue: " + queue + ", handler: scripted, options: { file: " +
                         path + " }, workers: 2, prefetch: 100, recycle: { memory: 200MiB } }\n",
               .top = campaign() ? "log: { level: warn }\n" : ""});
  Peaks peaks(daemon);
  CHECK(eventually(campaign() ? 3600s : 120s, [&] { return broker.is_empty(queue); }));
  const auto most = peaks.stop();
  CHECK(daemon.stop() == exited(0));
  const auto seen = lines_of_file(path);
  CHECK(seen.size() == static_cast<std::size_t>(messages));
  CHECK(std::set<std::string>(seen.begin(), seen.end()).size() == seen.size());
  long peak = 0;
  for (const auto& [pid, kib] : most) peak = std::max(peak, kib);
  std::printf("%d messages of 1 MiB each through %zu workers, the largest had %ld MiB\n", messages,
              most.size(), peak / kMiB);
  CHECK(most.size() >= static_cast<std::size_t>(messages) / 200);
  if (!sanitized()) CHECK(peak <= 250 * kMiB);  // they keep much of their own
  check_undisturbed(daemon);
}

TEST_CASE("workers are replaced when they are old, one after another", "[broker][recycle]") {
  Broker broker;
  const std::string queue = broker.make_queue("recycle");
  const TempDir files;
  const std::string path = files.file("ids");
  Lope daemon({.broker = broker.url(),
               .groups = appending(queue, path, "workers: 4, recycle: { age: 1s }")});
  REQUIRE(daemon.wait_ready());
  RatePublisher load(broker.url(), 200, 4s, [&](int i) {
    return Publication{.routing_key = queue, .body = "x", .message_id = std::to_string(i)};
  });
  load.join();
  CHECK(eventually(20s, [&] { return broker.is_empty(queue); }));
  // Idle ones too.
  CHECK(eventually(20s,
                   [&] { return lines_with(daemon.log(), "worker to be replaced").size() >= 20; }));
  CHECK(daemon.stop() == exited(0));
  const LedgerReport report = compare_ledger(load.confirmed(), lines_of_file(path));
  CHECK(report.missing.empty());
  CHECK(report.duplicates.empty());
  check_undisturbed(daemon);
}
