// A broker that logs us in and then breaks the protocol: its answers are made by hand here.
#include <catch2/catch.hpp>
#include <chrono>
#include <string>

#include "support/amqp_frames.h"
#include "support/lope.h"
#include "support/tcp_server.h"

using namespace lope::test;

namespace {

const std::string kConsumeOk = method(1, 60, 21, short_text("tag"));

std::string welcome() { return login_to_consume() + kConsumeOk; }

LopeOptions group_at(const TcpServer& server) {
  LopeOptions options;
  options.broker = server.url();
  options.groups = "  g: { handler: scripted }\n";
  return options;
}

}  // namespace

TEST_CASE("delivery tags that do not rise by one end the connection, and are said",
          "[process][protocol]") {
  const TcpServer server(welcome() + deliver(1, 1, 0) + deliver(1, 3, 0));
  Lope daemon(group_at(server));
  const auto line = daemon.wait_for_line("connection lost", 30s);
  REQUIRE(line);
  CHECK(line->find("queue 'g': delivery tag 3 is out of turn") != std::string::npos);
  CHECK(daemon.wait_for_line("] connected ", 30s));  // it tries again
  CHECK(daemon.stop(5s) == exited(0));
}

TEST_CASE("a broker that cuts every connection off after the login is not pestered",
          "[process][protocol]") {
  const std::string close =
      method(0, 10, 50, number(320, 2) + short_text("go away") + number(0, 2) + number(0, 2));
  const TcpServer server(welcome() + close);
  Lope daemon(group_at(server));
  REQUIRE(daemon.wait_for_line("connection lost", 30s));
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(eventually(90s, [&] { return server.accepted() >= 13; }));
  // Twelve pauses that did not grow would be a second altogether; these are some twelve.
  CHECK(std::chrono::steady_clock::now() - start > 2s);
  CHECK(daemon.stop(5s) == exited(0));
}

TEST_CASE("what is finished is settled though the next body does not come to its end",
          "[process][protocol]") {
  const std::string consume = number(60, 2) + number(20, 2);
  const TcpServer server(
      login_to_consume(),
      {{consume, kConsumeOk + deliver(1, 1, 3) + frame(3, 1, "ack") + deliver(1, 2, 200'000) +
                     frame(3, 1, std::string(100'000, 'x'))}});
  Lope daemon(group_at(server));
  const std::string ack = number(60, 2) + number(80, 2) + number(1, 8);
  const bool acked = eventually(10s, [&] { return server.has_received(ack); });
  INFO(daemon.log());
  CHECK(acked);
}
