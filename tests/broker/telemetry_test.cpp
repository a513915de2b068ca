// Spans: what a real collector gets, in which trace, and what it costs when there is none.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/courier.h"
#include "support/log_lines.h"
#include "support/talk.h"

using namespace lope::test;

namespace {

const std::string kTrace = "0af7651916cd43dd8448eb211c80319c";
const std::string kParent = "b7ad6b7169203331";
const std::string kSampled = "00-" + kTrace + "-" + kParent + "-01";
const std::string kUnsampled = "00-" + kTrace + "-" + kParent + "-00";

class Collector {
 public:
  explicit Collector(std::vector<std::string> arguments = {}) {
    arguments.insert(arguments.begin(),
                     {"/usr/bin/python3", LOPE_SOURCE_DIR "/tests/support/otlp_collector.py"});
    process_ = std::make_unique<Process>(std::move(arguments));
    const auto line = process_->wait_for_line("port ", 20s);
    REQUIRE(line);
    port_ = line->substr(5);
  }
  std::string endpoint(const std::string& scheme = "http") const {
    return scheme + "://127.0.0.1:" + port_;
  }
  Process& process() { return *process_; }

  // Of every span so far.
  std::vector<Json> spans() const {
    const std::string output = process_->output();
    CHECK(output.find("bad: ") == std::string::npos);
    std::vector<Json> spans;
    std::size_t begin = 0;
    while (true) {
      const std::size_t end = output.find('\n', begin);
      if (end == std::string::npos) return spans;
      if (output[begin] == '{') spans.push_back(Json::parse(output.substr(begin, end - begin)));
      begin = end + 1;
    }
  }
  std::vector<Json> wait(std::size_t count) const {
    eventually(20s, [&] { return spans().size() >= count; });
    return spans();
  }

 private:
  std::unique_ptr<Process> process_;
  std::string port_;
};

std::string telemetry(const Collector& collector, const std::string& more = {}) {
  return "telemetry: { endpoint: '" + collector.endpoint() + "'" + more + " }\n" + kWithRelay;
}

std::vector<Json> named(const std::vector<Json>& spans, const std::string& beginning) {
  std::vector<Json> found;
  for (const Json& span : spans) {
    if (span["name"].get<std::string>().starts_with(beginning)) found.push_back(span);
  }
  return found;
}

}  // namespace

