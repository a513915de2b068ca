// The handler http, against servers that answer, refuse, stall, cut and redirect; with TLS, through
// a proxy, and with its workers killed.
#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support/broker.h"
#include "support/http.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/refused_options.h"
#include "support/web_server.h"

using namespace lope::test;

namespace {

using Lines = std::vector<std::string>;

constexpr const char* kOneAttempt = "    retry: { attempts: 1 }\n    breaker: false\n";

// A queue whose dead letters go to another, and a group that sends what comes.
struct Sending {
  explicit Sending(const std::string& url) : url_(url) {}

  LopeOptions options(const std::string& options, const std::string& more = kOneAttempt,
                      const std::string& top = {}) const {
    return {.broker = broker.url(),
            .groups = "  sending:\n    queue: " + queue +
                      "\n    handler: http\n    options: { url: \"" + url_ + "\"" +
                      (options.empty() ? "" : ", " + options) + " }\n" + more,
            .top = top,
            .handlers_dir = LOPE_HANDLERS_BUILD_DIR};
  }
  // Each with its body as its id.
  void publish(const Lines& bodies) {
    for (const std::string& body : bodies) broker.publish(queue, body, body);
  }
  bool wait_empty(std::chrono::milliseconds deadline = 20s) {
    return eventually(deadline, [&] { return broker.is_empty(queue); });
  }

  Broker broker;
  const std::string dead = broker.make_queue("dead");
  const std::string queue = broker.make_queue(
      "sending",
      {.text_arguments = {{"x-dead-letter-exchange", ""}, {"x-dead-letter-routing-key", dead}}});

 private:
  const std::string url_;
};

// By message id, the reason of the line that says `what`.
std::map<std::string, std::string> reasons(const Lope& lope, const std::string& what) {
  std::map<std::string, std::string> reasons;
  for (const std::string& line : lines_with(lope.log(), what)) {
    reasons[field(line, "message_id")] = field(line, "reason");
  }
  return reasons;
}

}  // namespace

TEST_CASE("hundreds of requests are in the air on one thread", "[broker][http]") {
  HttpServer server("0.5");
  Sending it(server.url());
  Lope lope(it.options("max_in_flight: 250", "    prefetch: 250\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  publisher.publish_many(900, [&](int i) {
    return Publication{.routing_key = it.queue, .body = "post", .message_id = std::to_string(i)};
  });
  // The last of them in the air when it is told to stop.
  REQUIRE(eventually(30s, [&] { return server.request_count() == 900; }));
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(server.process().wait_for_line("most 250"));
  CHECK(server.process().count_lines("most 251") == 0);
  CHECK(server.request_count() == 900);
  int connections = 0;
  for (const auto& request : server.requests())
    connections = std::max(connections, request.connection);
  CHECK(connections == 250);
  CHECK(lines_with(lope.log(), "message retried").empty());
}

TEST_CASE("outcomes are made of answers", "[broker][http]") {
  HttpServer server;
  Sending it(server.url());
  Lope lope(it.options("timeout: 500ms, max_answer: 100kB",
                       "    retry: { delay: 0s, attempts: 2 }\n    breaker: false\n"));
  REQUIRE(lope.wait_ready());
  const Lines passing = {"408", "425", "429", "500", "503", "hang up", "half", "stall", "slow"};
  const Lines refused = {"302", "400", "401", "404", "410"};
  for (const Lines& bodies : {Lines{"200", "201", "204", "huge", "close"}, passing, refused}) {
    it.publish(bodies);
  }
  CHECK(eventually(20s, [&] { return it.broker.message_count(it.dead) == 14; }));
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);

  const auto rejected = reasons(lope, "message rejected");
  CHECK(rejected.size() == refused.size());
  for (const std::string& status : refused) {
    CHECK(rejected.at(status) == "the handler rejected it: HTTP status " + status + ": " + status);
  }
  auto retried = reasons(lope, "message retried");
  CHECK(retried.size() == passing.size());
  CHECK(retried["503"] == "the handler asked for it: HTTP status 503: 503");
  CHECK(retried["half"].find("transfer closed with 90 bytes remaining") != std::string::npos);
  CHECK(retried["stall"].find("timed out") != std::string::npos);
  CHECK(retried["slow"].find("timed out") != std::string::npos);
  CHECK(retried["hang up"].find("Empty reply") != std::string::npos);
}

