// `lope publish` against a real broker: what arrives, what is said, and the exit code.
#include <signal.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <functional>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/wall_time.h"
#include "support/broker.h"
#include "support/lope.h"
#include "support/memory_alarm.h"
#include "support/process.h"
#include "support/temp_dir.h"

namespace {

using namespace lope::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Matches;

RunResult publish(const Broker& broker, std::vector<std::string> arguments,
                  const std::string& standard_input = "",
                  std::chrono::milliseconds deadline = 30s) {
  arguments.insert(arguments.begin(), {"publish", "--broker", broker.url()});
  ProcessOptions options;
  options.standard_input = standard_input;
  return run_lope(std::move(arguments), options, deadline);
}

Process start_publish(const Broker& broker, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {LOPE_BIN_DIR "/lope", "publish", "--broker", broker.url()});
  return Process(std::move(arguments));
}

std::vector<std::string> bodies(const std::vector<Received>& messages) {
  std::vector<std::string> result;
  for (const Received& message : messages) result.push_back(message.body);
  return result;
}

using Bodies = std::vector<std::string>;

TEST_CASE("the body comes from the argument, a file or standard input", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  const TempDir dir;
  const std::string file = dir.write("body", "from\na file");
  struct Case {
    std::vector<std::string> arguments;
    Bodies expected;
  };
  const std::string input = "first\n\nthird {n}\nlast";
  const Case table[] = {
      {{"Hello World!"}, {"Hello World!"}},
      {{""}, {""}},
      {{"--", "-x"}, {"-x"}},
      {{"--file", file}, {"from\na file"}},
      {{"--file", "-"}, {input}},
      {{"-"}, {input}},
      {{}, {input}},
      {{"--lines"}, {"first", "", "third {n}", "last"}},
      {{"--lines", "--numbered"}, {"first", "", "third 3", "last"}},
      {{"--lines", "--file", file}, {"from", "a file"}},
      {{"--count", "3", "x{n}"}, {"x{n}", "x{n}", "x{n}"}},
      {{"--count", "3", "--numbered", "{n}x{n}"}, {"1x1", "2x2", "3x3"}},
  };
  for (const Case& each : table) {
    std::vector<std::string> arguments{"--queue", queue};
    arguments.insert(arguments.end(), each.arguments.begin(), each.arguments.end());
    CAPTURE(arguments);
    const RunResult result = publish(broker, arguments, input);
    CHECK(result.status == exited(0));
    CHECK_THAT(result.output, Contains("published to queue '" + queue + "', confirmed"));
    CHECK(bodies(broker.drain(queue)) == each.expected);
  }
}

TEST_CASE("no message is published of no lines", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  const RunResult result = publish(broker, {"--queue", queue, "--lines"}, "");
  CHECK(result.status == exited(0));
  CHECK_THAT(result.output, Contains("0 messages published"));
  CHECK(broker.message_count(queue) == 0);
}

TEST_CASE("a message carries the properties it was given", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  const RunResult result = publish(broker, {"--queue",
                                            queue,
                                            "--content-type",
                                            "text/plain",
                                            "--correlation-id",
                                            "c-1",
                                            "--reply-to",
                                            "answers",
                                            "--message-id",
                                            "m-1",
                                            "--header",
                                            "a=b",
                                            "--header",
                                            "c=d=e",
                                            "--header",
                                            "n:int=5",
                                            "--user-id",
                                            "guest",
                                            "--priority",
                                            "3",
                                            "--expiration",
                                            "60000",
                                            "body"});
  INFO(result.output);
  REQUIRE(result.status == exited(0));
  const auto messages = broker.drain(queue);
  REQUIRE(messages.size() == 1);
  const Received& message = messages[0];
  CHECK(message.body == "body");
  CHECK(message.exchange.empty());
  CHECK(message.routing_key == queue);
  CHECK(message.persistent);
  CHECK(message.content_type == "text/plain");
  CHECK(message.correlation_id == "c-1");
  CHECK(message.reply_to == "answers");
  CHECK(message.message_id == "m-1");
  using Headers = std::vector<std::pair<std::string, std::string>>;
  CHECK(message.headers == Headers{{"a", "b"}, {"c", "d=e"}});  // n is no text
}

