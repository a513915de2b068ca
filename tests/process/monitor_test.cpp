// lope-monitor: what it answers, and that nobody who talks to it, nor its death, harms the daemon.
// Without a broker: the workers are ready and the consumers keep trying.
#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <deque>
#include <nlohmann/json.hpp>
#include <random>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "common/exit_code.h"
#include "support/http.h"
#include "support/lope.h"
#include "support/temp_dir.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;
using Json = nlohmann::json;

namespace {

LopeOptions with_monitor(const std::string& listen = "0") {
  LopeOptions options;
  options.top = "monitor: { listen: '" + listen + "' }\n";
  options.groups =
      "  one: { handler: scripted, workers: 2 }\n"
      "  two: { handler: no_symbol }\n";
  return options;
}

// As the log says it; 0 when it does not.
int port_of(Lope& daemon) {
  const auto line = daemon.wait_for_line("monitor started");
  if (!line) return 0;
  return std::atoi(line->substr(line->rfind(':') + 1).c_str());
}

pid_t monitor_of(const Lope& daemon) {
  const auto pids = descendants_named(daemon.pid(), "lope-monitor");
  return pids.size() == 1 ? pids[0] : 0;
}

bool wait_for_workers(Lope& daemon) {
  return eventually(10s, [&] {
    return daemon.process().count_lines("worker ready") >= 2 &&
           daemon.process().count_lines("group will not be started again") == 1;
  });
}

std::string status_text_of(const Lope& daemon) {
  ProcessOptions options;
  options.env = {{"LOPE_SOCKET", daemon.control_socket()}};
  return run_lope({"status"}, options).output;
}

}  // namespace

TEST_CASE("without monitor.listen there is no monitor", "[process][monitor]") {
  LopeOptions options = with_monitor();
  options.top = "monitor: {}\n";
  Lope daemon(options);
  REQUIRE(wait_for_workers(daemon));
  CHECK(monitor_of(daemon) == 0);
  CHECK(daemon.process().count_lines("monitor started") == 0);
  daemon.stop();
}