TEST_CASE("nobody there is a retry, with the reason", "[broker][http]") {
  Sending it("http://127.0.0.1:1/");
  Lope lope(it.options(""));
  REQUIRE(lope.wait_ready());
  it.publish({"m"});
  REQUIRE(lope.wait_for_line("message given up"));
  CHECK(lope.stop() == exited(0));
  CHECK(reasons(lope, "message given up").at("m").find("Connection refused") != std::string::npos);
}

TEST_CASE("connections that the server closes between requests do no harm", "[broker][http]") {
  HttpServer server;
  Sending it("http://localhost:" + server.port() + "/");
  Lope lope(it.options("max_in_flight: 4"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  publisher.publish_many(300, [&](int i) {
    return Publication{.routing_key = it.queue,
                       .body = i % 3 == 0 ? "close" : "200",
                       .message_id = std::to_string(i)};
  });
  CHECK(it.wait_empty());
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.dead) == 0);
  CHECK(server.request_count() >= 300);
}

TEST_CASE("Retry-After says when, within limits", "[broker][http]") {
  HttpServer server;
  Sending it(server.url());
  // One after another, so that each has the memory of the one before.
  const std::string more =
      "    retry: { delay: 0s, attempts: 2 }\n    breaker: false\n    prefetch: 1\n";
  const bool ignores = GENERATE(false, true);
  Lope lope(it.options(ignores ? "max_retry_after: 0s, min_retry_after: 0s"
                               : "min_retry_after: 2s, max_retry_after: 3s",
                       more, kWithRelay));
  REQUIRE(lope.wait_ready());
  it.publish({"429 after 1", "429 after 2", "503 after 86400", "503 date 3600", "503",
              "404 after 2", "503 after 99999999999999999"});
  CHECK(eventually(20s, [&] { return it.broker.message_count(it.dead) == 7; }));
  CHECK(lope.stop() == exited(0));
  std::map<std::string, std::string> delays;
  for (const std::string& line : lines_with(lope.log(), "message retried")) {
    delays[field(line, "message_id")] = field(line, "delay_ms");
  }
  CHECK(delays ==
        std::map<std::string, std::string>{{"429 after 1", "0"},
                                           {"429 after 2", ignores ? "0" : "2000"},
                                           {"503 after 86400", ignores ? "0" : "3000"},
                                           {"503 after 99999999999999999", ignores ? "0" : "3000"},
                                           {"503 date 3600", ignores ? "0" : "3000"},
                                           {"503", "0"}});
}

TEST_CASE("a request is made of the message", "[broker][http]") {
  HttpServer server;
  Sending it(server.url("/hooks/{type}?user={header.user|nobody}&at={routing_key}"));
  Lope lope(
      it.options("headers: { X-Tenant: \"{header.tenant}!\", Host: example.org }, "
                 "pass_properties: [type, correlation_id, attempt], "
                 "pass_headers: [x-*, count, Content-Length]"));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish({.routing_key = it.queue,
                                 .body = std::string("a\0b", 3),
                                 .message_id = "id\r\nX-Evil: 1",
                                 .content_type = "text/plain",
                                 .correlation_id = "c",
                                 .headers = {{"tenant", "north\r\nX-Evil: 2"},
                                             {"user", "a b/&?"},
                                             {"x-one", "1\r\n\r\nGET / HTTP/1.1"},
                                             {"x-tenant", "south"},
                                             {"x bad", "name"},
                                             {"Content-Length", "1"},
                                             {"other", "not asked for"}},
                                 .typed_headers = {{.name = "count", .kind = 'l', .number = 7},
                                                   {.name = "x-table", .kind = 'F'}},
                                 .content_encoding = "identity",
                                 .type = "../x y"});
  REQUIRE(it.wait_empty());
  CHECK(lope.stop() == exited(0));
  const auto requests = server.requests();
  REQUIRE(requests.size() == 1);
  const HttpServer::Request& request = requests[0];
  CHECK(request.method == "POST");
  CHECK(request.path == "/hooks/..%2Fx%20y?user=a%20b%2F%26%3F&at=" + it.queue);
  CHECK(request.body == std::string("a\0b", 3));
  CHECK(request.header("content-type") == "text/plain");
  CHECK(request.header("content-encoding") == "identity");
  CHECK(request.header("content-length") == "3");
  CHECK(request.header("host") == "example.org");
  CHECK(request.header("x-message-id") == "id  X-Evil: 1");
  CHECK(request.header("x-tenant") == "north  X-Evil: 2!");
  CHECK(request.header("x-type") == "../x y");
  CHECK(request.header("x-correlation-id") == "c");
  CHECK(request.header("x-attempt") == "1");
  CHECK(request.header("x-one") == "1    GET / HTTP/1.1");
  CHECK(request.header("count") == "7");
  const std::set<std::string> names(request.names.begin(), request.names.end());
  CHECK(names.size() == request.names.size());
  for (const char* name : {"X-Evil", "x bad", "other", "x-table", "Expect", "x-tenant"}) {
    CAPTURE(name);
    CHECK_FALSE(names.contains(name));
  }
}

