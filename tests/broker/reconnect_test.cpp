// What Lope does when the broker, the connection, the channel or the queue goes away, or was never
// there: each is one clear log line, and Lope is back when the cause is gone.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/tcp_server.h"
#include "support/undo.h"

using namespace lope::test;

namespace {

constexpr std::string_view kFlag = " redelivered";

std::string group_of(const std::string& queue, const std::string& handler,
                     const std::string& options, const std::string& more = {}) {
  return "  group:\n    queue: " + queue + "\n    handler: " + handler + "\n    options: { " +
         options + " }\n" + more;
}

std::string address(const Broker& broker) { return "127.0.0.1:" + std::to_string(broker.port()); }

// How often the node has refused a login of this user so far, by its own log.
std::size_t refusals(const std::string& user) {
  const std::string log =
      read_file(std::string(std::getenv("LOPE_TEST_BROKER_DIR")) + "/log/node.log");
  return lines_with(log, "user '" + user + "'").size();
}

pid_t node_of(Broker& broker) {
  const std::string answer = broker.ctl({"eval", "os:getpid()."});
  return std::stoi(answer.substr(answer.find_first_of("0123456789")));
}

bool has_line(const std::string& path, const std::string& wanted) {
  const auto lines = lines_of_file(path);
  return std::find(lines.begin(), lines.end(), wanted) != lines.end();
}

}  // namespace

TEST_CASE("restarts of the broker and closed connections lose nothing", "[broker][reconnect]") {
  Broker broker;
  const std::string queue = broker.make_queue("reconnect");
  const TempDir files;
  const std::string path = files.file("ids");
  const auto size = [&] { return read_file(path).size(); };
  Lope lope({.broker = broker.url(),
             .groups = group_of(queue, "append_id", "file: " + path + ", flag: true, work_us: 1000",
                                "    workers: 4\n    prefetch: 100\n")});
  REQUIRE(lope.wait_ready());
  RatePublisher load(broker.url(), 2000, 600s, [&](int i) {
    return Publication{.routing_key = queue, .body = "x", .message_id = std::to_string(i)};
  });
  const auto run_a_while = [&] {
    const int sent = load.sent() + 3000;
    const std::size_t handled = size() + 10'000;
    REQUIRE(eventually(30s, [&] { return load.sent() >= sent && size() >= handled; }));
  };
  for (int round = 0; round < 3; ++round) {
    run_a_while();
    broker.stop_node();
    REQUIRE(lope.wait_for_line("connection lost"));
    broker.start_node();
    REQUIRE(lope.wait_for_line("] consuming ", 5s));
    run_a_while();
    broker.close_all_connections();
    REQUIRE(lope.wait_for_line("connection lost"));
    REQUIRE(lope.wait_for_line("] consuming ", 5s));
  }
  run_a_while();
  load.stop();
  load.join();
  CHECK(load.reconnects() >= 6);
  CHECK(eventually(60s, [&] {
    std::vector<std::string> ids = lines_of_file(path);
    for (std::string& id : ids) id = id.substr(0, id.find(' '));
    return broker.message_count(queue) == 0 &&
           compare_ledger(load.confirmed(), ids).missing.empty();
  }));
  CHECK(lope.stop() == exited(0));
  CHECK(lope.all_gone());
  CHECK(broker.message_count(queue) == 0);

  // A message that was handled before comes with the flag.
  std::set<std::string> seen;
  std::vector<std::string> unflagged_again;
  for (std::string line : lines_of_file(path)) {
    const bool flagged = line.ends_with(kFlag);
    if (flagged) line.resize(line.size() - kFlag.size());
    if (!seen.insert(line).second && !flagged) unflagged_again.push_back(line);
  }
  CHECK(unflagged_again.empty());
  const std::string log = lope.log();
  CHECK(lines_with(log, "connection lost").size() == 6);
  CHECK(lines_with(log, "] connected ").size() == 7);
  CHECK(lines_with(log, "406 PRECONDITION").empty());
  CHECK(lines_with(log, "PRECONDITION_FAILED").empty());
  // A reason once for each outage, not for each attempt.
  CHECK(lines_with(log, "cannot connect").size() <= 3 * 3);
}

