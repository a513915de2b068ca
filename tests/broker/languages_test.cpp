// Handlers in Rust and in Go in real workers, whose runtimes have their own ways with signals.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/log_lines.h"
#include "support/lope.h"

using namespace lope::test;

namespace {

// Those whose compiler was there when the tests were built.
std::vector<std::string> languages() {
  std::vector<std::string> found;
  for (const std::string language : {"rust", "go"}) {
    if (std::filesystem::exists(LOPE_TEST_HANDLERS_DIR "/edge_" + language + ".so")) {
      found.push_back(language);
    }
  }
  return found;
}

LopeOptions group_of(const Broker& broker, const std::string& queue, const std::string& language,
                     const std::string& more) {
  return {.broker = broker.url(),
          .groups = "  edge:\n    queue: " + queue + "\n    handler: edge_" + language +
                    "\n    options: { name: n }\n" + more,
          .top = kWithRelay};
}

}  // namespace

TEST_CASE("handlers of other languages handle messages on many threads", "[broker][languages]") {
  for (const std::string& language : languages()) {
    INFO(language);
    Broker broker;
    const std::string queue = broker.make_queue("edge");
    Lope lope(
        group_of(broker, queue, language,
                 "    workers: 2\n    threads: 4\n    prefetch: 100\n    flush_interval: 50ms\n"
                 "    retry: { delay: 0s, attempts: 2 }\n"));
    REQUIRE(lope.wait_ready());
    const std::vector<pid_t> workers = lope.workers();
    const std::vector<std::string> bodies = {"ack", "hold", "retry", "panic", "hold elsewhere"};
    Publisher publisher = broker.publisher();
    publisher.publish_many(2000, [&](int i) {
      return Publication{.routing_key = queue,
                         .body = bodies[static_cast<std::size_t>(i) % bodies.size()]};
    });
    CHECK(eventually(60s, [&] { return broker.is_empty(queue); }));
    CHECK(lope.workers() == workers);
    CHECK(lope.stop() == exited(0));
    CHECK(lines_with(lope.log(), "message retried").size() > 0);
    CHECK(lines_with(lope.log(), "killed=0").size() > 0);
    CHECK(broker.drain(queue + ".dead").size() == 800);
    broker.delete_queue(queue + ".dead");
  }
}

TEST_CASE("a runtime's own signal handlers keep no worker from finishing", "[broker][languages]") {
  for (const std::string& language : languages()) {
    INFO(language);
    Broker broker;
    const std::string queue = broker.make_queue("edge");
    const TempDir files;
    const std::string fifo = files.file("fifo");
    REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
    Lope lope(group_of(broker, queue, language, ""));
    REQUIRE(lope.wait_ready());
    broker.publish(queue, "read " + fifo, "m");
    REQUIRE(lope.wait_for_line("reading"));
    const std::vector<pid_t> workers = lope.workers();
    REQUIRE(workers.size() == 1);
    for (const int signal : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2}) {
      CHECK(::kill(workers.front(), signal) == 0);
    }
    lope.process().signal_group(SIGTERM);
    REQUIRE(lope.wait_for_line("stopping"));
    {
      const lope::UniqueFd gate(::open(fifo.c_str(), O_WRONLY | O_CLOEXEC));
      REQUIRE(gate.valid());
      CHECK(lope.workers() == workers);
      REQUIRE(::write(gate.get(), "opened", 6) == 6);
    }
    CHECK(lope.wait_for_line("opened"));
    CHECK(lope.process().wait_exit() == exited(0));
    CHECK(lines_with(lope.log(), "ledger").front().find("finished=1 handed_back=0 killed=0") !=
          std::string::npos);
    CHECK(broker.message_count(queue) == 0);
  }
}

TEST_CASE("in Go, a bad pointer is a panic in a worker too", "[broker][languages]") {
  if (languages().empty() || languages().back() != "go") return;
  Broker broker;
  const std::string queue = broker.make_queue("edge");
  Lope lope(group_of(broker, queue, "go", ""));
  REQUIRE(lope.wait_ready());
  const std::vector<pid_t> workers = lope.workers();
  broker.publish(queue, "panic of the runtime");
  const auto line = lope.wait_for_line("message retried");
  REQUIRE(line);
  CHECK(line->find("nil pointer") != std::string::npos);
  CHECK(lope.workers() == workers);
  CHECK(lope.stop() == exited(0));
}
