// Spans, and the request of OpenTelemetry's protocol (OTLP over HTTP, JSON) that carries them.
// Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "consumer/trace_context.h"

namespace lope::consumer {

struct SpanAttribute {
  std::string_view name;  // a constant
  std::variant<std::string, std::int64_t> value;
};

struct Span {
  // The protocol's numbers.
  enum class Kind { producer = 4, consumer = 5 };

  TraceId trace{};
  SpanId id{}, parent{};
  std::string name;
  Kind kind = Kind::consumer;
  std::uint64_t start_ns = 0, end_ns = 0;  // since 1970
  std::vector<SpanAttribute> attributes;
  bool failed = false;
  std::string failure;  // why
};

// The resource's part, the same in every request.
std::string resource_json(std::span<const SpanAttribute> attributes);
// A request of these spans.
std::string export_request(std::string_view resource, std::span<const Span> spans);

}  // namespace lope::consumer