TEST_CASE("a message's spans are in the trace it came with, and what it publishes too",
          "[broker][telemetry]") {
  Couriered it;
  const Collector collector({"--header", "x-scope=tests"});
  const std::string to = it.broker.make_queue("to");
  Lope lope(
      it.options({}, telemetry(collector, ", service_name: shop, headers: { x-scope: tests }")));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish(
      {.routing_key = it.queue,
       .body = "sleep 20 publish " + to + " 2",
       .message_id = "m",
       .headers = {{"traceparent", kSampled}, {"tracestate", "rojo=1"}, {"x-other", "o"}}});
  const auto got = it.take(to, 2);
  REQUIRE(got.size() == 2);
  const auto spans = collector.wait(4);
  REQUIRE(spans.size() == 4);
  for (const Json& span : spans) CHECK(span["traceId"] == kTrace);
  const auto receive = named(spans, "receive " + it.queue);
  const auto process = named(spans, "process " + it.queue);
  const auto publish = named(spans, "publish " + to);
  REQUIRE(receive.size() == 1);
  REQUIRE(process.size() == 1);
  REQUIRE(publish.size() == 2);
  CHECK(receive[0]["parentSpanId"] == kParent);
  CHECK(receive[0]["kind"] == 5);
  CHECK(receive[0]["resource"]["service.name"] == "shop");
  CHECK(process[0]["parentSpanId"] == receive[0]["spanId"]);
  CHECK(process[0]["error"].is_null());
  const Json attributes = process[0]["attributes"];
  CHECK(attributes["messaging.system"] == "rabbitmq");
  CHECK(attributes["messaging.operation.name"] == "process");
  CHECK(attributes["messaging.operation.type"] == "process");
  CHECK(attributes["messaging.destination.name"] == it.queue);
  CHECK(attributes["messaging.rabbitmq.destination.routing_key"] == it.queue);
  CHECK(attributes["messaging.rabbitmq.message.delivery_tag"] == 1);
  CHECK(attributes["messaging.message.id"] == "m");
  CHECK(attributes["lope.outcome"] == "ack");
  CHECK(process[0]["end"].get<std::int64_t>() - process[0]["start"].get<std::int64_t>() >=
        20'000'000);
  CHECK(receive[0]["start"] <= process[0]["start"]);
  CHECK(process[0]["end"] <= receive[0]["end"]);
  std::set<std::string> contexts;
  for (const Json& span : publish) {
    CHECK(span["parentSpanId"] == process[0]["spanId"]);
    CHECK(span["kind"] == 4);
    CHECK(span["attributes"]["messaging.operation.type"] == "send");
    contexts.insert("00-" + kTrace + "-" + span["spanId"].get<std::string>() + "-01");
  }
  std::set<std::string> carried;
  for (const Received& each : got) {
    carried.insert(each.header("traceparent"));
    CHECK(each.header("tracestate") == "rojo=1");
  }
  CHECK(carried == contexts);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a trace begins here when none came, and goes on over retries and dead letters",
          "[broker][telemetry]") {
  Couriered it;
  const Collector collector;
  Lope lope(it.options("    retry: { attempts: 2, delay: 0s }\n", telemetry(collector)));
  REQUIRE(lope.wait_ready());
  const std::string malformed = GENERATE("", "00-ab", "00-" + kTrace + "-" + kParent + "-01x");
  Publication publication{.routing_key = it.queue, .body = "retry 9 -", .message_id = "m"};
  if (!malformed.empty()) {
    publication.headers = {{"traceparent", malformed}, {"tracestate", "rojo=1"}};
  }
  it.broker.publisher().publish(publication);
  const auto dead = it.take(it.dead(), 1);
  REQUIRE(dead.size() == 1);
  const auto spans = collector.wait(6);
  REQUIRE(spans.size() == 6);
  const std::string trace = spans[0]["traceId"];
  CHECK(trace != kTrace);
  for (const Json& span : spans) CHECK(span["traceId"] == trace);
  const auto receive = named(spans, "receive ");
  const auto process = named(spans, "process ");
  const auto publish = named(spans, "publish ");
  REQUIRE(receive.size() == 2);
  REQUIRE(process.size() == 2);
  REQUIRE(publish.size() == 2);
  CHECK(receive[0]["parentSpanId"].is_null());
  CHECK(receive[1]["parentSpanId"] == process[0]["spanId"]);
  CHECK(publish[0]["attributes"]["lope.kind"] == "retry");
  CHECK(publish[1]["attributes"]["lope.kind"] == "dead_letter");
  CHECK(process[0]["error"] == "the handler asked for it");
  CHECK(process[0]["attributes"]["error.type"] == "retry");
  CHECK(process[1]["attributes"]["error.type"] == "attempts");
  CHECK(process[1]["attributes"]["lope.attempt"] == 2);
  CHECK(dead[0].header("traceparent").find(trace) == 3);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("the publisher's word on sampling counts, and otherwise the share",
          "[broker][telemetry]") {
  Couriered it;
  const Collector collector;
  const std::string to = it.broker.make_queue("to");
  Lope lope(it.options({}, telemetry(collector, ", sample: 0")));
  REQUIRE(lope.wait_ready());
  const auto publish = [&](const std::string& id, const std::string& context) {
    Publication publication{
        .routing_key = it.queue, .body = "publish " + to + " 1", .message_id = id};
    if (!context.empty()) publication.headers = {{"traceparent", context}};
    it.broker.publisher().publish(publication);
  };
  publish("unsampled", kUnsampled);
  publish("own", "");
  publish("sampled", kSampled);
  const auto got = it.take(to, 3);
  REQUIRE(got.size() == 3);
  const auto spans = collector.wait(3);
  CHECK(spans.size() == 3);
  for (const Json& span : spans) CHECK(span["traceId"] == kTrace);
  for (const Received& each : got) {
    const std::string context = each.header("traceparent");
    INFO(each.message_id << " " << context);
    if (each.message_id == "unsampled.0") CHECK(context == kUnsampled);
    if (each.message_id == "own.0") CHECK(context.ends_with("-00"));
    if (each.message_id == "sampled.0") CHECK(context.ends_with("-01"));
  }
  CHECK(lope.stop() == exited(0));
  CHECK(collector.spans().size() == 3);
}

TEST_CASE("a collector that is down, slow or unwilling costs messages nothing",
          "[broker][telemetry]") {
  Couriered it;
  struct Row {
    std::vector<std::string> arguments;
    bool gone;
    std::string said;
  };
  const auto row = GENERATE(values<Row>({
      {{}, true, "connect"},
      {{"--stall"}, false, ""},
      {{"--status", "500"}, false, "the collector answers 500"},
      {{"--status", "503"}, false, "the collector answers 503"},
  }));
  auto collector = std::make_unique<Collector>(row.arguments);
  const std::string top = telemetry(*collector, ", timeout: 20s");
  if (row.gone) collector.reset();
  Lope lope(it.options("    prefetch: 100\n", top));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  publisher.publish_many(500, [&](int i) {
    return Publication{.routing_key = it.queue, .message_id = "m" + std::to_string(i)};
  });
  REQUIRE(eventually(30s, [&] { return group_of(lope)["acked"] == 500; }));
  if (!row.said.empty()) {
    const auto line = lope.wait_for_line("cannot send spans", 30s);
    REQUIRE(line);
    CHECK(line->find(row.said) != std::string::npos);
  } else {
    REQUIRE(collector->process().wait_for_line("stalled", 20s));
  }
  const auto asked = std::chrono::steady_clock::now();
  CHECK(lope.stop() == exited(0));
  CHECK(std::chrono::steady_clock::now() - asked < 15s);
}

TEST_CASE("a collector that nobody vouches for gets no spans", "[broker][telemetry]") {
  Couriered it;
  const TempDir files;
  const std::string key = files.file("key");
  const std::string certificate = files.file("certificate");
  const RunResult made = run({"openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout",
                              key, "-out", certificate, "-subj", "/CN=127.0.0.1", "-days", "2"});
  INFO(made.output);
  REQUIRE(made.status == exited(0));
  const Collector collector({"--tls", certificate, key});
  Lope lope(it.options({}, "telemetry: { endpoint: '" + collector.endpoint("https") + "' }\n" +
                               std::string(kWithRelay)));
  REQUIRE(lope.wait_ready());
  it.publish("ack", "m");
  const auto line = lope.wait_for_line("cannot send spans", 30s);
  REQUIRE(line);
  CHECK(line->find("certificate") != std::string::npos);
  CHECK(lope.stop() == exited(0));
  CHECK(collector.spans().empty());
}

TEST_CASE("spans that a collector could not take at first come when it can",
          "[broker][telemetry]") {
  Couriered it;
  const Collector collector({"--status", "503", "--answers", "1"});
  Lope lope(it.options({}, telemetry(collector)));
  REQUIRE(lope.wait_ready());
  it.publish("ack", "m");
  CHECK(collector.wait(2).size() == 2);
  CHECK(eventually(20s, [&] { return group_of(lope)["spans_sent"] == 2; }));
  CHECK(group_of(lope)["spans_dropped"] == 0);
  it.publish("ack", "last");
  REQUIRE(it.wait_acked("last"));
  CHECK(lope.stop() == exited(0));
  CHECK(collector.spans().size() == 4);  // the last ones at the drain
}
