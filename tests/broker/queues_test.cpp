// Queues, subscriptions and messages of every kind: what is configured is what the broker is asked
// for, and what was published is what a handler sees.
#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/scripted.h"

using namespace lope::test;

namespace {

// One row of a rabbitmqctl list by its first column; nothing when it is not there.
std::vector<std::string> row_of(Broker& broker, const std::vector<std::string>& arguments,
                                const std::string& name) {
  for (const auto& row : broker.list(arguments)) {
    if (!row.empty() && row[0] == name) return row;
  }
  return {};
}

std::string describe_group(const std::string& name, const std::string& queue,
                           const std::string& file, const std::string& more = {}) {
  return "  " + name + ":\n    queue: " + queue +
         "\n    handler: describe\n    options: { file: " + file + " }\n" + more;
}

// What the handler `describe` wrote: "ID.NAME" to value.
std::map<std::string, std::string> read_descriptions(const std::string& path) {
  std::map<std::string, std::string> result;
  for (const std::string& line : lines_of_file(path)) {
    const std::size_t at = line.find('=');
    result[line.substr(0, at)] = line.substr(at + 1);
  }
  return result;
}

std::string checksum(std::string_view bytes) {
  std::uint64_t hash = 14695981039346656037u;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

// No two parts of it are alike.
std::string body_of(std::size_t size) {
  std::string body(size, '\0');
  std::uint32_t state = 12345 + static_cast<std::uint32_t>(size);
  for (char& c : body) {
    state = state * 1664525 + 1013904223;
    c = static_cast<char>(state >> 24);
  }
  return body;
}

// A number of /proc/PID/status; -1 when it is not there.
long memory_kib(pid_t pid, const std::string& key) {
  const std::string status = read_file("/proc/" + std::to_string(pid) + "/status");
  const std::size_t at = status.find(key + ":");
  return at == std::string::npos ? -1 : std::stol(status.substr(at + key.size() + 1));
}

long peak_memory_kib(pid_t pid) { return memory_kib(pid, "VmHWM"); }

}  // namespace

TEST_CASE("a declared queue has the properties of its declaration", "[broker][queues]") {
  struct Row {
    std::string declare;
    std::vector<std::string> durable_auto_delete_exclusive;
    std::string type;
    std::string argument;
    bool lasts;  // beyond the daemon
  };
  const std::vector<Row> rows = {
      {"{}", {"true", "false", "false"}, "classic", "", true},
      {"{ durable: true }", {"true", "false", "false"}, "classic", "", true},
      {"{ durable: false }", {"false", "false", "false"}, "classic", "", true},
      {"{ auto_delete: true }", {"true", "true", "false"}, "classic", "", false},
      // As the broker shows them: an exclusive queue cannot outlive it, a quorum queue has no
      // owner.
      {"{ exclusive: true }", {"false", "false", "true"}, "classic", "", false},
      {"{ type: quorum }", {"true", "false", ""}, "quorum", "", true},
      {"{ arguments: { x-max-length: 17, x-overflow: reject-publish } }",
       {"true", "false", "false"},
       "classic",
       "{\"x-max-length\",17}",
       true},
  };
  Broker broker;
  const TempDir files;
  std::vector<std::string> queues;
  std::string groups;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    queues.push_back(broker.unique_queue("declared"));
    groups += describe_group("g" + std::to_string(i), queues[i], files.file("seen"),
                             "    declare: " + rows[i].declare + "\n");
  }
  Lope lope({.broker = broker.url(), .groups = groups});
  REQUIRE(lope.wait_ready());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    INFO(rows[i].declare);
    const auto row = row_of(
        broker, {"list_queues", "name", "durable", "auto_delete", "exclusive", "type", "arguments"},
        queues[i]);
    REQUIRE(row.size() >= 5);
    CHECK(std::vector<std::string>(row.begin() + 1, row.begin() + 4) ==
          rows[i].durable_auto_delete_exclusive);
    CHECK(row[4].find(rows[i].type) != std::string::npos);
    CHECK((row.size() > 5 ? row[5] : "").find(rows[i].argument) != std::string::npos);
    broker.publish(queues[i], "x", "m" + std::to_string(i));
  }
  CHECK(eventually(10s, [&] {
    const auto seen = read_descriptions(files.file("seen"));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto found = seen.find("m" + std::to_string(i) + ".queue");
      if (found == seen.end() || found->second != queues[i]) return false;
    }
    return true;
  }));
  CHECK(lope.stop() == exited(0));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    INFO(rows[i].declare);
    CHECK(eventually(5s, [&] { return broker.queue_exists(queues[i]) == rows[i].lasts; }));
  }
}

