// A broker that logs us in and then breaks the protocol: its answers are made by hand here.
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "support/lope.h"
#include "support/tcp_server.h"

using namespace lope::test;

namespace {

std::string number(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text += static_cast<char>(value >> (8 * i));
  return text;
}

std::string short_text(std::string_view text) { return number(text.size(), 1) + std::string(text); }
std::string long_text(std::string_view text) { return number(text.size(), 4) + std::string(text); }

std::string frame(int type, int channel, const std::string& payload) {
  return number(static_cast<std::uint64_t>(type), 1) +
         number(static_cast<std::uint64_t>(channel), 2) + long_text(payload) + '\xce';
}

std::string method(int channel, int of_class, int id, const std::string& arguments) {
  return frame(1, channel,
               number(static_cast<std::uint64_t>(of_class), 2) +
                   number(static_cast<std::uint64_t>(id), 2) + arguments);
}

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

std::string delivery(std::uint64_t tag) {
  const std::string size_0_no_properties =
      number(60, 2) + number(0, 2) + number(0, 8) + number(0, 2);
  return method(
             1, 60, 60,
             short_text("tag") + number(tag, 8) + number(0, 1) + short_text("") + short_text("q")) +
         frame(2, 1, size_0_no_properties);
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
  const TcpServer server(welcome() + delivery(1) + delivery(3));
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