TEST_CASE("an outcome for a connection that is gone is counted and never sent",
          "[broker][reconnect]") {
  Broker broker;
  const std::string queue = broker.make_queue("reconnect");
  const TempDir files;
  const std::string started = files.file("started");
  const std::string done = files.file("done");
  Lope lope({.broker = broker.url(),
             .groups = group_of(queue, "scripted", "started: " + started + ", file: " + done,
                                "    prefetch: 10\n")});
  REQUIRE(lope.wait_ready());
  Publisher publisher = broker.publisher();
  const std::string gate = files.file("gate");
  publisher.publish(queue, "until:" + gate, "runs");
  for (const char* id : {"w1", "w2", "w3"}) publisher.publish(queue, "ack", id);
  REQUIRE(eventually(10s, [&] { return has_line(started, "runs"); }));
  REQUIRE(eventually(5s, [&] { return broker.message_count(queue) == 0; }));
  broker.close_all_connections();
  const auto back = lope.wait_for_line("deliveries go back to the broker");
  REQUIRE(back);
  CHECK(field(*back, "not_begun") == "3");
  CHECK(field(*back, "running") == "1");
  std::ofstream(gate) << "open";
  const auto dropped = lope.wait_for_line("outcome dropped");
  REQUIRE(dropped);
  CHECK(field(*dropped, "message_id") == "runs");
  CHECK(eventually(15s, [&] { return lines_of_file(done).size() == 5; }));
  CHECK(lope.stop() == exited(0));
  auto handled = lines_of_file(done);
  std::sort(handled.begin(), handled.end());
  CHECK(handled == std::vector<std::string>{"runs", "runs", "w1", "w2", "w3"});
  CHECK(broker.message_count(queue) == 0);
  CHECK(lope.process().count_lines("outcome dropped") == 1);
  CHECK(lope.process().count_lines("406 PRECONDITION") == 0);
}

TEST_CASE("a host is reached though the first of its addresses is dead", "[broker][reconnect]") {
  Broker broker;
  const std::string queue = broker.make_queue("addresses");
  const TcpServer dead(TcpServer::Behaviour::silent, 0x7F000002, broker.port());
  const TempDir files;
  const std::string hosts = files.file("hosts");
  std::ofstream(hosts) << "127.0.0.1 localhost\n127.0.0.2 twofold\n127.0.0.1 twofold\n";
  const std::string order = files.file("gai.conf");
  std::ofstream(order) << "precedence ::ffff:127.0.0.2/128 100\nprecedence ::ffff:0:0/96 10\n";
  const std::string config = files.file("lope.yaml");
  std::ofstream(config) << config_text(
      {.broker = "{ url: 'amqp://guest:guest@twofold:" + std::to_string(broker.port()) +
                 "', connect_timeout: 1s }",
       .groups = group_of(queue, "append_id", "file: " + files.file("ids"))});
  // With a hosts file and an order of addresses of its own.
  Process lope({"unshare", ::geteuid() == 0 ? "-m" : "-rm", "sh", "-c",
                "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/gai.conf && "
                "exec \"$3\" run --config \"$4\"",
                "sh", hosts, order, LOPE_BIN_DIR "/lope", config});
  const bool consuming = lope.wait_for_line("] consuming ", 10s).has_value();
  INFO(lope.output());
  REQUIRE(consuming);
  CHECK(dead.accepted() >= 1);
  broker.publish(queue, "x", "there");
  CHECK(eventually(5s, [&] { return has_line(files.file("ids"), "there"); }));
  lope.signal_group(SIGTERM);
  CHECK(lope.wait_exit() == exited(0));
}

