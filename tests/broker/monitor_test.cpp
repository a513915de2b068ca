// The monitor of a daemon that works: its metrics, as text and in a Prometheus, and its page in a
// browser.
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "common/clock.h"
#include "common/exit_code.h"
#include "support/broker.h"
#include "support/http.h"
#include "support/lope.h"
#include "support/temp_dir.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;
using Json = nlohmann::json;

namespace {

constexpr const char* kListen = "monitor: { listen: 0 }\n";

int port_of(Lope& daemon) {
  const auto line = daemon.wait_for_line("monitor started");
  REQUIRE(line);
  return std::atoi(line->substr(line->rfind(':') + 1).c_str());
}

// The value of a sample, named with its labels; -1: it is not there.
double sample(const std::string& text, const std::string& name) {
  const std::size_t at = ("\n" + text).find("\n" + name + " ");
  return at == std::string::npos ? -1 : std::strtod(text.c_str() + at + name.size(), nullptr);
}

std::string url_encoded(std::string_view text) {
  std::string encoded;
  for (const char c : text) {
    char hex[4];
    std::snprintf(hex, sizeof hex, "%%%02X", static_cast<unsigned char>(c));
    encoded += hex;
  }
  return encoded;
}

}  // namespace

TEST_CASE("metrics count what was handled, how long it took, and how long it was in its queue",
          "[broker][monitor]") {
  Broker broker;
  const std::string queue = broker.unique_queue("monitor");
  LopeOptions options;
  options.broker = broker.url();
  options.top = kListen;
  options.groups = "  g: { handler: scripted, queue: " + queue +
                   ", declare: {}, workers: 2, retry: { attempts: 2, delay: 0s } }\n";
  Lope daemon(options);
  const int port = port_of(daemon);
  REQUIRE(daemon.wait_ready());

  const std::uint64_t now = unix_ms();
  Publisher publisher = broker.publisher();
  const auto publish = [&](const std::string& body, std::uint64_t timestamp,
                           std::int64_t timestamp_ms) {
    Publication publication{.routing_key = queue, .body = body};
    publication.timestamp = timestamp;
    if (timestamp_ms != 0) {
      publication.typed_headers = {
          {.name = "timestamp_in_ms", .kind = 'l', .number = timestamp_ms}};
    }
    publisher.publish(publication);
  };
  for (int i = 0; i < 20; ++i) publish("sleep:20", 0, 0);  // nobody says
  publish("ack", now / 1000 - 100, 0);
  publish("ack", now / 1000 - 5000, static_cast<std::int64_t>(now) - 1000);
  publish("retry:no luck", now / 1000 - 100, 0);  // counts once
  publish("ack", now / 1000 + 1000, 0);           // a clock that is wrong

  std::string text;
  CHECK(eventually(20s, [&] {
    text = http_get(port, "/metrics").body;
    return sample(text, "lope_messages_acked_total{group=\"g\"}") == 25;
  }));
  CHECK(sample(text, "lope_messages_delivered_total{group=\"g\"}") == 25);
  CHECK(sample(text, "lope_messages_retried_total{group=\"g\"}") == 1);
  CHECK(sample(text, "lope_messages_dead_lettered_total{group=\"g\"}") == 1);
  CHECK(sample(text, "lope_worker_messages_total{group=\"g\",worker=\"0\"}") +
            sample(text, "lope_worker_messages_total{group=\"g\",worker=\"1\"}") ==
        25);
  CHECK(sample(text, "lope_handling_seconds_count{group=\"g\"}") == 25);
  CHECK(sample(text, "lope_handling_seconds_sum{group=\"g\"}") >= 0.4);
  CHECK(sample(text, "lope_handling_seconds_sum{group=\"g\"}") < 4);
  CHECK(sample(text, "lope_handling_seconds_bucket{group=\"g\",le=\"0.016777216\"}") == 5);
  CHECK(sample(text, "lope_time_in_queue_seconds_count{group=\"g\"}") == 4);
  const double waited = sample(text, "lope_time_in_queue_seconds_sum{group=\"g\"}");
  CHECK(waited >= 201 - 2);
  CHECK(waited < 201 + 60);
  CHECK(sample(text,
               "lope_time_in_queue_seconds_bucket{group=\"g\",le=\"8.192000000000001e-06\"}") == 1);
  CHECK(http_get(port, "/readyz").status == 200);

  ProcessOptions input;
  input.standard_input = text;
  const RunResult checked = run({"promtool", "check", "metrics"}, input);
  CHECK(checked.status == exited(0));
  CHECK(checked.output == "");
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("what handlers measure is summed over their workers, the living and the dead",
          "[broker][monitor]") {
  Broker broker;
  const std::string queue = broker.unique_queue("monitor");
  LopeOptions options;
  options.broker = broker.url();
  options.top = kListen;
  options.groups = "  g: { handler: measuring, queue: " + queue +
                   ", declare: {}, workers: 2, threads: 2, crashes: 1 }\n";
  Lope daemon(options);
  const int port = port_of(daemon);
  REQUIRE(daemon.wait_ready());
  std::string text;
  const auto bytes = [&] {
    text = http_get(port, "/metrics").body;
    return sample(text, "lope_handler_bytes_total{group=\"g\"}");
  };
  for (int i = 0; i < 20; ++i) broker.publish(queue, std::string(10, 'x'));
  CHECK(eventually(10s, [&] { return bytes() == 200; }));
  CHECK(sample(text, "lope_handler_pretended_seconds_count{group=\"g\"}") == 20);
  CHECK(sample(text, "lope_handler_pretended_seconds_sum{group=\"g\"}") == Approx(200e-6));
  const double latest = sample(text, "lope_handler_latest_bytes{group=\"g\"}");
  CHECK((latest == 10 || latest == 20));  // of each worker that had a message
  CHECK_THAT(text,
             Contains("# HELP lope_handler_latest_bytes Bytes of the latest  message . # in"));

  broker.publish(queue, "crash");
  CHECK(eventually(10s, [&] { return bytes() == 205; }));
  CHECK(eventually(10s, [&] { return daemon.process().count_lines("worker ready") == 3; }));
  broker.publish(queue, "xxx");
  CHECK(eventually(10s, [&] { return bytes() == 208; }));
  CHECK(run_lope({"restart", "--socket", daemon.control_socket(), "g"}).status == exited(kExitOk));
  CHECK(eventually(10s, [&] { return daemon.process().count_lines("worker ended") == 3; }));
  CHECK(bytes() == 208);
  // Nobody is left who has said anything.
  CHECK(eventually(10s, [&] {
    return bytes() == 208 && sample(text, "lope_handler_latest_bytes{group=\"g\"}") == 0;
  }));
  CHECK(daemon.stop() == exited(kExitOk));
}

TEST_CASE("a Prometheus scrapes the monitor: the alerts and the dashboard find what they look for",
          "[broker][monitor]") {
  Broker broker;
  const std::string queue = broker.unique_queue("monitor");
  LopeOptions options;
  options.broker = broker.url();
  options.top = kListen;
  options.groups = "  g: { handler: scripted, queue: " + queue +
                   ", declare: {} }\n  broken: { handler: no_symbol }\n";
  Lope daemon(options);
  const int port = port_of(daemon);
  REQUIRE(daemon.wait_ready());
  const TempDir dir;
  const std::string config = dir.write(
      "prometheus.yml",
      "global: { scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }\n"
      "rule_files: [" LOPE_SOURCE_DIR
      "/docs/monitoring/alerts.yaml]\n"
      "scrape_configs:\n"
      "  - job_name: lope\n"
      "    static_configs: [{ targets: ['127.0.0.1:" +
          std::to_string(port) + "'] }]\n");
  Process prometheus({"prometheus", "--config.file=" + config,
                      "--storage.tsdb.path=" + dir.file("data"),
                      "--web.listen-address=127.0.0.1:0"});
  const auto listening = prometheus.wait_for_line("msg=\"Listening on\"");
  REQUIRE(listening);
  const int web = std::atoi(listening->substr(listening->rfind(':') + 1).c_str());
  INFO(prometheus.output());
  REQUIRE(web != 0);
  const auto value = [&](const std::string& query) {
    const HttpReply reply = http_get(web, "/api/v1/query?query=" + url_encoded(query));
    const Json json = Json::parse(reply.body, nullptr, false);
    if (!json.is_object() || json["status"] != "success" || json["data"]["result"].empty()) {
      return std::string("nothing");
    }
    return json["data"]["result"][0]["value"][1].get<std::string>();
  };
  for (int i = 0; i < 50; ++i) broker.publish(queue, "ack");
  CHECK(eventually(20s, [&] { return value("lope_messages_acked_total{group=\"g\"}") == "50"; }));
  CHECK(value("up") == "1");
  CHECK(value("sum(lope_group_ready)") == "1");
  CHECK(value("lope_handling_seconds_count{group=\"g\"}") == "50");
  CHECK(eventually(
      20s, [&] { return value("ALERTS{alertname=\"LopeGroupFailed\",group=\"broken\"}") == "1"; }));
  const Json dashboard = Json::parse(read_file(LOPE_SOURCE_DIR "/docs/monitoring/grafana.json"));
  for (const Json& panel : dashboard["panels"]) {
    for (const Json& target : panel["targets"]) {
      std::string query = target["expr"].get<std::string>();
      for (const auto& [variable, text] :
           {std::pair{"$__rate_interval", "1m"}, {"$instance", ".*"}, {"$group", ".*"}}) {
        for (std::size_t at = 0; (at = query.find(variable)) != std::string::npos;) {
          query.replace(at, std::string_view(variable).size(), text);
        }
      }
      INFO(query);
      CHECK(
          eventually(10s, [&] { return value(query) != "nothing"; }));  // a rate needs two scrapes
    }
  }
  CHECK(daemon.stop() == exited(kExitOk));
  CHECK(eventually(20s, [&] { return value("up") == "0"; }));
}

TEST_CASE("the page in a browser", "[broker][monitor]") {
  Broker broker;
  const std::string queue = broker.unique_queue("<b>bold");
  LopeOptions options;
  options.broker = broker.url();
  options.top = kListen;
  options.groups = "  busy: { handler: scripted, queue: '" + queue +
                   "', declare: {}, workers: 2, retry: { attempts: 2, delay: 0s } }\n"
                   "  broken: { handler: no_symbol }\n";
  Lope daemon(options);
  const int port = port_of(daemon);
  REQUIRE(daemon.wait_ready());
  broker.publish(queue, "retry:<img src=x onerror=alert(1)>");
  RatePublisher load(broker.url(), 100, 120s,
                     [&](int) { return Publication{.routing_key = queue, .body = "sleep:1"}; });
  const RunResult browser =
      run({"python3", LOPE_SOURCE_DIR "/tests/support/monitor_page.py",
           "http://127.0.0.1:" + std::to_string(port) + "/", std::to_string(daemon.pid())},
          {}, 90s);
  load.stop();
  load.join();
  INFO(browser.output);
  CHECK(browser.status == exited(0));
  CHECK_THAT(browser.output, Contains("ok: it recovers\n"));
  CHECK(daemon.stop() == exited(kExitOk));
}
