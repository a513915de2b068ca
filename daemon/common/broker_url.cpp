#include "common/broker_url.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <string>

#include "common/text.h"

namespace lope {

namespace {

constexpr std::string_view kScheme = "amqp://";
constexpr std::string_view kSchemeOfTls = "amqps://";
constexpr int kPortOfTls = 5671;

// AMQP's short strings hold no more.
constexpr std::size_t kMaxName = 255;

bool is_alnum(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool starts_without_case(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() &&
         std::equal(prefix.begin(), prefix.end(), text.begin(),
                    [](char a, char b) { return a == (b >= 'A' && b <= 'Z' ? b + 32 : b); });
}

// `what` names the part: its text may be a secret.
Result<std::string> decode(std::string_view text, const std::string& what) {
  auto result = percent_decoded(text);
  if (!result) {
    return Error{"URL: " + what +
                 ": expected two hexadecimal digits after each '%' ('%25' is '%')"};
  }
  if (result->find('\0') != std::string::npos) {
    return Error{"URL: " + what + ": expected text, found a NUL character"};
  }
  if (first_invalid_utf8(*result) != std::string::npos) {
    return Error{"URL: " + what + ": expected UTF-8, found other bytes"};
  }
  if (result->size() > kMaxName) {
    return Error{"URL: " + what + ": expected at most 255 bytes, found " +
                 std::to_string(result->size())};
  }
  return std::move(*result);
}

Result<int> parse_port(std::string_view text) {
  int port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc{} || end != text.data() + text.size() || port < 1 || port > 65535) {
    return Error{"URL: expected a port from 1 to 65535 after the host's ':'"};
  }
  return port;
}

// Without the brackets.
Result<std::string> parse_host(std::string_view text, bool bracketed) {
  const std::string host(text);
  if (bracketed) {
    in6_addr address{};
    if (::inet_pton(AF_INET6, host.c_str(), &address) != 1) {
      return Error{"URL: expected an IPv6 address inside '[' and ']'"};
    }
    return host;
  }
  if (host.empty()) return Error{"URL: expected a host after '://', found none"};
  const auto fits = [](char c) { return is_alnum(c) || c == '-' || c == '.' || c == '_'; };
  if (host.size() > kMaxName || !std::all_of(host.begin(), host.end(), fits)) {
    return Error{
        "URL: expected a host name of letters, digits, '.', '-' and '_' (an IPv6 address stands in "
        "brackets; in user and password '@' is written %40, ':' %3A and '/' %2F)"};
  }
  return host;
}

}  // namespace

Result<BrokerUrl> parse_broker_url(std::string_view url) {
  const bool tls = starts_without_case(url, kSchemeOfTls);
  if (!tls && !starts_without_case(url, kScheme)) {
    return Error{
        "URL: expected amqp://user:password@host:port/vhost, or amqps://… for TLS, found a text "
        "that does not start with 'amqp://' or 'amqps://'"};
  }
  if (std::any_of(url.begin(), url.end(), [](unsigned char c) { return c <= 0x20 || c == 0x7F; })) {
    return Error{"URL: expected no spaces or control characters (a space is written %20)"};
  }
  std::string_view rest = url.substr((tls ? kSchemeOfTls : kScheme).size());
  if (rest.find('#') != std::string_view::npos) {
    return Error{"URL: expected no '#' ('%23' is '#')"};
  }
  if (rest.find('?') != std::string_view::npos) {
    return Error{"URL: expected no '?' (its parameters are keys of 'broker' here; '%3F' is '?')"};
  }

  BrokerUrl result;
  result.address.tls = tls;
  if (tls) result.address.port = kPortOfTls;
  const std::size_t slash = rest.find('/');
  std::string_view authority = rest.substr(0, slash);
  if (slash != std::string_view::npos) {
    const std::string_view path = rest.substr(slash + 1);
    // A password with a bare '/' in it looks like this too.
    if (path.find('@') != std::string_view::npos) {
      return Error{
          "URL: expected no '@' behind the first '/' (in user and password '/' is written "
          "%2F, in the vhost '@' %40)"};
    }
    if (path.find('/') != std::string_view::npos) {
      return Error{"URL: expected one '/' before the vhost (in the vhost '/' is written %2F)"};
    }
    auto vhost = decode(path, "vhost");
    if (!vhost) return Error{vhost.error()};
    result.address.vhost = std::move(*vhost);
  }

  if (const std::size_t at = authority.rfind('@'); at != std::string_view::npos) {
    const std::string_view login = authority.substr(0, at);
    authority.remove_prefix(at + 1);
    if (login.find('@') != std::string_view::npos) {
      return Error{
          "URL: expected one '@', before the host (in user and password '@' is written %40)"};
    }
    const std::size_t colon = login.find(':');
    auto user = decode(login.substr(0, colon), "user");
    if (!user) return Error{user.error()};
    if (user->empty()) return Error{"URL: expected a user before '@', found none"};
    result.address.user = std::move(*user);
    result.has_user = true;
    if (colon != std::string_view::npos) {
      auto password = decode(login.substr(colon + 1), "password");
      if (!password) return Error{password.error()};
      result.address.password = std::move(*password);
      result.has_password = true;
    }
  }

  const bool bracketed = authority.starts_with('[');
  const std::size_t host_end = bracketed ? authority.find(']') : authority.find(':');
  if (bracketed && host_end == std::string_view::npos) {
    return Error{"URL: expected ']' behind the IPv6 address"};
  }
  auto host = parse_host(
      bracketed ? authority.substr(1, host_end - 1) : authority.substr(0, host_end), bracketed);
  if (!host) return Error{host.error()};
  result.address.host = std::move(*host);

  std::string_view behind;
  if (host_end != std::string_view::npos) behind = authority.substr(host_end + (bracketed ? 1 : 0));
  if (!behind.empty()) {
    if (behind.front() != ':') return Error{"URL: expected ':' or '/' behind the host"};
    const auto port = parse_port(behind.substr(1));
    if (!port) return Error{port.error()};
    result.address.port = *port;
  }
  return result;
}

}  // namespace lope
