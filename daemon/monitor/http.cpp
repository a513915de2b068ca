#include "monitor/http.h"

#include <algorithm>
#include <charconv>

#include "common/text.h"

namespace lope::monitor {

namespace {

constexpr std::string_view kBlanks = " \t";

bool is_token(std::string_view text) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::ranges::all_of(text, [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           kMarks.find(c) != std::string_view::npos;
  });
}

bool same(std::string_view text, std::string_view lower) {
  return std::ranges::equal(text, lower, [](char a, char b) {
    return (a >= 'A' && a <= 'Z' ? static_cast<char>(a - 'A' + 'a') : a) == b;
  });
}

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

// The next line, without its end; it is taken off `text`.
std::string_view next_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

Error wrong(const char* expected, std::string_view found) {
  return Error{std::string("expected ") + expected + ", found '" + escape(found, 80) + "'"};
}

const char* reason_phrase(int status) {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 431: return "Request Header Fields Too Large";
    case 503: return "Service Unavailable";
    default: return "Error";
  }
}

}  // namespace

std::size_t head_length(std::string_view input) {
  std::size_t at = 0;
  while (true) {
    const std::size_t end = input.find('\n', at);
    if (end == std::string_view::npos) return end;
    std::string_view line = input.substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) return end + 1;
    at = end + 1;
  }
}

Result<HttpRequest> parse_request(std::string_view head) {
  HttpRequest request;
  const std::string_view first = next_line(head);
  const std::size_t space = first.find(' ');
  const std::size_t last = first.rfind(' ');
  const std::string_view target =
      space < last ? first.substr(space + 1, last - space - 1) : std::string_view();
  const std::string_view version = space < last ? first.substr(last + 1) : std::string_view();
  const bool printable = std::ranges::all_of(target, [](char c) { return c > ' ' && c < '\x7f'; });
  if (!is_token(first.substr(0, space)) || !target.starts_with('/') || !printable ||
      (version != "HTTP/1.1" && version != "HTTP/1.0")) {
    return wrong("a request, as in 'GET / HTTP/1.1'", first);
  }
  request.method = first.substr(0, space);
  const std::size_t question_mark = target.find('?');
  request.path = target.substr(0, question_mark);
  if (question_mark != std::string_view::npos) request.query = target.substr(question_mark + 1);
  request.keep_alive = version == "HTTP/1.1";

  int hosts = 0;
  while (true) {
    const std::string_view line = next_line(head);
    if (line.empty()) break;
    const std::size_t colon = line.find(':');
    const std::string_view name = line.substr(0, colon);
    if (colon == std::string_view::npos || !is_token(name)) return wrong("a header", line);
    const std::string_view value = trimmed(line.substr(colon + 1));
    if (same(name, "host")) ++hosts;
    if (same(name, "accept")) request.accept = value;
    if (same(name, "connection") && !same(value, "keep-alive")) request.keep_alive = false;
    if (same(name, "transfer-encoding") || (same(name, "content-length") && value != "0")) {
      request.has_body = true;
      request.keep_alive = false;
    }
  }
  if (hosts > 1 || (hosts == 0 && version == "HTTP/1.1")) {
    return wrong("one Host", std::to_string(hosts));
  }
  return request;
}

std::optional<std::string> query_value(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), pair.size() + 1));
    const std::size_t equals = pair.find('=');
    if (pair.substr(0, equals) != name) continue;
    const std::string_view raw =
        equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1);
    std::string value;
    for (std::size_t i = 0; i < raw.size(); ++i) {
      unsigned byte = 0;
      const char* const digits = raw.data() + i + 1;
      if (raw[i] == '%' && i + 2 < raw.size() &&
          std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2) {
        value += static_cast<char>(byte);
        i += 2;
      } else {
        value += raw[i] == '+' ? ' ' : raw[i];
      }
    }
    return value;
  }
  return std::nullopt;
}

std::string to_bytes(const HttpAnswer& answer, bool with_body, bool keep_alive) {
  std::string bytes = "HTTP/1.1 " + std::to_string(answer.status) + " " +
                      reason_phrase(answer.status) + "\r\nContent-Type: " + answer.type +
                      "\r\nContent-Length: " + std::to_string(answer.body.size()) +
                      "\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n";
  for (const auto& [name, value] : answer.headers) bytes += name + ": " + value + "\r\n";
  if (!keep_alive) bytes += "Connection: close\r\n";
  bytes += "\r\n";
  if (with_body) bytes += answer.body;
  return bytes;
}

}  // namespace lope::monitor
