// A broker that logs us in and then breaks the protocol: its answers are made by hand here.
#include <catch2/catch.hpp>
#include <chrono>
#include <string>

#include "support/amqp_frames.h"
#include "support/amqp_properties.h"
#include "support/log_lines.h"
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

// ---- The end of a consumer that has acked, in which the queue is to have its acks first

const std::string kBarrierTag = short_text("lope-last-acks");
const std::string kCloseConnection = number(10, 2) + number(50, 2);
const TcpServer::Step kClosed = {kCloseConnection, method(0, 10, 51, "")};
const TcpServer::Step kQos = {method(1, 60, 10, number(0, 4) + number(1, 2) + number(0, 1)),
                              method(1, 60, 11, "")};
const TcpServer::Step kConsumed = {kBarrierTag, method(1, 60, 21, kBarrierTag)};
const TcpServer::Step kCancelled = {method(1, 60, 30, kBarrierTag + number(0, 1)),
                                    method(1, 60, 31, kBarrierTag)};

// A consumer of one message, which it acks; told to stop it cancels. Then `more`.
std::vector<TcpServer::Step> acking(std::vector<TcpServer::Step> more) {
  const std::string consume = number(60, 2) + number(20, 2);
  std::vector<TcpServer::Step> steps = {
      {consume, kConsumeOk + deliver(1, 1, 3) + frame(3, 1, "ack")},
      {method(1, 60, 80, number(1, 8) + number(1, 1)), ""},
      {method(1, 60, 30, short_text("tag") + number(0, 1)), method(1, 60, 31, short_text("tag"))}};
  steps.insert(steps.end(), more.begin(), more.end());
  return steps;
}

// What it says of its last acks; nothing is left to do but to close.
std::vector<std::string> stopped(const TcpServer& server) {
  Lope daemon(group_at(server));
  CHECK(daemon.wait_for_line("] consuming ", 30s));
  const bool acked =
      eventually(10s, [&] { return server.has_received(number(60, 2) + number(80, 2)); });
  CHECK(acked);
  CHECK(daemon.stop(20s) == exited(0));
  INFO(daemon.log());
  CHECK(server.has_received(kCloseConnection));
  return lines_with(daemon.log(), "the last acks may not have arrived");
}

}  // namespace

TEST_CASE("a consumer that has acked closes once its queue has answered behind the acks",
          "[process][protocol]") {
  // The server waits for each before it answers the next; the close is the last.
  const TcpServer server(login_to_consume(), acking({kQos, kConsumed, kCancelled, kQos, kClosed}));
  CHECK(stopped(server).empty());
}

TEST_CASE("a queue that does not answer is not waited for without end", "[process][protocol]") {
  const TcpServer server(login_to_consume(), acking({kQos, {kBarrierTag, ""}, kClosed}));
  const auto lines = stopped(server);
  REQUIRE(lines.size() == 1);
  CHECK_THAT(lines[0], Catch::Contains("queue=g") && Catch::Contains("has not answered in time"));
}

TEST_CASE("a queue that is gone at the end is no trouble, one that is refused is said",
          "[process][protocol]") {
  const int code = GENERATE(404, 403);
  CAPTURE(code);
  const std::string refused = method(1, 20, 40,
                                     number(static_cast<std::uint64_t>(code), 2) +
                                         short_text("REFUSED") + number(60, 2) + number(20, 2));
  const TcpServer server(login_to_consume(), acking({kQos, {kBarrierTag, refused}, kClosed}));
  const auto lines = stopped(server);
  REQUIRE(lines.size() == (code == 404 ? 0 : 1));
  if (code == 403) CHECK_THAT(lines[0], Catch::Contains("403 REFUSED"));
}

TEST_CASE("a queue that is deleted while its last acks are secured is no trouble",
          "[process][protocol]") {
  const std::string gone = method(1, 60, 30, kBarrierTag + number(1, 1));
  const TcpServer server(login_to_consume(),
                         acking({kQos, {kBarrierTag, kConsumed.answer + gone}, kClosed}));
  CHECK(stopped(server).empty());
}

TEST_CASE("a message that comes although none was asked for is handed back",
          "[process][protocol]") {
  const std::string hand_back = method(1, 60, 120, number(2, 8) + number(2, 1));
  const TcpServer server(
      login_to_consume(),
      acking({kQos,
              {kBarrierTag, kConsumed.answer + deliver(1, 2, 3) + frame(3, 1, "ack")},
              {hand_back, ""},
              kCancelled,
              kQos,
              kClosed}));
  CHECK(stopped(server).empty());
}

TEST_CASE("a broker that is too old for delays is told at once", "[process][protocol]") {
  const TcpServer server(login(text_field("version", "3.9.29")));
  Lope daemon(group_at(server));
  const auto line = daemon.wait_for_line("the broker is too old", 30s);
  REQUIRE(line);
  CHECK_THAT(*line, Catch::Contains("found=3.9.29") && Catch::Contains("3.10"));
}

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
