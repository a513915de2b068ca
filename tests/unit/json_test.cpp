// Settings on their way to the other processes.
#include "common/json.h"

#include <catch2/catch.hpp>
#include <string>

using namespace lope;

namespace {

// No member at its default.
ConsumerSettings full_settings() {
  ConsumerSettings settings;
  settings.broker.addresses = {{"mq1.example", 5673, "shop", "app", "pass \"word\" ü"},
                               {"::1", 1, "", "b", "c"}};
  settings.broker.heartbeat = std::chrono::seconds(7);
  settings.broker.connect_timeout = std::chrono::milliseconds(1500);
  settings.handlers_dir = "/srv/handlers";
  settings.shutdown_timeout = std::chrono::milliseconds(1);
  settings.log = {LogLevel::warn, LogFormat::json, "/var/log/lope.log"};

  QueueSettings queue;
  queue.name = "orders \"new\"\n";
  queue.prefetch = 65535;
  queue.consumer_tag = "tag";
  const AmqpTable inner = {{"z", {true}}, {"a", {std::string("text")}}};
  queue.consumer_arguments = {{"x-priority", {std::int64_t{-9}}},
                              {"big", {std::int64_t{9223372036854775807}}},
                              {"real", {0.5}},
                              {"whole real", {2.0}},
                              {"list", {AmqpArray{{false}, {AmqpArray{}}, {inner}}}},
                              {"a table", {inner}}};
  queue.declare = true;
  queue.declaration.type = "quorum";
  queue.declaration.durable = false;
  queue.declaration.exclusive = true;
  queue.declaration.auto_delete = true;
  queue.declaration.arguments = inner;
  queue.declaration.exchanges = {{"journal", "topic", false, true, true, inner}};
  queue.declaration.bindings = {{"journal", "login.#", inner}};

  GroupSettings& group = settings.group;
  group.name = "orders";
  group.handler = "shop";
  group.options_json = R"({"a":{"b":1}})";
  group.options = {{"a.b", "1"}, {"c", ""}};
  group.queues = {queue, QueueSettings{}};
  group.workers = 3;
  group.threads = 4;
  group.auto_ack = true;
  group.max_body_bytes = 1;
  group.start_timeout = std::chrono::milliseconds(1234);
  group.batch_size = 7;
  group.batch_wait = std::chrono::milliseconds(8);
  group.flush_interval = std::chrono::milliseconds(9);
  return settings;
}

}  // namespace

TEST_CASE("consumer settings arrive as they were sent", "[unit][json]") {
  const ConsumerSettings sent = full_settings();
  const auto received = consumer_settings_from_json(to_json(sent));
  REQUIRE(received);
  CHECK(received->broker == sent.broker);
  CHECK(received->handlers_dir == sent.handlers_dir);
  CHECK(received->shutdown_timeout == sent.shutdown_timeout);
  CHECK(received->log == sent.log);
  CHECK(received->group == sent.group);
}

TEST_CASE("worker settings arrive as they were sent", "[unit][json]") {
  WorkerSettings sent;
  sent.group = "orders";
  sent.worker_index = 2;
  sent.threads = 5;
  sent.handlers_dir = "/srv/handlers";
  sent.handler = "shop";
  sent.options_json = R"({"a":[1,"x"]})";
  sent.options = {{"a.0", "1"}, {"a.1", "x"}};
  const auto received = worker_settings_from_json(to_json(sent));
  REQUIRE(received);
  CHECK(received->group == sent.group);
  CHECK(received->worker_index == sent.worker_index);
  CHECK(received->threads == sent.threads);
  CHECK(received->handlers_dir == sent.handlers_dir);
  CHECK(received->handler == sent.handler);
  CHECK(received->options_json == sent.options_json);
  CHECK(received->options == sent.options);
}

