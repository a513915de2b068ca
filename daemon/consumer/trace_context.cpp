#include "consumer/trace_context.h"

#include <sys/random.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>

namespace lope::consumer {

namespace {

// version-trace-span-flags
constexpr std::size_t kTraceAt = 3;
constexpr std::size_t kSpanAt = 36;
constexpr std::size_t kFlagsAt = 53;
constexpr std::size_t kLength = 55;
constexpr unsigned kSampled = 1;
constexpr std::size_t kMostStates = 32;

// -1: not one, or a capital letter.
int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool read_hex(std::string_view text, unsigned char* bytes) {
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = hex_digit(text[i]);
    const int low = hex_digit(text[i + 1]);
    if (high < 0 || low < 0) return false;
    bytes[i / 2] = static_cast<unsigned char>(high * 16 + low);
  }
  return true;
}

template <typename Id>
bool is_zero(const Id& id) {
  return std::ranges::all_of(id, [](unsigned char byte) { return byte == 0; });
}

template <typename Id>
Id draw() {
  // Many at a time: each would be a system call.
  constexpr std::size_t kDrawn = 256;  // the most that is never interrupted
  thread_local std::array<unsigned char, kDrawn> drawn;
  thread_local std::size_t used = kDrawn;
  Id id;
  do {
    if (used + id.size() > kDrawn) {
      if (::getrandom(drawn.data(), kDrawn, 0) != static_cast<ssize_t>(kDrawn)) std::abort();
      used = 0;
    }
    std::copy_n(drawn.begin() + static_cast<std::ptrdiff_t>(used), id.size(), id.begin());
    used += id.size();
  } while (is_zero(id));
  return id;
}

bool is_state(std::string_view member) {
  const std::size_t equals = member.find('=');
  if (equals == 0 || equals == std::string_view::npos || equals > 256) return false;
  const std::string_view key = member.substr(0, equals);
  const std::string_view value = member.substr(equals + 1);
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return is_letter(key.front()) &&
         std::ranges::all_of(key,
                             [&](char c) {
                               return is_letter(c) ||
                                      std::string_view("_-*/@").find(c) != std::string_view::npos;
                             }) &&
         !value.empty() && value.size() <= 256 && value.back() != ' ' &&
         std::ranges::all_of(value, [](char c) { return c >= ' ' && c <= '~' && c != '='; });
}

}  // namespace

std::optional<TraceContext> parse_traceparent(std::string_view text) {
  TraceContext context;
  unsigned char version = 0;
  unsigned char flags = 0;
  if (text.size() < kLength || text[kTraceAt - 1] != '-' || text[kSpanAt - 1] != '-' ||
      text[kFlagsAt - 1] != '-' || !read_hex(text.substr(0, 2), &version) ||
      !read_hex(text.substr(kTraceAt, 32), context.trace.data()) ||
      !read_hex(text.substr(kSpanAt, 16), context.span.data()) ||
      !read_hex(text.substr(kFlagsAt, 2), &flags)) {
    return std::nullopt;
  }
  // A later version may go on behind another dash; there is none of 255.
  const bool ends = text.size() == kLength || (version > 0 && text[kLength] == '-');
  if (version == 0xFF || !ends || is_zero(context.trace) || is_zero(context.span)) {
    return std::nullopt;
  }
  context.sampled = (flags & kSampled) != 0;
  return context;
}

void append_hex(std::string& out, const unsigned char* bytes, std::size_t size) {
  constexpr char kHex[] = "0123456789abcdef";
  for (std::size_t i = 0; i < size; ++i) {
    out += kHex[bytes[i] >> 4];
    out += kHex[bytes[i] & 0x0F];
  }
}

std::string to_traceparent(const TraceContext& context) {
  std::string text;
  text.reserve(kLength);
  text += "00-";
  append_hex(text, context.trace.data(), context.trace.size());
  text += '-';
  append_hex(text, context.span.data(), context.span.size());
  text += context.sampled ? "-01" : "-00";
  return text;
}

bool is_tracestate(std::string_view text) {
  std::size_t members = 0;
  while (true) {
    const std::size_t comma = text.find(',');
    std::string_view member = text.substr(0, comma);
    const auto is_blank = [](char c) { return c == ' ' || c == '\t'; };
    while (!member.empty() && is_blank(member.front())) member.remove_prefix(1);
    while (!member.empty() && is_blank(member.back())) member.remove_suffix(1);
    if (!member.empty() && (!is_state(member) || ++members > kMostStates)) return false;
    if (comma == std::string_view::npos) return members > 0;
    text.remove_prefix(comma + 1);
  }
}

TraceId random_trace_id() { return draw<TraceId>(); }
SpanId random_span_id() { return draw<SpanId>(); }

bool is_sampled(const TraceId& trace, double share) {
  // The last seven bytes are the ones that are sure to be random.
  constexpr std::size_t kFirst = 9;
  std::uint64_t number = 0;
  for (std::size_t i = kFirst; i < trace.size(); ++i) number = number << 8 | trace[i];
  // As many bits of them as a double holds.
  return static_cast<double>(number >> 3) < std::ldexp(share, 53);
}

}  // namespace lope::consumer
