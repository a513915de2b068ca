#include "consumer/otlp.h"

#include <utility>

#include "common/text.h"

namespace lope::consumer {

namespace {

// Whole numbers of 64 bits are texts there.
void append_number(std::string& out, std::string_view name, std::uint64_t value) {
  out += ",\"";
  out += name;
  out += "\":\"";
  out += std::to_string(value);
  out += '"';
}

template <typename Id>
void append_id(std::string& out, std::string_view name, const Id& id) {
  out += '"';
  out += name;
  out += "\":\"";
  append_hex(out, id.data(), id.size());
  out += '"';
}

void append_attributes(std::string& out, std::span<const SpanAttribute> attributes) {
  out += "\"attributes\":[";
  bool first = true;
  for (const SpanAttribute& attribute : attributes) {
    if (!std::exchange(first, false)) out += ',';
    out += "{\"key\":";
    append_json_text(out, attribute.name);
    if (const auto* const text = std::get_if<std::string>(&attribute.value)) {
      out += ",\"value\":{\"stringValue\":";
      append_json_text(out, *text);
    } else {
      out += ",\"value\":{\"intValue\":\"";
      out += std::to_string(std::get<std::int64_t>(attribute.value));
      out += '"';
    }
    out += "}}";
  }
  out += ']';
}

void append_span(std::string& out, const Span& span) {
  out += '{';
  append_id(out, "traceId", span.trace);
  out += ',';
  append_id(out, "spanId", span.id);
  if (span.parent != SpanId{}) {
    out += ',';
    append_id(out, "parentSpanId", span.parent);
  }
  out += ",\"name\":";
  append_json_text(out, span.name);
  out += ",\"kind\":";
  out += std::to_string(static_cast<int>(span.kind));
  append_number(out, "startTimeUnixNano", span.start_ns);
  append_number(out, "endTimeUnixNano", span.end_ns);
  out += ',';
  append_attributes(out, span.attributes);
  if (span.failed) {
    out += ",\"status\":{\"code\":2,\"message\":";
    append_json_text(out, span.failure);
    out += '}';
  }
  out += '}';
}

}  // namespace

std::string resource_json(std::span<const SpanAttribute> attributes) {
  std::string json = "{";
  append_attributes(json, attributes);
  return json + "}";
}

std::string export_request(std::string_view resource, std::span<const Span> spans) {
  constexpr std::size_t kOneSpan = 1024;  // about
  std::string json;
  json.reserve(resource.size() + spans.size() * kOneSpan);
  json += "{\"resourceSpans\":[{\"resource\":";
  json += resource;
  json += ",\"scopeSpans\":[{\"scope\":{\"name\":\"lope\",\"version\":\"" LOPE_VERSION
          "\"},\"spans\":[";
  for (std::size_t i = 0; i < spans.size(); ++i) {
    if (i > 0) json += ',';
    append_span(json, spans[i]);
  }
  return json + "]}]}]}";
}

}  // namespace lope::consumer