TEST_CASE("a message that no request can be made of is rejected", "[broker][http]") {
  HttpServer server;
  Sending it(server.url("/{type}/{header.user}"));
  Lope lope(it.options(""));
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish({.routing_key = it.queue, .message_id = "lacks", .type = "t"});
  it.broker.publisher().publish(
      {.routing_key = it.queue, .message_id = "dots", .headers = {{"user", "u"}}, .type = ".."});
  it.broker.publisher().publish(
      {.routing_key = it.queue, .message_id = "good", .headers = {{"user", "u"}}, .type = "t"});
  CHECK(eventually(10s, [&] { return it.broker.message_count(it.dead) == 2; }));
  CHECK(it.wait_empty());
  CHECK(lope.stop() == exited(0));
  auto rejected = reasons(lope, "message rejected");
  CHECK(rejected["lacks"].find("'header.user'") != std::string::npos);
  CHECK(rejected["dots"].find("'..'") != std::string::npos);
  CHECK(server.request_count() == 1);
}

TEST_CASE("dots make no part of a path, and are let through elsewhere", "[broker][http]") {
  HttpServer server;
  Sending it(server.url("/a/{type}{header.user}/b?at={header.at|}"));
  Lope lope(it.options(""));
  REQUIRE(lope.wait_ready());
  const auto publish = [&](const std::string& id, const std::string& type,
                           const std::string& user) {
    it.broker.publisher().publish({.routing_key = it.queue,
                                   .message_id = id,
                                   .headers = {{"user", user}, {"at", "/.."}},
                                   .type = type});
  };
  publish("two", ".", ".");
  publish("good", "t", "..");
  CHECK(eventually(10s, [&] { return it.broker.message_count(it.dead) == 1; }));
  CHECK(it.wait_empty());
  CHECK(lope.stop() == exited(0));
  CHECK(reasons(lope, "message rejected")["two"].find("'..'") != std::string::npos);
  REQUIRE(server.request_count() == 1);
  CHECK(server.requests()[0].path == "/a/t../b?at=%2F..");
}

TEST_CASE("a message that was taken back while it waited is not sent", "[broker][http]") {
  HttpServer server("0.5");
  Sending it(server.url());
  // Those behind wait for longer than the group's timeout.
  Lope lope(it.options("max_in_flight: 1",
                       "    prefetch: 20\n    timeout: 2s\n    breaker: false\n"
                       "    retry: { delay: 0s, attempts: 100 }\n"));
  REQUIRE(lope.wait_ready());
  for (int i = 0; i < 10; ++i) it.broker.publish(it.queue, "200", std::to_string(i));
  CHECK(it.wait_empty());
  CHECK(lope.stop() == exited(0));
  CHECK_FALSE(lines_with(lope.log(), "message retried").empty());
  CHECK(server.request_count() == 10);
  CHECK(it.broker.message_count(it.dead) == 0);
}

TEST_CASE("a signature has the time at which its request starts", "[broker][http]") {
  const TempDir files;
  HttpServer server("0.5", {"--secret", "s3cret"});
  Sending it(server.url());
  Lope lope(it.options("max_in_flight: 1, signature: { file: " + files.write("secret", "s3cret") +
                       ", timestamp_header: X-Time }"));
  REQUIRE(lope.wait_ready());
  it.publish({"a", "b", "c", "d", "e"});
  CHECK(it.wait_empty());
  CHECK(lope.stop() == exited(0));
  const auto requests = server.requests();
  REQUIRE(requests.size() == 5);
  CHECK(std::stol(requests[4].header("x-time")) - std::stol(requests[0].header("x-time")) >= 2);
  CHECK(it.broker.message_count(it.dead) == 0);
}