TEST_CASE("exchanges and bindings are declared, and lead to the handler", "[broker][queues]") {
  Broker broker;
  const std::string queue = broker.unique_queue("bound");
  const std::string topic = broker.unique_exchange("topic");
  const std::string direct = broker.unique_exchange("direct");
  const TempDir files;
  Lope lope({.broker = broker.url(),
             .groups = describe_group("bound", queue, files.file("seen"),
                                      "    declare:\n"
                                      "      exchanges:\n"
                                      "        - { name: " +
                                          topic +
                                          ", type: topic }\n"
                                          "        - { name: " +
                                          direct +
                                          ", durable: false }\n"
                                          "      bind:\n"
                                          "        - { exchange: " +
                                          topic +
                                          ", key: 'login.#' }\n"
                                          "        - { exchange: " +
                                          direct +
                                          ", key: one }\n"
                                          "        - { exchange: " +
                                          direct + ", key: two }\n")});
  REQUIRE(lope.wait_ready());
  const std::vector<std::string> columns = {"list_exchanges", "name", "type", "durable"};
  CHECK(row_of(broker, columns, topic) == std::vector<std::string>{topic, "topic", "true"});
  CHECK(row_of(broker, columns, direct) == std::vector<std::string>{direct, "direct", "false"});
  Publisher publisher = broker.publisher();
  publisher.publish(
      {.exchange = topic, .routing_key = "login.user.7", .body = "x", .message_id = "t"});
  publisher.publish({.exchange = direct, .routing_key = "one", .body = "x", .message_id = "d1"});
  publisher.publish({.exchange = direct, .routing_key = "two", .body = "x", .message_id = "d2"});
  CHECK_THROWS(publisher.publish({.exchange = direct, .routing_key = "three", .body = "x"}));
  CHECK(eventually(5s, [&] {
    auto seen = read_descriptions(files.file("seen"));
    return seen["t.exchange"] == topic && seen["t.routing_key"] == "login.user.7" &&
           seen["d1.exchange"] == direct && seen["d2.routing_key"] == "two";
  }));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("several queues of one group have a prefetch, a tag and arguments of their own",
          "[broker][queues]") {
  Broker broker;
  const std::string one = broker.make_queue("several");
  const std::string two = broker.make_queue("several");
  const std::string three = broker.make_queue("several");
  const TempDir files;
  Lope lope({.broker = broker.url(),
             .groups = "  several:\n"
                       "    handler: scripted\n"
                       "    options: { started: " +
                       files.file("started") +
                       " }\n"
                       "    prefetch: 7\n"
                       "    workers: 3\n"
                       "    queues:\n"
                       "      - " +
                       one +
                       "\n"
                       "      - { name: " +
                       two +
                       ", prefetch: 2, consumer_tag: my-tag }\n"
                       "      - { name: " +
                       three + ", prefetch: 4, consumer_arguments: { x-priority: 10 } }\n",
             .top = "shutdown_timeout: 500ms\n"});
  REQUIRE(lope.wait_ready());
  const std::vector<std::string> columns = {"list_consumers", "queue_name",     "consumer_tag",
                                            "ack_required",   "prefetch_count", "arguments"};
  const auto row_one = row_of(broker, columns, one);
  const auto row_two = row_of(broker, columns, two);
  const auto row_three = row_of(broker, columns, three);
  REQUIRE(row_one.size() >= 4);
  REQUIRE(row_two.size() >= 4);
  REQUIRE(row_three.size() == 5);
  CHECK(row_one[1].starts_with("amq.ctag-"));
  CHECK(row_one[3] == "7");
  CHECK(row_two[1] == "my-tag");
  CHECK(row_two[3] == "2");
  CHECK(row_three[3] == "4");
  CHECK(row_three[4].find("{\"x-priority\",10}") != std::string::npos);
  for (const auto& row : {row_one, row_two, row_three}) CHECK(row[2] == "true");
  CHECK(broker.connections_named("lope several").size() == 1);

  // Each queue gives what its window holds, and no more.
  Publisher publisher = broker.publisher();
  for (const std::string& queue : {one, two, three}) {
    publisher.publish_many(10,
                           [&](int) { return Publication{.routing_key = queue, .body = "hang"}; });
  }
  CHECK(eventually(5s, [&] {
    return broker.message_count(one) == 3 && broker.message_count(two) == 8 &&
           broker.message_count(three) == 6;
  }));
  REQUIRE(eventually(5s, [&] { return lines_of_file(files.file("started")).size() == 3; }));
  CHECK(broker.message_count(one) == 3);
  CHECK(lope.stop(10s) == exited(1));  // the hanging ones had to be killed
  CHECK(broker.message_count(one) == 10);
  CHECK(broker.message_count(two) == 10);
  CHECK(broker.message_count(three) == 10);
}

TEST_CASE("with prefetch 1 one message at a time is under way, in turn at two workers",
          "[broker][queues]") {
  Scripted it;
  Lope lope(it.options("    prefetch: 1\n    workers: 2\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  publisher.publish(it.queue, "sleep:500", "first");
  publisher.publish(it.queue, "ack", "second");
  publisher.publish(it.queue, "ack", "third");
  REQUIRE(it.wait_started("first"));
  CHECK(it.broker.message_count(it.queue) == 2);
  CHECK(lines_of_file(it.started) == std::vector<std::string>{"first"});
  REQUIRE(it.wait_done("third"));
  CHECK(lines_of_file(it.done) == std::vector<std::string>{"first", "second", "third"});
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a queue that is there with other properties is refused with both sides, others go on",
          "[broker][queues]") {
  Broker broker;
  const std::string wrong = broker.make_queue("otherwise", {.durable = true});
  const std::string right = broker.make_queue("right");
  const TempDir files;
  Lope lope({.broker = broker.url(),
             .groups = describe_group("wrong", wrong, files.file("seen"),
                                      "    declare: { durable: false }\n") +
                       describe_group("right", right, files.file("seen"))});
  const auto line = lope.wait_for_line("cannot consume");
  REQUIRE(line);
  CHECK(field(*line, "queue") == wrong);
  CHECK(line->find("406") != std::string::npos);
  CHECK(line->find("durable") != std::string::npos);
  CHECK(line->find("received 'false'") != std::string::npos);
  CHECK(line->find("current is 'true'") != std::string::npos);
  broker.publish(right, "x", "r");
  CHECK(eventually(10s, [&] { return read_descriptions(files.file("seen")).contains("r.queue"); }));
  CHECK(lope.process().count_lines("] ready") == 0);

  broker.delete_queue(wrong);
  CHECK(lope.wait_ready(15s));
  broker.publish(wrong, "x", "w");
  CHECK(eventually(5s, [&] { return read_descriptions(files.file("seen")).contains("w.queue"); }));
  CHECK(lope.process().count_lines("cannot consume") == 1);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a stream that is not said to be one is refused at its first delivery, and keeps it",
          "[broker][queues]") {
  Broker broker;
  const std::string stream =
      broker.make_queue("stream", {.text_arguments = {{"x-queue-type", "stream"}}});
  const std::string queue = broker.make_queue("queue");
  const TempDir files;
  Lope lope({.broker = broker.url(),
             .groups = describe_group("streamed", stream, files.file("streamed")) +
                       describe_group("queued", queue, files.file("queued"))});
  REQUIRE(lope.wait_ready());
  broker.publish(stream, "x", "s");
  const auto line = lope.wait_for_line("group refused");
  REQUIRE(line);
  CHECK(field(*line, "group") == "streamed");
  CHECK(line->find("'" + stream + "'") != std::string::npos);
  CHECK(line->find("it is a stream: expected 'type: stream'") != std::string::npos);
  broker.publish(queue, "x", "q");
  CHECK(eventually(5s, [&] { return !read_descriptions(files.file("queued")).empty(); }));
  CHECK(lope.stop() == exited(0));
  CHECK(read_file(files.file("streamed")).empty());
  CHECK(eventually(5s, [&] {
    const auto row = row_of(broker, {"list_queues", "name", "messages"}, stream);
    return row.size() == 2 && row[1] == "1";
  }));
}

TEST_CASE("bodies of every size arrive byte for byte", "[broker][queues]") {
  Broker broker;
  const std::string queue = broker.make_queue("bodies");
  const TempDir files;
  Lope lope({.broker = broker.url(),
             .groups = describe_group("bodies", queue, files.file("seen"), "    workers: 2\n")});
  REQUIRE(lope.wait_ready());
  // 131064 bytes fill one frame.
  const std::vector<std::size_t> sizes = {0,       1,       2,       4096,    131'063, 131'064,
                                          131'065, 262'128, 262'129, 1 << 20, 16 << 20};
  Publisher publisher = broker.publisher();
  for (int round = 0; round < 2; ++round) {
    for (const std::size_t size : sizes) {
      publisher.publish(queue, body_of(size), std::to_string(round) + "-" + std::to_string(size));
    }
  }
  std::map<std::string, std::string> seen;
  CHECK(eventually(30s, [&] {
    seen = read_descriptions(files.file("seen"));
    return seen.contains("1-16777216.checksum");
  }));
  CHECK(lope.stop() == exited(0));
  seen = read_descriptions(files.file("seen"));
  for (int round = 0; round < 2; ++round) {
    for (const std::size_t size : sizes) {
      const std::string id = std::to_string(round) + "-" + std::to_string(size);
      INFO(id);
      CHECK(seen[id + ".size"] == std::to_string(size));
      CHECK(seen[id + ".checksum"] == checksum(body_of(size)));
    }
  }
  CHECK(broker.message_count(queue) == 0);
}

TEST_CASE("128 MiB arrive byte for byte, and their memory is given back", "[broker][queues]") {
  Broker broker;
  const std::string queue = broker.make_queue("large");
  const TempDir files;
  Lope lope({.broker = broker.url(), .groups = describe_group("large", queue, files.file("seen"))});
  REQUIRE(lope.wait_ready());
  Publisher publisher = broker.publisher();
  for (int i = 0; i < 100; ++i) publisher.publish(queue, body_of(1000), "small");
  const auto has = [&](const std::string& id) {
    return eventually(
        60s, [&] { return read_descriptions(files.file("seen")).contains(id + ".checksum"); });
  };
  REQUIRE(has("small"));
  std::vector<pid_t> pids = lope.consumers();
  for (const pid_t worker : lope.workers()) pids.push_back(worker);
  REQUIRE(pids.size() == 2);
  const auto memory = [&] { return memory_kib(pids[0], "VmRSS") + memory_kib(pids[1], "VmRSS"); };
  const long base = memory();
  const std::string large = body_of(std::size_t{128} << 20);
  for (const char* id : {"first", "second"}) {
    publisher.publish(queue, large, id);
    REQUIRE(has(id));
  }
  const auto seen = read_descriptions(files.file("seen"));
  CHECK(seen.at("second.size") == std::to_string(large.size()));
  CHECK(seen.at("second.checksum") == checksum(large));
  // A sanitizer keeps what was freed, to find its use.
  if (std::string_view(LOPE_SANITIZE).empty()) {
    const bool back = eventually(60s, [&] { return memory() * 10 <= base * 11; });
    INFO("before " << base << " KiB, after " << memory() << " KiB");
    CHECK(back);
  }
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("large bodies are whole whichever worker gets them, and whoever dies",
          "[broker][queues]") {
  Broker broker;
  const std::string queue = broker.make_queue("large");
  const TempDir files;
  Lope lope(
      {.broker = broker.url(),
       // One that was alone in its worker is charged, and comes again at once.
       .groups = describe_group("large", queue, files.file("seen"),
                                "    workers: 3\n    threads: 2\n    prefetch: 40\n    retry: "
                                "{ delay: 0s }\n")});
  REQUIRE(lope.wait_ready());
  Publisher publisher = broker.publisher();
  const auto size_of = [](int i) { return static_cast<std::size_t>(20'000 + i % 17 * 30'000); };
  constexpr int kMessages = 600;
  publisher.publish_many(
      kMessages,
      [&](int i) {
        if (i % 100 == 50) {
          for (const pid_t worker : lope.workers()) {
            ::kill(worker, SIGKILL);
            break;
          }
        }
        return Publication{.routing_key = queue,
                           .body = body_of(size_of(i)),
                           .message_id = "m" + std::to_string(i)};
      },
      30);
  CHECK(eventually(60s, [&] {
    const auto seen = read_descriptions(files.file("seen"));
    for (int i = 0; i < kMessages; ++i) {
      if (!seen.contains("m" + std::to_string(i) + ".checksum")) return false;
    }
    return true;
  }));
  CHECK(lope.stop() == exited(0));
  const auto seen = read_descriptions(files.file("seen"));
  for (int i = 0; i < kMessages; ++i) {
    const auto found = seen.find("m" + std::to_string(i) + ".checksum");
    CHECK((found != seen.end() && found->second == checksum(body_of(size_of(i)))));
  }
}

TEST_CASE("a body above max_body is rejected without being held in memory", "[broker][queues]") {
  Broker broker;
  const std::string dead = broker.make_queue("dead");
  const std::string queue = broker.make_queue(
      "limited",
      {.text_arguments = {{"x-dead-letter-exchange", ""}, {"x-dead-letter-routing-key", dead}}});
  const TempDir files;
  Lope lope(
      {.broker = broker.url(),
       .groups = describe_group("limited", queue, files.file("seen"), "    max_body: 1MiB\n")});
  REQUIRE(lope.wait_ready());
  const auto consumers = lope.consumers();
  REQUIRE(consumers.size() == 1);
  Publisher publisher = broker.publisher();
  publisher.publish(queue, body_of(1 << 20), "fits");
  publisher.publish(queue, body_of((1 << 20) + 1), "just-over");
  const long before = peak_memory_kib(consumers[0]);
  publisher.publish(queue, std::string(100 << 20, 'x'), "far-over");
  publisher.publish(queue, "x", "after");
  CHECK(eventually(20s,
                   [&] { return read_descriptions(files.file("seen")).contains("after.size"); }));
  const long peak = peak_memory_kib(consumers[0]);
  REQUIRE(before > 0);
  CHECK(peak - before < 16 * 1024);
  CHECK(lope.stop() == exited(0));
  auto seen = read_descriptions(files.file("seen"));
  CHECK(seen["fits.size"] == "1048576");
  CHECK_FALSE(seen.contains("just-over.size"));
  CHECK_FALSE(seen.contains("far-over.size"));
  const auto rejected = lines_with(lope.log(), "message rejected");
  REQUIRE(rejected.size() == 2);
  CHECK(field(rejected[0], "message_id") == "just-over");
  CHECK(field(rejected[0], "found") == "1048577");
  CHECK(field(rejected[0], "expected_at_most") == "1048576");
  CHECK(field(rejected[1], "message_id") == "far-over");
  CHECK(ids_of(broker.drain(dead)) == std::vector<std::string>{"far-over", "just-over"});
}

TEST_CASE("properties and headers of every kind reach the handler", "[broker][queues]") {
  Broker broker;
  const std::string queue = broker.make_queue("properties");
  const TempDir files;
  Lope lope({.broker = broker.url(),
             .groups = describe_group("properties", queue, files.file("seen"),
                                      "    consumer_tag: described\n")});
  REQUIRE(lope.wait_ready());
  Publication full{.routing_key = queue,
                   .body = "x",
                   .message_id = "full",
                   .content_type = "text/plain",
                   .correlation_id = "corr",
                   .reply_to = "answers",
                   .typed_headers = {{.name = "true", .kind = 't', .number = 1},
                                     {.name = "false", .kind = 't', .number = 0},
                                     {.name = "i8", .kind = 'b', .number = -8},
                                     {.name = "u8", .kind = 'B', .number = 200},
                                     {.name = "i16", .kind = 's', .number = -30000},
                                     {.name = "u16", .kind = 'u', .number = 60000},
                                     {.name = "i32", .kind = 'I', .number = -2'000'000'000},
                                     {.name = "u32", .kind = 'i', .number = 4'000'000'000},
                                     {.name = "i64", .kind = 'l', .number = -9'000'000'000'000},
                                     {.name = "f32", .kind = 'f', .real = 0.5},
                                     {.name = "f64", .kind = 'd', .real = 0.1},
                                     {.name = "time", .kind = 'T', .number = 1'700'000'000},
                                     {.name = "nothing", .kind = 'V'},
                                     {.name = "text", .kind = 'S', .text = "grüße"},
                                     {.name = "empty", .kind = 'S'},
                                     {.name = "bytes", .kind = 'x', .text = "raw"},
                                     {.name = "decimal", .kind = 'D', .number = 314},
                                     {.name = "table", .kind = 'F'},
                                     {.name = "array", .kind = 'A'},
                                     {.name = "x-lope-parent-id", .kind = 'S', .text = "parent"}},
                   .content_encoding = "gzip",
                   .type = "greeting",
                   .app_id = "tests",
                   .user_id = "guest",
                   .expiration = "60000",
                   .priority = 5,
                   .timestamp = 1'600'000'000};
  Publication many{.routing_key = queue, .body = "x", .message_id = "many", .persistent = false};
  for (int i = 0; i < 2000; ++i) {
    many.headers.emplace_back("key" + std::to_string(i), std::string(40, 'v') + std::to_string(i));
  }
  Publisher publisher = broker.publisher();
  publisher.publish({.routing_key = queue, .body = "x", .message_id = "bare"});
  publisher.publish(full);
  publisher.publish(many);
  std::map<std::string, std::string> seen;
  CHECK(eventually(10s, [&] {
    seen = read_descriptions(files.file("seen"));
    return seen.contains("many.checksum");
  }));
  CHECK(lope.stop() == exited(0));

  const std::map<std::string, std::string> expected = {
      {"queue", queue},
      {"routing_key", queue},
      {"consumer_tag", "described"},
      {"content_type", "text/plain"},
      {"content_encoding", "gzip"},
      {"correlation_id", "corr"},
      {"reply_to", "answers"},
      {"type", "greeting"},
      {"app_id", "tests"},
      {"user_id", "guest"},
      {"expiration", "60000"},
      {"priority", "5"},
      {"timestamp", "1600000000"},
      {"persistent", "true"},
      {"redelivered", "false"},
      {"headers", "20"},
      {"header.true", "bool true"},
      {"header.false", "bool false"},
      {"header.i8", "int64 -8"},
      {"header.u8", "uint64 200"},
      {"header.i16", "int64 -30000"},
      {"header.u16", "uint64 60000"},
      {"header.i32", "int64 -2000000000"},
      {"header.u32", "uint64 4000000000"},
      {"header.i64", "int64 -9000000000000"},
      {"header.f32", "double 0.5"},
      {"header.f64", "double 0.10000000000000001"},
      {"header.time", "timestamp 1700000000"},
      {"header.nothing", "null"},
      {"header.text", "text grüße"},
      {"header.empty", "text "},
      {"header.bytes", "bytes raw"},
      {"header.decimal", "other"},
      {"header.table", "other"},
      {"header.array", "other"},
      {"header.x-lope-parent-id", "text parent"},
      {"size", "1"},
      {"checksum", checksum("x")},
  };
  std::map<std::string, std::string> full_seen;
  for (const auto& [name, value] : seen) {
    if (name.starts_with("full.")) full_seen[name.substr(5)] = value;
  }
  CHECK(full_seen == expected);

  CHECK(seen["bare.headers"] == "0");
  CHECK(seen["bare.persistent"] == "true");
  CHECK_FALSE(seen.contains("bare.timestamp"));
  CHECK_FALSE(seen.contains("bare.type"));
  CHECK(seen["many.headers"] == "2000");
  CHECK(seen["many.persistent"] == "false");
  int right = 0;
  for (const auto& [name, value] : many.headers) {
    if (seen["many.header." + name] == "text " + value) ++right;
  }
  CHECK(right == 2000);
}

TEST_CASE("fifty groups at once", "[broker][queues]") {
  constexpr int kGroups = 50;
  constexpr int kEach = 20;
  Broker broker;
  const TempDir files;
  std::vector<std::string> queues;
  std::string groups;
  for (int i = 0; i < kGroups; ++i) {
    queues.push_back(broker.unique_queue("fifty"));
    groups += "  g" + std::to_string(i) + ":\n    queue: " + queues.back() +
              "\n    handler: append_id\n    options: { file: " + files.file("ids") +
              " }\n    declare: { durable: false }\n";
  }
  Lope lope({.broker = broker.url(), .groups = groups});
  REQUIRE(lope.wait_ready(60s));
  CHECK(lope.consumers().size() == kGroups);
  CHECK(lope.workers().size() == kGroups);
  Publisher publisher = broker.publisher();
  publisher.publish_many(kGroups * kEach, [&](int i) {
    return Publication{.routing_key = queues[static_cast<std::size_t>(i % kGroups)],
                       .body = "x",
                       .message_id = std::to_string(i),
                       .persistent = false};
  });
  CHECK(eventually(30s, [&] {
    return compare_ledger(publisher.confirmed(), lines_of_file(files.file("ids"))).missing.empty();
  }));
  CHECK(lope.stop() == exited(0));
  CHECK(lope.all_gone());
  const auto report = compare_ledger(publisher.confirmed(), lines_of_file(files.file("ids")));
  CHECK(report.duplicates.empty());
  CHECK(lines_with(lope.log(), "] drained ").size() == kGroups);
  for (const std::string& queue : queues) CHECK(broker.message_count(queue) == 0);
}