TEST_CASE("a transient message is not persistent", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  CHECK(publish(broker, {"--queue", queue, "--transient", "x"}).status == exited(0));
  const auto messages = broker.drain(queue);
  REQUIRE(messages.size() == 1);
  CHECK_FALSE(messages[0].persistent);
}

TEST_CASE("every message has an id of its own", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  SECTION("a UUID") {
    CHECK(publish(broker, {"--queue", queue, "--count", "50", "x"}).status == exited(0));
    std::set<std::string> ids;
    for (const Received& message : broker.drain(queue)) {
      CHECK_THAT(message.message_id,
                 Matches("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"));
      ids.insert(message.message_id);
    }
    CHECK(ids.size() == 50);
  }
  SECTION("the one given, numbered when there are several") {
    CHECK(publish(broker, {"--queue", queue, "--count", "2", "--message-id", "m", "x"}).status ==
          exited(0));
    CHECK(publish(broker, {"--queue", queue, "--lines", "--message-id", "l"}, "a\nb\n").status ==
          exited(0));
    std::vector<std::string> ids;
    for (const Received& message : broker.drain(queue)) ids.push_back(message.message_id);
    CHECK(ids == std::vector<std::string>{"m-1", "m-2", "l-1", "l-2"});
  }
}

TEST_CASE("a message goes to the queues bound to an exchange", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  const std::string exchange = broker.unique_exchange();
  broker.declare_exchange(exchange, "topic");
  broker.bind_queue(queue, exchange, "a.*");
  const RunResult result = publish(broker, {"--exchange", exchange, "--key", "a.b", "x"});
  CHECK(result.status == exited(0));
  CHECK_THAT(result.output, Contains("1 message published to exchange '" + exchange +
                                     "' with key 'a.b', confirmed"));
  CHECK(bodies(broker.drain(queue)) == Bodies{"x"});
}

TEST_CASE("a message that nobody takes is a failure that says where it was to go",
          "[broker][publish]") {
  Broker broker;
  const std::string exchange = broker.unique_exchange();
  broker.declare_exchange(exchange, "direct");
  const std::string full =
      broker.make_queue("full", {.text_arguments = {{"x-overflow", "reject-publish"}},
                                 .number_arguments = {{"x-max-length", 0}}});
  struct Case {
    std::vector<std::string> arguments;
    std::string said;
  };
  const Case table[] = {
      {{"--queue", "no-such-queue"}, "lope publish: no queue 'no-such-queue' in vhost '/'\n"},
      {{"--exchange", exchange, "--key", "k"},
       "lope publish: exchange '" + exchange +
           "' with key 'k': no queue takes it (312 NO_ROUTE)\n"},
      {{"--exchange", "no-such-exchange", "--key", "k"},
       "lope publish: exchange 'no-such-exchange' with key 'k': 404 NOT_FOUND - no exchange "
       "'no-such-exchange' in vhost '/'\n"},
      {{"--queue", full}, "lope publish: queue '" + full + "': the broker refused message 1"},
      {{"--queue", full, "--user-id", "somebody"}, "406 PRECONDITION_FAILED - user_id"},
  };
  for (const Case& each : table) {
    std::vector<std::string> arguments = each.arguments;
    // However many there are: the first goes alone, and then nothing else is sent.
    arguments.insert(arguments.end(), {"--count", "1000", "x"});
    CAPTURE(arguments);
    // At once: nothing more is waited for.
    const RunResult result = publish(broker, arguments, "", 4s);
    CHECK(result.status == exited(1));
    CHECK_THAT(result.output, Contains(each.said));

    arguments.push_back("--json");
    CHECK_THAT(publish(broker, arguments).output, Contains("\"published\":1,\"confirmed\":0,"));
  }
  SECTION("unless that is allowed") {
    CHECK(publish(broker, {"--queue", "no-such-queue", "--no-mandatory", "x"}).status == exited(0));
  }
}