TEST_CASE("settings of another build are refused", "[unit][json]") {
  std::string text = to_json(WorkerSettings{});
  const std::size_t id = text.find("\"build_id\":\"");
  REQUIRE(id != std::string::npos);
  char& digit = text[id + 12];
  digit = digit == '0' ? '1' : '0';
  const auto result = worker_settings_from_json(text);
  REQUIRE_FALSE(result);
  CHECK(result.error().find("expected build id") != std::string::npos);
  CHECK_FALSE(worker_settings_from_json("{}"));
}

TEST_CASE("damaged settings are an error that tells no secret", "[unit][json]") {
  const std::string good = to_json(full_settings());
  const std::string secret = "pass \\\"word\\\"";
  REQUIRE(good.find(secret) != std::string::npos);

  std::string text;
  SECTION("cut anywhere") {
    const std::size_t size = GENERATE_COPY(range<std::size_t>(0, good.size(), 97));
    text = good.substr(0, size);
  }
  SECTION("a text where a number belongs") {
    text = good;
    const std::string_view port = "\"port\":5673";
    text.replace(text.find(port), port.size(), "\"port\":\"pass word\"");
  }
  SECTION("a member is missing") {
    text = good;
    text.replace(text.find("\"vhost\""), 7, "\"vhosts\"");
  }
  const auto result = consumer_settings_from_json(text);
  REQUIRE_FALSE(result);
  CHECK(result.error().find("word") == std::string::npos);
}

TEST_CASE("a description of a handler arrives as it was sent", "[unit][json]") {
  PluginDescription sent;
  sent.path = "/h/x.so";
  sent.name = "x";
  sent.version = "1.2.3";
  sent.description = "does x";
  sent.abi_major = 1;
  sent.abi_minor = 2;
  sent.options = {{"dsn", true, "", "where to", "text", true},
                  {"n", false, "3", "", "int64", false}};
  sent.has_batch = true;
  sent.has_flush = true;
  for (const int indent : {-1, 2}) {
    const auto received = plugin_description_from_json(to_json(sent, indent));
    REQUIRE(received);
    CHECK(received->path == sent.path);
    CHECK(received->name == sent.name);
    CHECK(received->version == sent.version);
    CHECK(received->description == sent.description);
    CHECK(received->abi_major == 1);
    CHECK(received->abi_minor == 2);
    CHECK_FALSE(received->takes_any_option);
    CHECK(received->has_batch);
    CHECK(received->has_flush);
    REQUIRE(received->options.size() == 2);
    CHECK(received->options[0].name == "dsn");
    CHECK(received->options[0].required);
    CHECK(received->options[0].secret);
    CHECK(received->options[0].help == "where to");
    CHECK(received->options[1].kind == "int64");
    CHECK(received->options[1].default_value == "3");
  }
  CHECK(to_json(sent).find('\n') == std::string::npos);
}

TEST_CASE("the error of a refused handler becomes ours", "[unit][json]") {
  const std::string text = "handler 'x.so': expected \"this\", found\nthat";
  const auto result = plugin_description_from_json(error_json(text));
  REQUIRE_FALSE(result);
  CHECK(result.error() == text);
}

TEST_CASE("whatever a handler's process writes, the answer is an error", "[unit][json]") {
  const std::string text =
      GENERATE(as<std::string>(), "", "null", "[]", "{}", "hello", "{\"name\":5}", "{\"error\":5}");
  CHECK_FALSE(plugin_description_from_json(text));
  CHECK_FALSE(plugin_description_from_json(std::string(100'000, '[')));
}

TEST_CASE("texts of a handler that are no UTF-8 do no harm", "[unit][json]") {
  PluginDescription sent;
  sent.name = "gr\xfc\xdf";
  const auto received = plugin_description_from_json(to_json(sent));
  REQUIRE(received);
  CHECK(received->name == "gr\xef\xbf\xbd\xef\xbf\xbd");
}

TEST_CASE("a text becomes a JSON string", "[unit][json]") {
  CHECK(json_quote("") == "\"\"");
  CHECK(json_quote("a \"b\"\n\\ü") == "\"a \\\"b\\\"\\n\\\\ü\"");
  CHECK(json_quote(std::string_view("\0", 1)) == "\"\\u0000\"");
}
