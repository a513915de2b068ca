#include "settings.hpp"

#include <curl/curl.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "../common/option_units.hpp"

namespace lope::http {

namespace {

using plugins::MessageTemplate;

// How the request itself is to be read, and who sends it: of no message.
constexpr const char* kNeverPassed[] = {
    "authorization",    "connection", "content-length", "content-type",
    "content-encoding", "cookie",     "expect",         "host",
    "keep-alive",       "te",         "trailer",        "proxy-authorization",
    "proxy-connection", "upgrade",    "x-message-id",   "transfer-encoding"};
// Those that libcurl makes itself, whatever is configured.
constexpr std::string_view kNeverConfigured[] = {"connection", "content-length", "expect",
                                                 "transfer-encoding"};

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

// RFC 9110: a header's name, or a method.
bool is_token(std::string_view text) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::all_of(text.begin(), text.end(), [kMarks](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           kMarks.find(c) != std::string_view::npos;
  });
}

InvalidConfiguration wrong(const std::string& option, const std::string& expected,
                           const std::string& found) {
  return InvalidConfiguration("option '" + option + "': expected " + expected + ", found '" +
                              found + "'");
}

MessageTemplate template_option(const Host& host, const char* name) {
  return MessageTemplate::parse(name, host.option_as<std::string>(name));
}

template <typename T>
T number_option(const Host& host, const char* name, T least, T most) {
  const T value = host.option_as<T>(name);
  if (value >= least && value <= most) return value;
  throw wrong(name, "a number from " + std::to_string(least) + " to " + std::to_string(most),
              std::to_string(value));
}

std::string header_option(const Host& host, const char* name) {
  const auto header = host.option_as<std::string>(name);
  if (!header.empty() && !is_token(header)) throw wrong(name, "a name of a header", header);
  return header;
}

std::string file_option(const Host& host, const char* name) {
  const auto path = host.option_as<std::string>(name);
  if (!path.empty() && ::access(path.c_str(), R_OK) != 0) {
    throw wrong(name, "a file that can be read", path);
  }
  return path;
}

// User, host and port.
std::string_view authority_of(std::string_view url) {
  url.remove_prefix(url.find("://") + 3);
  return url.substr(0, url.find_first_of("/?#"));
}

MessageTemplate url_option(const Host& host) {
  const auto text = host.option_as<std::string>("url");
  const std::string begin = lower(text.substr(0, 8));
  if (begin != "https://" && begin.substr(0, 7) != "http://") {
    throw wrong("url", "a URL that begins with http:// or https://", text);
  }
  MessageTemplate url = MessageTemplate::parse("url", text);
  if (authority_of(text).find('{') != std::string_view::npos) {
    throw wrong("url", "a host, and a port, that no message chooses", text);
  }
  if (!url.is_constant()) {  // each is looked at when it is there
    if (has_dot_segment(text)) throw wrong("url", "no '.' and '..' as a part of its path", text);
    return url;
  }
  struct UrlDelete {
    void operator()(CURLU* parsed) const { curl_url_cleanup(parsed); }
  };
  const std::unique_ptr<CURLU, UrlDelete> parsed(curl_url());
  const CURLUcode code = curl_url_set(parsed.get(), CURLUPART_URL, text.c_str(), 0);
  if (code != CURLUE_OK) {
    throw wrong("url", "a URL (" + std::string(curl_url_strerror(code)) + ")", text);
  }
  return url;
}

// message_id: X-Message-Id.
std::string header_of_property(std::string_view name) {
  std::string header = "X-";
  for (const char c : name) {
    const bool begins = header.back() == '-';
    if (c == '_') {
      header += '-';
    } else {
      header += begins && c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    }
  }
  return header;
}

}  // namespace

bool has_dot_segment(std::string_view url) {
  const std::size_t begin = url.find_first_of("/?#", url.find("://") + 3);
  if (begin == std::string_view::npos) return false;
  std::string_view path = url.substr(begin);
  path = path.substr(0, path.find_first_of("?#"));
  while (!path.empty()) {
    path.remove_prefix(1);
    const std::string_view segment = path.substr(0, path.find('/'));
    if (segment == "." || segment == "..") return true;
    path.remove_prefix(segment.size());
  }
  return false;
}