TEST_CASE("refused messages are counted apart from those a queue took", "[broker][publish]") {
  Broker broker;
  const std::string queue =
      broker.make_queue("small", {.text_arguments = {{"x-overflow", "reject-publish"}},
                                  .number_arguments = {{"x-max-length", 5}}});
  const RunResult result = publish(broker, {"--queue", queue, "--count", "3000", "--json", "x"});
  CHECK(result.status == exited(1));
  std::smatch counts;
  REQUIRE(std::regex_search(result.output, counts,
                            std::regex("\"published\":(\\d+),\"confirmed\":(\\d+),\"returned\":0,"
                                       "\"refused\":(\\d+),\"seconds\":\\d+\\.\\d{3}\\}")));
  const int published = std::stoi(counts[1]);
  const int confirmed = std::stoi(counts[2]);
  CHECK(published < 3000);
  CHECK(confirmed >= 5);
  CHECK(published == confirmed + std::stoi(counts[3]));
  CHECK(broker.message_count(queue) == confirmed);
}

TEST_CASE("many messages are all there, in order", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  const RunResult result =
      publish(broker, {"--queue", queue, "--count", "5000", "--numbered", "{n}"});
  CHECK(result.status == exited(0));
  CHECK_THAT(result.output,
             Contains("5000 messages published to queue '" + queue + "', confirmed in "));
  Bodies expected;
  for (int i = 1; i <= 5000; ++i) expected.push_back(std::to_string(i));
  CHECK((bodies(broker.drain(queue)) == expected));
}

TEST_CASE("a large body arrives whole", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  std::string body;
  while (body.size() < (20 << 20)) body += std::to_string(body.size()) + std::string("\0\n", 2);
  const TempDir dir;
  CHECK(publish(broker, {"--queue", queue, "--file", dir.write("large", body)}).status ==
        exited(0));
  const auto messages = broker.drain(queue);
  REQUIRE(messages.size() == 1);
  CHECK((messages[0].body == body));
}

TEST_CASE("--rate bounds how fast messages go", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  const auto start = std::chrono::steady_clock::now();
  CHECK(publish(broker, {"--queue", queue, "--count", "21", "--rate", "20", "x"}).status ==
        exited(0));
  CHECK(std::chrono::steady_clock::now() - start >= 1s);
  CHECK(broker.message_count(queue) == 21);
}

TEST_CASE("lines are published as they come", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  // The input stays open behind its first line, until the shell is told to end.
  const std::string command = "(echo first; read -r _ <\"$0\"; echo second) | '" LOPE_BIN_DIR
                              "/lope' publish --broker '" +
                              broker.url() + "' --queue '" + queue + "' --lines";
  const TempDir dir;
  const std::string fifo = dir.file("go");
  REQUIRE(run({"mkfifo", fifo}).status == exited(0));
  Process shell({"sh", "-c", command, fifo});
  REQUIRE(eventually(10s, [&] { return broker.message_count(queue) == 1; }));
  REQUIRE(run({"sh", "-c", "echo >\"$0\"", fifo}).status == exited(0));
  CHECK(shell.wait_exit() == exited(0));
  CHECK(bodies(broker.drain(queue)) == Bodies{"first", "second"});
}

TEST_CASE("the broker is that of --broker, or --config, or LOPE_BROKER", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  const std::string nobody = "amqp://127.0.0.1:1";
  const TempDir dir;
  const auto config = [&](const std::string& name, const std::string& url) {
    LopeOptions options;
    options.broker = url;
    options.groups = "  g: { handler: \"null\" }\n";
    return dir.write(name, config_text(options));
  };
  const std::string good = config("good.yaml", broker.url());
  const std::string bad = config("bad.yaml", nobody);
  const std::string both = config("both.yaml", "{ urls: [" + nobody + ", " + broker.url() + "] }");
  struct Case {
    std::vector<std::string> arguments;
    std::string environment;
    int code;
  };
  const Case table[] = {
      {{}, broker.url(), 0},
      {{}, nobody, 75},
      {{"--config", good}, nobody, 0},
      {{"--config", bad}, broker.url(), 75},
      {{"--config", both}, nobody, 0},
      {{"--broker", broker.url(), "--config", bad}, nobody, 0},
      {{"--broker", nobody, "--config", good}, broker.url(), 75},
  };
  for (const Case& each : table) {
    CAPTURE(each.arguments, each.environment);
    std::vector<std::string> arguments{"publish", "--queue", queue, "x"};
    arguments.insert(arguments.end(), each.arguments.begin(), each.arguments.end());
    ProcessOptions options;
    options.env = {{"LOPE_BROKER", each.environment}};
    const RunResult result = run_lope(arguments, options);
    INFO(result.output);
    CHECK(result.status == exited(each.code));
    if (each.code == 75)
      CHECK_THAT(result.output, Contains("127.0.0.1:1: connect: Connection refused"));
  }
}

