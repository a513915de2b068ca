// W3C trace context: what counts as one, and which traces are recorded.
#include "consumer/trace_context.h"

#include <catch2/catch.hpp>

using namespace lope::consumer;

namespace {

const std::string kTrace = "0af7651916cd43dd8448eb211c80319c";
const std::string kSpan = "b7ad6b7169203331";

}  // namespace

TEST_CASE("traceparent is taken as the specification has it, or not at all",
          "[unit][trace_context]") {
  const auto [text, valid, sampled] = GENERATE_COPY(table<std::string, bool, bool>({
      {"00-" + kTrace + "-" + kSpan + "-01", true, true},
      {"00-" + kTrace + "-" + kSpan + "-00", true, false},
      {"00-" + kTrace + "-" + kSpan + "-ff", true, true},
      {"00-" + kTrace + "-" + kSpan + "-02", true, false},
      {"cc-" + kTrace + "-" + kSpan + "-01", true, true},
      {"cc-" + kTrace + "-" + kSpan + "-01-what-comes-later", true, true},
      {"cc-" + kTrace + "-" + kSpan + "-01.", false, false},
      {"00-" + kTrace + "-" + kSpan + "-01-more", false, false},
      {"00-" + kTrace + "-" + kSpan + "-01 ", false, false},
      {" 00-" + kTrace + "-" + kSpan + "-01", false, false},
      {"ff-" + kTrace + "-" + kSpan + "-01", false, false},
      {"0-" + kTrace + "-" + kSpan + "-01", false, false},
      {"00-" + kTrace + "-" + kSpan + "-1", false, false},
      {"00-" + kTrace + "-" + kSpan, false, false},
      {"00-0AF7651916CD43DD8448EB211C80319C-" + kSpan + "-01", false, false},
      {"00-" + kTrace.substr(1) + "g-" + kSpan + "-01", false, false},
      {"00-" + std::string(32, '0') + "-" + kSpan + "-01", false, false},
      {"00-" + kTrace + "-0000000000000000-01", false, false},
      {"00_" + kTrace + "-" + kSpan + "-01", false, false},
      {"00-ab", false, false},
      {"", false, false},
  }));
  INFO(text);
  const auto context = parse_traceparent(text);
  REQUIRE(context.has_value() == valid);
  if (!valid) return;
  CHECK(context->sampled == sampled);
  CHECK(to_traceparent(*context) == "00-" + kTrace + "-" + kSpan + (sampled ? "-01" : "-00"));
}

TEST_CASE("tracestate is passed on only if it is a list of states", "[unit][trace_context]") {
  const auto [text, valid] = GENERATE(table<std::string, bool>({
      {"rojo=00f067aa0ba902b7", true},
      {"rojo=1,congo=t61rcWkgMzE", true},
      {"rojo=1 , congo=2", true},
      {"tenant@vendor=a b", true},
      {"rojo=1,,congo=2", true},
      {"", false},
      {",", false},
      {"rojo", false},
      {"=1", false},
      {"Rojo=1", false},
      {"rojo=", false},
      {"rojo=a=b", false},
      {"rojo=\x01", false},
      {"rojo=\xc3\xbc", false},
  }));
  INFO(text);
  CHECK(is_tracestate(text) == valid);
  std::string many = "a=1";
  for (int i = 1; i < 32; ++i) many += ",a" + std::to_string(i) + "=1";
  CHECK(is_tracestate(many));
  CHECK_FALSE(is_tracestate(many + ",b=1"));
}

TEST_CASE("a share of all traces is recorded, and each always or never", "[unit][trace_context]") {
  const TraceId none{};
  TraceId most;
  most.fill(0xFF);
  CHECK_FALSE(is_sampled(none, 0));
  CHECK(is_sampled(none, 0.0001));
  CHECK_FALSE(is_sampled(most, 0.9999));
  CHECK(is_sampled(most, 1));
  int sampled = 0;
  for (int i = 0; i < 4000; ++i) {
    const TraceId trace = random_trace_id();
    CHECK(is_sampled(trace, 0.25) == is_sampled(trace, 0.25));
    CHECK(is_sampled(trace, 1));
    sampled += is_sampled(trace, 0.25) ? 1 : 0;
  }
  CHECK(sampled > 800);
  CHECK(sampled < 1200);
}

TEST_CASE("ids are not drawn twice", "[unit][trace_context]") {
  CHECK(random_trace_id() != random_trace_id());
  SpanId last{};
  for (int i = 0; i < 100; ++i) {
    const SpanId next = random_span_id();
    CHECK(next != last);
    CHECK(next != SpanId{});
    last = next;
  }
}
