// Whatever is said to the control socket, messages go on. In the campaign 100,000 times, and the
// rate is held against that of a run beside a process that takes as much CPU.
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>

#include "common/fd.h"
#include "support/broker.h"
#include "support/log_lines.h"
#include "support/loopback.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope;
using namespace lope::test;

namespace {

// Never one that would be carried out.
std::string fuzzed_request(std::mt19937& random) {
  static const std::string kSeeds[] = {
      R"({"command":"status"})",
      R"({"command":"scale","group":"nobody","workers":3})",
      R"({"command":"restart","group":"nobody"})",
      R"({"command":"pause","group":"nobody","now":true})",
      R"({"command":"watch","group":"g","count":5})",
      R"({"command":"log-level","level":"loud"})",
      R"({"command":"reload","wait":"yes"})",
  };
  const auto below = [&random](std::size_t limit) {
    return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random);
  };
  std::string text = kSeeds[below(std::size(kSeeds))];
  switch (below(8)) {
    case 0: break;
    case 1:  // bytes changed
      for (std::size_t i = 0; i < 1 + below(6); ++i) {
        text[below(text.size())] = static_cast<char>(below(256));
      }
      break;
    case 2: text.resize(below(text.size())); break;
    case 3:
      text.insert(below(text.size()), std::string(1 + below(3000), static_cast<char>(below(256))));
      break;
    case 4: text = std::string(below(5000), '['); break;
    case 5: text = R"({"command":")" + std::string(below(60'000), 'a') + "\"}"; break;
    case 6:
      text.clear();
      for (std::size_t i = 0; i < 1 + below(200); ++i) text += static_cast<char>(below(256));
      break;
    case 7:
      text = R"({"command":"scale","group":"g","workers":)" + std::to_string(random()) + "00}";
      break;
  }
  return text;
}

// Sends `requests` of them over many connections, some with a descriptor, some cut off.
void fuzz(const std::string& path, int requests, std::atomic<int>& sent) {
  std::mt19937 random(7);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  while (sent < requests) {
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval limit{2, 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      continue;
    }
    for (std::size_t i = 0; i < 20 && sent < requests; ++i, ++sent) {
      const std::string line = fuzzed_request(random) + (random() % 10 == 0 ? "" : "\n");
      const int fd = random() % 20 == 0 ? STDIN_FILENO : -1;
      if (send_with_fd(socket.get(), line.data(), line.size(), fd) < 0) break;
      if (line.back() != '\n') break;  // gone in the middle of a line
      char answer[65536];
      if (random() % 4 != 0 && ::recv(socket.get(), answer, sizeof answer, 0) <= 0) break;
    }
  }
}

// The same with HTTP.
void fuzz_http(int port, int requests, std::atomic<int>& sent) {
  std::mt19937 random(11);
  const sockaddr_in address = loopback(port);
  const auto below = [&random](std::size_t limit) {
    return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random);
  };
  static const std::string kSeeds[] = {
      "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
      "HEAD /readyz HTTP/1.0\r\n\r\n", "POST /api/status HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
      "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n"};
  while (sent < requests) {
    const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval limit{0, 5000};  // most requests are never whole
    ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      continue;
    }
    for (std::size_t i = 0; i < 10 && sent < requests; ++i, ++sent) {
      std::string text = kSeeds[below(std::size(kSeeds))];
      const std::size_t kind = below(5);
      if (kind == 1) text[below(text.size())] = static_cast<char>(below(256));
      if (kind == 2) text.insert(below(text.size()), std::string(below(20'000), 'x'));
      if (kind == 3) text.resize(below(text.size()));
      if (kind == 4) text = std::string(1 + below(300), static_cast<char>(below(256)));
      if (::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0) break;
      char answer[65536];
      if (kind > 2 || ::recv(socket.get(), answer, sizeof answer, 0) <= 0) {
        ++sent;
        break;
      }
    }
  }
}

double own_thread_cpu() {
  timespec used{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

double seconds_since(std::chrono::steady_clock::time_point then) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - then).count();
}

}  // namespace

