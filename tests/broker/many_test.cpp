// Many groups at once: what it takes to ask how they are. In the campaign 64 of four workers each.
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "common/fd.h"
#include "support/broker.h"
#include "support/http.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope;
using namespace lope::test;

namespace {

// Asks for the status over a connection of its own; the answer, and how long it took, in ms.
std::pair<std::string, double> ask(const std::string& path) {
  const auto began = std::chrono::steady_clock::now();
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) ==
          0);
  const std::string request = "{\"command\":\"status\"}\n";
  REQUIRE(::send(socket.get(), request.data(), request.size(), 0) ==
          static_cast<ssize_t>(request.size()));
  std::string answer;
  char bytes[65536];
  while (!answer.ends_with('\n')) {
    const ssize_t n = ::recv(socket.get(), bytes, sizeof bytes, 0);
    REQUIRE(n > 0);
    answer.append(bytes, static_cast<std::size_t>(n));
  }
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
  return {answer, took.count()};
}

}  // namespace

TEST_CASE("the status of many groups under load comes soon", "[broker][many]") {
  const bool campaign = std::getenv("LOPE_CAMPAIGN") != nullptr;
  const int groups = campaign ? 64 : 6;
  const int workers = campaign ? 4 : 2;
  Broker broker;
  std::vector<std::string> queues;
  std::string text;
  for (int i = 0; i < groups; ++i) {
    queues.push_back(broker.make_queue("many"));
    text += "  g" + std::to_string(i) + ": { queue: " + queues.back() +
            ", handler: \"null\", workers: " + std::to_string(workers) + " }\n";
  }
  Lope daemon({.broker = broker.url(),
               .groups = text,
               .top = "monitor: { listen: 0 }\n",
               .handlers_dir = LOPE_HANDLERS_BUILD_DIR});
  REQUIRE(daemon.wait_ready(120s));
  RatePublisher load(broker.url(), 2000, 600s, [&](int i) {
    return Publication{.routing_key = queues[static_cast<std::size_t>(i) % queues.size()],
                       .body = "x",
                       .persistent = false};
  });
  std::vector<double> took;
  std::size_t bytes = 0;
  for (int i = 0; i < (campaign ? 300 : 30); ++i) {
    const auto [answer, ms] = ask(daemon.control_socket());
    took.push_back(ms);
    bytes = answer.size();
    const Json status = Json::parse(answer)["status"];
    CHECK(status["groups"].size() == queues.size());
    CHECK(status["groups"][0]["workers"].size() == static_cast<std::size_t>(workers));
  }
  std::sort(took.begin(), took.end());
  const double p50 = took[took.size() / 2];
  const double p99 = took[took.size() * 99 / 100];
  WARN(groups << " groups of " << workers << " workers: status in " << p50 << " ms (p50), " << p99
              << " ms (p99), " << took.back() << " ms at most, " << bytes << " bytes");
  if (campaign) CHECK(p99 < 50);

  // Each scrape later than the monitor uses an answer again.
  const std::string address = status_of(daemon)["monitor"][0]["address"];
  const int port = std::stoi(address.substr(address.rfind(':') + 1));
  std::vector<double> scraped;
  for (int i = 0; i < (campaign ? 60 : 5); ++i) {
    const auto began = std::chrono::steady_clock::now();
    const HttpReply reply = http_get(port, "/metrics");
    const std::chrono::duration<double, std::milli> ms = std::chrono::steady_clock::now() - began;
    scraped.push_back(ms.count());
    CHECK(reply.status == 200);
    CHECK(reply.body.size() > 1000 * queues.size());
    std::this_thread::sleep_for(300ms);
  }
  std::sort(scraped.begin(), scraped.end());
  WARN("/metrics in " << scraped[scraped.size() / 2] << " ms (p50), "
                      << scraped[scraped.size() * 9 / 10] << " ms (p90), " << scraped.back()
                      << " ms at most");
  if (campaign) CHECK(scraped[scraped.size() * 9 / 10] < 100);
  load.stop();
  load.join();
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(daemon.all_gone());
}
