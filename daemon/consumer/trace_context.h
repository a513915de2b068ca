// W3C trace context: which trace a message belongs to, as it travels in the headers `traceparent`
// and `tracestate`. Pure, but for ids, which are drawn at random.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace lope::consumer {

inline constexpr std::string_view kTraceParent = "traceparent";
inline constexpr std::string_view kTraceState = "tracestate";

using TraceId = std::array<unsigned char, 16>;
using SpanId = std::array<unsigned char, 8>;  // zeros: none

struct TraceContext {
  TraceId trace{};
  SpanId span{};
  bool sampled = false;
  friend bool operator==(const TraceContext&, const TraceContext&) = default;
};

// Nothing: it is not as the specification has it.
std::optional<TraceContext> parse_traceparent(std::string_view text);
std::string to_traceparent(const TraceContext& context);
// Is it a list that may be passed on?
bool is_tracestate(std::string_view text);

// In small letters.
void append_hex(std::string& out, const unsigned char* bytes, std::size_t size);

TraceId random_trace_id();
SpanId random_span_id();
// Is a trace that begins here among this share of all? The same trace has the same answer.
bool is_sampled(const TraceId& trace, double share);

// How a delivery is traced.
struct DeliveryTrace {
  bool recorded = false;  // spans are made of it
  bool began = false;     // it came without a trace, which begins here
  TraceId trace{};
  SpanId parent{};  // who published it; zeros: not known
  SpanId receive{}, process{};
};

}  // namespace lope::consumer