TEST_CASE("a refused login is one line without the password, and ends when the cause is gone",
          "[broker][reconnect]") {
  Broker broker;
  const std::string user = "user-" + std::to_string(::getpid());
  const std::string secret = "s3cr3t-" + std::to_string(::getpid());
  broker.ctl({"add_user", user, "another"});
  const Undo remove([&] { broker.ctl({"delete_user", user}); });
  broker.ctl({"set_permissions", user, ".*", ".*", ".*"});
  const std::string queue = broker.make_queue("login");
  const TempDir files;
  Lope lope({.broker = "{ url: 'amqp://" + address(broker) + "', user: " + user +
                       ", password: { env: LOPE_TEST_SECRET } }",
             .groups = group_of(queue, "append_id", "file: " + files.file("ids")),
             .env = {{"LOPE_TEST_SECRET", secret}}});
  const auto line = lope.wait_for_line("cannot connect");
  REQUIRE(line);
  CHECK(line->find("403") != std::string::npos);
  CHECK(line->find("ACCESS_REFUSED") != std::string::npos);
  CHECK(line->find(user) != std::string::npos);
  CHECK(line->find(address(broker)) != std::string::npos);
  const std::size_t before = refusals(user);
  CHECK(eventually(30s, [&] { return refusals(user) >= before + 4; }));
  CHECK(lope.process().count_lines("cannot connect") == 1);
  CHECK(lope.process().count_lines("] ready") == 0);

  broker.ctl({"change_password", user, secret});
  REQUIRE(lope.wait_for_line("] consuming ", 5s));
  broker.publish(queue, "x", "after");
  CHECK(eventually(5s, [&] { return has_line(files.file("ids"), "after"); }));

  // The password: in nobody's command line, in the environment of nobody below the supervisor.
  for (const ProcessInfo& info : all_processes()) {
    INFO(info.command);
    CHECK(info.command.find(secret) == std::string::npos);
  }
  const auto below = descendants_of(lope.pid());
  CHECK(below.size() == 2);
  for (const ProcessInfo& info : below) {
    const std::string environment = read_file("/proc/" + std::to_string(info.pid) + "/environ");
    INFO(info.command);
    CHECK(environment.find("PATH=") != std::string::npos);  // it could be read
    CHECK(environment.find(secret) == std::string::npos);
  }
  CHECK(lope.stop() == exited(0));
  CHECK(lope.log().find(secret) == std::string::npos);
}

TEST_CASE("a missing virtual host is one line, and ends when it is there", "[broker][reconnect]") {
  Broker broker;
  const std::string vhost = "vhost-" + std::to_string(::getpid());
  const Undo remove([&] { broker.ctl({"delete_vhost", vhost}); });
  const TempDir files;
  Lope lope({.broker = broker.url() + "/" + vhost,
             .groups = group_of("there", "append_id", "file: " + files.file("ids"),
                                "    declare: { durable: true }\n")});
  const auto missing = lope.wait_for_line("cannot connect");
  REQUIRE(missing);
  CHECK(missing->find(vhost) != std::string::npos);
  CHECK(missing->find("530") != std::string::npos);
  broker.ctl({"add_vhost", vhost});
  const auto refused = lope.wait_for_line("cannot connect");  // for another reason: a line again
  REQUIRE(refused);
  CHECK(refused->find(vhost) != std::string::npos);
  CHECK(refused->find("access") != std::string::npos);
  broker.ctl({"set_permissions", "--vhost", vhost, "guest", ".*", ".*", ".*"});
  REQUIRE(lope.wait_for_line("] consuming ", 5s));
  Publisher(broker.url() + "/" + vhost).publish("there", "x", "after");
  CHECK(eventually(5s, [&] { return has_line(files.file("ids"), "after"); }));
  CHECK(lope.stop() == exited(0));
  CHECK(lope.process().count_lines("cannot connect") == 2);
}

