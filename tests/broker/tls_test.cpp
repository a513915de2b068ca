// The broker over TLS: what goes through it, who logs in, and what is said of what is wrong.
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/memory_alarm.h"
#include "support/tls_node.h"

using namespace lope::test;
using Catch::Contains;

namespace {

std::string pattern(std::size_t size, std::size_t seed) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(seed + i * 31 + i / 251);
  return text;
}

std::string group_of(const std::string& queue, const std::string& handler,
                     const std::string& options, const std::string& more = "") {
  return "  group:\n    queue: " + queue + "\n    handler: " + handler + "\n    options: { " +
         options + " }\n" + more;
}

bool has_line(const std::string& path, const std::string& line) {
  const auto lines = lines_of_file(path);
  return std::find(lines.begin(), lines.end(), line) != lines.end();
}

}  // namespace

TEST_CASE("messages of every size go in and out through TLS as they are", "[broker][tls]") {
  TlsNode node;
  Broker& broker = *node.broker;
  const std::string from = broker.make_queue("tls-from"), to = broker.make_queue("tls-to");
  const std::vector<std::size_t> sizes = {0,      1,      16 * 1024, 16 * 1024 + 1, 40'000,
                                          131064, 131065, 1 << 20,   3 << 20,       100};
  constexpr int kLarge = 40, kSmall = 5000;
  Publisher publisher = broker.publisher();
  publisher.publish_many(
      kLarge,
      [&](int i) {
        const auto n = static_cast<std::size_t>(i);
        return Publication{.routing_key = from,
                           .body = pattern(sizes[n % sizes.size()], n),
                           .message_id = "large-" + std::to_string(i)};
      },
      20);
  publisher.publish_many(kSmall, [&](int i) {
    return Publication{.routing_key = from,
                       .body = "body " + std::to_string(i),
                       .message_id = "small-" + std::to_string(i)};
  });
  Lope lope({.broker = node.with(),
             .groups = group_of(from, "forward", "routing_key: " + to,
                                "    workers: 2\n    prefetch: 200\n"),
             .handlers_dir = LOPE_HANDLERS_BUILD_DIR});
  REQUIRE(lope.wait_ready());
  REQUIRE(eventually(60s, [&] { return broker.message_count(to) == kLarge + kSmall; }));
  CHECK(lope.stop() == exited(0));
  CHECK(lope.all_gone());
  CHECK(broker.message_count(from) == 0);
  const auto connected = lines_with(lope.log(), "] connected group=");
  REQUIRE(connected.size() == 1);
  CHECK(field(connected[0], "tls") == "TLSv1.3");
  CHECK(lines_with(lope.log(), "connection lost").empty());
  CHECK(lines_with(lope.log(), "not verified").empty());

  std::size_t wrong = 0, seen = 0;
  for (const Received& message : broker.drain(to)) {
    const auto n = static_cast<std::size_t>(std::stoi(message.message_id.substr(6)));
    const bool large = message.message_id.starts_with("large-");
    ++seen;
    if (message.body != (large ? pattern(sizes[n % sizes.size()], n) : "body " + std::to_string(n)))
      ++wrong;
  }
  CHECK(seen == kLarge + kSmall);
  CHECK(wrong == 0);
}