TEST_CASE("a configuration that is refused says where", "[broker][publish]") {
  const TempDir dir;
  const std::string config = dir.write("lope.yaml", "brokr: amqp://localhost\n");
  const RunResult result = run_lope({"publish", "--queue", "q", "--config", config, "x"});
  CHECK(result.status == exited(78));
  CHECK_THAT(result.output, Contains(config + ":1:1: "));
}

TEST_CASE("a password is neither printed nor left on the command line", "[broker][publish]") {
  Broker broker;
  const std::string at = "@127.0.0.1:" + std::to_string(broker.port());
  SECTION("whatever is wrong") {
    struct Case {
      std::vector<std::string> arguments;
      int code;
    };
    const Case table[] = {
        {{"--broker", "amqp://guest:hunter2" + at}, 75},
        {{"--broker", "amqp://nobody:hunter2" + at}, 75},
        {{"--broker", "amqp://guest:hunter2@127.0.0.1:1"}, 75},
        {{"--broker", "amqp://guest:hunter2@127.0.0.1:x"}, 2},
        {{"--broker", "amqp://guest:hunter2/" + at}, 2},
        {{"--broker", "http://guest:hunter2" + at}, 2},
        {{"--brokr", "amqp://guest:hunter2" + at}, 2},
        {{"--brokr=amqp://guest:hunter2" + at}, 2},
        {{"--count", "amqp://guest:hunter2" + at}, 2},
    };
    for (const Case& each : table) {
      CAPTURE(each.arguments);
      std::vector<std::string> arguments{"publish", "--queue", "q", "body"};
      arguments.insert(arguments.end(), each.arguments.begin(), each.arguments.end());
      const RunResult result = run_lope(arguments);
      CHECK(result.status == exited(each.code));
      CHECK_THAT(result.output, Contains("lope publish: "));
      CHECK_THAT(result.output, !Contains("hunter2"));
    }
  }
  SECTION("while it runs") {
    const std::string queue = broker.make_queue();
    Process process =
        start_publish(broker, {"--queue", queue, "--rate", "1", "--count", "100", "x"});
    REQUIRE(eventually(10s, [&] { return broker.message_count(queue).value_or(0) > 0; }));
    const std::string command = read_file("/proc/" + std::to_string(process.pid()) + "/cmdline");
    CHECK_THAT(command, Contains("amqp://guest:*****@"));
  }
}

