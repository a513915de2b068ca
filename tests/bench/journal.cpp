// A journal as a busy month makes it: how fast it is written, how large it is, and something for
// `lope trace` to find a tree in.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "store.h"

namespace {

using Seconds = std::chrono::duration<double>;
using SteadyClock = std::chrono::steady_clock;
using lope::plugins::Event;

constexpr const char* kQueues[] = {"shop.orders", "shop.invoices", "shop.mail", "shop.stock",
                                   "shop.audit"};
constexpr std::int64_t kMonth = 30LL * 86'400 * 1'000'000;

class Generator {
 public:
  explicit Generator(std::int64_t events)
      : step_(std::max<std::int64_t>(1, kMonth / std::max<std::int64_t>(1, events))) {}

  std::string uuid() {
    const std::uint64_t high = random_(), low = random_();
    char text[37];
    std::snprintf(text, sizeof text, "%08x-%04x-4%03x-8%03x-%012llx",
                  static_cast<unsigned>(high >> 32), static_cast<unsigned>(high >> 16 & 0xFFFF),
                  static_cast<unsigned>(high & 0xFFF), static_cast<unsigned>(low >> 52),
                  static_cast<unsigned long long>(low & 0xFFFFFFFFFFFF));
    return text;
  }

  // What is told of one message: that it was published, unless it is a root, came, and was handled.
  void message(std::vector<std::string>& lines, const std::string& id, const std::string& parent,
               const std::string& trace, std::size_t level) {
    const std::string queue = kQueues[level % std::size(kQueues)];
    if (!parent.empty()) {
      const std::string above = kQueues[(level - 1) % std::size(kQueues)];
      lines.push_back(head("published", above, id, parent, trace, level - 1) +
                      R"(,"kind":"publication","exchange":"shop","routing_key":")" + queue +
                      R"(","size":412,"fate":"confirmed"})");
    }
    lines.push_back(head("received", queue, id, parent, trace, level) +
                    R"(,"exchange":"shop","routing_key":")" + queue +
                    R"(","size":412,"content_type":"application/json","app_id":"shop"})");
    lines.push_back(head("handled", queue, id, parent, trace, level) +
                    R"(,"outcome":"ack","waited_us":)" + std::to_string(random_() % 5000) +
                    R"(,"ran_us":)" + std::to_string(random_() % 20000) + R"(,"worker":")" + queue +
                    "/" + std::to_string(random_() % 4) +
                    R"(","handler":"orders","handler_version":"1.4.2"})");
  }

  // `count` messages in `levels` below one another; the first id is the root's.
  std::string tree(std::vector<std::string>& lines, int count, int levels) {
    const std::string root = uuid();
    std::vector<std::vector<std::string>> ids(static_cast<std::size_t>(levels));
    ids[0] = {root};
    message(lines, root, "", root, 0);
    for (int i = 1; i < count; ++i) {
      const auto level = static_cast<std::size_t>(1 + (i - 1) % (levels - 1));
      const auto& above = ids[level - 1];
      const std::string parent = above.empty() ? root : above[random_() % above.size()];
      ids[level].push_back(uuid());
      message(lines, ids[level].back(), parent, root, level);
    }
    return root;
  }

 private:
  std::string head(const char* event, const std::string& queue, const std::string& id,
                   const std::string& parent, const std::string& trace, std::size_t source) {
    time_ += step_;
    return std::string(R"({"event":")") + event + R"(","source":"5f1e0c9a77b3d4e)" +
           std::to_string(source % 10) + R"(","n":)" + std::to_string(++n_) + R"(,"time_us":)" +
           std::to_string(time_) + R"(,"host":"mq1","group":"shop","queue":")" + queue +
           R"(","message_id":")" + id + '"' +
           (parent.empty() ? "" : R"(,"parent_id":")" + parent + '"') + R"(,"trace_id":")" + trace +
           R"(","attempt":1)";
  }

  std::mt19937_64 random_{1};
  const std::int64_t step_;
  std::int64_t time_ = std::chrono::duration_cast<std::chrono::microseconds>(
                           std::chrono::system_clock::now().time_since_epoch())
                           .count() -
                       kMonth;
  std::int64_t n_ = 0;
};

double cpu() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Makes a journal, and says how fast that was");
  std::string path;
  std::int64_t events = 1'000'000;
  int at_once = 20'000;
  app.add_option("file", path, "A SQLite file, which is not there yet")->required();
  app.add_option("--events", events, "So many")->capture_default_str();
  app.add_option("--transaction", at_once, "So many events in one")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const auto store = lope::plugins::open_sqlite_store(path, 10'000);
  Generator generator(events);
  std::string large_root;
  std::int64_t written = 0;
  Seconds spent{}, slowest{};
  double cpu_spent = 0;
  Event event;
  std::string problem;
  std::vector<std::string> lines;
  while (written < events) {
    if (large_root.empty() && written >= events / 2) {
      large_root = generator.tree(lines, 1000, 4);
    }
    while (lines.size() < static_cast<std::size_t>(at_once)) generator.tree(lines, 5, 3);
    const double cpu_before = cpu();
    const auto before = SteadyClock::now();
    store->begin();
    for (const std::string& line : lines) {
      if (!lope::plugins::parse_event(line, event, problem)) {
        std::fprintf(stderr, "%s: %s\n", problem.c_str(), line.c_str());
        return 1;
      }
      store->add(event);
    }
    written += static_cast<std::int64_t>(store->commit());
    const Seconds took = SteadyClock::now() - before;
    spent += took;
    slowest = std::max(slowest, took);
    cpu_spent += cpu() - cpu_before;
    lines.clear();
  }
  const auto size = std::filesystem::file_size(path);
  std::printf("%lld events, %.0f a second, %.2f us of CPU each, the slowest transaction %.0f ms\n",
              static_cast<long long>(written), static_cast<double>(written) / spent.count(),
              cpu_spent / static_cast<double>(written) * 1e6, slowest.count() * 1e3);
  std::printf("%.0f MiB, %.0f bytes an event\n", static_cast<double>(size) / (1 << 20),
              static_cast<double>(size) / static_cast<double>(written));
  std::printf("a tree of 1000 messages: %s\n", large_root.c_str());
}
