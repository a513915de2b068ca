#include "common/redis_url.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "common/text.h"

namespace lope {

namespace {

constexpr std::string_view kScheme = "redis://";
constexpr int kMaxDatabase = 65535;

std::optional<int> number(std::string_view text, int min, int max) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < min || value > max) {
    return std::nullopt;
  }
  return value;
}

}  // namespace

Result<RedisUrl> parse_redis_url(std::string_view url) {
  if (url.starts_with("rediss://")) {
    return Error{"URL: 'rediss' is not available: expected redis://"};
  }
  if (!url.starts_with(kScheme)) {
    return Error{
        "URL: expected redis://user:password@host:port/number, found a text that does not start "
        "with 'redis://'"};
  }
  if (std::any_of(url.begin(), url.end(), [](unsigned char c) { return c <= 0x20 || c == 0x7F; })) {
    return Error{"URL: expected no spaces or control characters (a space is written %20)"};
  }
  if (url.find_first_of("?#") != std::string_view::npos) {
    return Error{"URL: expected no '?' and no '#' ('%3F' is '?', '%23' is '#')"};
  }
  std::string_view rest = url.substr(kScheme.size());
  RedisUrl result;
  if (const std::size_t slash = rest.find('/'); slash != std::string_view::npos) {
    const std::string_view path = rest.substr(slash + 1);
    rest = rest.substr(0, slash);
    if (!path.empty()) {
      const auto database = number(path, 0, kMaxDatabase);
      if (!database) {
        return Error{
            "URL: expected the number of a database after the first '/' (in user and password '/' "
            "is written %2F)"};
      }
      result.database = *database;
    }
  }
  if (const std::size_t at = rest.rfind('@'); at != std::string_view::npos) {
    const std::string_view login = rest.substr(0, at);
    rest.remove_prefix(at + 1);
    const std::size_t colon = login.find(':');
    if (colon == std::string_view::npos) {
      return Error{"URL: expected user:password or :password before '@', found no ':'"};
    }
    auto user = percent_decoded(login.substr(0, colon));
    auto password = percent_decoded(login.substr(colon + 1));
    if (!user || !password) {
      return Error{
          "URL: user and password: expected two hexadecimal digits after each '%' ('%25' is '%')"};
    }
    if (user->find('\0') != std::string::npos || password->find('\0') != std::string::npos) {
      return Error{"URL: user and password: expected text, found a NUL character"};
    }
    if (password->empty()) return Error{"URL: expected a password before '@', found none"};
    result.user = std::move(*user);
    result.password = std::move(*password);
  }
  const bool bracketed = rest.starts_with('[');
  const std::size_t end = rest.find(bracketed ? ']' : ':');
  if (bracketed && end == std::string_view::npos) {
    return Error{"URL: expected ']' behind the IPv6 address"};
  }
  result.host = rest.substr(bracketed ? 1 : 0, bracketed ? end - 1 : end);
  if (result.host.empty()) return Error{"URL: expected a host after 'redis://', found none"};
  const auto fits = [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || (bracketed ? c == ':' || c == '%' : c == '_');
  };
  if (!std::all_of(result.host.begin(), result.host.end(), fits)) {
    return Error{"URL: expected a host name of letters, digits, '.', '-' and '_'"};
  }
  std::string_view behind;
  if (end != std::string_view::npos) behind = rest.substr(end + (bracketed ? 1 : 0));
  if (!behind.empty()) {
    const auto port = behind.front() == ':' ? number(behind.substr(1), 1, 65535) : std::nullopt;
    if (!port) return Error{"URL: expected a port from 1 to 65535 after the host's ':'"};
    result.port = *port;
  }
  return result;
}

}  // namespace lope