TEST_CASE("a command line that makes no sense is refused before anything is done",
          "[broker][publish]") {
  struct Case {
    std::vector<std::string> arguments;
    std::string said;
  };
  const Case table[] = {
      {{"x"}, "expected --queue, or --exchange and --key, found neither"},
      {{"--queue", "", "x"}, "--queue: expected a queue's name"},
      {{"--queue", "q", "--exchange", "e", "x"}, "--queue excludes --exchange"},
      {{"--queue", "q", "--key", "k", "x"}, "--key requires --exchange"},
      {{"--queue", "q", "--file", "f", "x"}, "BODY excludes --file"},
      {{"--queue", "q", "--lines", "x"}, "--lines: expected a file or standard input, found BODY"},
      {{"--queue", "q", "--lines", "--count", "2"}, "--lines and --count: expected one of them"},
      {{"--queue", "q", "--count", "0", "x"}, "--count: expected a number from 1, found 0"},
      {{"--queue", "q", "--count", "-1", "x"}, "--count: expected a number from 1, found -1"},
      {{"--queue", "q", "--timestamp", "-1", "x"}, "--timestamp: expected seconds since 1970"},
      {{"--queue", "q", "--rate", "0", "x"}, "--rate: expected a number above 0"},
      {{"--queue", "q", "--rate", "nan", "x"}, "--rate: expected a number above 0"},
      {{"--queue", "q", "--timeout", "-1", "x"}, "--timeout: expected a number of seconds"},
      {{"--queue", "q", "--priority", "256", "x"}, "--priority: Value 256 not in range 0 to 255"},
      {{"--queue", "q", "--header", "x"}, "--header: expected NAME=VALUE, found 'x'"},
      {{"--queue", "q", "--expiration", "5s", "x"},
       "expiration: expected a number of milliseconds"},
      {{"--queue", std::string(256, 'q'), "x"}, "queue: expected at most 255 bytes, found 256"},
      {{"--queue", "q", "--delay", "5", "x"}, "--delay: expected a duration with a unit"},
      {{"--queue", "q", "--delay", "3107d", "x"}, "delay: expected at most 3106d"},
      {{"--queue", "q", "--at", "12:00", "x"}, "--at: expected a time with its offset"},
      {{"--queue", "q", "--at", "9999-01-01T00:00:00Z", "x"}, "delay: expected at most 3106d"},
      {{"--queue", "q", "--at", "2027-02-03T00:00:00Z", "--delay", "5s", "x"},
       "--delay excludes --at"},
      {{"--queue", "q", "--delay", "5s", "--delay-prefix", "a b", "x"}, "delay prefix: expected"},
      {{"--queue", "q", "x", "y"}, "y"},
      {{"--queue", "q", "--broker", "localhost", "x"}, "--broker: URL: expected amqp://"},
  };
  for (const Case& each : table) {
    std::vector<std::string> arguments{"publish"};
    arguments.insert(arguments.end(), each.arguments.begin(), each.arguments.end());
    CAPTURE(arguments);
    const RunResult result = run_lope(arguments);
    CHECK(result.status == exited(2));
    CHECK_THAT(result.output, Contains("lope publish: "));
    CHECK_THAT(result.output, Contains(each.said));
  }
}

// A delay ladder of this file's own, and the daemon that delivers what is due on it.
const std::string kPrefix = "publish-test.delay";

LopeOptions relaying(Broker& broker, const std::string& prefix = kPrefix) {
  return {.broker = broker.url(),
          .groups = "  idle: { handler: \"null\", queue: " + broker.make_queue("idle") + " }\n",
          .top = "delays: { prefix: " + prefix + " }\n",
          .handlers_dir = LOPE_HANDLERS_BUILD_DIR};
}

std::int64_t unix_ms() { return static_cast<std::int64_t>(lope::unix_ns() / 1'000'000); }

TEST_CASE("a delayed message arrives when it is due, and not before", "[broker][publish]") {
  Broker broker;
  Lope lope(relaying(broker));
  const std::string queue = broker.make_queue();
  const std::string exchange = broker.unique_exchange();
  broker.declare_exchange(exchange, "topic");
  broker.bind_queue(queue, exchange, "a.#");
  const auto start = unix_ms();
  std::vector<std::string> when{"--delay", "1500ms"};
  bool to_exchange = false;
  SECTION("to a queue") {}
  SECTION("to an exchange") { to_exchange = true; }
  SECTION("at a time") { when = {"--at", lope::utc_text(start + 1500)}; }
  std::vector<std::string> arguments{"--delay-prefix", kPrefix, "--header", "a=b"};
  arguments.insert(arguments.end(), when.begin(), when.end());
  if (to_exchange) {
    arguments.insert(arguments.end(), {"--exchange", exchange, "--key", "a.b", "later"});
  } else {
    arguments.insert(arguments.end(), {"--queue", queue, "later"});
  }
  const RunResult result = publish(broker, arguments);
  INFO(result.output);
  REQUIRE(result.status == exited(0));
  std::smatch due;
  REQUIRE(std::regex_search(result.output, due, std::regex(", confirmed, due (\\S+)\n")));
  const auto due_ms = lope::parse_time(due[1].str());
  REQUIRE(due_ms.ok());
  CHECK(*due_ms >= start + 1500);
  CHECK(*due_ms <= unix_ms() + 1500);
  REQUIRE(eventually(20s, [&] { return broker.message_count(queue) == 1; }));
  CHECK(unix_ms() >= *due_ms);
  const auto messages = broker.drain(queue);
  REQUIRE(messages.size() == 1);
  CHECK(messages[0].body == "later");
  CHECK(messages[0].persistent);
  CHECK(messages[0].exchange == (to_exchange ? exchange : ""));
  CHECK(messages[0].routing_key == (to_exchange ? "a.b" : queue));
  using Headers = std::vector<std::pair<std::string, std::string>>;
  CHECK(messages[0].headers == Headers{{"a", "b"}});
}