TEST_CASE("a method other than POST", "[broker][http]") {
  struct Case {
    const char* method;
    const char* body;
    const char* type;
  };
  const Case each =
      GENERATE(Case{"PUT", "sent", "application/json"}, Case{"DELETE", "sent", "application/json"},
               Case{"GET", "", ""}, Case{"HEAD", "", ""});
  CAPTURE(each.method);
  HttpServer server;
  Sending it(server.url("/say"));
  Lope lope(it.options(std::string("content_type: application/json, method: ") + each.method));
  REQUIRE(lope.wait_ready());
  it.broker.publish(it.queue, "sent", "m");
  CHECK(it.wait_empty());
  CHECK(lope.stop() == exited(0));
  const auto requests = server.requests();
  REQUIRE(requests.size() == 1);
  CHECK(requests[0].method == each.method);
  CHECK(requests[0].body == each.body);
  CHECK(requests[0].header("content-type") == each.type);
  CHECK(it.broker.message_count(it.dead) == 0);
}

TEST_CASE("the server can verify the signature", "[broker][http]") {
  const TempDir files;
  const bool with_time = GENERATE(false, true);
  const std::string secret = GENERATE("s3cret", "another");
  CAPTURE(with_time, secret);
  HttpServer server("0", {"--secret", "s3cret"});
  Sending it(server.url());
  Lope lope(it.options("signature: { file: " + files.write("secret", secret + "\n") +
                       (with_time ? ", timestamp_header: X-Time }" : " }")));
  REQUIRE(lope.wait_ready());
  it.publish({"signed", ""});
  CHECK(it.wait_empty());
  CHECK(lope.stop() == exited(0));
  CHECK(server.request_count() == 2);
  CHECK(it.broker.message_count(it.dead) == (secret == "s3cret" ? 0 : 2));
  CHECK(lope.log().find(secret) == std::string::npos);
}

TEST_CASE("a bearer token is read again when it changes", "[broker][http]") {
  const TempDir files;
  const std::string wanted = files.write("wanted", "first");
  HttpServer server("0", {"--token-file", wanted});
  const bool by_credential = GENERATE(true, false);
  const std::string token = files.write("token", "first\n");
  Sending it(server.url());
  LopeOptions options = it.options(
      by_credential ? "bearer: { credential: token }" : "bearer: { file: " + token + " }",
      "    retry: { delay: 50ms, attempts: 1000 }\n    breaker: false\n", kWithRelay);
  options.env = {{"CREDENTIALS_DIRECTORY", files.path().string()}};
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  it.publish({"one"});
  CHECK(it.wait_empty());
  CHECK(lope.process().count_lines("message retried") == 0);

  files.write("wanted", "second");
  it.publish({"two"});
  REQUIRE(lope.wait_for_line("HTTP status 401"));  // no fault of the message
  files.write("token", "second");
  CHECK(eventually(20s, [&] {
    const auto requests = server.requests();
    return requests.back().header("authorization") == "Bearer second";
  }));
  CHECK(it.wait_empty());
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.dead) == 0);
  CHECK(server.requests().front().header("authorization") == "Bearer first");
}

namespace {

// A private authority, and what it has signed for a server and a client; beside them another one.
struct Certificates {
  Certificates() {
    const std::string script =
        "set -e; cd \"$1\"\n"
        "key() { openssl ecparam -name prime256v1 -genkey -noout -out $1.key; }\n"
        "authority() { key $1; openssl req -x509 -new -key $1.key -subj /CN=$1 -days 2 -out "
        "$1.pem; }\n"
        "signed() { key $1; openssl req -new -key $1.key -subj /CN=$1 -out $1.csr;\n"
        "  echo subjectAltName=IP:127.0.0.1 >$1.ext\n"
        "  openssl x509 -req -in $1.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 "
        "-extfile $1.ext -out $1.pem; }\n"
        "authority ca; authority other; signed server; signed client\n";
    const RunResult made = run({"sh", "-c", script, "sh", files.path().string()});
    INFO(made.output);
    REQUIRE(made.status == exited(0));
  }
  std::string at(const std::string& name) const { return files.file(name); }
  std::vector<std::string> for_server() const {
    return {"--tls", at("server.pem"), at("server.key"), "--client-ca", at("ca.pem")};
  }

  TempDir files;
};

}  // namespace