TEST_CASE("fuzzed requests leave consuming unaffected", "[broker][fuzz]") {
  const bool http = GENERATE(false, true);
  const bool campaign = std::getenv("LOPE_CAMPAIGN") != nullptr;
  const int requests = campaign ? 100'000 : 4'000;
  Broker broker;
  const std::string queue = broker.make_queue("fuzz");
  Lope daemon({.broker = broker.url(),
               .groups = "  g: { queue: " + queue + ", handler: \"null\", prefetch: 500 }\n",
               .top = "log: { level: error }\nmonitor: { listen: 0 }\n",
               .handlers_dir = LOPE_HANDLERS_BUILD_DIR});
  REQUIRE(eventually(20s, [&] { return broker.consumer_count(queue) == 1; }));
  const Json before = group_of(daemon);
  RatePublisher load(broker.url(), 4000, 3600s, [&](int i) {
    return Publication{
        .routing_key = queue, .body = "x", .message_id = std::to_string(i), .persistent = false};
  });
  const auto acked = [&] { return group_of(daemon)["acked"].get<double>(); };
  REQUIRE(eventually(10s, [&] { return acked() > 1000; }));

  // Beside the requests.
  std::atomic<int> sent = 0;
  double fuzzer_cpu = 0;
  const double acked_0 = acked();
  const Json monitor = status_of(daemon)["monitor"][0];
  const std::string address = monitor["address"];
  const int port = std::stoi(address.substr(address.rfind(':') + 1));
  const auto used = [&] { return cpu_seconds(daemon.pid()) + cpu_seconds(monitor["pid"]); };
  const double daemon_cpu = used();
  const auto began = std::chrono::steady_clock::now();
  std::thread fuzzer([&] {
    const double cpu = own_thread_cpu();
    if (http) {
      fuzz_http(port, requests, sent);
    } else {
      fuzz(daemon.control_socket(), requests, sent);
    }
    fuzzer_cpu = own_thread_cpu() - cpu;
  });
  fuzzer.join();
  const double length = seconds_since(began);
  const double rate = (acked() - acked_0) / length;
  const double share = (fuzzer_cpu + used() - daemon_cpu) / length;
  CHECK(sent >= requests);

  // Beside somebody who only takes as much CPU, on as many processors.
  const double beside = campaign ? length : std::min(length, 1.0);
  std::atomic<bool> over = false;
  const auto hog = [&](double part) {
    while (!over) {
      const auto round = std::chrono::steady_clock::now();
      while (seconds_since(round) < 0.01 * part) {
      }
      std::this_thread::sleep_for(std::chrono::duration<double>(0.01 * (1 - part)));
    }
  };
  const double acked_1 = acked();
  const auto again = std::chrono::steady_clock::now();
  std::thread first(hog, std::min(share / 2, 1.0));
  std::thread second(hog, std::min(share / 2, 1.0));
  while (seconds_since(again) < beside) std::this_thread::sleep_for(10ms);
  const double idle_rate = (acked() - acked_1) / seconds_since(again);
  over = true;
  first.join();
  second.join();
  load.stop();
  load.join();
  CHECK(eventually(60s, [&] { return broker.is_empty(queue); }));
  if (campaign) CHECK(rate > 0.9 * idle_rate);
  WARN(sent << (http ? " HTTP" : "") << " requests in " << length << " s with " << share
            << " processors: " << rate
            << " messages/s; beside as much load of another kind: " << idle_rate);

  CHECK(status_of(daemon)["monitor"][0]["pid"] == monitor["pid"]);
  const Json after = group_of(daemon);
  CHECK(after["consumer_pid"] == before["consumer_pid"]);
  CHECK(after["workers"].size() == 1);
  CHECK(pids_in(after) == pids_in(before));
  CHECK(after["connections"] == 1);
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(daemon.all_gone());
}
