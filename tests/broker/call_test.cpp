// `lope call` against a real broker and a daemon that replies.
#include <signal.h>

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/lope.h"
#include "support/process.h"

namespace {

using namespace lope::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Matches;

RunResult call(const Broker& broker, std::vector<std::string> arguments,
               const std::string& standard_input = "") {
  arguments.insert(arguments.begin(), {"call", "--broker", broker.url()});
  ProcessOptions options;
  options.standard_input = standard_input;
  return run_lope(std::move(arguments), options);
}

struct Replying {
  Replying()
      : queue(broker.make_queue("call")),
        lope({.broker = broker.url(),
              .groups = "  replying: { handler: replying, queue: " + queue + " }\n"}) {
    REQUIRE(lope.wait_ready());
  }

  Broker broker;
  const std::string queue;
  Lope lope;
};

TEST_CASE("a reply is printed as it came", "[broker][call]") {
  Replying it;
  const std::string& queue = it.queue;
  const std::string exchange = it.broker.unique_exchange();
  it.broker.declare_exchange(exchange, "topic");
  it.broker.bind_queue(queue, exchange, "ask.#");
  struct Case {
    std::vector<std::string> arguments;
    std::string expected;
  };
  const std::string large(300'000, 'x');
  const Case table[] = {
      {{"--queue", queue, "echo:Hello World!"}, "Hello World!"},
      {{"--exchange", exchange, "--key", "ask.me", "echo:by exchange"}, "by exchange"},
      {{"--queue", queue, "bytes"}, std::string("\x00\xff\x80", 3)},
      {{"--queue", queue, "nothing"}, ""},
      {{"--queue", queue}, "from standard input"},
      {{"--queue", queue, "-"}, "from standard input"},
      {{"--queue", queue, "--json", "--content-type", "text/plain", "--header", "a=b", "echo:x"},
       "\"headers\":{\"a\":\"b\","},
      {{"--queue", queue, "--json", "--content-type", "text/plain", "echo:x"},
       "\"content_type\":\"text/plain\""},
      {{"--queue", queue, "--json", "echo:x"}, "},\"body\":\"x\"}\n"},
      {{"--queue", queue, "--json", "bytes"}, ",\"body_base64\":\"AP+A\"}\n"},
  };
  for (const Case& each : table) {
    CAPTURE(each.arguments);
    const RunResult result = call(it.broker, each.arguments, "echo:from standard input");
    CHECK(result.status == exited(0));
    if (each.arguments.size() > 2 && each.arguments[2] == "--json") {
      CHECK_THAT(result.output, Contains(each.expected));
    } else {
      CHECK(result.output == each.expected);
    }
  }
  const RunResult much = call(it.broker, {"--queue", queue}, "echo:" + large);
  CHECK(much.status == exited(0));
  CHECK((much.output == large));
}

TEST_CASE("any reply is a success, whatever its code says", "[broker][call]") {
  Replying it;
  const RunResult result = call(it.broker, {"--queue", it.queue, "code:500"});
  CHECK(result.status == exited(0));
  CHECK(result.output == "{\"code\":500,\"message\":\"as told\",\"body\":null}");
}

TEST_CASE("no reply in time is a failure", "[broker][call]") {
  Replying it;
  SECTION("nobody replies") {
    const std::string body = GENERATE("silent", "wrong");
    const RunResult result = call(it.broker, {"--queue", it.queue, "--timeout", "500ms", body});
    CHECK(result.status == exited(1));
    CHECK(result.output == "lope call: queue '" + it.queue +
                               "': no reply within 500ms: does anybody consume from it, and "
                               "reply?\n");
  }
  SECTION("nobody takes the request, which is not left behind") {
    const std::string idle = it.broker.make_queue("idle");
    const RunResult result = call(it.broker, {"--queue", idle, "--timeout", "300ms", "echo:x"});
    CHECK(result.status == exited(1));
    CHECK_THAT(result.output, Contains("no reply within 300ms"));
    CHECK(eventually(5s, [&] { return it.broker.message_count(idle) == 0; }));
  }
}

TEST_CASE("a request that no queue takes is a failure at once", "[broker][call]") {
  Broker broker;
  const std::string exchange = broker.unique_exchange();
  broker.declare_exchange(exchange, "direct");
  struct Case {
    std::vector<std::string> arguments;
    std::string said;
  };
  const Case table[] = {
      {{"--queue", "no-such-queue", "x"}, "lope call: no queue 'no-such-queue' in vhost '/'\n"},
      {{"--exchange", exchange, "--key", "k", "x"},
       "lope call: exchange '" + exchange + "' with key 'k': no queue takes it (312 NO_ROUTE)\n"},
      {{"--exchange", "no-such-exchange", "--key", "k", "x"}, "404 NOT_FOUND - no exchange"},
  };
  for (const Case& each : table) {
    CAPTURE(each.arguments);
    std::vector<std::string> arguments = each.arguments;
    arguments.insert(arguments.end(), {"--timeout", "20s"});
    const auto start = std::chrono::steady_clock::now();
    const RunResult result = call(broker, arguments);
    CHECK(result.status == exited(1));
    CHECK_THAT(result.output, Contains(each.said));
    CHECK(std::chrono::steady_clock::now() - start < 10s);
  }
}

TEST_CASE("without a broker the exit code says that it may pass", "[broker][call]") {
  const RunResult result =
      run_lope({"call", "--broker", "amqp://127.0.0.1:1", "--queue", "q", "x"});
  CHECK(result.status == exited(75));
  CHECK_THAT(result.output, Contains("lope call: broker 127.0.0.1:1: connect: "));
}

TEST_CASE("a call can be interrupted", "[broker][call]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  Process process({LOPE_BIN_DIR "/lope", "call", "--broker", broker.url(), "--queue", queue,
                   "--timeout", "1m", "x"});
  REQUIRE(eventually(10s, [&] { return broker.message_count(queue) == 1; }));
  process.signal(SIGINT);
  CHECK(process.wait_exit() == exited(1));
  CHECK(process.output() == "lope call: interrupted by SIGINT\n");
}

TEST_CASE("a call that makes no sense is refused", "[broker][call]") {
  struct Case {
    std::vector<std::string> arguments;
    std::string said;
  };
  const Case table[] = {
      {{"x"}, "expected --queue, or --exchange and --key, found neither"},
      {{"--queue", "", "x"}, "--queue: expected a queue's name, found nothing"},
      {{"--queue", "q", "--timeout", "5", "x"}, "--timeout: expected a duration with a unit"},
      {{"--queue", "q", "--timeout", "0s", "x"}, "--timeout: expected 1ms to 1d, found '0s'"},
      {{"--queue", "q", "--header", "x", "x"}, "--header: expected NAME=VALUE, found 'x'"},
      {{"--queue", std::string(256, 'q'), "x"}, "queue: expected at most 255 bytes, found 256"},
      {{"--queue", "q", "x", "y"}, "y"},
  };
  for (const Case& each : table) {
    std::vector<std::string> arguments{"call"};
    arguments.insert(arguments.end(), each.arguments.begin(), each.arguments.end());
    CAPTURE(arguments);
    const RunResult result = run_lope(arguments);
    CHECK(result.status == exited(2));
    CHECK_THAT(result.output, Contains("lope call: ") && Contains(each.said));
  }
  const RunResult help = run_lope({"call", "--help"});
  CHECK(help.status == exited(0));
  CHECK_THAT(help.output, Contains("lope call [OPTIONS] [BODY]"));
}

}  // namespace