Settings::Settings(const Host& host)
    : url(url_option(host)),
      https(lower(host.option_as<std::string>("url")).substr(0, 6) == "https:"),
      method(host.option_as<std::string>("method")),
      content_type(host.option_as<std::string>("content_type")),
      timeout(plugins::duration_option(host, "timeout")),
      connect_timeout(plugins::duration_option(host, "connect_timeout")),
      drain_timeout(plugins::duration_option(host, "drain_timeout")),
      min_retry_after(plugins::duration_option(host, "min_retry_after")),
      max_retry_after(plugins::duration_option(host, "max_retry_after")),
      max_in_flight(number_option<std::size_t>(host, "max_in_flight", 1, 100'000)),
      max_answer(plugins::size_option(host, "max_answer")),
      follow_redirects(number_option<long>(host, "follow_redirects", 0, 50)),
      http2(host.option_as<bool>("http2")),
      proxy(host.option_as<std::string>("proxy")),
      ca(file_option(host, "tls.ca")),
      certificate(file_option(host, "tls.certificate")),
      key(file_option(host, "tls.key")),
      bearer(Secret::from_options(host, "bearer")),
      signature(Secret::from_options(host, "signature")),
      signature_header(header_option(host, "signature.header")),
      timestamp_header(header_option(host, "signature.timestamp_header")),
      answer_exchange(template_option(host, "answer.exchange")),
      answer_key(template_option(host, "answer.routing_key")),
      publishes(!answer_exchange.empty() || !answer_key.empty()),
      replies(host.option_as<bool>("answer.reply")) {
  if (!is_token(method)) throw wrong("method", "a method, as in POST", method);
  sends_body = method != "GET" && method != "HEAD";
  // Told to fetch something else (303), libcurl would repeat another method, without its body.
  if (follow_redirects > 0 && sends_body && method != "POST") {
    throw wrong("follow_redirects", "0 with a method other than POST, GET and HEAD",
                std::to_string(follow_redirects));
  }
  for (const auto& [name, time] :
       {std::pair{"timeout", timeout}, {"connect_timeout", connect_timeout}}) {
    if (time.count() == 0) throw wrong(name, "more than nothing", "0");
  }
  if (signature && signature_header.empty()) {
    throw wrong("signature.header", "a name of a header", "");
  }
  if (!signature && !timestamp_header.empty()) {
    throw wrong("signature.timestamp_header", "a secret to sign with beside it", timestamp_header);
  }
  taken_.assign(std::begin(kNeverPassed), std::end(kNeverPassed));
  if (signature) take(signature_header);
  if (!timestamp_header.empty()) take(timestamp_header);
  read_headers(host);
  read_passed(host);
}

void Settings::read_headers(const Host& host) {
  headers = plugins::template_map(host, "headers");
  for (const auto& [name, value] : headers) {
    const std::string small = lower(name);
    if (!is_token(name)) throw wrong("headers." + name, "a name of a header", name);
    if (std::find(std::begin(kNeverConfigured), std::end(kNeverConfigured), small) !=
        std::end(kNeverConfigured)) {
      throw wrong("headers." + name, "another header: this one is made for each request", name);
    }
    const bool is_own =
        (bearer && small == "authorization") ||
        (signature && (small == lower(signature_header) || small == lower(timestamp_header)));
    if (is_own) throw wrong("headers." + name, "another header: an option sets this one", name);
    take(name);
  }
}

void Settings::read_passed(const Host& host) {
  for (const std::string& name : host.option_list("pass_properties")) {
    const auto* const field =
        std::find_if(std::begin(plugins::kMessageFields), std::end(plugins::kMessageFields),
                     [&name](const auto& each) { return name == each.name; });
    if (field == std::end(plugins::kMessageFields)) {
      throw wrong("pass_properties", "names of properties, as in type", name);
    }
    const std::string header = header_of_property(name);
    if (name == "message_id") continue;  // goes along anyway
    take(header);
    pass_properties.push_back({header, field});
  }
  pass_headers = host.option_list("pass_headers");
}

bool Settings::configures(std::string_view name) const {
  const auto same = [small = lower(name)](const auto& each) { return lower(each.name) == small; };
  return std::any_of(headers.begin(), headers.end(), same);
}

void Settings::take(const std::string& header) { taken_.push_back(lower(header)); }

bool Settings::passes_header(std::string_view name) const {
  return is_token(name) && plugins::covers(pass_headers, name) &&
         std::find(taken_.begin(), taken_.end(), lower(name)) == taken_.end();
}

}  // namespace lope::http
