// A broker that logs us in and then breaks the protocol: its answers are made by hand here.
#include <catch2/catch.hpp>
#include <chrono>
#include <string>

#include "support/amqp_frames.h"
#include "support/lope.h"
#include "support/tcp_server.h"

using namespace lope::test;

namespace {

// All a client waits for up to consuming from one queue.
std::string welcome() {
  const std::string no_table = number(0, 4);
  return method(0, 10, 10,
                number(0, 1) + number(9, 1) + no_table + long_text("PLAIN") +
                    long_text("en_US")) +                                      // connection.start
         method(0, 10, 30, number(0, 2) + number(131072, 4) + number(0, 2)) +  // tune
         method(0, 10, 41, short_text("")) +                                   // open-ok
         method(1, 20, 11, long_text("")) +                                    // channel.open-ok
         method(1, 60, 11, "") +                                               // basic.qos-ok
         method(1, 60, 21, short_text("tag"));                                 // basic.consume-ok
}

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