TEST_CASE("a delayed message's expiration counts from when it is due", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  Lope lope(relaying(broker));
  REQUIRE(lope.wait_ready());
  REQUIRE(publish(broker, {"--queue", queue, "--delay-prefix", kPrefix, "--delay", "3s",
                           "--expiration", "2000", "--transient", "x"})
              .status == exited(0));
  REQUIRE(eventually(20s, [&] { return broker.message_count(queue) == 1; }));
  CHECK(eventually(5s, [&] { return broker.message_count(queue) == 0; }));
}

TEST_CASE("many delayed messages are each due so much later", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  Lope lope(relaying(broker));
  const RunResult result =
      publish(broker, {"--queue", queue, "--delay-prefix", kPrefix, "--delay", "1s", "--rate", "20",
                       "--count", "20", "--numbered", "{n}"});
  CHECK(result.status == exited(0));
  CHECK_THAT(result.output, Matches("20 messages published to queue '.*', confirmed in .* s, due "
                                    "\\S+ to \\S+\n"));
  REQUIRE(eventually(20s, [&] { return broker.message_count(queue) == 20; }));
}

TEST_CASE("a delayed message that could not be delivered is refused now", "[broker][publish]") {
  Broker broker;
  const RunResult queue = publish(
      broker, {"--queue", "no-such-queue", "--delay", "1h", "--delay-prefix", kPrefix, "x"});
  CHECK(queue.status == exited(1));
  CHECK(queue.output == "lope publish: no queue 'no-such-queue' in vhost '/'\n");
  const RunResult exchange = publish(broker, {"--exchange", "no-such-exchange", "--key", "k",
                                              "--delay", "1h", "--delay-prefix", kPrefix, "x"});
  CHECK(exchange.status == exited(1));
  CHECK_THAT(exchange.output, Contains("exchange 'no-such-exchange' with key 'k': 404 NOT_FOUND"));
}

TEST_CASE("what was due in the past is published at once", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  const RunResult result =
      publish(broker, {"--queue", queue, "--at", "2020-01-01T00:00:00+08:00", "x"});
  CHECK(result.status == exited(0));
  CHECK_THAT(result.output, Matches("lope publish: \\S+ is past: published at once\n"
                                    "1 message published to queue '.*', confirmed\n"));
  CHECK(broker.message_count(queue) == 1);
}

TEST_CASE("the delay prefix is that of the configuration, unless another is given",
          "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  const TempDir dir;
  const std::string configured_prefix = broker.unique_queue("delay");
  const std::string config =
      dir.write("lope.yaml", config_text(relaying(broker, configured_prefix)));
  const std::string other = broker.unique_queue("delay");
  std::vector<std::string> arguments{"publish", "--config", config,   "--queue", queue,
                                     "--delay", "100ms",    "--json", "x"};
  const RunResult configured = run_lope(arguments);
  INFO(configured.output);
  CHECK(configured.status == exited(0));
  CHECK_THAT(configured.output, Contains("\"confirmed\":1,") && Contains(",\"due\":\"2"));
  CHECK(eventually(10s, [&] { return broker.message_count(configured_prefix + ".due") == 1; }));
  arguments.insert(arguments.end(), {"--delay-prefix", other});
  CHECK(run_lope(arguments).status == exited(0));
  CHECK(eventually(10s, [&] { return broker.message_count(other + ".due") == 1; }));
  CHECK(broker.message_count(configured_prefix + ".due") == 1);
}

