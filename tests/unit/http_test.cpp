#include "monitor/http.h"

#include <catch2/catch.hpp>

using namespace lope;
using namespace lope::monitor;
using Catch::Contains;

TEST_CASE("a head ends with its empty line", "[unit][http]") {
  CHECK(head_length("") == std::string::npos);
  CHECK(head_length("GET / HTTP/1.1\r\nHost: a\r\n") == std::string::npos);
  CHECK(head_length("GET / HTTP/1.1\r\nHost: a\r\n\r") == std::string::npos);
  CHECK(head_length("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET") == 27);
  CHECK(head_length("GET / HTTP/1.0\n\nx") == 16);
}

TEST_CASE("a request is read as far as it matters", "[unit][http]") {
  struct Row {
    const char* head;
    HttpRequest expected;
  };
  const Row row = GENERATE(values<Row>({
      {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", {"GET", "/", "", false, true}},
      {"GET / HTTP/1.0\r\n\r\n", {"GET", "/", "", false, false}},
      {"HEAD /metrics?x=1 HTTP/1.1\nhost:a\naccept:\t b/c \n\n",
       {"HEAD", "/metrics", "b/c", false, true}},
      {"GET /%2e?? HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
       {"GET", "/%2e", "", false, false}},
      {"GET / HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n",
       {"GET", "/", "", false, true}},
      {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", {"GET", "/", "", false, true}},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", {"POST", "/", "", true, false}},
      {"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
       {"GET", "/", "", true, false}},
  }));
  INFO(row.head);
  const auto request = parse_request(row.head);
  REQUIRE(request.ok());
  CHECK(request->method == row.expected.method);
  CHECK(request->path == row.expected.path);
  CHECK(request->accept == row.expected.accept);
  CHECK(request->has_body == row.expected.has_body);
  CHECK(request->keep_alive == row.expected.keep_alive);
}

TEST_CASE("what a query says is found by its name", "[unit][http]") {
  const auto request = parse_request("GET /p?a=1&b=x%20y+z&empty=&flag&a=2&%=% HTTP/1.0\r\n\r\n");
  REQUIRE(request.ok());
  CHECK(request->path == "/p");
  CHECK(query_value(request->query, "a") == "1");
  CHECK(query_value(request->query, "b") == "x y z");
  CHECK(query_value(request->query, "empty") == "");
  CHECK(query_value(request->query, "flag") == "");
  CHECK(query_value(request->query, "%") == "%");
  CHECK_FALSE(query_value(request->query, "x"));
  CHECK(query_value("a=%4", "a") == "%4");
  CHECK(query_value("a=%zz%41", "a") == "%zzA");
  CHECK(query_value("a=%00", "a") == std::string(1, '\0'));
}

TEST_CASE("what is no request is refused", "[unit][http]") {
  const std::string head = GENERATE(as<std::string>(),
                                    "\r\n",                                          //
                                    "GET\r\n\r\n",                                   //
                                    "GET /\r\n\r\n",                                 //
                                    "GET / HTTP/2\r\n\r\n",                          //
                                    "GET  HTTP/1.1\r\nHost: a\r\n\r\n",              //
                                    "GET / x HTTP/1.1\r\nHost: a\r\n\r\n",           //
                                    "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",     //
                                    "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",             //
                                    "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",         //
                                    "GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",         //
                                    "\x16\x03\x01\x02\r\n\r\n",                      //
                                    "GET / HTTP/1.1\r\n\r\n",                        //
                                    "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",  //
                                    "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",  //
                                    "GET / HTTP/1.1\r\nHost : a\r\n\r\n",            //
                                    "GET / HTTP/1.1\r\nHost\r\n\r\n");
  INFO(head);
  const auto request = parse_request(head);
  REQUIRE_FALSE(request.ok());
  CHECK_THAT(request.error(), Contains("expected "));
}

TEST_CASE("an answer says how long it is, also without its body", "[unit][http]") {
  const HttpAnswer answer{.status = 503, .type = "a/b", .body = "four", .headers = {{"X", "y"}}};
  CHECK(to_bytes(answer, true, false) ==
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: a/b\r\nContent-Length: 4\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nX: y\r\n"
        "Connection: close\r\n\r\nfour");
  CHECK_THAT(to_bytes(answer, false, true),
             Contains("Content-Length: 4\r\n") && Catch::EndsWith("X: y\r\n\r\n"));
}
