// `lope check --broker`: what it finds out, and that it changes nothing.
#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "support/amqp_frames.h"
#include "support/broker.h"
#include "support/lope.h"
#include "support/memory_alarm.h"
#include "support/process.h"
#include "support/tcp_server.h"
#include "support/temp_dir.h"

namespace {

using namespace lope::test;
using Catch::Matchers::Contains;

// Queues with their messages, exchanges, bindings: all that could change. Messages that are
// on their way through the ladder move by themselves, so those are not counted.
std::set<std::string> everything(Broker& broker) {
  std::set<std::string> all;
  for (const auto& command :
       {std::vector<std::string>{"list_queues", "name", "messages", "arguments"},
        std::vector<std::string>{"list_exchanges", "name", "type", "arguments"},
        std::vector<std::string>{"list_bindings", "source_name", "destination_name",
                                 "routing_key"}}) {
    for (const auto& row : broker.list(command)) {
      std::string line = command[0] + " " + row[0];
      if (!row[0].starts_with("lope.delay.")) line += " " + row[1];
      for (std::size_t i = 2; i < row.size(); ++i) line += " " + row[i];
      all.insert(line);
    }
  }
  return all;
}

// Runs it any number of times; nothing may have changed from before the first to after the last.
struct Check {
  ~Check() { unchanged(); }
  void unchanged() {
    if (before.empty()) return;
    // A node that was killed takes a while to count what is in its quorum queues.
    std::vector<std::string> changed;
    eventually(20s, [&] {
      changed.clear();
      std::ranges::set_symmetric_difference(before, everything(broker),
                                            std::back_inserter(changed));
      return changed.empty();
    });
    CHECK(changed == std::vector<std::string>{});
    before.clear();
  }
  RunResult run(const std::string& groups, const std::string& top = "",
                std::vector<std::string> more = {}, const std::string& url = "") {
    more.insert(more.begin(), {"check", "--broker", "--config", config(groups, top, url)});
    return run_lope(more);
  }
  // Writes it, and notes what is there.
  std::string config(const std::string& groups, const std::string& top = "",
                     const std::string& url = "") {
    LopeOptions options;
    options.broker = url.empty() ? broker.url() : url;
    options.groups = groups;
    options.top = top.find("delays:") == std::string::npos ? top + kWithRelay : top;
    options.handlers_dir = LOPE_HANDLERS_BUILD_DIR;
    if (before.empty()) before = everything(broker);
    return dir.write("lope.yaml", config_text(options));
  }
  static std::string group(const std::string& queue, const std::string& more = "",
                           const std::string& name = "g") {
    return "  " + name + ":\n    handler: \"null\"\n    queue: " + queue + "\n" + more;
  }

