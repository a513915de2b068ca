// The request that carries spans: JSON as OTLP has it.
#include "consumer/otlp.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

using namespace lope::consumer;
using nlohmann::json;

TEST_CASE("a request has ids in hex, times and whole numbers as texts", "[unit][otlp]") {
  Span root;
  root.trace.fill(0xAB);
  root.id.fill(0x01);
  root.name = "receive \"q\"";
  root.start_ns = 1'700'000'000'123'456'789;
  root.end_ns = root.start_ns + 1;
  root.attributes = {{"messaging.system", std::string("rabbitmq")},
                     {"lope.attempt", std::int64_t{2}}};
  Span child = root;
  child.id.fill(0x02);
  child.parent = root.id;
  child.kind = Span::Kind::producer;
  child.attributes.clear();
  child.failed = true;
  child.failure = "no\xff";
  const SpanAttribute resource[] = {{"service.name", std::string("lope")}};
  const Span spans[] = {root, child};
  const json request = json::parse(export_request(resource_json(resource), spans));
  const json& of_resource = request["resourceSpans"][0];
  CHECK(of_resource["resource"]["attributes"] ==
        json::parse(R"([{"key":"service.name","value":{"stringValue":"lope"}}])"));
  CHECK(of_resource["scopeSpans"][0]["scope"]["name"] == "lope");
  const json& all = of_resource["scopeSpans"][0]["spans"];
  REQUIRE(all.size() == 2);
  CHECK(all[0] == json::parse(R"({
    "traceId": "abababababababababababababababab", "spanId": "0101010101010101",
    "name": "receive \"q\"", "kind": 5,
    "startTimeUnixNano": "1700000000123456789", "endTimeUnixNano": "1700000000123456790",
    "attributes": [{"key": "messaging.system", "value": {"stringValue": "rabbitmq"}},
                   {"key": "lope.attempt", "value": {"intValue": "2"}}]})"));
  CHECK(all[1]["parentSpanId"] == "0101010101010101");
  CHECK(all[1]["kind"] == 4);
  CHECK(all[1]["attributes"] == json::array());
  CHECK(all[1]["status"] == json{{"code", 2}, {"message", "no\xEF\xBF\xBD"}});
}