TEST_CASE("TLS is verified, with a private authority and a client certificate", "[broker][http]") {
  const Certificates certificates;
  HttpServer server("0", certificates.for_server());
  Sending it("https://" + server.authority() + "/");
  const std::string client = ", certificate: " + certificates.at("client.pem") +
                             ", key: " + certificates.at("client.key") + " }";
  struct Case {
    std::string tls, reason;
  };
  const Case cases[] = {
      {"tls: { ca: " + certificates.at("ca.pem") + client, ""},
      {"http2: true, tls: { ca: " + certificates.at("ca.pem") + client, ""},
      {"tls: { ca: " + certificates.at("other.pem") + client, "SSL certificate problem"},
      {"timeout: 5s", "SSL certificate problem"},
      {"tls: { ca: " + certificates.at("ca.pem") + " }", "the handler asked for it"}};
  const Case& each = cases[GENERATE(range(0, 5))];
  CAPTURE(each.tls);
  Lope lope(it.options(each.tls + ", max_in_flight: 1"));
  REQUIRE(lope.wait_ready());
  it.publish({"close", "200", "m"});
  CHECK(it.wait_empty());
  CHECK(lope.stop() == exited(0));
  CHECK(lope.process().count_lines("worker ended") == 1);  // at the stop
  if (each.reason.empty()) {
    CHECK(server.request_count() >= 3);
    CHECK(it.broker.message_count(it.dead) == 0);
  } else {
    CHECK(server.request_count() == 0);
    CHECK(reasons(lope, "message given up")["m"].find(each.reason) != std::string::npos);
  }
}

TEST_CASE("with HTTP/2 many requests are on one connection", "[broker][http]") {
  const Certificates certificates;
  // It does not say which port it has found by itself.
  const RunResult free = run({"python3", "-c",
                              "import socket\n"
                              "s = socket.socket()\n"
                              "s.bind(('127.0.0.1', 0))\n"
                              "print(s.getsockname()[1], end='')"});
  REQUIRE(free.status == exited(0));
  Process server({"nghttpd", "--verbose", "--echo-upload", "--address=127.0.0.1", free.output,
                  certificates.at("server.key"), certificates.at("server.pem")});
  REQUIRE(server.wait_for_line("listen 127.0.0.1:" + free.output));
  Sending it("https://127.0.0.1:" + free.output + "/");
  const std::string answers = it.broker.make_queue("answers");
  Lope lope(it.options("http2: true, max_in_flight: 50, answer: { routing_key: " + answers +
                           " }, tls: { ca: " + certificates.at("ca.pem") + " }",
                       std::string(kOneAttempt) + "    prefetch: 100\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  publisher.publish_many(300, [&](int i) {
    return Publication{.routing_key = it.queue,
                       .body = "body " + std::to_string(i),
                       .message_id = std::to_string(i)};
  });
  CHECK(it.wait_empty());
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.dead) == 0);
  std::set<std::string> echoed;
  for (const Received& answer : it.broker.drain(answers)) echoed.insert(answer.body);
  CHECK(echoed.size() == 300);
  CHECK(server.count_lines("recv HEADERS") == 300);
  CHECK(server.count_lines("[id=2]") == 0);
}

TEST_CASE("requests go through a proxy, those with TLS in a tunnel", "[broker][http]") {
  const bool tls = GENERATE(false, true);
  const Certificates certificates;
  HttpServer server("0", tls ? certificates.for_server() : std::vector<std::string>{});
  HttpServer proxy("0", {"--proxy"});
  Sending it((tls ? "https://" : "http://") + server.authority() + "/path");
  Lope lope(it.options("proxy: \"" + proxy.url() + "\"" +
                       (tls ? ", tls: { ca: " + certificates.at("ca.pem") +
                                  ", certificate: " + certificates.at("client.pem") +
                                  ", key: " + certificates.at("client.key") + " }"
                            : "")));
  REQUIRE(lope.wait_ready());
  it.publish({"m"});
  CHECK(it.wait_empty());
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.dead) == 0);
  CHECK(proxy.process().wait_for_line(tls ? "proxied CONNECT " + server.authority()
                                          : "proxied POST http://" + server.authority() + "/path"));
  REQUIRE(server.request_count() == 1);
  CHECK(server.requests()[0].path == "/path");
}

