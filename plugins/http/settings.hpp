// The options of the handler, read and checked once.
#pragma once

#include <chrono>
#include <cstddef>
#include <lope/handler.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../common/message_template.hpp"
#include "../common/template_map.hpp"
#include "secret.hpp"

namespace lope::http {

inline constexpr lope_option kOptions[] = {
    required("url", "where to send to; a template: what comes from the message is escaped"),
    defaulted("method", "POST", "of the request; GET and HEAD go without the body"),
    defaulted("content_type", "application/octet-stream", "of messages that have none"),
    defaulted("headers.*", "", "more request headers, by name; templates"),
    defaulted("pass_properties.*", "", "properties to send as request headers: type as X-Type"),
    defaulted("pass_headers.*", "", "headers to send along; NAME* is all that begin with NAME"),
    defaulted("timeout", "30s", "of a request, from its start to the end of the answer"),
    defaulted("connect_timeout", "10s", "of connecting, TLS included"),
    defaulted("drain_timeout", "10s", "how long a stop waits for answers"),
    defaulted("max_in_flight", "100", "requests at a time; prefetch is a bound too", LOPE_UINT64),
    defaulted("max_answer", "1MiB", "no more of an answer is read"),
    defaulted("min_retry_after", "10s", "a Retry-After that is shorter is ignored"),
    defaulted("max_retry_after", "1h",
              "a Retry-After that is longer counts as this; 0s: all are ignored"),
    defaulted("follow_redirects", "0", "how many; what is redirected more is rejected",
              LOPE_UINT64),
    defaulted("http2", "false", "HTTP/2 where an https server has it", LOPE_BOOL),
    secret(defaulted("proxy", "", "its URL; that of the environment is not used")),
    defaulted("tls.ca", "", "PEM file of whom to trust, in place of the system's"),
    defaulted("tls.certificate", "", "PEM file of the client's certificate"),
    defaulted("tls.key", "", "PEM file of its key"),
    defaulted("bearer.credential", "", "bearer token: name of a systemd credential"),
    defaulted("bearer.file", "", "or path of a file"),
    defaulted("bearer.env", "", "or environment variable"),
    defaulted("signature.credential", "", "secret to sign with: name of a systemd credential"),
    defaulted("signature.file", "", "or path of a file"),
    defaulted("signature.env", "", "or environment variable"),
    defaulted("signature.header", "X-Signature-256", "that carries sha256=HEX, the body's HMAC"),
    defaulted("signature.timestamp_header", "", "that carries TIME; TIME.BODY is signed then"),
    defaulted("answer.exchange", "", "answers of 2xx are published there; a template"),
    defaulted("answer.routing_key", "", "and with this routing key; a template"),
    defaulted("answer.reply", "false", "and to the message's reply_to", LOPE_BOOL),
    kEndOfOptions};

// Whether a part of the URL's path is "." or "..": that would lead out of its folder.
bool has_dot_segment(std::string_view url);

struct Settings {
  // Throws InvalidConfiguration.
  explicit Settings(const Host& host);

  struct PassedProperty {
    std::string header;
    const plugins::MessageField* field;
  };

  // Whether a message's header by that name goes along: it is asked for, is a name that HTTP
  // allows, and does not take the place of one that the request has anyway.
  bool passes_header(std::string_view name) const;
  // Whether `headers` has that name, in whatever letters.
  bool configures(std::string_view name) const;

  plugins::MessageTemplate url;
  bool https;
  std::string method;
  bool sends_body = true;
  std::string content_type;
  std::vector<plugins::NamedTemplate> headers;
  std::vector<PassedProperty> pass_properties;
  std::vector<std::string> pass_headers;

  std::chrono::milliseconds timeout, connect_timeout, drain_timeout;
  std::chrono::milliseconds min_retry_after, max_retry_after;
  std::size_t max_in_flight;
  std::size_t max_answer;
  long follow_redirects;
  bool http2;
  std::string proxy, ca, certificate, key;

  std::optional<Secret> bearer, signature;
  std::string signature_header, timestamp_header;

  plugins::MessageTemplate answer_exchange, answer_key;
  bool publishes, replies;

 private:
  void read_headers(const Host& host);
  void read_passed(const Host& host);
  void take(const std::string& header);

  std::vector<std::string> taken_;  // headers that are not a message's, in small letters
};

}  // namespace lope::http