TEST_CASE("the monitor answers what it is asked", "[process][monitor]") {
  Lope daemon(with_monitor());
  const int port = port_of(daemon);
  REQUIRE(port != 0);
  REQUIRE(wait_for_workers(daemon));

  const HttpReply page = http_get(port, "/");
  CHECK(page.status == 200);
  CHECK_THAT(page.head, Contains("Content-Type: text/html; charset=utf-8\r\n"));
  CHECK_THAT(page.head, Contains("Content-Security-Policy: default-src 'none'; "));
  CHECK_THAT(page.body, Contains("<!DOCTYPE html>"));
  CHECK(page.body.find("@NONCE@") == std::string::npos);
  CHECK(http_get(port, "/").body != page.body);  // a nonce is used once

  CHECK(http_get(port, "/healthz").status == 200);
  const HttpReply ready = http_get(port, "/readyz");
  CHECK(ready.status == 503);
  CHECK_THAT(ready.body, Contains("group 'one': connecting: broker 127.0.0.1:1: connect: "));
  CHECK_THAT(ready.body, Contains("group 'two': refused: handler '"));

  const HttpReply status = http_get(port, "/api/status");
  CHECK(status.status == 200);
  CHECK_THAT(status.head, Contains("Content-Type: application/json\r\n"));
  const Json json = Json::parse(status.body);
  CHECK(json["pid"] == daemon.pid());
  CHECK(json["groups"][1]["state"] == "refused");
  CHECK(json["monitor"][0]["address"] == "127.0.0.1:" + std::to_string(port));
  CHECK(json["monitor"][0]["pid"] == monitor_of(daemon));
  CHECK_THAT(status_text_of(daemon),
             Contains(", http://127.0.0.1:" + std::to_string(port) + "/\n"));

  const HttpReply plain = http_get(port, "/metrics");
  CHECK_THAT(plain.head, Contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
  CHECK_THAT(plain.body, Contains("lope_group_state{group=\"two\",state=\"refused\"} 1\n"));
  const HttpReply open =
      http_get(port, "/metrics?x", "Accept: application/openmetrics-text; version=1.0.0\r\n");
  CHECK_THAT(open.head, Contains("Content-Type: application/openmetrics-text; version=1.0.0"));
  CHECK_THAT(open.body, Catch::EndsWith("# EOF\n"));

  CHECK(http_get(port, "/metrics/").status == 404);
  CHECK(http_get(port, "/../etc/passwd").status == 404);

  HttpClient client(port);  // one after another on one connection, the second sent ahead
  REQUIRE(client.say(
      "HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"));
  const HttpReply head = client.hear(false);
  CHECK_THAT(head.head, Contains("Content-Length: 6\r\n"));
  CHECK(client.hear().body == "alive\n");
  REQUIRE(client.say("DELETE /api/status HTTP/1.1\r\nHost: a\r\n\r\n"));
  const HttpReply refused = client.hear();
  CHECK(refused.status == 405);
  CHECK_THAT(refused.head, Contains("Allow: GET, HEAD\r\n"));
  REQUIRE(client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"));
  CHECK(client.hear().status == 405);
  CHECK(client.ended());
  HttpClient with_body(port);
  REQUIRE(with_body.say("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"));
  CHECK(with_body.hear().status == 400);
  HttpClient large(port);
  (void)large.say("GET / HTTP/1.1\r\nHost: " + std::string(20'000, 'a'));
  CHECK(large.hear().status == 431);
  CHECK(large.ended());
  daemon.stop();
}

TEST_CASE("a port that is taken is told, tried again, and harms nobody", "[process][monitor]") {
  Lope first(with_monitor());
  const int port = port_of(first);
  REQUIRE(port != 0);
  const std::string address = "127.0.0.1:" + std::to_string(port);
  Lope second(with_monitor(std::to_string(port)));
  REQUIRE(wait_for_workers(second));
  CHECK(second.wait_for_line("monitor to be started again address=" + address + " reason=\"bind " +
                             address + ": Address already in use\""));
  CHECK_THAT(status_text_of(second), Contains("(monitor): does not serve " + address + ": bind " +
                                              address + ": Address already in use\n"));
  REQUIRE(first.stop());
  CHECK(second.wait_for_line("monitor started", 40s));
  CHECK(eventually(10s, [&] { return http_get(port, "/healthz").status == 200; }));
  CHECK(second.process().count_lines("warn  lope[") ==
        1 + second.process().count_lines("warn  lope[" + std::to_string(second.pid()) +
                                         "] consumer"));  // it was said once
  second.stop();
}

TEST_CASE("a monitor that dies is started again, on the same port", "[process][monitor]") {
  Lope daemon(with_monitor());
  const int port = port_of(daemon);
  REQUIRE(port != 0);
  REQUIRE(wait_for_workers(daemon));
  const auto consumers = daemon.consumers();
  const auto workers = daemon.workers();
  const pid_t monitor = monitor_of(daemon);
  REQUIRE(monitor != 0);
  REQUIRE(::kill(monitor, SIGKILL) == 0);
  CHECK(daemon.wait_for_line("reason=\"the monitor ended: SIGKILL\""));
  CHECK(eventually(10s, [&] { return http_get(port, "/healthz").status == 200; }));
  CHECK(monitor_of(daemon) != monitor);
  CHECK(daemon.consumers() == consumers);
  CHECK(daemon.workers() == workers);
  daemon.stop();
}

TEST_CASE(
    "signals to the group are not for the monitor: it serves while the groups drain, and ends "
    "with the daemon",
    "[process][monitor]") {
  Lope daemon(with_monitor());
  const int port = port_of(daemon);
  REQUIRE(port != 0);
  REQUIRE(wait_for_workers(daemon));
  const pid_t monitor = monitor_of(daemon);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGPIPE}) {
    INFO(signal);
    REQUIRE(::kill(monitor, signal) == 0);
    CHECK(http_get(port, "/healthz").status == 200);
  }
  CHECK(monitor_of(daemon) == monitor);
  // A consumer that does not hear keeps the drain from being over.
  const pid_t consumer = daemon.consumers().front();
  REQUIRE(::kill(consumer, SIGSTOP) == 0);
  daemon.process().signal_group(SIGTERM);
  CHECK(eventually(
      10s, [&] { return http_get(port, "/readyz").body.starts_with("the daemon is stopping\n"); }));
  REQUIRE(::kill(consumer, SIGCONT) == 0);
  CHECK(daemon.process().wait_exit().has_value());
  CHECK(daemon.all_gone());
}

TEST_CASE("the monitor gets no password", "[process][monitor]") {
  LopeOptions options = with_monitor();
  options.broker = "{ url: 'amqp://app@127.0.0.1:1', password: { env: LOPE_TEST_SECRET } }";
  options.env = {{"LOPE_TEST_SECRET", "hunter2"}};
  Lope daemon(options);
  REQUIRE(port_of(daemon) != 0);
  const std::string process = "/proc/" + std::to_string(monitor_of(daemon));
  const std::string environment = read_file(process + "/environ");
  CHECK_THAT(environment, Contains("PATH="));
  CHECK(environment.find("hunter2") == std::string::npos);
  CHECK(read_file(process + "/cmdline").find("hunter2") == std::string::npos);
  daemon.stop();
}

TEST_CASE("who stalls does not keep others from being served", "[process][monitor]") {
  Lope daemon(with_monitor());
  const int port = port_of(daemon);
  REQUIRE(port != 0);
  std::deque<HttpClient> stalling;
  for (int i = 0; i < 300; ++i) {
    stalling.emplace_back(port).say(i % 3 == 0   ? ""
                                    : i % 3 == 1 ? "GET / HT"
                                                 : "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
  }
  for (int i = 0; i < 20; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    CHECK(http_get(port, "/healthz").status == 200);
    CHECK(std::chrono::steady_clock::now() - begin < 2s);
  }
  CHECK(stalling.front().ended());  // it made room
  daemon.stop();
}

TEST_CASE("while the daemon does not answer the monitor says so", "[process][monitor]") {
  Lope daemon(with_monitor());
  const int port = port_of(daemon);
  REQUIRE(port != 0);
  REQUIRE(eventually(10s, [&] { return http_get(port, "/healthz").status == 200; }));
  REQUIRE(::kill(daemon.pid(), SIGSTOP) == 0);
  HttpReply reply;
  CHECK(eventually(10s, [&] { return (reply = http_get(port, "/healthz")).status == 503; }));
  CHECK(reply.body == "the daemon has not answered within 2000 ms\n");
  CHECK(http_get(port, "/").status == 200);  // it will say so itself
  REQUIRE(::kill(daemon.pid(), SIGCONT) == 0);
  CHECK(eventually(10s, [&] { return http_get(port, "/healthz").status == 200; }));
  daemon.stop();
}

TEST_CASE("the alert rules fire where they have to, and not elsewhere", "[process][monitor]") {
  for (const RunResult& result :
       {run({"promtool", "check", "rules", LOPE_SOURCE_DIR "/docs/monitoring/alerts.yaml"}),
        run({"promtool", "test", "rules", LOPE_SOURCE_DIR "/tests/monitoring/alerts_test.yaml"})}) {
    INFO(result.output);
    CHECK(result.status == exited(0));
  }
}

TEST_CASE("every metric that the documents name is there", "[process][monitor]") {
  Lope daemon(with_monitor());
  const int port = port_of(daemon);
  REQUIRE(port != 0);
  REQUIRE(wait_for_workers(daemon));
  // An answer that is a moment old is used again.
  std::string metrics;
  REQUIRE(eventually(10s, [&] {
    metrics = http_get(port, "/metrics").body;
    return metrics.find("\nlope_worker_uptime_seconds") != std::string::npos;
  }));
  for (const char* const file :
       {"/docs/monitoring.md", "/docs/monitoring/alerts.yaml", "/docs/monitoring/grafana.json"}) {
    const std::string text = read_file(std::string(LOPE_SOURCE_DIR) + file);
    const std::regex name("\\blope_(?!handler_<)[a-z_]+[a-z]");
    // Of a group that is with a broker, which is more than this one is.
    static const std::set<std::string> kWithBroker = {"lope_group_broker_info",
                                                      "lope_stream_next_offset"};
    int names = 0;
    for (std::sregex_iterator it(text.begin(), text.end(), name), end; it != end; ++it, ++names) {
      if (kWithBroker.contains(it->str())) continue;
      INFO(file << ": " << it->str());
      CHECK(metrics.find("\n" + it->str()) != std::string::npos);
    }
    CHECK(names > 10);
  }
  CHECK(Json::parse(read_file(LOPE_SOURCE_DIR "/docs/monitoring/grafana.json"))["panels"].size() >
        10);
  daemon.stop();
}

// LOPE_FUZZ=100000 for more.
TEST_CASE("no request, however broken, harms anybody", "[process][monitor]") {
  Lope daemon(with_monitor());
  const int port = port_of(daemon);
  REQUIRE(port != 0);
  REQUIRE(wait_for_workers(daemon));
  const auto consumers = daemon.consumers();
  const pid_t monitor = monitor_of(daemon);
  const char* const more = std::getenv("LOPE_FUZZ");
  const int requests = more == nullptr ? 3000 : std::atoi(more);
  const std::vector<std::string> seeds = {
      "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
      "GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text\r\n\r\n",
      "POST /api/status HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
      "HEAD /readyz?a=b HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"};
  std::mt19937 random(4711);  // NOLINT(cert-msc51-cpp): the same each time
  const auto below = [&](std::size_t limit) { return random() % limit; };
  for (int i = 0; i < requests; ++i) {
    std::string request = seeds[below(seeds.size())];
    for (std::size_t changes = below(6); changes > 0; --changes) {
      const std::size_t at = below(request.size() + 1);
      switch (below(5)) {
        case 0: request.insert(at, 1, static_cast<char>(random())); break;
        case 1: request.erase(at, below(8)); break;
        case 2: request.insert(at, request.substr(0, below(200))); break;
        case 3: request.insert(at, below(50) == 0 ? 20'000 : 3, "\r\n :/%"[below(6)]); break;
        default: request.resize(at);
      }
    }
    HttpClient client(port);
    (void)client.say(request);
    if (below(20) == 0) (void)client.hear(true, 50ms);  // not always: some go at once
  }
  CHECK(http_get(port, "/healthz").status == 200);
  CHECK(monitor_of(daemon) == monitor);
  CHECK(daemon.consumers() == consumers);
  CHECK(daemon.process().count_lines("monitor to be started again") == 0);
  daemon.stop();
}