TEST_CASE("who logs in by a certificate is its user, and what is wrong is said", "[broker][tls]") {
  TlsNode node;
  Broker& broker = *node.broker;
  const Certificates& certificates = node.certificates;
  broker.ctl({"add_user", "app", "unused"});
  broker.ctl({"set_permissions", "app", ".*", ".*", ".*"});
  const std::string queue = broker.make_queue("tls");
  const TempDir files;
  const auto options = [&](const std::string& at) {
    return LopeOptions{.broker = at,
                       .groups = group_of(queue, "append_id", "file: " + files.file("ids"))};
  };

  SECTION("the certificate's common name; files are read at each connect") {
    certificates.sign("nobody");
    // What is replaced later: first a CA that has not signed the broker's certificate.
    const auto take = [&](const std::string& from, const std::string& to) {
      std::filesystem::copy_file(certificates.at(from), files.file("new"),
                                 std::filesystem::copy_options::overwrite_existing);
      std::filesystem::rename(files.file("new"), files.file(to));
    };
    take("other.pem", "ca.pem");
    take("nobody.pem", "client.pem");
    take("nobody.key", "client.key");
    Lope lope(options("{ url: \"" + node.url("") + "\", login: external, tls: { ca: " +
                      files.file("ca.pem") + ", certificate: " + files.file("client.pem") +
                      ", key: " + files.file("client.key") + " } }"));
    const auto untrusted = lope.wait_for_line("cannot connect", 30s);
    REQUIRE(untrusted);
    CHECK_THAT(
        *untrusted,
        Contains("TLS: the broker's certificate is not signed by a known CA: expected one of "
                 "those in '" +
                 files.file("ca.pem") + "', found 'CN=ca'"));
    take("ca.pem", "ca.pem");
    const auto refused = lope.wait_for_line("cannot connect", 30s);
    REQUIRE(refused);
    CHECK_THAT(*refused, Contains("log in by the certificate of 'CN=nobody' to vhost '/': 403"));
    take("app.pem", "client.pem");
    take("app.key", "client.key");
    REQUIRE(lope.wait_ready(30s));
    broker.publish(queue, "x", "first");
    CHECK(eventually(20s, [&] { return has_line(files.file("ids"), "first"); }));
    const auto users = broker.list({"list_connections", "user", "auth_mechanism", "ssl"});
    CHECK(std::count(users.begin(), users.end(),
                     std::vector<std::string>{"app", "EXTERNAL", "true"}) >= 1);

    // The connection that is there stays as it is; the next has what is there by then.
    take("nobody.pem", "client.pem");
    take("nobody.key", "client.key");
    broker.close_all_connections();
    const auto again = lope.wait_for_line("cannot connect", 30s);
    REQUIRE(again);
    CHECK_THAT(*again, Contains("CN=nobody"));
    take("app.pem", "client.pem");
    take("app.key", "client.key");
    CHECK(lope.wait_for_line("] consuming ", 30s));
    CHECK(lope.stop() == exited(0));
    CHECK(lines_with(lope.log(), "cannot connect").size() == 3);  // once for each reason
  }

  SECTION("each trap is refused with its line") {
    certificates.sign("stranger", "", "other");
    const std::string tls_port = std::to_string(node.port());
    const std::string plain_port = std::to_string(broker.port());
    struct Trap {
      std::string at, line;
    };
    const Trap traps[] = {
        {"{ url: \"" + node.url() + "\", tls: { ca: " + certificates.at("other.pem") + " } }",
         "TLS: the broker's certificate is not signed by a known CA: "},
        {"\"" + node.url() + "\"",
         "is not signed by a known CA: expected one of the system's, found 'CN=ca'"},
        {node.with(", server_name: elsewhere"),
         "TLS: the broker's certificate has another name: expected 'elsewhere', found 'localhost', "
         "'mq.example', '127.0.0.1'"},
        {node.as("stranger"), "the broker knows no CA that has signed the client certificate '" +
                                  certificates.at("stranger.pem") + "': found 'CN=other'"},
        {"amqp://127.0.0.1:" + tls_port, "expected a URL that starts with amqps://"},
        {"amqps://127.0.0.1:" + plain_port,
         "TLS: the broker speaks no TLS on this port: expected a TLS listener (5671, as a rule), "
         "found AMQP in plain text"},
        {"{ url: \"" + node.url("") + "\", login: external, tls: { ca: " +
             certificates.at("ca.pem") + ", certificate: " + certificates.at("app.pem") +
             ", key: " + certificates.at("server.key") + " } }",
         "server.key' is not the key of the client certificate '"},
        {"{ url: \"" + node.url("app@") +
             "\", password: hunter2, tls: { ca: " + certificates.at("ca.pem") + " } }",
         "log in as 'app' to vhost '/': 403"},
    };
    for (const Trap& trap : traps) {
      CAPTURE(trap.at);
      Lope lope(options(trap.at));
      const auto line = lope.wait_for_line("cannot connect", 30s);
      REQUIRE(line);
      CHECK_THAT(*line, Contains(trap.line));
      CHECK(lope.stop() == exited(0));
      CHECK(lope.log().find("hunter2") == std::string::npos);
    }
    // A name of the certificate's that is not the host's; nothing verified, and said so.
    Lope named(options(node.with(", server_name: mq.example")));
    CHECK(named.wait_ready());
    CHECK(named.stop() == exited(0));
    Lope insecure(options("{ url: \"" + node.url() + "\", tls: { insecure: true } }"));
    CHECK(insecure.wait_ready());
    CHECK(insecure.stop() == exited(0));
    CHECK(lines_with(insecure.log(), "the broker's certificate is not verified").size() == 1);
  }

  SECTION("commands too") {
    const std::string ca = certificates.at("ca.pem");
    const RunResult published = run_lope(
        {"publish", "--broker", node.url(), "--ca", ca, "--queue", queue, pattern(100'000, 1)}, {},
        60s);
    INFO(published.output);
    CHECK(published.status == exited(0));
    CHECK(broker.message_count(queue) == 1);
    const RunResult untrusted =
        run_lope({"publish", "--broker", node.url(), "--queue", queue, "x"});
    CHECK(untrusted.status == exited(75));
    CHECK_THAT(untrusted.output, Contains("is not signed by a known CA"));
    const RunResult plain =
        run_lope({"publish", "--broker", broker.url(), "--ca", ca, "--queue", queue, "x"});
    CHECK(plain.status == exited(2));
    CHECK_THAT(plain.output, Contains("--ca: expected a broker with amqps://"));
    const std::string config = files.write(
        "lope.yaml", config_text({.broker = node.as("app"),
                                  .groups = group_of(queue, "append_id", "file: /dev/null")}));
    const RunResult checked = run_lope({"check", "--broker", "--config", config}, {}, 60s);
    INFO(checked.output);
    CHECK(checked.status == exited(0));
    const RunResult listed = run_lope({"dlq", "list", queue, "--config", config}, {}, 60s);
    INFO(listed.output);
    CHECK(listed.status == exited(0));
    CHECK(broker.message_count(queue) == 1);
    const std::string careless = files.write(
        "careless.yaml",
        config_text({.broker = "{ url: \"" + node.url() + "\", tls: { insecure: true } }",
                     .groups = group_of(queue, "append_id", "file: /dev/null")}));
    const std::vector<std::string> publish = {"publish", "--config", careless,
                                              "--queue", queue,      "x"};
    const RunResult unverified = run_lope(publish, {}, 60s);
    CHECK(unverified.status == exited(0));
    CHECK_THAT(unverified.output, Contains("the broker's certificate is not verified"));
    std::vector<std::string> with_ca = publish;
    with_ca.insert(with_ca.end(), {"--ca", certificates.at("other.pem")});
    const RunResult verified = run_lope(with_ca, {}, 60s);
    CHECK(verified.status == exited(75));
    CHECK_THAT(verified.output,
               Contains("is not signed by a known CA") && !Contains("not verified"));
  }
}

TEST_CASE("cut connections and a drain lose nothing through TLS", "[broker][tls]") {
  TlsNode node;
  Broker& broker = *node.broker;
  const std::string queue = broker.make_queue("tls-cuts");
  const TempDir files;
  const std::string path = files.file("ids");
  Lope lope({.broker = node.with(),
             .groups = group_of(queue, "append_id", "file: " + path + ", work_us: 500",
                                "    workers: 2\n    prefetch: 100\n")});
  REQUIRE(lope.wait_ready());
  RatePublisher load(broker.url(), 500, 600s, [&](int i) {
    return Publication{.routing_key = queue,
                       .body = pattern(i % 50 == 0 ? 100'000 : 100, 0),
                       .message_id = std::to_string(i)};
  });
  for (int cut = 0; cut < 4; ++cut) {
    const std::size_t wanted = lines_of_file(path).size() + 300;
    REQUIRE(eventually(60s, [&] { return lines_of_file(path).size() >= wanted; }));
    broker.close_all_connections();
    REQUIRE(lope.wait_for_line("connection lost", 30s));
    REQUIRE(lope.wait_for_line("] consuming ", 30s));
  }
  // In the middle of the load: what is not begun goes back.
  CHECK(lope.stop() == exited(0));
  CHECK(lope.all_gone());
  load.stop();
  load.join();
  Lope rest({.broker = node.with(),
             .groups = group_of(queue, "append_id", "file: " + path, "    prefetch: 100\n")});
  REQUIRE(rest.wait_ready());
  CHECK(eventually(60s, [&] {
    return broker.message_count(queue) == 0 &&
           compare_ledger(load.confirmed(), lines_of_file(path)).missing.empty();
  }));
  CHECK(rest.stop() == exited(0));
  CHECK(broker.message_count(queue) == 0);
}

TEST_CASE("heartbeats and a blocked connection go through TLS", "[broker][tls]") {
  TlsNode node;
  Broker& broker = *node.broker;
  const std::string from = broker.make_queue("tls-from"), to = broker.make_queue("tls-to");
  constexpr int kMessages = 40;
  // More than the sockets hold.
  broker.publisher().publish_many(
      kMessages, [&](int) { return Publication{.routing_key = from, .body = pattern(1 << 20, 0)}; },
      10);
  MemoryAlarm alarm(broker);
  Lope lope({.broker = node.with("", "heartbeat: 5s, "),
             .groups = group_of(from, "forward", "routing_key: " + to, "    prefetch: 50\n"),
             .handlers_dir = LOPE_HANDLERS_BUILD_DIR});
  REQUIRE(lope.wait_for_line("the broker blocks publishers", 60s));
  alarm.end();
  CHECK(eventually(60s, [&] { return broker.message_count(to) == kMessages; }));
  // The broker gives up who is silent for two heartbeats.
  CHECK_FALSE(lope.wait_for_line("connection lost", 16s));
  broker.publish(from, "last");
  CHECK(eventually(30s, [&] { return broker.message_count(to) == kMessages + 1; }));
  CHECK(lope.stop() == exited(0));
  CHECK(lines_with(lope.log(), "connection lost").empty());
}
