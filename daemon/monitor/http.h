// As much of HTTP/1.1 as serving pages needs: heads of requests, answers of known length.
// Pure; http_server has the connections.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/result.h"

namespace lope::monitor {

struct HttpRequest {
  std::string method;
  std::string path;    // as it came, without the query
  std::string accept;  // what the client would like; empty: anything
  bool has_body = false;
  bool keep_alive = false;  // never with a body: it is not read
  std::string query = {};   // as it came, without the '?'
};

struct HttpAnswer {
  int status = 200;
  std::string type = "text/plain; charset=utf-8";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers = {};  // and those of every answer
};

// The length of the head that `input` begins with, its empty line included; npos: there is more to
// come.
std::size_t head_length(std::string_view input);

// Of a whole head. Error: it is none.
Result<HttpRequest> parse_request(std::string_view head);

// What a query says of `name`, decoded; the first, if it says it twice.
std::optional<std::string> query_value(std::string_view query, std::string_view name);

// As it goes over the connection; for HEAD without its body.
std::string to_bytes(const HttpAnswer& answer, bool with_body, bool keep_alive);

}  // namespace lope::monitor