TEST_CASE("a queue that is deleted is one line, and consumed from when it is there again",
          "[broker][reconnect]") {
  Broker broker;
  const std::string queue = broker.make_queue("deleted");
  const std::string other = broker.make_queue("stays");
  const TempDir files;
  Lope lope({.broker = broker.url(),
             .groups = "  group:\n    queues: [" + queue + ", " + other +
                       "]\n    handler: scripted\n    workers: 2\n    options: { started: " +
                       files.file("started") + ", file: " + files.file("done") + " }\n"});
  REQUIRE(lope.wait_ready());
  broker.publish(queue, "sleep:1500", "runs");
  REQUIRE(eventually(5s, [&] { return has_line(files.file("started"), "runs"); }));
  broker.delete_queue(queue);
  const auto line = lope.wait_for_line("cannot consume");
  REQUIRE(line);
  CHECK(field(*line, "queue") == queue);
  CHECK(line->find("deleted") != std::string::npos);
  // The other queue does not notice.
  broker.publish(other, "ack", "other");
  CHECK(eventually(5s, [&] { return has_line(files.file("done"), "other"); }));
  const auto refused = lope.wait_for_line("cannot consume");  // the attempt to consume again
  REQUIRE(refused);
  CHECK(refused->find("404") != std::string::npos);
  CHECK(eventually(5s, [&] { return has_line(files.file("done"), "runs"); }));

  broker.declare_queue(queue);
  REQUIRE(lope.wait_for_line("] consuming ", 8s));
  broker.publish(queue, "ack", "after");
  CHECK(eventually(5s, [&] { return has_line(files.file("done"), "after"); }));
  CHECK(lope.stop() == exited(0));
  CHECK(lope.process().count_lines("cannot consume") == 2);
  CHECK(lope.process().count_lines("] connected ") == 1);
  CHECK(broker.message_count(queue) == 0);
}

TEST_CASE("a queue that Lope declares is made again when it is deleted", "[broker][reconnect]") {
  Broker broker;
  const std::string queue = broker.unique_queue("redeclared");
  const TempDir files;
  Lope lope({.broker = broker.url(),
             .groups = group_of(queue, "append_id", "file: " + files.file("ids"),
                                "    declare: { durable: true }\n")});
  REQUIRE(lope.wait_ready());
  broker.delete_queue(queue);
  REQUIRE(lope.wait_for_line("cannot consume"));
  REQUIRE(lope.wait_for_line("] consuming ", 5s));
  broker.publish(queue, "x", "after");
  CHECK(eventually(5s, [&] { return has_line(files.file("ids"), "after"); }));
  CHECK(lope.stop() == exited(0));
  CHECK(lope.process().count_lines("cannot consume") == 1);
}

TEST_CASE("a channel that the broker closes is opened again, the connection stays",
          "[broker][reconnect]") {
  // A node closes the channel of a consumer that keeps a message too long.
  Broker broker;
  const auto set = [&](const std::string& name, const std::string& ms) {
    broker.ctl({"eval", "application:set_env(rabbit, " + name + ", " + ms + ")."});
  };
  const Undo reset([&] {
    set("consumer_timeout", "1800000");
    set("channel_tick_interval", "60000");
  });
  set("consumer_timeout", "1000");
  set("channel_tick_interval", "500");
  const std::string queue = broker.make_queue("channel");
  const TempDir files;
  Lope lope(
      {.broker = broker.url(),
       .groups = group_of(queue, "scripted",
                          "started: " + files.file("started") + ", file: " + files.file("done"),
                          "    prefetch: 1\n    workers: 2\n")});
  REQUIRE(lope.wait_ready());
  // A channel keeps the time that was set when it was opened: this one closes, the next does not.
  set("consumer_timeout", "1800000");
  const std::string gate = files.file("gate");
  broker.publish(queue, "until:" + gate, "late");
  REQUIRE(eventually(5s, [&] { return has_line(files.file("started"), "late"); }));
  const auto line = lope.wait_for_line("cannot consume", 30s);
  REQUIRE(line);
  CHECK(field(*line, "queue") == queue);
  CHECK(line->find("the broker closed the channel: 406") != std::string::npos);
  REQUIRE(lope.wait_for_line("] consuming ", 5s));
  std::ofstream(gate) << "open";
  const auto dropped = lope.wait_for_line("outcome dropped");
  REQUIRE(dropped);
  CHECK(field(*dropped, "message_id") == "late");
  CHECK(eventually(15s, [&] { return lines_of_file(files.file("done")).size() == 2; }));
  CHECK(lope.stop() == exited(0));
  CHECK(lope.process().count_lines("cannot consume") == 1);
  CHECK(lope.process().count_lines("] connected ") == 1);
  CHECK(broker.message_count(queue) == 0);
}