TEST_CASE("redirects are followed as far as is allowed", "[broker][http]") {
  HttpServer server;
  Sending it(server.url());
  Lope lope(it.options("follow_redirects: 1, max_in_flight: 1"));
  REQUIRE(lope.wait_ready());
  it.publish({"redirect /204"});  // there the body says the same again
  it.publish({"redirect ftp://127.0.0.1/"});
  CHECK(it.wait_empty());
  CHECK(lope.stop() == exited(0));
  auto rejected = reasons(lope, "message rejected");
  CHECK(rejected["redirect /204"].find("Maximum (1) redirects followed") != std::string::npos);
  CAPTURE(rejected["redirect ftp://127.0.0.1/"]);
  CHECK(rejected["redirect ftp://127.0.0.1/"].find("not supported") != std::string::npos);
  const auto requests = server.requests();
  REQUIRE(requests.size() == 3);
  CHECK(requests[1].path == "/204");
  CHECK(requests[1].method == "POST");
  CHECK(requests[1].body == "redirect /204");
}

TEST_CASE("answers are published, with their status, and sent to who asked", "[broker][http]") {
  HttpServer server;
  Sending it(server.url());
  const std::string answers = it.broker.make_queue("answers");
  const std::string asked = it.broker.make_queue("asked");
  Lope lope(it.options("max_answer: 1kB, answer: { routing_key: \"{header.to}\", reply: true }"));
  REQUIRE(lope.wait_ready());
  const auto message = [&](const std::string& body, const std::string& to) {
    return Publication{.routing_key = it.queue,
                       .body = body,
                       .message_id = body,
                       .correlation_id = "c",
                       .reply_to = asked,
                       .headers = {{"to", to}}};
  };
  Publisher publisher = it.broker.publisher();
  publisher.publish(message("say hello", answers));
  publisher.publish(message("404", answers));
  publisher.publish(message("huge", answers));
  publisher.publish(message("200", std::string(200, 'x') + std::string(60, 'y')));  // too long
  CHECK(eventually(10s, [&] { return it.broker.message_count(it.dead) == 3; }));
  CHECK(it.wait_empty());
  CHECK(lope.stop() == exited(0));
  for (const std::string& queue : {answers, asked}) {
    const auto got = it.broker.drain(queue);
    REQUIRE(got.size() == 1);
    CHECK(got[0].body == "hello");
    CHECK(got[0].content_type == "text/plain");
    CHECK(got[0].correlation_id == "c");
    CHECK(got[0].number("http-status") == 200);
    CHECK(got[0].header("x-lope-parent-id") == "say hello");
  }
  auto rejected = reasons(lope, "message rejected");
  CHECK(rejected["huge"].find("an answer of at most 1000 bytes") != std::string::npos);
  CHECK(rejected["200"].find("the answer cannot be published") != std::string::npos);
}

TEST_CASE("a server that is stuck does not hold up a stop", "[broker][http]") {
  HttpServer server;
  Sending it(server.url());
  Lope lope(it.options("drain_timeout: 300ms, max_in_flight: 10", "    prefetch: 30\n"));
  REQUIRE(lope.wait_ready());
  for (int i = 0; i < 40; ++i) it.broker.publish(it.queue, "stall", std::to_string(i));
  REQUIRE(eventually(10s, [&] { return server.process().count_lines("stalled") == 10; }));
  REQUIRE(eventually(10s, [&] { return it.broker.message_count(it.queue) == 10; }));
  const auto begin = std::chrono::steady_clock::now();
  CHECK(lope.stop() == exited(0));
  CHECK(std::chrono::steady_clock::now() - begin < 5s);
  CHECK(lope.process().count_lines("30 messages without an answer go back to the broker") == 1);
  CHECK(lope.process().count_lines("settle() of message") == 0);
  CHECK(it.broker.message_count(it.queue) == 40);
  CHECK(server.request_count() == 10);
}