  Broker broker;
  TempDir dir;
  std::set<std::string> before;
};

TEST_CASE("a configuration that works is ok on the broker", "[broker][check_broker]") {
  Check it;
  const std::string queue =
      it.broker.make_queue("check", {.text_arguments = {{"x-dead-letter-exchange", "amq.topic"}}});
  it.broker.publish(queue, "untouched", "m-1");
  const RunResult result = it.run(it.group(queue));
  INFO(result.output);
  CHECK(result.status == exited(0));
  CHECK_THAT(result.output, Contains("group 'g': ok handler null") &&
                                Contains("broker 127.0.0.1:" + std::to_string(it.broker.port()) +
                                         ": ok RabbitMQ 3.") &&
                                Contains("group 'g': ok on the broker\n") && !Contains("note"));
  it.unchanged();
  const auto messages = it.broker.drain(queue);
  REQUIRE(messages.size() == 1);
  CHECK_FALSE(messages[0].redelivered);
}

TEST_CASE("a queue that is not there is an error, unless it is declared",
          "[broker][check_broker]") {
  Check it;
  const std::string queue = it.broker.unique_queue("check");
  const RunResult missing = it.run(it.group(queue));
  INFO(missing.output);
  CHECK(missing.status == exited(1));
  CHECK_THAT(missing.output,
             Contains("lope check: group 'g': no queue '" + queue +
                      "' in vhost '/', and the configuration does not declare it\n") &&
                 Contains("group 'g': would fail on the broker\n"));
  const std::string exchange = it.broker.unique_exchange("check");
  const RunResult declared = it.run(it.group(
      queue, "    declare:\n      exchanges: [{ name: " + exchange +
                 ", type: topic }]\n      bind: [{ exchange: " + exchange + ", key: a }]\n"));
  INFO(declared.output);
  CHECK(declared.status == exited(0));
  CHECK_THAT(declared.output,
             Contains("note: queue '" + queue + "' is not there: it will be declared\n") &&
                 Contains("exchange '" + exchange + "' is not there: it will be declared\n") &&
                 Contains("it has no dead-letter exchange, and dead_letter is not given: dead "
                          "letters go to queue '" +
                          queue + ".dead'\n"));
  const RunResult unbound =
      it.run(it.group(queue, "    declare: { bind: [{ exchange: " + exchange + ", key: a }] }\n"));
  CHECK(unbound.status == exited(1));
  CHECK_THAT(unbound.output, Contains("it is bound to exchange '" + exchange + "': 404 NOT_FOUND"));
}

TEST_CASE("what is declared otherwise is an error that names both sides",
          "[broker][check_broker]") {
  Check it;
  const std::string queue =
      it.broker.make_queue("check", {.number_arguments = {{"x-message-ttl", 5000}}});
  const std::string exchange = it.broker.unique_exchange("check");
  it.broker.declare_exchange(exchange, "fanout");
  struct Case {
    std::string declare;
    std::string said;  // empty: it is as declared
  };
  const Case table[] = {
      {"{ arguments: { x-message-ttl: 5000 } }", ""},
      {"{}",
       "arguments {}; the broker says 406 PRECONDITION_FAILED - inequivalent arg "
       "'x-message-ttl'"},
      {"{ arguments: { x-message-ttl: 6000 } }", "arguments {\"x-message-ttl\":6000}; the broker"},
      {"{ durable: false, arguments: { x-message-ttl: 5000 } }",
       "durable false, exclusive false, auto_delete false"},
      {"{ type: quorum, arguments: { x-message-ttl: 5000 } }",
       "the configuration says type quorum"},
      {"{ arguments: { x-message-ttl: 5000 }, exchanges: [{ name: " + exchange +
           ", type: fanout }] }",
       ""},
      {"{ arguments: { x-message-ttl: 5000 }, exchanges: [{ name: " + exchange +
           ", type: topic }] }",
       "exchange '" + exchange +
           "' cannot be declared like this: the configuration says type topic"},
      {"{ arguments: { x-message-ttl: 5000 }, exchanges: [{ name: " + exchange +
           ", type: fanout, arguments: { alternate-exchange: a } }] }",
       "inequivalent arg 'alternate-exchange'"},
      {"{ arguments: { x-message-ttl: 5000 }, exchanges: [{ name: " + exchange +
           ", type: x-none }] }",
       "unknown exchange type 'x-none'"},
  };
  for (const Case& each : table) {
    CAPTURE(each.declare);
    const RunResult result = it.run(it.group(queue, "    declare: " + each.declare + "\n"));
    INFO(result.output);
    CHECK(result.status == exited(each.said.empty() ? 0 : 1));
    if (!each.said.empty()) CHECK_THAT(result.output, Contains(each.said));
  }
}

TEST_CASE("a declaration that the broker would refuse is an error", "[broker][check_broker]") {
  Check it;
  const std::string queue = it.broker.unique_queue("check");
  const RunResult result =
      it.run(it.group(queue, "    declare: { arguments: { x-message-ttl: never } }\n"));
  CHECK(result.status == exited(1));
  CHECK_THAT(result.output, Contains("406 PRECONDITION_FAILED - invalid arg 'x-message-ttl'"));
  CHECK_FALSE(it.broker.queue_exists(queue));
}

TEST_CASE("dead letters that would go nowhere are told", "[broker][check_broker]") {
  Check it;
  const std::string plain = it.broker.make_queue("check");
  const std::string broken = it.broker.make_queue(
      "check", {.text_arguments = {{"x-dead-letter-exchange", "no-such-exchange"}}});
  const std::string exchange = it.broker.unique_exchange("check");
  struct Case {
    std::string queue, more;
    bool fails;
    std::string said;
  };
  const Case table[] = {
      {plain, "", false, "note: queue '" + plain + "': it has no dead-letter exchange, and"},
      {broken, "", false, "its dead-letter exchange 'no-such-exchange' is not there, and dead_"},
      {plain, "dead_letter: broker", false, "it has no dead-letter exchange of its own: unless a"},
      {broken, "dead_letter: broker", true, "'no-such-exchange' is not there: the broker drops"},
      {plain, "dead_letter: { exchange: " + exchange + " }", true,
       "dead_letter: exchange '" + exchange + "' is not there, and not declared: 404"},
      {plain, "dead_letter: { exchange: " + exchange + ", declare: true }", false,
       "dead_letter: exchange '" + exchange + "' is not there: it will be declared"},
      {plain, "dead_letter: { queue: no-such-queue }", true,
       "dead_letter: queue 'no-such-queue' is not there, and not declared: 404"},
      {plain, "dead_letter: { queue: no-such-queue, declare: true }", false,
       "dead_letter: queue 'no-such-queue' is not there: it will be declared"},
      {plain, "dead_letter: { exchange: amq.direct, declare: true, type: topic }", true,
       "dead_letter: exchange 'amq.direct' cannot be declared like this"},
      {plain, "declare: { arguments: { x-dead-letter-exchange: no-such-exchange } }", true,
       "cannot be declared like this"},
      {it.broker.unique_queue("check"),
       "declare: { arguments: { x-dead-letter-exchange: no-such-exchange } }", true,
       "its dead-letter exchange 'no-such-exchange' is not there: the broker drops"},
  };
  for (const Case& each : table) {
    CAPTURE(each.queue, each.more);
    const RunResult result = it.run(it.group(each.queue, "    " + each.more + "\n"));
    INFO(result.output);
    CHECK(result.status == exited(each.fails ? 1 : 0));
    CHECK_THAT(result.output, Contains(each.said));
  }
}

TEST_CASE("a journal to an exchange that nobody declares is an error", "[broker][check_broker]") {
  Check it;
  const std::string queue = it.broker.make_queue("check");
  const std::string exchange = it.broker.unique_exchange("check");
  const std::string journal = "journal: { exchange: " + exchange + " }\n";
  const RunResult missing = it.run(it.group(queue), journal);
  INFO(missing.output);
  CHECK(missing.status == exited(1));
  CHECK_THAT(missing.output, Contains("journal: exchange '" + exchange +
                                      "' is not there, and no group declares it: 404"));
  const RunResult declared =
      it.run(it.group(queue) +
                 it.group(it.broker.unique_queue("check"),
                          "    declare: { exchanges: [{ name: " + exchange + " }] }\n", "keeper"),
             journal);
  INFO(declared.output);
  CHECK(declared.status == exited(0));
}

TEST_CASE("what a quorum queue gives up is noted", "[broker][check_broker]") {
  Check it;
  const std::string queue = it.broker.unique_queue("check");
  const RunResult result =
      it.run(it.group(queue,
                      "    declare: { type: quorum, arguments: { x-delivery-limit: 3, "
                      "x-dead-letter-exchange: amq.topic } }\n"));
  INFO(result.output);
  CHECK(result.status == exited(0));
  CHECK_THAT(result.output, Contains("x-delivery-limit 3 with prefetch 30: a crash or") &&
                                Contains("without x-dead-letter-strategy: at-least-once"));
}

TEST_CASE("a quorum queue dead-letters at least once only with both arguments",
          "[broker][check_broker]") {
  Check it;
  const std::string strategy = ", x-dead-letter-strategy: at-least-once";
  const std::string overflow = ", x-overflow: reject-publish";
  for (const std::string& more : {strategy, overflow, strategy + overflow}) {
    CAPTURE(more);
    const RunResult result =
        it.run(it.group(it.broker.unique_queue("check"),
                        "    declare: { type: quorum, arguments: { x-dead-letter-exchange: "
                        "amq.topic" +
                            more + " } }\n"));
    INFO(result.output);
    CHECK(result.status == exited(0));
    const bool noted = result.output.find("may be lost on its way") != std::string::npos;
    CHECK(noted == (more != strategy + overflow));
  }
}

TEST_CASE("a delivery limit below the group's own is noted with both", "[broker][check_broker]") {
  Check it;
  const std::string queue = it.broker.unique_queue("check");
  struct Case {
    std::string limit, more;
    std::string said;  // empty: nothing
  };
  const Case table[] = {
      {"4", "", "x-delivery-limit 4 is less than retry.attempts 5: "},
      {"5", "", ""},
      {"2", "", "x-delivery-limit 2 is less than retry.attempts 5 and crashes 3: "},
      {"4", ", retry: { attempts: 2 }, crashes: 7", "x-delivery-limit 4 is less than crashes 7: "},
      {"2", ", auto_ack: true", ""},
      {"-1", "", ""},  // none
  };
  for (const Case& each : table) {
    CAPTURE(each.limit, each.more);
    const RunResult result =
        it.run("  g: { handler: \"null\", queue: " + queue +
               ", declare: { type: quorum, arguments: { x-delivery-limit: " + each.limit + " } }" +
               each.more + " }\n");
    INFO(result.output);
    CHECK(result.status == exited(0));
    if (each.said.empty()) {
      CHECK_THAT(result.output, !Contains("is less than"));
    } else {
      CHECK_THAT(result.output, Contains(each.said));
    }
  }
}

TEST_CASE("permissions that are missing are errors", "[broker][check_broker]") {
  Check it;
  const std::string queue = it.broker.make_queue("check");
  const std::string absent = it.broker.unique_queue("check");
  LimitedUser user(it.broker);
  struct Case {
    std::string configure, write, read, queue, more;
    std::vector<std::string> said;  // none: all is permitted
  };
  const Case table[] = {
      {".*", ".*", ".*", queue, "", {}},
      {".*", ".*", "", queue, "", {"queue '" + queue + "' may not be consumed from: 403"}},
      {"lope.*",
       ".*",
       ".*",
       queue,
       "declare: {}",
       {"queue '" + queue + "' may not be declared: 403"}},
      {"lope.*",
       ".*",
       ".*",
       absent,
       "declare: {}",
       {"queue '" + absent + "' may not be declared: 403"}},
      {"lope.*",
       ".*",
       ".*",
       queue,
       "",
       {"queue '" + queue + "': queue '" + queue + ".dead' may not be declared: 403"}},
      {".*",
       "lope.*",
       ".*",
       queue,
       "",
       {"queue '" + queue + "': the default exchange may not be published to: 403",
        "lope check: delays: the default exchange may not be published to: 403"}},
      {".*",
       "lope.*",
       ".*",
       queue,
       "dead_letter: { exchange: amq.topic }",
       {"dead_letter: exchange 'amq.topic' may not be published to: 403"}},
      {"check.*",
       ".*",
       ".*",
       queue,
       "",
       {"lope check: delays: exchange 'lope.delay.due' may not be declared: 403",
        "lope check: delays: queue 'lope.delay.due' may not be declared: 403"}},
      {".*",
       "(amq|check).*",
       ".*",
       queue,
       "",
       {"lope check: delays: exchange 'lope.delay.v1-125ms-31.00' may not be published to: 403"}},
      {".*",
       "(lope|amq).*",
       ".*",
       queue,
       "declare: { bind: [{ exchange: amq.topic, key: a }] }",
       {"queue '" + queue + "' may not be bound to exchange 'amq.topic': 403 ACCESS_REFUSED - " +
        "access to queue '" + queue + "'"}},
      {".*",
       ".*",
       "(lope|check).*",
       absent,
       "declare: { bind: [{ exchange: amq.topic, key: a }] }",
       {"queue '" + absent + "' may not be bound to exchange 'amq.topic': 403 ACCESS_REFUSED - " +
        "access to exchange 'amq.topic'"}},
      {".*",
       "(amq|check).*",
       ".*",
       queue,
       "",
       {"delays: queue 'lope.delay.due' may not be bound to exchange 'lope.delay.due': 403",
        "delays: exchange 'lope.delay.due' may not be bound to exchange "
        "'lope.delay.v1-125ms-31.00': 403"}},
  };
  for (const Case& each : table) {
    CAPTURE(each.configure, each.write, each.read, each.more);
    user.may(each.configure, each.write, each.read);
    const RunResult result =
        it.run(it.group(each.queue, each.more.empty() ? "" : "    " + each.more + "\n"), "", {},
               user.url());
    INFO(result.output);
    CHECK(result.status == exited(each.said.empty() ? 0 : 1));
    for (const std::string& said : each.said) CHECK_THAT(result.output, Contains(said));
    CHECK_THAT(result.output, !Contains("hunter2"));
  }
}

TEST_CASE("a key that nobody uses says nothing of those that are permitted",
          "[broker][check_broker]") {
  Check it;
  const std::string queue = it.broker.make_queue("check");
  LimitedUser user(it.broker);
  user.may(".*", ".*", ".*");
  user.may_use_keys("amq.topic", "^orders");
  const RunResult result =
      it.run(it.group(queue, "    dead_letter: { exchange: amq.topic, key: orders }\n"), "", {},
             user.url());
  INFO(result.output);
  CHECK(result.status == exited(0));
  const std::string declared = it.broker.unique_queue("check");
  const auto bind = [&](const std::string& key) {
    return it.run(
        it.group(declared, "    declare: { bind: [{ exchange: amq.topic, key: " + key + " }] }\n"),
        "", {}, user.url());
  };
  const RunResult may = bind("orders.new");
  INFO(may.output);
  CHECK(may.status == exited(0));
  const RunResult may_not = bind("mails");
  INFO(may_not.output);
  CHECK(may_not.status == exited(1));
  CHECK_THAT(may_not.output,
             Contains("queue '" + declared + "' may not be bound to exchange 'amq.topic': 403"));
}

TEST_CASE("bindings that are there stay", "[broker][check_broker]") {
  Check it;
  const std::string queue = it.broker.make_queue("check");
  const std::string exchange = it.broker.unique_exchange("check");
  it.broker.declare_exchange(exchange, "topic");
  it.broker.bind_queue(queue, exchange, "a.b");
  const RunResult result = it.run(it.group(
      queue, "    declare: { exchanges: [{ name: " + exchange +
                 ", type: topic }], bind: [{ exchange: " + exchange + ", key: a.b }] }\n"));
  INFO(result.output);
  CHECK(result.status == exited(0));
  CHECK(it.before.contains("list_bindings " + exchange + " " + queue + " a.b"));
}

TEST_CASE("groups that were not asked are not ok", "[broker][check_broker]") {
  Check it;
  const std::string queue = it.broker.make_queue("check");
  const bool killed = GENERATE(false, true);
  const std::string config =
      it.config(it.group(queue, "", "first") + it.group(queue, "", "second"),
                "delays: { relay: false }\ndefaults: { retry: { delay: 0s } }\n");
  // Who has published is blocked: what is asked after that hangs. The first group's last question
  // is whether it may be published to the default exchange.
  MemoryAlarm alarm(it.broker);
  Process process({LOPE_BIN_DIR "/lope", "check", "--broker", "--config", config,
                   killed ? "--json" : "--broker"});
  REQUIRE(process.wait_for_line("lope check: the broker blocks publishers", 20s));
  if (killed) {
    it.broker.kill_node();
  } else {
    process.signal(SIGINT);
  }
  CHECK(process.wait_exit(20s) == exited(1));
  if (killed) it.broker.start_node();
  alarm.end();
  INFO(process.output());
  if (killed) {
    CHECK_THAT(process.output(), Contains("{\"name\":\"second\",\"ok\":false,\"errors\":[") &&
                                     Contains("\"not asked: "));
  } else {
    CHECK_THAT(process.output(),
               Contains("lope check: group 'second': not asked: interrupted by SIGINT\n") &&
                   Contains("group 'second': not asked\n"));
  }
}

TEST_CASE("what has had no answer is not taken for permitted", "[broker][check_broker]") {
  // A broker of made-up answers, which hangs up when it is asked about consuming.
  const TcpServer server(
      login(),
      {{method(1, 20, 10, short_text("")), method(1, 20, 11, long_text(""))},
       {method(1, 60, 10, number(0, 4) + number(1, 2) + number(0, 1)), method(1, 60, 11, "")},
       {short_text("q"), method(1, 50, 11, short_text("q") + number(0, 8))},
       {short_text("q"),
        method(0, 10, 50, number(320, 2) + short_text("go away") + number(0, 4))}});
  Check it;
  const RunResult result =
      it.run(it.group("q", "    auto_ack: true\n"), "delays: { relay: false }\n", {}, server.url());
  INFO(result.output);
  CHECK(result.status == exited(1));
  CHECK_THAT(result.output,
             Contains("group 'g': queue 'q': whether it may be consumed from is not known: "
                      "connection lost: ") &&
                 Contains("group 'g': would fail on the broker\n"));
}

TEST_CASE("that nobody relays is told where no relay is to run", "[broker][check_broker]") {
  Check it;
  const std::string queue = it.broker.make_queue("check");
  struct Case {
    std::string delays, more;
    bool told;
  };
  const Case table[] = {
      {"relay: false", "", true},
      {"relay: true", "", false},  // it will, when it runs
      {"relay: false", "retry: { delay: 0s }", false},
      {"relay: false", "retry: { attempts: 1 }", false},
      {"relay: false", "auto_ack: true", false},
  };
  for (const Case& each : table) {
    CAPTURE(each.delays, each.more);
    const RunResult result = it.run(it.group(queue, "    " + each.more + "\n"),
                                    "delays: { prefix: nobody.relays, " + each.delays + " }\n");
    INFO(result.output);
    CHECK(result.status == exited(0));
    CHECK((result.output.find("note: delays: nobody relays now: delays.relay is false, and queue "
                              "'nobody.relays.due' is not there") != std::string::npos) ==
          each.told);
  }
  it.unchanged();
  LopeOptions other;
  other.broker = it.broker.url();
  other.groups = it.group(queue);
  other.top = kWithRelay;
  other.handlers_dir = LOPE_HANDLERS_BUILD_DIR;
  Lope daemon(other);
  const auto consumers = [&] { return it.broker.consumer_count("lope.delay.due").value_or(-1); };
  const auto told = [&] {
    const RunResult result = it.run(it.group(queue), "delays: { relay: false }\n");
    INFO(result.output);
    CHECK(result.status == exited(0));
    return result.output.find("'lope.delay.due' has no consumer") != std::string::npos;
  };
  REQUIRE(eventually(30s, [&] { return consumers() > 0; }));
  CHECK_FALSE(told());
  CHECK(daemon.stop() == exited(0));
  REQUIRE(eventually(10s, [&] { return consumers() == 0; }));
  CHECK(told());
}

TEST_CASE("every address is tried", "[broker][check_broker]") {
  Check it;
  const std::string queue = it.broker.make_queue("check");
  const RunResult one =
      it.run(it.group(queue), "", {}, "{ urls: [amqp://127.0.0.1:1, " + it.broker.url() + "] }");
  INFO(one.output);
  CHECK(one.status == exited(0));
  CHECK_THAT(one.output,
             Contains("note: broker 127.0.0.1:1: connect: ") && Contains(": ok RabbitMQ"));
  const RunResult none = it.run(it.group(queue), "", {}, "amqp://127.0.0.1:1");
  INFO(none.output);
  CHECK(none.status == exited(75));
  CHECK_THAT(none.output, Contains("lope check: broker 127.0.0.1:1: connect: "));
  const RunResult stranger =
      it.run(it.group(queue), "", {},
             "{ url: amqp://nobody@127.0.0.1:" + std::to_string(it.broker.port()) +
                 ", password: hunter2 }");
  CHECK(stranger.status == exited(75));
  CHECK_THAT(stranger.output,
             Contains("log in as 'nobody' to vhost '/': 403") && !Contains("hunter2"));
}

TEST_CASE("the broker's part is JSON of its own", "[broker][check_broker]") {
  Check it;
  const std::string queue = it.broker.unique_queue("check");
  const RunResult result = it.run(it.group(queue), "", {"--json"});
  INFO(result.output);
  CHECK(result.status == exited(1));
  const std::size_t second = result.output.find('\n') + 1;
  CHECK_THAT(result.output.substr(0, second), Contains("\"handler\":{"));
  CHECK_THAT(
      result.output.substr(second),
      Catch::Matchers::StartsWith("{\"ok\":false,\"brokers\":[{\"address\":\"127.0.0.1:") &&
          Contains("\"groups\":[{\"name\":\"g\",\"ok\":false,\"errors\":[\"no queue '" + queue));
  const RunResult none = it.run(it.group(queue), "", {"--json"}, "amqp://127.0.0.1:1");
  CHECK(none.status == exited(75));
  CHECK_THAT(none.output, Contains("{\"ok\":false,\"brokers\":[{\"address\":\"127.0.0.1:1\",\"ok\":"
                                   "false,\"error\":\"broker 127.0.0.1:1: connect: "));
}

TEST_CASE("the broker is not asked about a configuration that is refused",
          "[broker][check_broker]") {
  const TempDir dir;
  const RunResult result =
      run_lope({"check", "--broker", "--config", dir.write("lope.yaml", "brokr: x\n")});
  CHECK(result.status == exited(78));
  CHECK_THAT(result.output, !Contains("RabbitMQ"));
}

}  // namespace