TEST_CASE("heartbeats go on while a handler runs, and find a broker that hangs",
          "[broker][reconnect]") {
  Broker broker;
  const std::string queue = broker.make_queue("heartbeat");
  const TempDir files;
  Lope lope(
      {.broker = "{ url: '" + broker.url() + "', heartbeat: 5s }",
       .groups = group_of(queue, "scripted",
                          "started: " + files.file("started") + ", file: " + files.file("done"))});
  REQUIRE(lope.wait_ready());
  // Longer than the three heartbeats after which a node gives up a silent client.
  broker.publish(queue, "sleep:17000", "long");
  REQUIRE(eventually(5s, [&] { return has_line(files.file("started"), "long"); }));
  CHECK(eventually(30s, [&] { return has_line(files.file("done"), "long"); }));
  broker.publish(queue, "ack", "after");
  CHECK(eventually(5s, [&] { return has_line(files.file("done"), "after"); }));
  CHECK(lope.process().count_lines("connection lost") == 0);
  CHECK(lope.process().count_lines("] connected ") == 1);

  const pid_t node = node_of(broker);
  {
    const Undo go_on([&] { ::kill(node, SIGCONT); });
    REQUIRE(::kill(node, SIGSTOP) == 0);
    const auto lost = lope.wait_for_line("connection lost", 20s);
    REQUIRE(lost);
    CHECK(lost->find("heartbeat") != std::string::npos);
  }
  // An attempt that began while the node hung may take its connect_timeout.
  REQUIRE(lope.wait_for_line("] consuming ", 15s));
  CHECK(lope.stop() == exited(0));
  CHECK(lines_of_file(files.file("done")).size() == 2);
}

TEST_CASE(
    "of several addresses each is tried before there is a pause, and a queue is not waited for",
    "[broker][reconnect]") {
  Broker broker;
  const std::string queue = broker.make_queue("addresses");
  const TempDir files;
  const std::string ids = files.file("ids");
  // Most of them dead.
  Lope lope({.broker = "{ urls: ['amqp://127.0.0.1:1', 'amqp://127.0.0.1:2', 'amqp://127.0.0.1:3', "
                       "'" +
                       broker.url() + "'], heartbeat: 5s }",
             .groups = group_of(queue, "append_id", "file: " + ids)});
  const auto connected = lope.wait_for_line("] connected ");
  REQUIRE(connected);
  CHECK(std::stoi(field(*connected, "attempts")) <= 4);
  CHECK(field(*connected, "broker") == address(broker));
  CHECK_FALSE(field(*connected, "cluster").empty());
  REQUIRE(lope.wait_ready());
  // It answers when it is asked, and nothing comes of it.
  broker.publish(queue, "x", "before");
  CHECK(eventually(5s, [&] { return has_line(ids, "before"); }));
  {
    const pid_t node = node_of(broker);
    const Undo go_on([&] { ::kill(node, SIGCONT); });
    REQUIRE(::kill(node, SIGSTOP) == 0);
    const auto lost = lope.wait_for_line("connection lost", 20s);
    REQUIRE(lost);
    CHECK((lost->find("does not answer") != std::string::npos ||
           lost->find("heartbeat") != std::string::npos));
  }
  REQUIRE(lope.wait_for_line("] consuming ", 30s));
  broker.publish(queue, "x", "after");
  CHECK(eventually(5s, [&] { return has_line(ids, "after"); }));
  CHECK(lope.stop() == exited(0));
}