TEST_CASE("a configuration that cannot work is refused with its reason", "[broker][http]") {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"url: \"ftp://host/\"", "option 'url': expected a URL that begins with http:// or https://"},
      {"url: \"http://ho st/\"", "option 'url': expected a URL"},
      {"url: \"http://host/{nonsense}\"", "'nonsense'"},
      {"url: \"http://{type}/\"", "option 'url': expected a host, and a port, that no message"},
      {"url: \"http://host:80{type}?a\"", "option 'url': expected a host, and a port"},
      {"url: \"http://host/../{type}\"", "option 'url': expected no '.' and '..'"},
      {"url: \"http://host/\", method: \"PO ST\"", "option 'method': expected a method"},
      {"url: \"http://host/\", method: PATCH, follow_redirects: 1",
       "option 'follow_redirects': expected 0 with a method other than POST"},
      {"url: \"http://host/\", timeout: 30", "option 'timeout': expected a time with a unit"},
      {"url: \"http://host/\", max_answer: 3s", "option 'max_answer': expected a size"},
      {"url: \"http://host/\", max_in_flight: 0",
       "option 'max_in_flight': expected a number from 1"},
      {"url: \"http://host/\", headers: { \"a b\": c }", "option 'headers.a b': expected a name"},
      {"url: \"http://host/\", headers: { Content-Length: 1 }", "option 'headers.Content-Length'"},
      {"url: \"http://host/\", bearer: { env: PATH }, headers: { authorization: x }",
       "option 'headers.authorization': expected another header"},
      {"url: \"http://host/\", pass_properties: [colour]", "option 'pass_properties': expected"},
      {"url: \"http://host/\", tls: { ca: /nowhere }", "option 'tls.ca': expected a file"},
      {"url: \"http://host/\", bearer: { file: /nowhere }", "option 'bearer.file': '/nowhere'"},
      {"url: \"http://host/\", bearer: { env: LOPE_NO_SUCH }", "option 'bearer.env': expected"},
      {"url: \"http://host/\", signature: { env: PATH, file: /x }", "expected one of credential"},
      {"url: \"http://host/\", signature: { timestamp_header: X-T }", "a secret to sign with"},
  };
  Broker broker;
  const std::string queue = broker.make_queue("refused");
  check_refused({.broker = broker.url(), .handlers_dir = LOPE_HANDLERS_BUILD_DIR}, queue, "http",
                wrong);
}

TEST_CASE("requests are measured, and answers counted by their status", "[broker][http]") {
  HttpServer server;
  Sending it(server.url());
  Lope lope(it.options("", kOneAttempt, "monitor: { listen: 0 }\n"));
  const auto line = lope.wait_for_line("monitor started");
  REQUIRE(line);
  const int port = std::stoi(line->substr(line->rfind(':') + 1));
  it.publish({"200", "204", "302", "404", "503", "hang up"});
  const auto has = [&](const std::string& sample) {
    return http_get(port, "/metrics").body.find(sample) != std::string::npos;
  };
  for (const std::string sample :
       {"answers_2xx_total{group=\"sending\"} 2\n", "answers_3xx_total{group=\"sending\"} 1\n",
        "answers_4xx_total{group=\"sending\"} 1\n", "answers_5xx_total{group=\"sending\"} 1\n",
        "unanswered_total{group=\"sending\"} 1\n",
        "request_seconds_count{group=\"sending\"} 6\n"}) {
    CAPTURE(sample);
    CHECK(eventually(10s, [&] { return has("lope_handler_" + sample); }));
  }
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("no message is lost while workers are killed", "[broker][http]") {
  constexpr int kMessages = 10'000;
  HttpServer server("0.01");
  Sending it(server.url());
  Lope lope(it.options("",
                       "    workers: 2\n    prefetch: 200\n    retry: { delay: 0s, attempts: "
                       "1000 }\n    crashes: 100\n    breaker: false\n"));
  REQUIRE(lope.wait_ready());
  std::minstd_rand random(4);
  Publisher publisher = it.broker.publisher();
  std::thread publishing([&] {
    publisher.publish_many(kMessages, [&](int i) {
      return Publication{.routing_key = it.queue, .body = "200", .message_id = std::to_string(i)};
    });
  });
  int kills = 0;
  for (std::size_t next = 300; next < kMessages; next += 300 + random() % 400) {
    REQUIRE(eventually(60s, [&] { return server.request_count() >= next; }));
    const auto workers = lope.workers();
    if (!workers.empty() && ::kill(workers[random() % workers.size()], SIGKILL) == 0) ++kills;
  }
  publishing.join();
  CHECK(kills >= 10);
  CHECK(it.wait_empty(60s));
  CHECK(lope.stop() == exited(0));
  Lines seen;
  for (const auto& request : server.requests()) seen.push_back(request.header("x-message-id"));
  const LedgerReport report = compare_ledger(publisher.confirmed(), seen);
  CHECK(publisher.confirmed().size() == kMessages);
  CHECK(report.missing.empty());
  CHECK(report.unexpected.empty());
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(it.broker.message_count(it.dead) == 0);
}