TEST_CASE("--help and --version succeed without a broker", "[broker][publish]") {
  const RunResult help = run_lope({"publish", "--help"});
  CHECK(help.status == exited(0));
  CHECK_THAT(help.output, Contains("lope publish [OPTIONS] [BODY]"));
  const RunResult version = run_lope({"publish", "--version"});
  CHECK(version.status == exited(0));
  CHECK(version.output == "lope " LOPE_VERSION "\n");
}

TEST_CASE("input that cannot be read is a failure that names it", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  const RunResult missing = publish(broker, {"--queue", queue, "--file", "/no/such/file"});
  CHECK(missing.status == exited(1));
  CHECK_THAT(missing.output, Contains("'/no/such/file': open: No such file or directory"));
  const RunResult folder = publish(broker, {"--queue", queue, "--lines", "--file", "/"});
  CHECK(folder.status == exited(1));
  CHECK_THAT(folder.output, Contains("'/': read: Is a directory"));
  CHECK(broker.message_count(queue) == 0);
}

TEST_CASE("interrupted, it says how many are confirmed", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  const int signal = GENERATE(SIGINT, SIGTERM);
  Process process =
      start_publish(broker, {"--queue", queue, "--rate", "100", "--count", "10000", "x"});
  REQUIRE(eventually(10s, [&] { return broker.message_count(queue).value_or(0) >= 5; }));
  process.signal(signal);
  CHECK(process.wait_exit() == exited(1));
  std::smatch counts;
  const std::string output = process.output();
  REQUIRE(std::regex_search(
      output, counts, std::regex("interrupted by (\\w+); (\\d+) of (\\d+) messages confirmed\n")));
  CHECK(counts[1] == (signal == SIGINT ? "SIGINT" : "SIGTERM"));
  CHECK(counts[2] == counts[3]);
  CHECK(broker.message_count(queue) == std::stoi(counts[2]));
}

TEST_CASE("a connection that is lost on the way is a failure at once", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  Process process =
      start_publish(broker, {"--queue", queue, "--rate", "100", "--count", "10000", "x"});
  REQUIRE(eventually(10s, [&] { return broker.message_count(queue).value_or(0) >= 5; }));
  broker.close_all_connections();
  CHECK(process.wait_exit() == exited(1));
  CHECK_THAT(process.output(), Contains("lope publish: connection lost: "));
  CHECK_THAT(process.output(), Contains(" messages confirmed"));
}

TEST_CASE("a broker that blocks publishers is waited for", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  MemoryAlarm alarm(broker);
  Process process = start_publish(broker, {"--queue", queue, "--count", "5000", "x"});
  REQUIRE(process.wait_for_line("lope publish: the broker blocks publishers: low on memory", 20s));
  alarm.end();
  REQUIRE(process.wait_for_line("lope publish: the broker takes messages again", 20s));
  CHECK(process.wait_exit(30s) == exited(0));
  CHECK(broker.message_count(queue) == 5000);
}

TEST_CASE("a broker that confirms nothing is given up", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  const MemoryAlarm alarm(broker);
  const RunResult result =
      publish(broker, {"--queue", queue, "--count", "5000", "--timeout", "1", "x"});
  CHECK(result.status == exited(1));
  CHECK_THAT(result.output,
             Contains("the broker has confirmed nothing for 1 s: it blocks publishers "
                      "(low on memory)"));
}

TEST_CASE("a bar shows how far it is, on a terminal alone", "[broker][publish]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  const std::string command = LOPE_BIN_DIR "/lope publish --broker " + broker.url() + " --queue " +
                              queue + " --count 120 --rate 100 x";
  ProcessOptions options;
  options.env = {{"TERM", "xterm"}};
  const RunResult terminal = run({"script", "-qec", command, "/dev/null"}, options);
  CHECK(terminal.status == exited(0));
  CHECK_THAT(terminal.output, Contains("% [##") && Contains("/120 ") && Contains(" left\x1b[K"));
  CHECK_THAT(terminal.output, Contains("\x1b[K120 messages published"));

  const RunResult plain = run({"sh", "-c", command}, options);
  CHECK(plain.status == exited(0));
  CHECK_THAT(plain.output,
             Matches("120 messages published to queue '.*', confirmed in \\d+\\.\\d\\d s\n"));
}

}  // namespace
