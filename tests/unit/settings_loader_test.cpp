// The configuration: what good files say, and what is said of bad ones.
#include "supervisor/settings_loader.h"

#include <sys/stat.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/json.h"
#include "supervisor/standard_folder.h"
#include "support/process.h"
#include "support/temp_dir.h"

using namespace lope;
using namespace lope::supervisor;
using namespace std::chrono_literals;
using lope::test::exited;
using lope::test::read_file;
using lope::test::TempDir;

namespace {

std::string joined(const std::vector<ConfigProblem>& problems) {
  std::string text;
  for (const ConfigProblem& problem : problems) text += problem.to_string() + "\n";
  return text;
}

// A configuration in a folder of its own; problems name it by its short name.
class Config {
 public:
  explicit Config(std::string_view text = {}) { path_ = dir_.write("lope.yaml", text); }

  const TempDir& dir() const { return dir_; }
  LoadedSettings load() const {
    LoadedSettings loaded = load_settings(path_);
    shorten(loaded.errors);
    shorten(loaded.warnings);
    return loaded;
  }

 private:
  void shorten(std::vector<ConfigProblem>& problems) const {
    const std::string folder = dir_.path().string() + "/";
    for (ConfigProblem& problem : problems) {
      for (std::string* text : {&problem.file, &problem.text}) {
        for (std::size_t at; (at = text->find(folder)) != std::string::npos;) {
          text->erase(at, folder.size());
        }
      }
    }
  }

  TempDir dir_;
  std::string path_;
};

LoadedSettings load(std::string_view text) { return Config(text).load(); }

// The settings of a file without errors.
Settings good(std::string_view text) {
  const LoadedSettings loaded = load(text);
  INFO(text);
  INFO(joined(loaded.errors));
  REQUIRE(loaded.errors.empty());
  return loaded.settings;
}

// The one group of a file, given what stands in its braces.
GroupSettings group_of(const std::string& keys) {
  const Settings settings = good("groups: { g: { handler: h, " + keys + " } }");
  REQUIRE(settings.groups.size() == 1);
  return settings.groups[0];
}

// For the length of a test.
class Variable {
 public:
  Variable(std::string name, const char* value) : name_(std::move(name)) {
    if (value == nullptr) {
      ::unsetenv(name_.c_str());
    } else {
      ::setenv(name_.c_str(), value, 1);
    }
  }
  ~Variable() { ::unsetenv(name_.c_str()); }

 private:
  const std::string name_;
};

std::string repeated(std::string_view text, std::size_t times) {
  std::string result;
  result.reserve(text.size() * times);
  for (std::size_t i = 0; i < times; ++i) result += text;
  return result;
}

}  // namespace

// ---- Good files ----------------------------------------------------------------------------

TEST_CASE("the smallest file has every default", "[unit][settings]") {
  const Settings settings = good("broker: amqp://localhost\ngroups:\n  hello: { handler: log }\n");
  Settings expected;
  expected.handlers_dir = default_handlers_dir();
  expected.state_dir = default_state_dir();
  GroupSettings group;
  group.name = "hello";
  group.handler = "log";
  QueueSettings queue;
  queue.name = "hello";
  group.queues = {queue};
  expected.groups = {group};
  CHECK(settings == expected);
  CHECK(load("broker: amqp://localhost\ngroups:\n  hello: { handler: log }\n").warnings.empty());
}

TEST_CASE("workers are a number, or a range", "[unit][settings]") {
  const GroupSettings range =
      good("groups: { a: { handler: log, workers: {min: 2, max: 5} } }").groups[0];
  CHECK(range.workers == 2);
  CHECK(range.workers_max == 5);
  const GroupSettings number =
      good("defaults: {workers: {min: 2, max: 5}}\ngroups: { a: { handler: log, workers: 3 } }")
          .groups[0];
  CHECK(number.workers == 3);
  CHECK(number.workers_max == 0);
}

TEST_CASE("the broker may be left out", "[unit][settings]") {
  CHECK(good("groups: { a: { handler: log } }").broker == BrokerSettings{});
}

TEST_CASE("config/lope.yaml is the defaults", "[unit][settings]") {
  const LoadedSettings loaded = load_settings(LOPE_SOURCE_DIR "/config/lope.yaml");
  INFO(joined(loaded.errors) << joined(loaded.warnings));
  REQUIRE(loaded.errors.empty());
  CHECK(loaded.warnings.empty());
  Settings expected = good("groups: { hello: { handler: log, declare: {} } }");
  CHECK(loaded.settings == expected);
}

TEST_CASE("every key stands in config/lope.yaml", "[unit][settings]") {
  const std::string text = read_file(LOPE_SOURCE_DIR "/config/lope.yaml");
  for (const KnownKeys& known : known_keys()) {
    for (const std::string_view key : known.keys) {
      INFO(known.map << "." << key);
      CHECK(text.find(std::string(key) + ":") != std::string::npos);
    }
  }
}

TEST_CASE("every other key is taken as it is written", "[unit][settings]") {
  const Config config(R"(
broker:
  urls: [amqp://mq1.example:5673/shop, "amqp://[::1]/%2F"]
  user: app
  password: "secret"
  heartbeat: 5s
  connect_timeout: 250ms
handlers_dir: /srv/handlers
state_dir: /srv/state
shutdown_timeout: 2m
ready_timeout: 1d
log: { level: warn, format: json, file: /var/log/lope.log }
defaults: { prefetch: 7, workers: 2, threads: 3, auto_ack: true, max_body: 1kB, start_timeout: 5s }
groups:
  first:
    handler: a
  second.x-y_z:
    handler: b
    queue: other
    workers: 256
    threads: 1
    prefetch: 65535
    auto_ack: false
    max_body: 512MiB
    start_timeout: 1h
    batch: { size: 100, wait: 2s }
    flush_interval: 250ms
    consumer_tag: tag
    consumer_arguments: { x-priority: -5 }
    declare:
      type: quorum
      arguments: { x-delivery-limit: 10, "y": {b: [true, 0x1F, 0o17, 1.5, "5", text, {}]} }
      exchanges:
        - { name: journal, type: topic, durable: false, auto_delete: true, internal: true, arguments: {a: b} }
        - { name: other, type: x-random }
        - { name: plain }
      bind:
        - { exchange: journal, key: "login.#", arguments: {c: false} }
        - { exchange: plain }
)");
  const LoadedSettings loaded = config.load();
  INFO(joined(loaded.errors));
  REQUIRE(loaded.errors.empty());
  const Settings& settings = loaded.settings;
  REQUIRE(settings.broker.addresses.size() == 2);
  CHECK(settings.broker.addresses[0] ==
        BrokerAddress{"mq1.example", 5673, "shop", "app", "secret"});
  CHECK(settings.broker.addresses[1] == BrokerAddress{"::1", 5672, "/", "app", "secret"});
  CHECK(settings.broker.heartbeat == 5s);
  CHECK(settings.broker.connect_timeout == 250ms);
  CHECK(settings.handlers_dir == "/srv/handlers");
  CHECK(settings.state_dir == "/srv/state");
  CHECK(settings.shutdown_timeout == 120s);
  CHECK(settings.ready_timeout == 24h);
  CHECK(settings.log == LogSettings{LogLevel::warn, LogFormat::json, "/var/log/lope.log"});

  REQUIRE(settings.groups.size() == 2);
  const GroupSettings& first = settings.groups[0];
  CHECK(first.name == "first");
  CHECK(first.workers == 2);
  CHECK(first.threads == 3);
  CHECK(first.auto_ack);
  CHECK(first.max_body_bytes == 1000);
  CHECK(first.start_timeout == 5s);
  REQUIRE(first.queues.size() == 1);
  CHECK(first.queues[0].name == "first");
  CHECK(first.queues[0].prefetch == 7);
  CHECK_FALSE(first.queues[0].declare);

  const GroupSettings& second = settings.groups[1];
  CHECK(second.name == "second.x-y_z");
  CHECK(second.workers == 256);
  CHECK(second.threads == 1);
  CHECK_FALSE(second.auto_ack);
  CHECK(second.max_body_bytes == 512LL * 1024 * 1024);
  CHECK(second.start_timeout == 1h);
  CHECK(second.batch_size == 100);
  CHECK(second.batch_wait == 2s);
  CHECK(second.flush_interval == 250ms);
  REQUIRE(second.queues.size() == 1);
  const QueueSettings& queue = second.queues[0];
  CHECK(queue.name == "other");
  CHECK(queue.prefetch == 65535);
  CHECK(queue.consumer_tag == "tag");
  CHECK(queue.consumer_arguments == AmqpTable{{"x-priority", {std::int64_t{-5}}}});
  CHECK(queue.declare);
  const DeclareSettings& declaration = queue.declaration;
  CHECK(declaration.type == "quorum");
  CHECK(declaration.durable);
  const AmqpArray list = {{true},       {std::int64_t{31}}, {std::int64_t{15}},
                          {1.5},        {std::string("5")}, {std::string("text")},
                          {AmqpTable{}}};
  CHECK(declaration.arguments ==
        AmqpTable{{"x-delivery-limit", {std::int64_t{10}}}, {"y", {AmqpTable{{"b", {list}}}}}});
  REQUIRE(declaration.exchanges.size() == 3);
  CHECK(declaration.exchanges[0] ==
        ExchangeSettings{"journal", "topic", false, true, true, {{"a", {std::string("b")}}}});
  CHECK(declaration.exchanges[1].type == "x-random");
  CHECK(declaration.exchanges[2] == ExchangeSettings{"plain", "direct", true, false, false, {}});
  REQUIRE(declaration.bindings.size() == 2);
  CHECK(declaration.bindings[0] == BindingSettings{"journal", "login.#", {{"c", {false}}}});
  CHECK(declaration.bindings[1] == BindingSettings{"plain", "", {}});
}

TEST_CASE("what a broker says of itself, and the delays, are taken as written",
          "[unit][settings]") {
  const Settings settings = good(
      "broker: {consumer_timeout: 7d, max_message_size: 1kB}\n"
      "delays: {prefix: Shop_1.delay-x, relay: false, retry: 1s, give_up: 0s}\n"
      "groups: {a: {handler: h, max_body: 512MiB}}");
  CHECK(settings.broker.consumer_timeout == 168h);
  CHECK(settings.broker.max_message_bytes == 1000);
  CHECK(settings.delays == DelaySettings{"Shop_1.delay-x", false, 1s, 0s});
  CHECK(good("broker: {consumer_timeout: 0}\ngroups: {a: {handler: h}}").broker.consumer_timeout ==
        0s);
}

TEST_CASE("what a group says of failing messages is taken as written", "[unit][settings]") {
  const GroupSettings group = group_of(
      "timeout: 10ms, crashes: 100, "
      "retry: {attempts: 1000, delay: 0s, backoff: 1, max_delay: 365d, jitter: 1.0}, "
      "dead_letter: {exchange: dead, key: k, declare: true, type: x-random}, "
      "breaker: {failures: 1e-2, outcomes: 1, period: 0s, pause: 1h, max_pause: 1d}");
  CHECK(group.timeout == 10ms);
  CHECK(group.crashes == 100);
  CHECK(group.retry == RetrySettings{1000, 0s, 1.0, 8760h, 1.0});
  CHECK(group.dead_letter ==
        DeadLetterSettings{DeadLetterSettings::To::exchange, "dead", "k", true, "x-random"});
  CHECK(group.breaker == BreakerSettings{true, 0.01, 1, 0ms, 1h, 24h});
}

TEST_CASE("order: by a key, or strict, with one consumer at a time", "[unit][settings]") {
  const GroupSettings by_key =
      group_of("order_by: routing_key, workers: 2, threads: 3, declare: {}");
  CHECK(by_key.order == OrderSettings{OrderSettings::By::routing_key, ""});
  CHECK(by_key.workers == 2);
  CHECK(by_key.queues[0].declaration.arguments == AmqpTable{{"x-single-active-consumer", {true}}});
  const GroupSettings by_header = group_of(
      "order_by: \"header:x y\", queues: [a, {name: b, declare: {arguments: "
      "{x-single-active-consumer: true}}}]");
  CHECK(by_header.order == OrderSettings{OrderSettings::By::header, "x y"});
  CHECK_FALSE(by_header.queues[0].declare);
  CHECK(by_header.queues[1].declaration.arguments ==
        AmqpTable{{"x-single-active-consumer", {true}}});

  // The numbers of `defaults` are not meant for it.
  const Settings strict = good(
      "defaults: {workers: {min: 2, max: 4}, threads: 8}\n"
      "groups: {a: {handler: h, order: strict}, b: {handler: h}}");
  CHECK(strict.groups[0].order.by == OrderSettings::By::queue);
  CHECK(strict.groups[0].workers == 1);
  CHECK(strict.groups[0].workers_max == 0);
  CHECK(strict.groups[0].threads == 1);
  CHECK(strict.groups[1].order == OrderSettings{});
  CHECK(strict.groups[1].threads == 8);
}

TEST_CASE("order_by with a small prefetch is warned of", "[unit][settings]") {
  const std::string warning =
      "lope.yaml:2:26: groups.a.order_by: prefetch 30 is less than 4 x workers x threads, 32: "
      "messages of one key that wait for each other leave workers without any\n";
  const auto warnings = [](const std::string& keys) {
    return joined(
        load("groups: {a: {handler: h,\n               order_by: routing_key, " + keys + "}}")
            .warnings);
  };
  CHECK(warnings("workers: 2, threads: 4") == warning);
  CHECK(warnings("workers: {min: 1, max: 2}, threads: 4") == warning);
  CHECK(warnings("workers: 2, threads: 4, prefetch: 32").empty());
  CHECK(warnings("workers: 2, threads: 4, prefetch: 5") ==
        "lope.yaml:2:73: groups.a.prefetch: prefetch 5 is less than 4 x workers x threads, 32: "
        "messages of one key that wait for each other leave workers without any\n");
}

TEST_CASE("a rate is a number, or a map with its burst", "[unit][settings]") {
  CHECK(group_of("rate: 100").rate == RateSettings{100, 10});
  CHECK(group_of("rate: 2.5").rate == RateSettings{2.5, 1});
  CHECK(group_of("rate: {per_second: 100}").rate == RateSettings{100, 10});
  CHECK(group_of("rate: {per_second: 100, burst: 20}").rate == RateSettings{100, 20});
  CHECK(group_of("workers: 1").rate == RateSettings{});
}

TEST_CASE("priorities become arguments of queue and consumer", "[unit][settings]") {
  const AmqpTable ten{{"x-priority", {std::int64_t{10}}}};
  const GroupSettings group = group_of(
      "priority: 10, declare: {max_priority: 5}, queues: [a, {name: b, priority: -1}, "
      "{name: c, consumer_arguments: {x-priority: 3}}, {name: d, consumer_arguments: {y: 1}}]");
  CHECK(group.queues[0].consumer_arguments == ten);
  CHECK(group.queues[0].declaration.arguments == AmqpTable{{"x-max-priority", {std::int64_t{5}}}});
  CHECK(group.queues[1].consumer_arguments == AmqpTable{{"x-priority", {std::int64_t{-1}}}});
  CHECK(group.queues[2].consumer_arguments == AmqpTable{{"x-priority", {std::int64_t{3}}}});
  CHECK(group.queues[3].consumer_arguments ==
        AmqpTable{{"y", {std::int64_t{1}}}, {"x-priority", {std::int64_t{10}}}});
}

TEST_CASE("recycle: all of it, a part of it, and none", "[unit][settings]") {
  const auto recycle = [](const std::string& defaults, const std::string& own) {
    return good("defaults: {" + defaults + "}\ngroups: {a: {handler: h" + own + "}}")
        .groups.front()
        .recycle;
  };
  CHECK(recycle("", "") == RecycleSettings{});
  CHECK(recycle("", ", recycle: {messages: 5, memory: 200MiB, age: 1d}") ==
        RecycleSettings{5, 200 << 20, 24h});
  CHECK(recycle("recycle: {age: 1h}", "") == RecycleSettings{0, 0, 1h});
  CHECK(recycle("recycle: {age: 1h}", ", recycle: {messages: 1}") == RecycleSettings{1, 0, 1h});
  CHECK(recycle("recycle: {age: 1h}", ", recycle: false") == RecycleSettings{});
}

TEST_CASE("content: all of it, a part of it, and none", "[unit][settings]") {
  const auto content = [](const std::string& defaults, const std::string& own) {
    return good("defaults: {" + defaults + "}\ngroups: {a: {handler: h" + own + "}}")
        .groups.front()
        .content;
  };
  CHECK(content("", "") == ContentSettings{});
  const ContentSettings all =
      content("",
              ", accept: [application/json, text/*], decode: {max_size: 1MiB}, charset: utf-8, "
              "compress: {encoding: zstd, min_size: 10B}");
  CHECK(all.accept == std::vector<std::string>{"application/json", "text/*"});
  CHECK(all.decode);
  CHECK(all.max_decoded_bytes == 1 << 20);
  CHECK(all.to_utf8);
  CHECK(all.compress == "zstd");
  CHECK(all.compress_min_bytes == 10);
  // Without a limit of its own it is what may come.
  CHECK(content("", ", decode: true, max_body: 5MiB").max_decoded_bytes == 5 << 20);
  CHECK(content("max_body: 3MiB, decode: true", "").max_decoded_bytes == 3 << 20);
  CHECK(content("max_body: 3MiB, decode: {max_size: 1MiB}", ", max_body: 9MiB").max_decoded_bytes ==
        1 << 20);
  // A group's own takes the place of the defaults'.
  const std::string defaults = "accept: [a/b], decode: true, charset: utf-8, compress: gzip";
  CHECK(content(defaults, "").accept == std::vector<std::string>{"a/b"});
  CHECK(content(defaults, ", accept: [], decode: false, charset: as-is, compress: none") ==
        ContentSettings{});
  CHECK(content(defaults, ", compress: {min_size: 5B}").compress == "gzip");
  CHECK(content("compress: {encoding: xz, min_size: 5B}", ", compress: bzip2").compress_min_bytes ==
        5);
}

TEST_CASE("validate: the file's text, from beside the configuration", "[unit][settings]") {
  const Config config("groups: {a: {handler: h, validate: a.json}}");
  config.dir().write("a.json", "{}\n");
  const LoadedSettings loaded = config.load();
  INFO(joined(loaded.errors));
  REQUIRE(loaded.errors.empty());
  const ContentSettings& content = loaded.settings.groups[0].content;
  CHECK(content.schema == "{}\n");
  CHECK(content.schema_file == config.dir().file("a.json"));
  CHECK(loaded.places[0].schema.line == 1);
  CHECK(loaded.places[0].schema.column == 36);

  const auto problem = [](const std::string& text) {
    const Config bad("groups: {a: {handler: h, validate: a.json}}");
    bad.dir().write("a.json", text);
    return joined(bad.load().errors);
  };
  const std::string place = "lope.yaml:1:36: groups.a.validate: 'a.json': ";
  CHECK(problem("") == place + "expected a JSON Schema, found an empty file\n");
  CHECK(problem("\xff") == place + "expected UTF-8, found other bytes\n");
  CHECK(problem(std::string((1 << 20) + 1, ' ')) ==
        place + "expected a JSON Schema of at most 1048576 bytes, found a larger file\n");
  CHECK(joined(load("groups: {a: {handler: h, validate: none.json}}").errors) ==
        "lope.yaml:1:36: groups.a.validate: 'none.json': expected a readable file, found: open: No "
        "such file or directory\n");
  CHECK(joined(load("groups: {a: {handler: h, validate: .}}").errors) ==
        "lope.yaml:1:36: groups.a.validate: '': expected a regular file, found something else\n");
}

TEST_CASE("dedup: all of it, its short forms, and none", "[unit][settings]") {
  const auto dedup = [](const std::string& defaults, const std::string& own) {
    return good("defaults: {" + defaults + "}\ngroups: {a: {handler: h" + own + "}}")
        .groups.front()
        .dedup;
  };
  using D = DedupSettings;
  CHECK(dedup("", "") == D{});
  CHECK(dedup("", "").key == D::Key::none);
  D by_id;
  by_id.key = D::Key::message_id;
  CHECK(dedup("", ", dedup: message_id") == by_id);
  CHECK(dedup("", ", dedup: {key: message_id}") == by_id);
  CHECK(dedup("dedup: message_id", "") == by_id);
  CHECK(dedup("dedup: message_id", ", dedup: false") == D{});
  D by_header = by_id;
  by_header.key = D::Key::header;
  by_header.header = "order-id";
  CHECK(dedup("dedup: message_id", ", dedup: header:order-id") == by_header);
  D by_body;
  by_body.key = D::Key::body;
  by_body.window = 30min;
  by_body.store = D::Store::redis;
  by_body.redis_url = "redis://cache:6380/3";
  by_body.on_store_failure = D::OnStoreFailure::run;
  by_body.min_interval = 5s;
  by_body.too_soon = D::TooSoon::drop;
  CHECK(dedup("",
              ", dedup: {key: body, window: 30m, store: 'redis://cache:6380/3', "
              "on_store_failure: run, min_interval: {every: 5s, then: drop}}") == by_body);
  // What a group does not say of it is as in the defaults.
  by_body.window = 1h;
  by_body.min_interval = 7s;
  by_body.too_soon = D::TooSoon::drop;
  CHECK(dedup("dedup: {key: body, window: 30m, store: 'redis://cache:6380/3', "
              "on_store_failure: run, min_interval: {every: 5s, then: drop}}",
              ", dedup: {window: 1h, min_interval: 7s}") == by_body);
  CHECK(dedup("dedup: {key: body, store: 'redis://cache'}", ", dedup: {store: local}").redis_url ==
        "");
  CHECK(dedup("", ", dedup: {key: body, window: 0, min_interval: 10ms}").window == 0s);
}

TEST_CASE("the URL of a dedup store may come from elsewhere, and is not shown",
          "[unit][settings]") {
  const Config config;
  const std::string path = config.dir().write("url", "redis://app:s3cret@cache/1\n");
  ::chmod(path.c_str(), 0600);
  const auto load = [](const std::string& store) {
    return Config("groups: {a: {handler: h, dedup: {key: body, store: " + store + "}}}").load();
  };
  const LoadedSettings from_file = load("{url: {file: " + path + "}}");
  INFO(joined(from_file.errors));
  REQUIRE(from_file.errors.empty());
  CHECK(from_file.warnings.empty());
  CHECK(from_file.settings.groups[0].dedup.redis_url == "redis://app:s3cret@cache/1");
  CHECK(joined(load("'redis://:s3cret@cache'").warnings) ==
        "lope.yaml:1:52: groups.a.dedup.store: URL: a password stands in this file: better "
        "dedup.store with {url: {credential: NAME}}, {url: {file: PATH}} or {url: {env: NAME}}\n");
  const auto refused = [&](const std::string& store, const std::string& error) {
    const std::string text = joined(load(store).errors);
    CHECK(text == "lope.yaml:1:" + error + "\n");
    CHECK(text.find("s3cret") == std::string::npos);
  };
  refused("s3cret",
          "52: groups.a.dedup.store: expected local or redis://host:port/number, found "
          "another text");
  refused(
      "'redis://u:s3cret@cache/x'",
      "52: groups.a.dedup.store: URL: expected the number of a database after the first '/' (in "
      "user and password '/' is written %2F)");
  refused("'rediss://u:s3cret@cache'",
          "52: groups.a.dedup.store: URL: 'rediss' is not available: expected redis://");
  refused("{}", "52: groups.a.dedup.store: expected 'url', found none");
  refused("[x]",
          "52: groups.a.dedup.store: expected local, a URL redis://host:port/number, or a map "
          "of url, found a list");
}

TEST_CASE("what needs no secret, or the journal's alone, does not miss the others",
          "[unit][settings]") {
  const Variable store("LOPE_TEST_STORE", "postgresql://mq1/lope");
  const Variable unset("LOPE_TEST_ABSENT", nullptr);
  const std::string absent = "{env: LOPE_TEST_ABSENT}";
  const std::string dedup = "dedup: {key: body, store: {url: " + absent + "}}";
  const TempDir dir;
  const std::string path = dir.write(
      "lope.yaml", "broker: {user: app, password: " + absent + "}\n" +
                       "monitor: {listen: 127.0.0.1:9419, journal: {env: "
                       "LOPE_TEST_STORE}}\ndefaults: {" +
                       dedup + "}\ngroups: {a: {handler: h}, b: {handler: h, " + dedup + "}}\n");
  const LoadedSettings journal = load_settings(path, Passwords::of_journal_alone);
  CHECK(joined(journal.errors) == "");
  CHECK(journal.settings.monitor_journal == "postgresql://mq1/lope");
  CHECK(joined(load_settings(path, Passwords::not_needed).errors) == "");
  CHECK_FALSE(load_settings(path).errors.empty());
}

TEST_CASE("a credential is missed by the service alone", "[unit][settings]") {
  const Variable folder("CREDENTIALS_DIRECTORY", nullptr);
  const TempDir dir;
  const std::string path = dir.write("lope.yaml", R"(
broker: {user: app, password: {credential: broker}}
monitor: {listen: 9419, journal: {credential: journal}}
telemetry: {endpoint: "http://localhost", headers: {authorization: {credential: token}}}
groups: {a: {handler: h, dedup: {key: body, store: {url: {credential: store}}}}}
)");
  const LoadedSettings checked = load_settings(path, Passwords::of_service);
  CHECK(joined(checked.errors) == "");
  CHECK_THAT(joined(checked.notes),
             Catch::Contains("lope.yaml:2:44: broker.password: the credential 'broker' is there "
                             "for the service alone: it was not read\n"));
  CHECK(checked.notes.size() == 4);
  CHECK(load_settings(path).errors.size() == 4);

  // In a service, what it was not given is an error.
  const Variable empty("CREDENTIALS_DIRECTORY", dir.path().c_str());
  CHECK(load_settings(path, Passwords::of_service).errors.size() == 4);
}

TEST_CASE("retry, dead_letter and breaker have short forms", "[unit][settings]") {
  RetrySettings three;
  three.attempts = 3;
  CHECK(group_of("retry: 3").retry == three);
  CHECK(group_of("retry: {}").retry == RetrySettings{});
  CHECK(group_of("retry: {delay: 1h}").retry.delay == 1h);

  using To = DeadLetterSettings::To;
  CHECK(group_of("workers: 1").dead_letter.to == To::automatic);
  CHECK(group_of("dead_letter: broker").dead_letter ==
        DeadLetterSettings{To::broker, "", "", false, "topic"});
  CHECK(group_of("dead_letter: {queue: q}").dead_letter ==
        DeadLetterSettings{To::exchange, "", "q", false, "topic"});
  CHECK(group_of("dead_letter: {queue: q, declare: true}").dead_letter ==
        DeadLetterSettings{To::exchange, "", "q", true, "topic"});
  CHECK(group_of("dead_letter: {exchange: e, key: \"\"}").dead_letter ==
        DeadLetterSettings{To::exchange, "e", "", false, "topic"});
  // The name of an exchange is not one of a queue.
  CHECK(group_of("queue: x, dead_letter: {exchange: x}").dead_letter.exchange == "x");

  CHECK_FALSE(group_of("breaker: false").breaker.on);
  CHECK(group_of("breaker: true").breaker == BreakerSettings{});
  CHECK(group_of("breaker: {}").breaker == BreakerSettings{});
}

TEST_CASE("a group takes from the defaults what it does not say itself", "[unit][settings]") {
  const Settings settings = good(R"(
broker: {consumer_timeout: 0}
defaults:
  timeout: 1h
  retry: {attempts: 7, delay: 2s, backoff: 3, max_delay: 3s, jitter: 0}
  crashes: 5
  dead_letter: {exchange: dead, key: k, declare: true, type: fanout}
  breaker: {failures: 0.5, outcomes: 10, pause: 2s, max_pause: 4s}
groups:
  same: {handler: h}
  short: {handler: h, timeout: 0s, retry: 2, crashes: 1, dead_letter: broker, breaker: false}
  some: {handler: h, retry: {delay: 3s}, dead_letter: {exchange: other}, breaker: {pause: 3s}}
)");
  REQUIRE(settings.groups.size() == 3);
  const GroupSettings& same = settings.groups[0];
  CHECK(same.timeout == 1h);
  CHECK(same.retry == RetrySettings{7, 2s, 3.0, 3s, 0.0});
  CHECK(same.crashes == 5);
  CHECK(same.dead_letter ==
        DeadLetterSettings{DeadLetterSettings::To::exchange, "dead", "k", true, "fanout"});
  CHECK(same.breaker == BreakerSettings{true, 0.5, 10, 2s, 2s, 4s});

  const GroupSettings& brief = settings.groups[1];
  CHECK(brief.timeout == 0s);
  CHECK(brief.retry == RetrySettings{2, 2s, 3.0, 3s, 0.0});
  CHECK(brief.crashes == 1);
  CHECK(brief.dead_letter ==
        DeadLetterSettings{DeadLetterSettings::To::broker, "", "", false, "topic"});
  CHECK(brief.breaker == BreakerSettings{false, 0.5, 10, 2s, 2s, 4s});

  const GroupSettings& some = settings.groups[2];
  CHECK(some.retry == RetrySettings{7, 3s, 3.0, 3s, 0.0});
  CHECK(some.dead_letter ==
        DeadLetterSettings{DeadLetterSettings::To::exchange, "other", "", false, "topic"});
  CHECK(some.breaker == BreakerSettings{true, 0.5, 10, 2s, 3s, 4s});

  CHECK(good("defaults: {breaker: false}\ngroups: {a: {handler: h, breaker: {pause: 2s}}}")
            .groups[0]
            .breaker.on);
}

TEST_CASE("each queue of a group may differ from the rest", "[unit][settings]") {
  const GroupSettings group = group_of(
      "prefetch: 9, consumer_tag: t, declare: {durable: false}, consumer_arguments: {x: 1}, "
      "queues: [one, {name: two}, {name: three, prefetch: 1, consumer_tag: u, "
      "consumer_arguments: {y: 2}, declare: {type: quorum}}]");
  REQUIRE(group.queues.size() == 3);
  CHECK(group.queues[0].name == "one");
  for (const int i : {0, 1}) {
    CHECK(group.queues[i].prefetch == 9);
    CHECK(group.queues[i].consumer_tag == "t");
    CHECK(group.queues[i].consumer_arguments == AmqpTable{{"x", {std::int64_t{1}}}});
    CHECK(group.queues[i].declare);
    CHECK_FALSE(group.queues[i].declaration.durable);
  }
  CHECK(group.queues[1].name == "two");
  CHECK(group.queues[2].name == "three");
  CHECK(group.queues[2].prefetch == 1);
  CHECK(group.queues[2].consumer_tag == "u");
  CHECK(group.queues[2].consumer_arguments == AmqpTable{{"y", {std::int64_t{2}}}});
  CHECK(group.queues[2].declaration.type == "quorum");
  CHECK(group.queues[2].declaration.durable);
}

TEST_CASE("durations and sizes are read by their unit", "[unit][settings]") {
  struct Row {
    const char* text;
    std::chrono::milliseconds value;
  };
  const auto row = GENERATE(values<Row>({{"0s", 0ms},
                                         {"1ms", 1ms},
                                         {"500ms", 500ms},
                                         {"007s", 7s},
                                         {"30s", 30s},
                                         {"\"30s\"", 30s},
                                         {"5m", 5min},
                                         {"24h", 24h},
                                         {"1d", 24h}}));
  CHECK(good("shutdown_timeout: " + std::string(row.text) + "\ngroups: {a: {handler: h}}")
            .shutdown_timeout == row.value);

  const std::map<std::string, std::int64_t> sizes = {
      {"1B", 1},        {"2kB", 2000},         {"2KiB", 2048},
      {"3MB", 3000000}, {"3MiB", 3 * 1048576}, {"536870912B", 536870912}};
  for (const auto& [text, bytes] : sizes)
    CHECK(group_of("max_body: " + text).max_body_bytes == bytes);
}

TEST_CASE("no heartbeat is 0", "[unit][settings]") {
  const std::string text = GENERATE(as<std::string>(), "0", "0s", "0ms");
  CHECK(good("broker: {heartbeat: " + text + "}\ngroups: {a: {handler: h}}").broker.heartbeat ==
        0s);
}

TEST_CASE("options keep the text of the file and the types of YAML", "[unit][settings]") {
  const GroupSettings group = group_of(R"(options: {
    text: some words, quoted: "5", integer: 5, negative: -7, plus: +8, hex: 0x1F, octal: 0o17,
    large: 18446744073709551615, real: 1.50, exponent: 1e3, dot: .5, yes: yes, boolean: True,
    nothing: ~, null_: null, empty: "", list: [a, {b: 1}, [2]], map: {deep: {er: "x\ny"}}, none: {}, "a b": ü })");
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"text", "some words"},
      {"quoted", "5"},
      {"integer", "5"},
      {"negative", "-7"},
      {"plus", "+8"},
      {"hex", "0x1F"},
      {"octal", "0o17"},
      {"large", "18446744073709551615"},
      {"real", "1.50"},
      {"exponent", "1e3"},
      {"dot", ".5"},
      {"yes", "yes"},
      {"boolean", "True"},
      {"nothing", ""},
      {"null_", ""},
      {"empty", ""},
      {"list.0", "a"},
      {"list.1.b", "1"},
      {"list.2.0", "2"},
      {"map.deep.er", "x\ny"},
      {"a b", "ü"}};
  CHECK(group.options == expected);
  CHECK(nlohmann::json::parse(group.options_json) == nlohmann::json::parse(R"({
    "text": "some words", "quoted": "5", "integer": 5, "negative": -7, "plus": 8, "hex": 31,
    "octal": 15, "large": 18446744073709551615, "real": 1.5, "exponent": 1000.0, "dot": 0.5,
    "yes": "yes", "boolean": true, "nothing": null, "null_": null, "empty": "", "list": ["a", {"b": 1}, [2]],
    "map": {"deep": {"er": "x\ny"}}, "none": {}, "a b": "ü"})"));
  CHECK(group_of("workers: 1").options_json == "{}");
}

TEST_CASE("it is known where handlers and options stand", "[unit][settings]") {
  const LoadedSettings loaded = load(
      "groups:\n"
      "  a:\n"
      "    options:\n"
      "      x: 1\n"
      "      y: {z: [2, 3]}\n"
      "    handler: log\n"
      "  b: {handler: log}\n");
  REQUIRE(loaded.errors.empty());
  REQUIRE(loaded.places.size() == 2);
  CHECK(loaded.places[0].handler.line == 6);
  CHECK(loaded.places[0].handler.column == 14);
  CHECK(loaded.places[1].handler.line == 7);
  REQUIRE(loaded.places[0].options.size() == 3);
  CHECK(loaded.places[0].options[0].line == 4);
  CHECK(loaded.places[0].options[0].column == 7);
  CHECK(loaded.places[0].options[2].line == 5);
  CHECK(loaded.places[0].options[2].column == 11);
}

TEST_CASE("relative paths start at the file's folder", "[unit][settings]") {
  const Config config(
      "handlers_dir: ../handlers\nlog: {file: lope.log}\ngroups: {a: {handler: h}}");
  const LoadedSettings loaded = config.load();
  REQUIRE(loaded.errors.empty());
  CHECK(loaded.settings.handlers_dir == config.dir().path().parent_path() / "handlers");
  CHECK(loaded.settings.log.file == config.dir().path() / "lope.log");
}

TEST_CASE("a byte order mark and DOS line ends do no harm", "[unit][settings]") {
  CHECK(good("\xEF\xBB\xBFgroups:\r\n  a:\r\n    handler: h\r\n").groups.size() == 1);
  const auto loaded = load("\xEF\xBB\xBFgruops: 1\ngroups: {a: {handler: h}}");
  CHECK(joined(loaded.errors) == "lope.yaml:1:1: unknown key 'gruops': did you mean 'groups'?\n");
}

// ---- Bad values ----------------------------------------------------------------------------

namespace {

struct BadFile {
  std::string text;
  std::string problem;  // all of it, or up to "…"
};

void check_bad(const BadFile& row) {
  const LoadedSettings loaded = load(row.text);
  INFO(row.text);
  const std::string found = joined(loaded.errors);
  if (row.problem.ends_with("…")) {
    const std::string start = row.problem.substr(0, row.problem.size() - std::string("…").size());
    CHECK_THAT(found, Catch::StartsWith(start));
    CHECK(std::count(found.begin(), found.end(), '\n') == 1);
  } else {
    CHECK(found == row.problem + "\n");
  }
}

}  // namespace

TEST_CASE("a wrong file is told with place, expected and found", "[unit][settings]") {
  check_bad(GENERATE(values<BadFile>({
      {"groups: {a: {handler: h}}\nbrokr: x",
       "lope.yaml:2:1: unknown key 'brokr': did you mean 'broker'?"},
      {"groups: {a: {handler: h}}\nxyz: x",
       "lope.yaml:2:1: unknown key 'xyz': expected broker, handlers_dir, state_dir, watch, "
       "shutdown_timeout, "
       "ready_timeout, "
       "log, delays, control, monitor, journal, telemetry, defaults, groups or include"},
      {"groups: {a: {handler: h, Workers: 1}}",
       "lope.yaml:1:26: groups.a: unknown key 'Workers': did you mean 'workers'?"},
      {"groups: {a: {handler: h}}\n\"x\\ny\\u009b\": 1",
       "lope.yaml:2:1: unknown key 'x\\ny\\xC2\\x9B': …"},
      {"groups: {a: {handler: h}}\ngroups: {b: {handler: h}}",
       "lope.yaml:2:1: key 'groups' is given twice: first at line 1, column 1"},
      {"groups:\n  a: {handler: h}\n  b: {handler: h}\n  a: {handler: h}",
       "lope.yaml:4:3: key 'a' is given twice: first at line 2, column 3"},
      {"groups: {a: {handler: h, options: {x: {y: 1, \"y\": 2}}}}",
       "lope.yaml:1:46: key 'y' is given twice: first at line 1, column 40"},
      {"- a\n- b", "lope.yaml:1:1: expected a map of broker, …"},
      {"hello", "lope.yaml:1:1: expected a map of broker, …"},
      {"broker: amqp://localhost",
       "lope.yaml:1:1: expected at least one group under 'groups', found none"},
      {"handlers_dir: x\ngroups: {}",
       "lope.yaml:2:1: expected at least one group under 'groups', found none"},
      {"groups:", "lope.yaml:1:1: groups: expected a map of groups by their names, found nothing"},
      {"groups: [a]",
       "lope.yaml:1:9: groups: expected a map of groups by their names, found a list"},
      {"groups: {a: }", "lope.yaml:1:10: groups.a: expected a map of queue, …"},
      {"groups: {a: log}", "lope.yaml:1:13: groups.a: expected a map of queue, …"},
      {"groups: {a: {}}", "lope.yaml:1:10: groups.a: expected 'handler', found none"},
      {"groups: {a: {handler: }}",
       "lope.yaml:1:14: groups.a.handler: expected the name of a handler, found nothing"},
      {"groups: {a: {handler: null}}",
       "lope.yaml:1:14: groups.a.handler: expected the name of a handler, found null (in quotes it "
       "is a text)"},
      {"groups:\n  a: {handler: h}\n  b:\n    handler:\n    null: 1",
       "lope.yaml:4:5: groups.b.handler: expected the name of a handler, found nothing\n"
       "lope.yaml:5:5: expected a text as key, found nothing"},
      {"groups: {a: {handler: \"\"}}",
       "lope.yaml:1:23: groups.a.handler: expected the name of a handler, found the text ''"},
      {"groups: {a: {handler: 5}}",
       "lope.yaml:1:23: groups.a.handler: expected the name of a handler (in quotes), found 5"},
      {"groups: {a: {handler: [h]}}",
       "lope.yaml:1:23: groups.a.handler: expected the name of a handler, found a list"},
      {"groups: {-a: {handler: h}}",
       "lope.yaml:1:10: groups: expected a name of 1 to 64 letters, digits, '.', '_' and '-' that "
       "starts "
       "with a letter or digit, found '-a'"},
      {"groups: {a/b: {handler: h}}", "lope.yaml:1:10: groups: expected a name…"},
      {"groups: {ä: {handler: h}}", "lope.yaml:1:10: groups: expected a name…"},
      {"groups: {\"\": {handler: h}}",
       "lope.yaml:1:10: expected a text as key, found an empty one"},
      {"groups: {" + std::string(65, 'a') + ": {handler: h}}",
       "lope.yaml:1:10: groups: expected a name…"},
      {"groups: {ä: 1, " + std::string(64, 'a') + ": {handler: h}}",
       "lope.yaml:1:10: groups: expected a name…"},
      {"groups: {? [a] : {handler: h}}", "lope.yaml:1:12: expected a text as key, found a list"},
      {"groups: {~: {handler: h}}", "lope.yaml:1:10: expected a text as key, found nothing"},
  })));
}

TEST_CASE("a wrong value of a group is told with place, expected and found", "[unit][settings]") {
  auto row = GENERATE(values<BadFile>({
      {"workers: 0", "groups.a.workers: expected a whole number from 1 to 256, found 0"},
      {"workers: 257", "groups.a.workers: expected a whole number from 1 to 256, found 257"},
      {"workers: -1", "groups.a.workers: expected a whole number from 1 to 256, found -1"},
      {"workers: 1.0", "groups.a.workers: expected a whole number from 1 to 256, found 1.0"},
      {"workers: \"2\"",
       "groups.a.workers: expected a whole number from 1 to 256, found the text '2'"},
      {"workers: two", "groups.a.workers: expected a whole number from 1 to 256, found 'two'"},
      {"workers: 1_0", "groups.a.workers: expected a whole number from 1 to 256, found '1_0'"},
      {"workers: true", "groups.a.workers: expected a whole number from 1 to 256, found true"},
      {"workers: 99999999999999999999",
       "groups.a.workers: expected a whole number from 1 to 256, found 9…"},
      {"workers: [1]", "groups.a.workers: expected a whole number from 1 to 256, found a list"},
      {"workers: {min: 3, max: 2}",
       "groups.a.workers: expected min to be at most max, found 3 and 2"},
      {"workers: {min: 3}", "groups.a.workers: expected 'max', found none"},
      {"workers: {min: 1, max: 257}",
       "groups.a.workers.max: expected a whole number from 1 to 256, found 257"},
      {"workers: 010", "expected a number without a leading zero…"},
      {"workers: 08", "expected a number without a leading zero…"},
      {"workers: -010", "expected a number without a leading zero…"},
      {"threads: 0", "groups.a.threads: expected a whole number from 1 to 256, found 0"},
      {"threads: 257", "groups.a.threads: expected a whole number from 1 to 256, found 257"},
      {"prefetch: 0",
       "groups.a.prefetch: expected a whole number from 1 to 65535, found 0: 0 would be no limit…"},
      {"prefetch: 65536",
       "groups.a.prefetch: expected a whole number from 1 to 65535, found 65536"},
      {"auto_ack: yes", "groups.a.auto_ack: expected true or false, found 'yes'"},
      {"auto_ack: 1", "groups.a.auto_ack: expected true or false, found 1"},
      {"auto_ack: \"true\"", "groups.a.auto_ack: expected true or false, found the text 'true'"},
      {"max_body: 16",
       "groups.a.max_body: expected a size with a unit (B, kB, KiB, MB, MiB, GB, GiB), from 1B to "
       "512MiB, found 16: write the unit, as in 16MiB"},
      {"max_body: 0B", "groups.a.max_body: expected a size with a unit…"},
      {"max_body: 1GiB", "groups.a.max_body: expected a size with a unit…"},
      {"max_body: 536870913B", "groups.a.max_body: expected a size with a unit…"},
      {"max_body: 16M", "groups.a.max_body: expected a size with a unit…"},
      {"max_body: 1.5MiB", "groups.a.max_body: expected a size with a unit…"},
      {"max_body: 16 MiB", "groups.a.max_body: expected a size with a unit…"},
      {"max_body: -1MiB", "groups.a.max_body: expected a size with a unit…"},
      {"max_body: 99999999999999999999GiB", "groups.a.max_body: expected a size with a unit…"},
      {"max_body: 9999999999999GiB", "groups.a.max_body: expected a size with a unit…"},
      {"start_timeout: 60", "groups.a.start_timeout: expected a duration with a unit…"},
      {"start_timeout: 2h", "groups.a.start_timeout: expected a duration with a unit…"},
      {"batch: 5", "groups.a.batch: expected a map of size and wait, found 5"},
      {"batch: {size: 0}", "groups.a.batch.size: expected a whole number from 1 to 3000…"},
      {"batch: {size: 3001}", "groups.a.batch.size: expected a whole number from 1 to 3000…"},
      {"batch: {wait: 0s}", "groups.a.batch.wait: expected a duration with a unit…"},
      {"batch: {sise: 2}", "groups.a.batch: unknown key 'sise': did you mean 'size'?"},
      {"timeout: 9ms",
       "groups.a.timeout: expected a duration with a unit (ms, s, m, h, d), 0 (none), or from 10ms "
       "to 7d, found '9ms'"},
      {"timeout: 169h", "groups.a.timeout: expected a duration with a unit…"},
      {"timeout: 5", "groups.a.timeout: expected a duration with a unit…"},
      {"order_by: key", "groups.a.order_by: expected routing_key or header:NAME, found 'key'"},
      {"order_by: 'header:'", "groups.a.order_by: expected routing_key or header:NAME, found…"},
      {"order_by: 1",
       "groups.a.order_by: expected routing_key or header:NAME (in quotes), found 1"},
      {"order: strickt",
       "groups.a.order: expected strict, found 'strickt': did you mean 'strict'?"},
      {"rate: 0", "groups.a.rate: expected a number from 0.001 to 1000000, found 0"},
      {"rate: fast",
       "groups.a.rate: expected a number from 0.001 to 1000000, or a map of per_second and burst, "
       "found 'fast'"},
      {"rate: {burst: 5}", "groups.a.rate: expected 'per_second', found none"},
      {"rate: {per_second: 1, burst: 0}",
       "groups.a.rate.burst: expected a number from 1 to 1000000, found 0"},
      {"rate: {per_second: 1, brust: 1}",
       "groups.a.rate: unknown key 'brust': did you mean 'burst'?"},
      {"priority: 1001",
       "groups.a.priority: expected a whole number from -1000 to 1000, found 1001"},
      {"declare: {max_priority: 256}",
       "groups.a.declare.max_priority: expected a whole number from 1 to 255, found 256"},
      {"declare: {type: quorum, max_priority: 5}",
       "groups.a.declare.max_priority: expected none for a quorum queue, found 5: only a classic "
       "queue knows priorities"},
      {"crashes: 0", "groups.a.crashes: expected a whole number from 1 to 100, found 0"},
      {"crashes: 101", "groups.a.crashes: expected a whole number from 1 to 100, found 101"},
      {"retry: 0", "groups.a.retry: expected a whole number from 1 to 1000, found 0"},
      {"retry: 1001", "groups.a.retry: expected a whole number from 1 to 1000, found 1001"},
      {"retry: never",
       "groups.a.retry: expected a whole number from 1 to 1000, or a map of attempts, delay, "
       "backoff, max_delay and jitter, found 'never'"},
      {"retry: false", "groups.a.retry: expected a whole number from 1 to 1000, or a map of…"},
      {"retry:", "groups.a.retry: expected a whole number from 1 to 1000, or a map of…"},
      {"retry: {attempts: 0}",
       "groups.a.retry.attempts: expected a whole number from 1 to 1000, found 0"},
      {"retry: {attempt: 1}", "groups.a.retry: unknown key 'attempt': did you mean 'attempts'?"},
      {"retry: {delay: 10}", "groups.a.retry.delay: expected a duration with a unit…"},
      {"retry: {delay: 31d}", "groups.a.retry.delay: expected a duration with a unit…"},
      {"retry: {delay: 2h}",
       "groups.a.retry.delay: expected at most max_delay (1h), found '2h': write a longer "
       "max_delay beside it"},
      {"retry: {max_delay: 9999ms}",
       "groups.a.retry.max_delay: expected at least delay (10s), found '9999ms'"},
      {"retry: {delay: 1m, max_delay: 59s}",
       "groups.a.retry.max_delay: expected at least delay (1m), found '59s'"},
      {"retry: {delay: 2h, max_delay: 366d}", "groups.a.retry.max_delay: expected a duration…"},
      {"retry: {delay: 2h, max_delay: &x 3h}", "expected no anchor…"},
      {"retry: {delay: 2, max_delay: 1s}", "groups.a.retry.delay: expected a duration…"},
      {"retry: {backoff: 0.99}",
       "groups.a.retry.backoff: expected a number from 1 to 100, found 0.99"},
      {"retry: {backoff: 101}",
       "groups.a.retry.backoff: expected a number from 1 to 100, found 101"},
      {"retry: {backoff: .nan}",
       "groups.a.retry.backoff: expected a number from 1 to 100, found .nan"},
      {"retry: {backoff: .inf}",
       "groups.a.retry.backoff: expected a number from 1 to 100, found .inf"},
      {"retry: {backoff: \"2\"}",
       "groups.a.retry.backoff: expected a number from 1 to 100, found the text '2'"},
      {"retry: {jitter: 1.1}", "groups.a.retry.jitter: expected a number from 0 to 1, found 1.1"},
      {"retry: {jitter: -0.1}", "groups.a.retry.jitter: expected a number from 0 to 1, found -0.1"},
      {"retry: {jitter: 10%}", "groups.a.retry.jitter: expected a number from 0 to 1, found '10%'"},
      {"dead_letter: queue",
       "groups.a.dead_letter: expected broker, or a map of exchange, key, queue, declare and type, "
       "found 'queue'"},
      {"dead_letter: false", "groups.a.dead_letter: expected broker, or a map of…"},
      {"dead_letter: [broker]", "groups.a.dead_letter: expected broker, or a map of…"},
      {"dead_letter: {}", "groups.a.dead_letter: expected exchange or queue, found none"},
      {"dead_letter: {key: k}", "groups.a.dead_letter: expected exchange or queue, found none"},
      {"dead_letter: {exchange: x, queue: q}",
       "groups.a.dead_letter: expected exchange or queue, found both"},
      {"dead_letter: {exchange: \"\"}",
       "groups.a.dead_letter.exchange: expected the name of an exchange, found the text ''"},
      {"dead_letter: {queue: \"\"}",
       "groups.a.dead_letter.queue: expected the name of a queue, found the text ''"},
      {"dead_letter: {queue: " + std::string(256, 'q') + "}",
       "groups.a.dead_letter.queue: expected at most 255 bytes, found 256"},
      {"dead_letter: {exchange: x, key: " + std::string(256, 'k') + "}",
       "groups.a.dead_letter.key: expected at most 255 bytes, found 256"},
      {"dead_letter: {queue: q, key: k}",
       "groups.a.dead_letter.key: expected with exchange only, found queue"},
      {"dead_letter: {queue: q, declare: true, type: topic}",
       "groups.a.dead_letter.type: expected with exchange only, found queue"},
      {"dead_letter: {exchange: x, type: topic}",
       "groups.a.dead_letter.type: expected 'declare: true' beside it, found none"},
      {"dead_letter: {exchange: x, declare: false, type: topic}",
       "groups.a.dead_letter.type: expected 'declare: true' beside it, found false"},
      {"dead_letter: {exchange: x, declare: true, type: tpoic}",
       "groups.a.dead_letter.type: expected direct, fanout, topic or headers, found 'tpoic': did "
       "you mean 'topic'?"},
      {"dead_letter: {exchange: x, declare: 1}",
       "groups.a.dead_letter.declare: expected true or false, found 1"},
      {"dead_letter: {queue: a}",
       "groups.a.dead_letter.queue: expected a queue that is not the group's own, found 'a': its "
       "dead letters would come again"},
      {"recycle: true", "groups.a.recycle: expected false, or a map of messages, memory and age…"},
      {"recycle: {messages: 0}",
       "groups.a.recycle.messages: expected a whole number from 1 to 2000000000, found 0"},
      {"recycle: {memory: 1MiB}",
       "groups.a.recycle.memory: expected a size with a unit (B, kB, KiB, MB, MiB, GB, GiB), from "
       "16MiB to 1024GiB, found '1MiB'"},
      {"recycle: {age: 999ms}",
       "groups.a.recycle.age: expected a duration with a unit (ms, s, m, h, d), from 1s to 365d, "
       "found '999ms'"},
      {"accept: json", "groups.a.accept: expected a list of content types, found 'json'"},
      {"accept: [json]",
       "groups.a.accept[0]: expected a content type, such as application/json or text/*, found "
       "'json'"},
      {"accept: [a/b, \"a/b; q=1\"]", "groups.a.accept[1]: expected a content type, such as…"},
      {"accept: [5]", "groups.a.accept[0]: expected a content type, such as…"},
      {"decode: gzip", "groups.a.decode: expected true, false, or a map of max_size, found 'gzip'"},
      {"decode: {max_size: 0B}", "groups.a.decode.max_size: expected a size with a unit…"},
      {"decode: {max: 1B}", "groups.a.decode: unknown key 'max'…"},
      {"charset: latin1", "groups.a.charset: expected utf-8 or as-is, found 'latin1'"},
      {"compress: true",
       "groups.a.compress: expected none, gzip, bzip2, xz or zstd, or a map of encoding and "
       "min_size, found true"},
      {"compress: gz",
       "groups.a.compress: expected none, gzip, bzip2, xz or zstd, found 'gz': did you mean "
       "'xz'?"},
      {"compress: {min_size: 1B}", "groups.a.compress: expected 'encoding', found none"},
      {"compress: {encoding: br}", "groups.a.compress.encoding: expected none, gzip,…"},
      {"validate: 5", "groups.a.validate: expected the path of a JSON Schema (in quotes), found 5"},
      {"validate: \"\"",
       "groups.a.validate: expected the path of a JSON Schema, found the text ''"},
      {"breaker: off",
       "groups.a.breaker: expected true, false, or a map of failures, outcomes, period, pause and "
       "max_pause, found 'off'"},
      {"breaker: 1", "groups.a.breaker: expected true, false, or a map of…"},
      {"breaker: {failures: 0}",
       "groups.a.breaker.failures: expected a number above 0 and at most 1, found 0"},
      {"breaker: {failures: 1.01}",
       "groups.a.breaker.failures: expected a number above 0 and at most 1, found 1.01"},
      {"breaker: {outcomes: 0}",
       "groups.a.breaker.outcomes: expected a whole number from 1 to 10000, found 0"},
      {"breaker: {outcomes: 10001}",
       "groups.a.breaker.outcomes: expected a whole number from 1 to 10000, found 10001"},
      {"breaker: {pause: 9ms}", "groups.a.breaker.pause: expected a duration with a unit…"},
      {"breaker: {pause: 61m}", "groups.a.breaker.pause: expected a duration with a unit…"},
      {"breaker: {max_pause: 25h}", "groups.a.breaker.max_pause: expected a duration with a unit…"},
      {"breaker: {pause: 2m}",
       "groups.a.breaker.pause: expected at most max_pause (1m), found '2m'…"},
      {"breaker: {max_pause: 999ms}",
       "groups.a.breaker.max_pause: expected at least pause (1s), found '999ms'"},
      {"breaker: {pauses: 2m}", "groups.a.breaker: unknown key 'pauses'…"},
      {"dedup: 5",
       "groups.a.dedup: expected false, message_id, header:NAME, body, or a map of key, window, "
       "store, on_store_failure and min_interval, found 5"},
      {"dedup: id", "groups.a.dedup: expected message_id, header:NAME or body, found 'id'"},
      {"dedup: {key: 'header:'}",
       "groups.a.dedup.key: expected message_id, header:NAME or body, found the text 'header:'"},
      {"dedup: {key: 'header:" + std::string(256, 'n') + "'}",
       "groups.a.dedup.key: expected a header's name of at most 255 bytes, found 256"},
      {"dedup: {window: 1h}", "groups.a.dedup: expected 'key', found none"},
      {"dedup: {key: body, window: 999ms}",
       "groups.a.dedup.window: expected a duration with a unit…"},
      {"dedup: {key: body, window: 31d}",
       "groups.a.dedup.window: expected a duration with a unit…"},
      {"dedup: {key: body, window: 0}",
       "groups.a.dedup.window: expected a window, or a min_interval beside it, found neither"},
      {"dedup: {key: body, on_store_failure: drop}",
       "groups.a.dedup.on_store_failure: expected run or wait, found 'drop'"},
      {"dedup: {key: body, min_interval: 5}",
       "groups.a.dedup.min_interval: expected a duration with a unit…"},
      {"dedup: {key: body, min_interval: {then: drop}}",
       "groups.a.dedup.min_interval: expected 'every', found none"},
      {"dedup: {key: body, min_interval: {every: 5s, then: wait}}",
       "groups.a.dedup.min_interval.then: expected delay or drop, found 'wait'"},
      {"dedup: body\n    auto_ack: true",
       "groups.a.dedup: expected auto_ack: false beside it, found true: such a message is acked "
       "before it is done"},
      {"flush_interval: 1", "groups.a.flush_interval: expected a duration with a unit…"},
      {"consumer_tag: 5", "groups.a.consumer_tag: expected a consumer tag (in quotes), found 5"},
      {"consumer_tag: " + std::string(256, 't'),
       "groups.a.consumer_tag: expected at most 255 bytes, found 256"},
      {"consumer_arguments: [1]",
       "groups.a.consumer_arguments: expected a map of names and values, found a list"},
      {"consumer_arguments: {x: }",
       "groups.a.consumer_arguments.x: expected a value, found nothing"},
      {"consumer_arguments: {x: [.inf]}",
       "groups.a.consumer_arguments.x[0]: expected a finite number, found .inf"},
      {"consumer_arguments: {x: 9223372036854775808}",
       "groups.a.consumer_arguments.x: expected a number of at most…"},
      {"queue: \"\"", "groups.a.queue: expected the name of a queue, found the text ''"},
      {"queue: 5", "groups.a.queue: expected the name of a queue (in quotes), found 5"},
      {"queue: [x]",
       "groups.a.queue: expected the name of a queue, found a list: several go under 'queues'"},
      {"queue: " + std::string(256, 'q'), "groups.a.queue: expected at most 255 bytes, found 256"},
      {"queues: x", "groups.a.queues: expected a list of queues, found 'x'"},
      {"queues: []", "groups.a.queues: expected at least one queue, found none"},
      {"queues: [x, x]", "groups.a.queues[1]: expected each queue once, found 'x' again"},
      {"queues: [x, {name: x}]",
       "groups.a.queues[1].name: expected each queue once, found 'x' again"},
      {"queues: [{prefetch: 1}]", "groups.a.queues[0]: expected 'name', found none"},
      {"queues: [{name: x, prefetch: 0}]", "groups.a.queues[0].prefetch: expected a whole number…"},
      {"queues: [{name: x, workers: 1}]", "groups.a.queues[0]: unknown key 'workers'…"},
      {"queues: [[x]]", "groups.a.queues[0]: expected the name of a queue, found a list"},
      {"queues: [x], queue: y", "groups.a.queues: expected queue or queues, found both"},
      {"options: [x]", "groups.a.options: expected a map of the handler's options, found a list"},
      {"options:", "groups.a.options: expected a map of the handler's options, found nothing"},
      {"options: {x: .nan}",
       "groups.a.options.x: expected a finite number, or a text in quotes, found another"},
      {"options: {x: 0x1FFFFFFFFFFFFFFFF}",
       "groups.a.options.x: expected a number of at most 64 bits, found a larger one"},
      {"options: {x: {y: 1}, x.y: 2}", "groups.a.options.x.y: this option is given twice…"},
      {"options: {x: 0123}", "expected a number without a leading zero…"},
      {"declare: true", "groups.a.declare: expected a map of type, …"},
      {"declare: {type: mirrored}",
       "groups.a.declare.type: expected classic, quorum or stream, found 'mirrored'"},
      {"declare: {type: quorun}",
       "groups.a.declare.type: expected classic, quorum or stream, found 'quorun': did you mean "
       "'quorum'?"},
      {"declare: {type: stream, exclusive: true}",
       "groups.a.declare.exclusive: expected false for a stream, found true: the broker refuses "
       "it…"},
      {"declare: {type: stream, auto_delete: true}",
       "groups.a.declare.auto_delete: expected false for a stream, found true…"},
      {"declare: {type: stream, durable: false}",
       "groups.a.declare.durable: expected true for a stream, found false…"},
      {"declare: {type: stream, max_age: 100ms}",
       "groups.a.declare.max_age: expected a duration with a unit (ms, s, m, h, d), from 1s to "
       "3650d, found '100ms'"},
      {"declare: {type: stream, segment_size: 4GB}",
       "groups.a.declare.segment_size: expected a size with a unit (B, kB, KiB, MB, MiB, GB, GiB), "
       "from 1kB to 3GB, found '4GB'"},
      {"declare: {max_bytes: 1GB}",
       "groups.a.declare.max_bytes: expected 'type: stream' beside it, found 'classic'"},
      {"declare: {type: stream, max_age: 1d, arguments: {x-max-age: 1D}}",
       "groups.a.declare.max_age: expected it or 'x-max-age' under arguments, found both"},
      {"type: straem",
       "groups.a.type: expected classic, quorum or stream, found 'straem': did you mean 'stream'?"},
      {"type: stream\n    declare: {type: quorum}",
       "groups.a.type: expected quorum, as declare.type says, found 'stream'"},
      {"offset: first", "groups.a.offset: expected 'type: stream' beside it, found none"},
      {"offset: first\n    type: quorum",
       "groups.a.offset: expected 'type: stream' beside it, found 'quorum'"},
      {"queues: [x, {name: y, offset: first}]",
       "groups.a.queues[1].offset: expected 'type: stream' beside it, found none"},
      {"offset: -1\n    type: stream",
       "groups.a.offset: expected first, last, next, the number of a message, or a time such as "
       "2026-01-31T00:00:00Z, found -1"},
      {"offset: yesterday\n    type: stream",
       "groups.a.offset: expected first, last, next, the number of a message, or a time such as "
       "2026-01-31T00:00:00Z, found 'yesterday'"},
      {"dead_letter: broker\n    type: stream",
       "groups.a: expected dead_letter to be an exchange or a queue, found 'broker': a stream has "
       "no dead-letter exchange"},
      {"filter: x\n    type: stream", "groups.a: 'filter' is not available in this version"},
      {"consumer_arguments: {x-stream-filter: x}\n    type: stream",
       "groups.a.consumer_arguments: 'x-stream-filter' is not available in this version: a broker "
       "knows it from RabbitMQ 3.13 on"},
      {"queues: [{name: s, type: stream}, s.a.retry]",
       "groups.a: expected no queue 's.a.retry', found one: it is where what is read from 's' "
       "waits "
       "for another attempt"},
      {"declare: {type: quorum, exclusive: true}",
       "groups.a.declare.exclusive: expected false for a quorum queue, "
       "found true: the broker refuses it…"},
      {"declare: {type: quorum, auto_delete: true}",
       "groups.a.declare.auto_delete: expected false for a quorum queue, found true…"},
      {"declare: {type: quorum, durable: false}",
       "groups.a.declare.durable: expected true for a quorum queue, found false…"},
      {"declare: {arguments: {x-queue-type: stream}}",
       "groups.a.declare.arguments: expected no 'x-queue-type'…"},
      {"consumer_arguments: {x-stream-offset: first}",
       "groups.a.consumer_arguments: expected no 'x-stream-offset': the key 'offset' beside it "
       "says "
       "it"},
      {"declare: {exchanges: {name: x}}",
       "groups.a.declare.exchanges: expected a list of exchanges, found a map"},
      {"declare: {exchanges: [x]}", "groups.a.declare.exchanges[0]: expected a map of name, …"},
      {"declare: {exchanges: [{type: topic}]}",
       "groups.a.declare.exchanges[0]: expected 'name', found none"},
      {"declare: {exchanges: [{name: x, type: tpoic}]}",
       "groups.a.declare.exchanges[0].type: expected direct, fanout, topic or headers, found "
       "'tpoic': did you "
       "mean 'topic'?"},
      {"declare: {bind: [{key: x}]}", "groups.a.declare.bind[0]: expected 'exchange', found none"},
      {"declare: {bind: [{exchange: \"\"}]}",
       "groups.a.declare.bind[0].exchange: expected the name of an exchange…"},
      {"declare: {bind: [{exchange: x, routing_key: y}]}",
       "groups.a.declare.bind[0]: unknown key 'routing_key'…"},
  }));
  // The value stands in a line of its own, so that only its column varies.
  const LoadedSettings loaded =
      load("groups:\n  a:\n    handler: h\n    " +
           (row.text.starts_with("queues: [x], queue") ? "queues: [x]\n    queue: y" : row.text));
  INFO(row.text);
  INFO(joined(loaded.errors));
  REQUIRE(loaded.errors.size() == 1);
  CHECK(loaded.errors[0].file == "lope.yaml");
  CHECK(loaded.errors[0].line == 4);
  CHECK(loaded.errors[0].column >= 5);
  if (row.problem.ends_with("…")) {
    CHECK_THAT(loaded.errors[0].text, Catch::StartsWith(row.problem.substr(
                                          0, row.problem.size() - std::string("…").size())));
  } else {
    CHECK(loaded.errors[0].text == row.problem);
  }
}

TEST_CASE("order wants what keeps it", "[unit][settings]") {
  check_bad({"groups:\n  a: {handler: h, order: strict,\n      workers: 2}",
             "lope.yaml:3:16: groups.a.workers: expected 1 worker, found more: one message after "
             "another (with order)"});
  check_bad({"groups:\n  a: {handler: h, order: strict,\n      threads: 2}",
             "lope.yaml:3:16: groups.a.threads: expected 1 thread, found more: one message after "
             "another (with order)"});
  check_bad({"groups:\n  a: {handler: h, order: strict,\n      batch: {size: 2}}",
             "lope.yaml:3:14: groups.a.batch: expected no batch.size but 1, found 2: one message "
             "after another (with order)"});
  check_bad({"groups:\n  a: {handler: h, order_by: routing_key,\n      auto_ack: true}",
             "lope.yaml:3:17: groups.a.auto_ack: expected auto_ack: false, found true: what is "
             "acked already cannot go back to its place (with order_by)"});
  check_bad({"defaults: {auto_ack: true}\ngroups: {a: {handler: h, order: strict}}",
             "lope.yaml:2:33: groups.a.order: expected auto_ack: false, found true: what is acked "
             "already cannot go back to its place"});
  check_bad({"groups: {a: {handler: h, order: strict, declare: {auto_delete: true}}}",
             "lope.yaml:1:33: groups.a.order: queue 'a': expected neither exclusive nor "
             "auto_delete, found auto_delete…"});
  check_bad({"groups: {a: {handler: h, order: strict, declare: {exclusive: true}}}",
             "lope.yaml:1:33: groups.a.order: queue 'a': expected neither exclusive nor "
             "auto_delete, found exclusive…"});
  check_bad(
      {"groups: {a: {handler: h, order: strict, declare: {arguments: "
       "{x-single-active-consumer: false}}}}",
       "lope.yaml:1:33: groups.a.order: queue 'a': expected the argument "
       "x-single-active-consumer to be true, or left out, found another value"});
  check_bad({"groups: {a: {handler: h, order: strict, retry: {delay: 25m}}}",
             "lope.yaml:1:48: groups.a.retry: expected no delay of a retry to be longer than "
             "1413s, which broker.consumer_timeout (30m) and timeout (5m) leave, found up to 66m: "
             "with order a message waits here for its next attempt: write a shorter max_delay"});
  check_bad({"defaults: {retry: {delay: 25m}}\ngroups: {a: {handler: h, order: strict}}",
             "lope.yaml:2:33: groups.a.order: expected no delay of a retry to be longer…"});
  // Without a timeout half of the time is for the call.
  check_bad(
      {"groups: {a: {handler: h, order: strict, timeout: 0s, retry: {attempts: 2, delay: "
       "20m, jitter: 0}}}",
       "lope.yaml:1:61: groups.a.retry: expected no delay of a retry to be longer than "
       "828s, which broker.consumer_timeout (30m) and timeout (0s) leave, found up to 20m…"});
  check_bad(
      {"groups: {a: {handler: h, order: strict, dedup: {key: message_id, min_interval: 24m}}}",
       "lope.yaml:1:48: groups.a.dedup: expected no min_interval to be longer than 1413s, "
       "which broker.consumer_timeout (30m) and timeout (5m) leave, found 24m: with order "
       "what comes too soon waits here"});
  check_bad(
      {"defaults: {dedup: {key: message_id, min_interval: 1h}}\n"
       "groups: {a: {handler: h, order_by: routing_key}}",
       "lope.yaml:2:36: groups.a.order_by: expected no min_interval to be longer…"});
  good("groups: {a: {handler: h, order: strict, dedup: {key: message_id, min_interval: 23m}}}");
  good("groups: {a: {handler: h, dedup: {key: message_id, min_interval: 1d}}}");
  // Not with what is the longest in theory, nor with a broker that waits for ever.
  good("groups: {a: {handler: h, order: strict}}");
  good("groups: {a: {handler: h, order: strict, retry: {attempts: 1, delay: 25m}}}");
  good(
      "broker: {consumer_timeout: 0}\n"
      "groups: {a: {handler: h, order: strict, retry: {delay: 25m}}}");
}

TEST_CASE("a wrong value outside the groups is told too", "[unit][settings]") {
  auto row = GENERATE(values<BadFile>({
      {"shutdown_timeout: 30",
       "lope.yaml:2:19: shutdown_timeout: expected a duration with a unit (ms, s, m, h, d), "
       "from 0s to 1d, found 30: write the unit, as in 30s"},
      {"shutdown_timeout: 0", "lope.yaml:2:19: shutdown_timeout: expected a duration with a unit…"},
      {"shutdown_timeout: 25h",
       "lope.yaml:2:19: shutdown_timeout: expected a duration with a unit…"},
      {"shutdown_timeout: 1m30s",
       "lope.yaml:2:19: shutdown_timeout: expected a duration with a unit…"},
      {"shutdown_timeout: 1.5s",
       "lope.yaml:2:19: shutdown_timeout: expected a duration with a unit…"},
      {"shutdown_timeout: -1s",
       "lope.yaml:2:19: shutdown_timeout: expected a duration with a unit…"},
      {"shutdown_timeout: 1w",
       "lope.yaml:2:19: shutdown_timeout: expected a duration with a unit…"},
      {"shutdown_timeout: s", "lope.yaml:2:19: shutdown_timeout: expected a duration with a unit…"},
      {"shutdown_timeout:", "lope.yaml:2:1: shutdown_timeout: expected a duration with a unit…"},
      {"ready_timeout: soon", "lope.yaml:2:16: ready_timeout: expected a duration with a unit…"},
      {"ready_timeout: 99999999999999999999s",
       "lope.yaml:2:16: ready_timeout: expected a duration with a unit…"},
      {"broker: {heartbeat: 4s}",
       "lope.yaml:2:21: broker.heartbeat: expected a duration with a unit (ms, s, m, h, "
       "d), 0 (none), or from 5s to 1h, found '4s'"},
      {"broker: {heartbeat: 61m}", "lope.yaml:2:21: broker.heartbeat: expected a duration…"},
      {"broker: {heartbeat: 5500ms}",
       "lope.yaml:2:21: broker.heartbeat: expected a duration of whole seconds…"},
      {"broker: {heartbeat: 30}",
       "lope.yaml:2:21: broker.heartbeat: expected a duration with a unit…"},
      {"broker: {connect_timeout: 99ms}",
       "lope.yaml:2:27: broker.connect_timeout: expected a duration…"},
      {"broker: {connect_timeout: 61s}",
       "lope.yaml:2:27: broker.connect_timeout: expected a duration…"},
      {"broker: {consumer_timeout: 9s}",
       "lope.yaml:2:28: broker.consumer_timeout: expected a duration with a unit (ms, s, m, h, d), "
       "0 (none), or from 10s to 7d, found '9s'"},
      {"broker: {consumer_timeout: 169h}",
       "lope.yaml:2:28: broker.consumer_timeout: expected a duration…"},
      {"broker: {consumer_timeout: 1800000}",
       "lope.yaml:2:28: broker.consumer_timeout: expected a duration…"},
      {"broker: {max_message_size: 999B}",
       "lope.yaml:2:28: broker.max_message_size: expected a size with a unit (B, kB, KiB, MB, MiB, "
       "GB, GiB), from 1kB to 512MiB, found '999B'"},
      {"broker: {max_message_size: 1GiB}",
       "lope.yaml:2:28: broker.max_message_size: expected a size with a unit…"},
      {"monitor: {listen: 70000}",
       "lope.yaml:2:19: monitor.listen: expected a port, or an address and a port, as in 9419, "
       "192.0.2.1:9419 or [::1]:9419 (a port is 0 to 65535), found '70000'"},
      {"monitor: {listen: mq.example:9419}",
       "lope.yaml:2:19: monitor.listen: expected a port, or an address and a port, as in 9419, "
       "192.0.2.1:9419 or [::1]:9419 (a name is none: write the address itself), found "
       "'mq.example:9419'"},
      {"monitor: {listen: {}}",
       "lope.yaml:2:19: monitor.listen: expected a port, or an address and a port, found …"},
      {"monitor: {journal: 5}",
       "lope.yaml:2:20: monitor.journal: expected the path of a file, or postgresql://…, as a text "
       "or as {credential: NAME}, {file: PATH} or {env: NAME}, found 5"},
      {"monitor: {journal: 'mysql://db/x'}",
       "lope.yaml:2:20: monitor.journal: expected the path of a file, or postgresql://…, found "
       "something else"},
      {"monitor: {journal: ''}",
       "lope.yaml:2:20: monitor.journal: expected the path of a file, or postgresql://…, found an "
       "empty text"},
      {"monitor: {journal: {env: LOPE_TEST_NOT_SET}}",
       "lope.yaml:2:26: monitor.journal.env: expected the environment variable "
       "'LOPE_TEST_NOT_SET' to be set, found none"},
      {"control: /run/x", "lope.yaml:2:10: control: expected a map of socket, found '/run/x'"},
      {"control: {socket: \"\"}",
       "lope.yaml:2:19: control.socket: expected the path of a socket, 1 to 107 bytes, "
       "found the text ''"},
      {"control: {socket: /" + std::string(107, 'x') + "}",
       "lope.yaml:2:19: control.socket: expected the path of a socket, 1 to 107 bytes, found …"},
      {"delays: off",
       "lope.yaml:2:9: delays: expected a map of prefix, relay, retry and give_up, found 'off'"},
      {"delays: {prefix: \"\"}",
       "lope.yaml:2:18: delays.prefix: expected 1 to 100 letters, digits, '.', '_' and '-', found "
       "the text ''"},
      {"delays: {prefix: a/b}", "lope.yaml:2:18: delays.prefix: expected 1 to 100 letters…"},
      {"delays: {prefix: " + std::string(101, 'p') + "}",
       "lope.yaml:2:18: delays.prefix: expected 1 to 100 letters…"},
      {"delays: {prefix: 5}",
       "lope.yaml:2:18: delays.prefix: expected 1 to 100 letters, digits, '.', '_' and '-' (in "
       "quotes), found 5"},
      {"delays: {relay: 1}", "lope.yaml:2:17: delays.relay: expected true or false, found 1"},
      {"delays: {retry: 999ms}", "lope.yaml:2:17: delays.retry: expected a duration…"},
      {"delays: {retry: 25h}", "lope.yaml:2:17: delays.retry: expected a duration…"},
      {"delays: {give_up: 31d}", "lope.yaml:2:19: delays.give_up: expected a duration…"},
      {"delays: {giveup: 1d}",
       "lope.yaml:2:10: delays: unknown key 'giveup': did you mean 'give_up'?"},
      {"defaults: {timeout: 1ms}", "lope.yaml:2:21: defaults.timeout: expected a duration…"},
      {"defaults: {retry: {delay: 2h}}",
       "lope.yaml:2:27: defaults.retry.delay: expected at most max_delay (1h), found '2h'…"},
      {"defaults: {crashes: 0}", "lope.yaml:2:21: defaults.crashes: expected a whole number…"},
      {"defaults: {dead_letter: {}}",
       "lope.yaml:2:25: defaults.dead_letter: expected exchange or queue, found none"},
      {"defaults: {breaker: 5}", "lope.yaml:2:21: defaults.breaker: expected true, false, or…"},
      {"broker:",
       "lope.yaml:2:1: broker: expected a URL, or a map of url, urls, user, password, heartbeat, "
       "connect_timeout, consumer_timeout, max_message_size, login and tls, found nothing"},
      {"broker: [amqp://x]", "lope.yaml:2:9: broker: expected a URL, or a map of…"},
      {"broker: localhost",
       "lope.yaml:2:9: broker: URL: expected amqp://user:password@host:port/vhost, or amqps://… "
       "for "
       "TLS, found a text that does not start with 'amqp://' or 'amqps://'"},
      {"broker: 5672", "lope.yaml:2:9: broker: expected a URL…"},
      {"broker: amqps://app@mq", "lope.yaml:2:9: broker: URL: expected a password for user 'app'…"},
      {"broker: {tls: {}}",
       "lope.yaml:2:10: broker.tls: expected a URL that starts with amqps://, found amqp://…"},
      {"broker: {url: amqp://mq, tls: {}}",
       "lope.yaml:2:26: broker.tls: expected a URL that starts with amqps://, found amqp://…"},
      {"broker: {url: amqps://mq, tls: true}",
       "lope.yaml:2:32: broker.tls: expected a map of ca, certificate, key, server_name and "
       "insecure, found true"},
      {"broker: {url: amqps://mq, tls: {cert: x}}",
       "lope.yaml:2:33: broker.tls: unknown key 'cert'…"},
      {"broker: {url: amqps://mq, tls: {ca: 5}}",
       "lope.yaml:2:37: broker.tls.ca: expected the path of a file (in quotes), found 5"},
      {"broker: {url: amqps://mq, tls: {ca: \"\"}}",
       "lope.yaml:2:37: broker.tls.ca: expected the path of a file, found the text ''"},
      {"broker: {url: amqps://mq, tls: {certificate: x}}",
       "lope.yaml:2:32: broker.tls: expected certificate and key, found only certificate"},
      {"broker: {url: amqps://mq, tls: {key: x}}",
       "lope.yaml:2:32: broker.tls: expected certificate and key, found only key"},
      {"broker: {url: amqps://mq, tls: {server_name: \"\"}}",
       "lope.yaml:2:46: broker.tls.server_name: expected the name in the broker's certificate…"},
      {"broker: {url: amqps://mq, tls: {insecure: 1}}",
       "lope.yaml:2:43: broker.tls.insecure: expected true or false, found 1"},
      {"broker: {url: amqps://mq, tls: {insecure: true, ca: x}}",
       "lope.yaml:2:49: broker.tls.ca: expected none: with insecure: true nothing is verified"},
      {"broker: {url: amqps://mq, tls: {insecure: true, server_name: x}}",
       "lope.yaml:2:49: broker.tls.server_name: expected none…"},
      {"broker: {urls: [amqps://a, amqp://b]}",
       "lope.yaml:2:28: broker.urls[1]: expected amqps:// in all URLs or in none, found both"},
      {"broker: {url: amqps://mq, login: EXTERNAL}",
       "lope.yaml:2:34: broker.login: expected plain or external, found 'EXTERNAL'…"},
      {"broker: {url: amqps://mq, login: external}",
       "lope.yaml:2:34: broker.login: expected a client certificate for external, tls.certificate "
       "and tls.key, found none"},
      {"broker: {login: external}", "lope.yaml:2:17: broker.login: expected a client certificate…"},
      {"broker: {url: amqps://mq, login: external, user: app, tls: {certificate: x, key: x}}",
       "lope.yaml:2:44: broker.user: expected none: with login: external the certificate says who "
       "it is"},
      {"broker: {url: amqps://mq, login: external, password: x, tls: {certificate: x, key: x}}",
       "lope.yaml:2:44: broker.password: expected none…"},
      {"broker: {url: amqps://app@mq, login: external, tls: {certificate: x, key: x}}",
       "lope.yaml:2:15: broker.url: expected no user or password in the URL…"},
      {"broker: {url: amqp://a, urls: [amqp://b]}",
       "lope.yaml:2:9: broker: expected url or urls, found both"},
      {"broker: {urls: []}", "lope.yaml:2:16: broker.urls: expected 1 to 64 URLs, found 0"},
      {"broker: {urls: amqp://a}",
       "lope.yaml:2:16: broker.urls: expected a list of URLs, found 'amqp://a'"},
      {"broker: {urls: [amqp://a, mq]}", "lope.yaml:2:27: broker.urls[1]: URL: expected amqp://…"},
      {"broker: {url: amqp://a@mq, user: b, password: {env: LOPE_TEST_SET}}",
       "lope.yaml:2:15: broker.url: expected the user in the URL or as 'user', found both"},
      {"broker: {url: amqp://a:b@mq, password: {env: LOPE_TEST_SET}}",
       "lope.yaml:2:15: broker.url: expected the password in the URL or as 'password', found both"},
      {"broker: amqp://app@mq", "lope.yaml:2:9: broker: URL: expected a password for user 'app'…"},
      {"broker: {url: amqp://app@mq}",
       "lope.yaml:2:15: broker.url: expected a password for user 'app' under broker.password, "
       "found none"},
      {"broker: {user: app}",
       "lope.yaml:2:9: broker: expected a password for user 'app' under broker.password…"},
      {"broker: {user: 5}",
       "lope.yaml:2:16: broker.user: expected a user name (in quotes), found 5"},
      {"handlers_dir: \"\"", "lope.yaml:2:15: handlers_dir: expected a folder, found the text ''"},
      {"handlers_dir: [x]", "lope.yaml:2:15: handlers_dir: expected a folder, found a list"},
      {"state_dir: [x]", "lope.yaml:2:12: state_dir: expected a folder, found a list"},
      {"log: json", "lope.yaml:2:6: log: expected a map of level, format and file, found 'json'"},
      {"log: {level: warning}",
       "lope.yaml:2:14: log.level: expected debug, info, warn or error, found 'warning'"},
      {"log: {level: wran}",
       "lope.yaml:2:14: log.level: expected debug, info, warn or error, found 'wran': did you mean "
       "'warn'?"},
      {"log: {format: xml}", "lope.yaml:2:15: log.format: expected text or json, found 'xml'"},
      {"log: {file: 5}",
       "lope.yaml:2:13: log.file: expected the path of a file (in quotes), found 5"},
      {"defaults: {prefetch: 0}",
       "lope.yaml:2:22: defaults.prefetch: expected a whole number from 1 to 65535…"},
      {"defaults: {handler: x}", "lope.yaml:2:12: defaults: unknown key 'handler'…"},
      {"defaults:", "lope.yaml:2:1: defaults: expected a map of prefetch, …"},
  }));
  const Variable set("LOPE_TEST_SET", "value");
  row.text = "groups: {a: {handler: h}}\n" + row.text;
  check_bad(row);
}

TEST_CASE("a monitor that others can reach is pointed out", "[unit][settings]") {
  const std::string group = "groups: {a: {handler: h}}\n";
  CHECK_FALSE(load(group).settings.monitor);
  CHECK_FALSE(load(group + "monitor: {}").settings.monitor);
  const LoadedSettings own = load(group + "monitor: {listen: 9419}");
  CHECK(own.settings.monitor == ListenAddress{"127.0.0.1", 9419});
  CHECK(own.warnings.empty());
  const LoadedSettings open = load(group + "monitor: {listen: '[::]:9419'}");
  CHECK(open.settings.monitor == ListenAddress{"::", 9419});
  CHECK(joined(open.warnings) ==
        "lope.yaml:2:19: monitor.listen: whoever can reach [::]:9419 sees what is shown there: "
        "queues, handlers, the latest errors\n");
}

TEST_CASE("a journal for all groups, and what one has of its own", "[unit][settings]") {
  const Settings settings = good(R"(
journal: { exchange: journal, key: told, confirm: true, headers: true }
groups:
  all: { handler: h }
  none: { handler: h, journal: false }
  own: { handler: h, journal: { key: other, bodies: { max: 1kB }, secret_headers: [pin] } }
  whole: { handler: h, journal: { bodies: true, confirm: false } }
  keeper: { handler: journal }
  bound: { handler: h, declare: { bind: [{ exchange: journal, key: told }] } }
  elsewhere: { handler: h, declare: { bind: [{ exchange: journal, key: else }] } }
)");
  JournalSettings all;
  all.on = all.confirmed = all.headers = true;
  all.exchange = "journal";
  all.routing_key = "told";
  CHECK(settings.groups[0].journal == all);
  CHECK_FALSE(settings.groups[1].journal.on);
  JournalSettings own = all;
  own.routing_key = "other";
  own.bodies = true;
  own.max_body_bytes = 1000;
  own.secret_headers = {"pin"};
  CHECK(settings.groups[2].journal == own);
  JournalSettings whole = all;
  whole.bodies = true;
  whole.confirmed = false;
  CHECK(settings.groups[3].journal == whole);
  CHECK_FALSE(settings.groups[4].journal.on);
  CHECK_FALSE(settings.groups[5].journal.on);
  CHECK(settings.groups[6].journal.on);

  const Settings queue = good(
      "journal: { exchange: '', key: j }\n"
      "groups: { j: { handler: h }, k: { handler: h } }");
  CHECK_FALSE(queue.groups[0].journal.on);
  CHECK(queue.groups[1].journal.on);
}

TEST_CASE("spans, and to where", "[unit][settings]") {
  const Variable token("LOPE_TEST_TOKEN", "Bearer me");
  const Settings settings = good(R"(
telemetry:
  endpoint: "https://collector.example:4318/otlp/"
  sample: 0.25
  service_name: shop
  headers: { authorization: { env: LOPE_TEST_TOKEN }, x-scope: a }
  timeout: 1s
groups: { a: { handler: h } }
)");
  TelemetrySettings expected;
  expected.endpoint = "https://collector.example:4318/otlp";
  expected.sample = 0.25;
  expected.service_name = "shop";
  expected.headers = {{"authorization", "Bearer me"}, {"x-scope", "a"}};
  expected.timeout = 1s;
  CHECK(settings.telemetry == expected);
  CHECK(settings.secret_env == std::vector<std::string>{"LOPE_TEST_TOKEN"});
}

TEST_CASE("what is wrong with a journal or with spans", "[unit][settings]") {
  const std::string group = "\ngroups: {a: {handler: h}}";
  check_bad(GENERATE_COPY(values<BadFile>({
      {"journal: true" + group,
       "lope.yaml:1:10: journal: expected false, or a map of exchange, key, confirm, bodies, "
       "headers and secret_headers, found true"},
      {"journal: {key: k}" + group, "lope.yaml:1:10: journal: expected 'exchange', found none"},
      {"journal: {exchange: ''}" + group,
       "lope.yaml:1:10: journal: expected the name of a queue as 'key', since the exchange is the "
       "default one, found none"},
      {"journal: {exchange: 5}" + group,
       "lope.yaml:1:21: journal.exchange: expected the name of an exchange (in quotes), found 5"},
      {"journal: {exchange: e, confirm: 1}" + group,
       "lope.yaml:1:33: journal.confirm: expected true or false, found 1"},
      {"journal: {exchange: e, bodies: 5}" + group,
       "lope.yaml:1:32: journal.bodies: expected true, false, or a map of max, found 5"},
      {"journal: {exchange: e, bodies: {max: 2MiB}}" + group,
       "lope.yaml:1:38: journal.bodies.max: expected a size with a unit (B, kB, KiB, MB, MiB, GB, "
       "GiB), from 1B to 1MiB, found '2MiB'"},
      {"journal: {exchange: e, secret_headers: pin}" + group,
       "lope.yaml:1:40: journal.secret_headers: expected a list of parts of names, found 'pin'"},
      {"groups: {a: {handler: journal, journal: {exchange: e}}}",
       "lope.yaml:1:41: groups.a.journal: expected false, found a map: handler 'journal' handles "
       "the journal, and each event would bring forth others"},
      {"groups: {a: {handler: h, journal: {exchange: '', key: a}}}",
       "lope.yaml:1:35: groups.a.journal: expected false, found a map: queue 'a' gets the journal, "
       "and each event would bring forth others"},
      {"telemetry: {endpoint: collector}" + group,
       "lope.yaml:1:23: telemetry.endpoint: expected the URL of a collector, http://host:4318 or "
       "https://…, found 'collector'"},
      {"telemetry: {endpoint: 'http://me:you@collector'}" + group,
       "lope.yaml:1:23: telemetry.endpoint: expected a URL without a user, found one: a login goes "
       "into 'headers'"},
      {"telemetry: {endpoint: 'http://collector?a'}" + group,
       "lope.yaml:1:23: telemetry.endpoint: expected the URL of a collector, http://host:4318 or "
       "https://… without spaces, '?' and '#', found the text 'http://collector?a'"},
      {"telemetry: {sample: 2}" + group,
       "lope.yaml:1:21: telemetry.sample: expected a number from 0 to 1, found 2"},
      {"telemetry: {headers: {'a b': c}}" + group,
       "lope.yaml:1:23: telemetry.headers: expected the name of an HTTP header, found 'a b'"},
      {"telemetry: {headers: {a: \"b\\nc\"}}" + group,
       "lope.yaml:1:26: telemetry.headers.a: expected a text without control characters, found "
       "one"},
      {"telemetry: {timeout: 1ms}" + group,
       "lope.yaml:1:22: telemetry.timeout: expected a duration with a unit (ms, s, m, h, d), from "
       "100ms to 5m, found '1ms'"},
  })));
}

TEST_CASE("where the monitor's journal is", "[unit][settings]") {
  const std::string group = "groups: {a: {handler: h}}\n";
  const Variable set("LOPE_TEST_SET", "postgresql://lope:secret@db/journal");
  CHECK(load(group).settings.monitor_journal == "");
  CHECK(load(group + "monitor: {journal: /var/lib/lope/journal.db}").settings.monitor_journal ==
        "/var/lib/lope/journal.db");
  CHECK(load(group + "monitor: {journal: journal.db}")
            .settings.monitor_journal.ends_with("/journal.db"));
  const LoadedSettings url = load(group + "monitor: {journal: 'postgresql://db/journal'}");
  CHECK(url.settings.monitor_journal == "postgresql://db/journal");
  CHECK(url.warnings.empty());
  const LoadedSettings kept = load(group + "monitor: {journal: {env: LOPE_TEST_SET}}");
  CHECK(kept.settings.monitor_journal == "postgresql://lope:secret@db/journal");
  CHECK(kept.warnings.empty());
  CHECK(
      joined(load(group + "monitor: {journal: 'postgresql://lope:secret@db/journal'}").warnings) ==
      "lope.yaml:2:20: monitor.journal: a password stands in this file: better {credential: NAME}, "
      "{file: PATH} or {env: NAME}\n");
  const Variable wrong("LOPE_TEST_SET", "postgresql://lope:50%off@db/journal");
  check_bad({group + "monitor: {journal: {env: LOPE_TEST_SET}}",
             "lope.yaml:2:20: monitor.journal: expected two hexadecimal digits behind each %"});
}

TEST_CASE("what later versions bring is not called unknown", "[unit][settings]") {
  const std::string key = GENERATE(as<std::string>(), "consumer_timeout", "filter");
  check_bad({"groups: {a: {handler: h, " + key + ": {x: 1}}}",
             "lope.yaml:1:26: groups.a: '" + key + "' is not available in this version"});
  check_bad({"groups: {a: {handler: h}}\ndefaults: {" + key + ": 1}",
             "lope.yaml:2:12: defaults: '" + key + "' is not available in this version"});
}

TEST_CASE("a timeout stays below the broker's own", "[unit][settings]") {
  const std::string advice =
      ": raise the broker's consumer_timeout and say so with broker.consumer_timeout, or write a "
      "shorter timeout\n";
  struct Row {
    std::string broker, defaults, group, error, warning;
  };
  const auto row = GENERATE_COPY(values<Row>({
      {"30m", "{}", "timeout: 1769999ms", "", ""},
      {"30m", "{}", "timeout: 1770s",
       "lope.yaml:4:8: groups.a.timeout: expected a timeout below broker.consumer_timeout (30m) "
       "less 30s, found 1770s" +
           advice,
       ""},
      {"2h", "{}", "timeout: 1h", "", ""},
      {"0", "{}", "timeout: 7d", "", ""},
      {"0", "{}", "timeout: 0", "", ""},
      // Written nowhere, or in the defaults.
      {"5m", "{}", "workers: 1",
       "lope.yaml:3:10: groups.a: expected a timeout below broker.consumer_timeout (5m) less 30s, "
       "found 5m" +
           advice,
       ""},
      {"30m", "{timeout: 1h}", "workers: 1",
       "lope.yaml:3:10: groups.a: expected a timeout below broker.consumer_timeout (30m) less 30s, "
       "found 1h" +
           advice,
       ""},
      {"30m", "{timeout: 1h}", "timeout: 1m", "", ""},
      // A batch waits first.
      {"30m", "{}", "timeout: 29m, batch: {size: 1, wait: 1h}", "", ""},
      {"30m", "{}", "timeout: 29m, batch: {size: 2, wait: 29s}", "", ""},
      {"30m", "{}", "timeout: 29m, batch: {size: 2, wait: 30s}",
       "lope.yaml:4:8: groups.a.timeout: expected timeout and batch.wait together below "
       "broker.consumer_timeout (30m) less 30s, found 29m and 30s" +
           advice,
       ""},
      {"30m", "{}", "timeout: 0s", "",
       "lope.yaml:4:8: groups.a.timeout: no timeout: the broker closes the channel of a handler "
       "that takes longer than broker.consumer_timeout (30m)\n"},
      {"30m", "{timeout: 0}", "workers: 1", "",
       "lope.yaml:3:10: groups.a: no timeout: the broker closes the channel of a handler that "
       "takes longer than broker.consumer_timeout (30m)\n"},
      // What was refused is not held against the rest.
      {"1s", "{}", "timeout: 1h",
       "lope.yaml:1:28: broker.consumer_timeout: expected a duration with a unit (ms, s, m, h, d), "
       "0 (none), or from 10s to 7d, found '1s'\n",
       ""},
      {"5m", "{}", "timeout: 1ms",
       "lope.yaml:4:8: groups.a.timeout: expected a duration with a unit (ms, s, m, h, d), 0 "
       "(none), or from 10ms to 7d, found '1ms'\n",
       ""},
      {"5m", "{timeout: 1ms}", "workers: 1",
       "lope.yaml:2:21: defaults.timeout: expected a duration with a unit (ms, s, m, h, d), 0 "
       "(none), or from 10ms to 7d, found '1ms'\n",
       ""},
  }));
  // A timeout's value starts a line of its own.
  std::string keys = row.group;
  if (keys.starts_with("timeout: ")) keys.insert(std::string("timeout: ").size(), "\n       ");
  const LoadedSettings loaded =
      load("broker: {consumer_timeout: " + row.broker + "}\ndefaults: " + row.defaults +
           "\ngroups: {a: {handler: h, " + keys + "}}");
  INFO(row.group);
  CHECK(joined(loaded.errors) == row.error);
  CHECK(joined(loaded.warnings) == row.warning);
}

TEST_CASE("a dead-letter queue is none of the group's own", "[unit][settings]") {
  const std::string problem =
      ": expected a queue that is not the group's own, found 'x': its dead letters would come "
      "again";
  check_bad({"groups: {a: {handler: h, queues: [y, {name: x}], dead_letter: {queue: x}}}",
             "lope.yaml:1:71: groups.a.dead_letter.queue" + problem});
  check_bad(
      {"defaults: {dead_letter: {queue: x}}\n"
       "groups: {x: {handler: h}, y: {handler: h}, z: {handler: h, queue: x, dead_letter: "
       "broker}}",
       "lope.yaml:2:10: groups.x: defaults.dead_letter.queue" + problem});
}

TEST_CASE("every error of a file comes in one run, in its order", "[unit][settings]") {
  const LoadedSettings loaded = load(
      "groups:\n"
      "  a: {handlr: x, workers: 0}\n"
      "  b: {handler: h, options: {o: 010}, threads: &t 3}\n"
      "  b: {handler: h}\n"
      "shutdown_timeout: 5\n"
      "broker: {heartbeat: 1s, url: mq}\n");
  std::vector<std::pair<int, int>> places;
  for (const ConfigProblem& error : loaded.errors) places.emplace_back(error.line, error.column);
  INFO(joined(loaded.errors));
  const std::vector<std::pair<int, int>> expected = {{2, 3}, {2, 7},  {2, 27}, {3, 32}, {3, 47},
                                                     {4, 3}, {5, 19}, {6, 21}, {6, 30}};
  CHECK(places == expected);
}

TEST_CASE("columns count characters", "[unit][settings]") {
  check_bad({"groups: {a: {handler: h, options: {größe: 日本}, workers: 0}}",
             "lope.yaml:1:57: groups.a.workers: …"});
}

// ---- Passwords -----------------------------------------------------------------------------

TEST_CASE("a password comes from where the file says", "[unit][settings]") {
  const Config config;
  const auto password_of = [&](const std::string& source) {
    config.dir().write("lope.yaml", "broker: {url: amqp://app@localhost, password: " + source +
                                        "}\ngroups: {a: {handler: h}}");
    const LoadedSettings loaded = config.load();
    INFO(source << "\n" << joined(loaded.errors));
    REQUIRE(loaded.errors.empty());
    CHECK(loaded.warnings.empty());
    return loaded.settings.broker.addresses[0].password;
  };
  const auto write_secret = [&](std::string_view name, std::string_view content) {
    const std::string path = config.dir().write(name, content);
    REQUIRE(::chmod(path.c_str(), 0600) == 0);
  };

  SECTION("a file, less the newline at its end") {
    for (const std::string end : {"", "\n", "\r\n"}) {
      write_secret("secret", " pass word " + end);
      CHECK(password_of("{file: secret}") == " pass word ");
      CHECK(password_of("{file: '" + config.dir().file("secret") + "'}") == " pass word ");
    }
    write_secret("secret", "x\n\n");
    CHECK(password_of("{file: secret}") == "x\n");
  }
  SECTION("a credential") {
    const Variable folder("CREDENTIALS_DIRECTORY", config.dir().path().c_str());
    write_secret("broker-password", "from systemd\n");
    CHECK(password_of("{credential: broker-password}") == "from systemd");
  }
  SECTION("a variable, which is remembered") {
    const Variable variable("LOPE_TEST_PASSWORD", "from env");
    CHECK(password_of("{env: LOPE_TEST_PASSWORD}") == "from env");
    CHECK(config.load().settings.secret_env == std::vector<std::string>{"LOPE_TEST_PASSWORD"});
  }
}

TEST_CASE("a password that stands in the file is warned of", "[unit][settings]") {
  struct Row {
    const char* broker;
    const char* warning;
  };
  const auto row = GENERATE(values<Row>({
      {"amqp://app:hunter2@localhost",
       "lope.yaml:1:9: broker: URL: a password stands in this file"},
      {"{urls: [amqp://localhost, amqp://app:hunter2@localhost]}",
       "lope.yaml:1:35: broker.urls[1]: URL: a password stands"},
      {"{url: amqp://app@localhost, password: hunter2}",
       "lope.yaml:1:47: broker.password: a password stands"},
      {"{user: app, password: hunter2}", "lope.yaml:1:31: broker.password: a password stands"},
      {"{user: app, password: guest}", "lope.yaml:1:31: broker.password: a password stands"},
      {"{password: hunter2}", "lope.yaml:1:20: broker.password: a password stands"},
      {"amqp://guest:hunter2@localhost", "lope.yaml:1:9: broker: URL: a password stands"},
      {"amqp://localhost/", "lope.yaml:1:9: broker: URL: the '/' at its end names the vhost \"\""},
      {"amqp://guest:guest@localhost", ""},
      {"{user: guest, password: guest}", ""},
  }));
  const LoadedSettings loaded =
      load("broker: " + std::string(row.broker) + "\ngroups: {a: {handler: h}}");
  INFO(row.broker << "\n" << joined(loaded.errors));
  CHECK(loaded.errors.empty());
  CHECK_THAT(joined(loaded.warnings), Catch::StartsWith(row.warning));
  CHECK(loaded.warnings.size() == (*row.warning == '\0' ? 0 : 1));
}

TEST_CASE("what goes to another machine in plain text is warned of", "[unit][settings]") {
  struct Row {
    const char* broker;
    const char* warning;
  };
  const auto row = GENERATE(values<Row>({
      {"amqp://mq", "lope.yaml:1:9: broker: messages and the password go to 'mq' in plain text"},
      {"{url: amqp://10.0.0.1}", "lope.yaml:1:15: broker.url: messages and the password go to"},
      {"{urls: [amqp://localhost, \"amqp://[fe80::1]\"]}",
       "lope.yaml:1:35: broker.urls[1]: messages and the password go to 'fe80::1'"},
      {"amqp://127.0.0.2", ""},
      {"\"amqp://[::1]\"", ""},
      {"amqp://localhost", ""},
      {"{heartbeat: 30s}", ""},
      {"amqps://mq", ""},
  }));
  const LoadedSettings loaded =
      load("broker: " + std::string(row.broker) + "\ngroups: {a: {handler: h}}");
  INFO(row.broker << "\n" << joined(loaded.errors) << joined(loaded.warnings));
  CHECK(loaded.errors.empty());
  CHECK_THAT(joined(loaded.warnings), Catch::StartsWith(row.warning));
  CHECK(loaded.warnings.size() == (*row.warning == '\0' ? 0 : 1));
}

TEST_CASE("TLS is taken as it is written", "[unit][settings]") {
  const Config config(
      "broker:\n"
      "  urls: [amqps://mq1, amqps://mq2:5700/shop]\n"
      "  login: external\n"
      "  tls: {ca: ca.pem, certificate: /etc/lope/app.pem, key: app.key, server_name: mq.example}\n"
      "groups: {a: {handler: h}}");
  config.dir().write("ca.pem", "");
  const std::string key = config.dir().write("app.key", "");
  REQUIRE(::chmod(key.c_str(), 0644) == 0);
  const LoadedSettings loaded = config.load();
  INFO(joined(loaded.errors));
  REQUIRE(loaded.errors.empty());
  const BrokerSettings& broker = loaded.settings.broker;
  CHECK(broker.addresses ==
        std::vector<BrokerAddress>{{"mq1", 5671, "/", "guest", "guest", true},
                                   {"mq2", 5700, "shop", "guest", "guest", true}});
  CHECK(broker.login == Login::external);
  CHECK(broker.tls == TlsSettings{config.dir().file("ca.pem"), "/etc/lope/app.pem",
                                  config.dir().file("app.key"), "mq.example", false});
  CHECK(joined(loaded.warnings) ==
        "lope.yaml:4:34: broker.tls.certificate: '/etc/lope/app.pem': expected a readable "
        "file, found: open: No such file or directory: until it is there nothing connects\n"
        "lope.yaml:4:58: broker.tls.key: 'app.key' can be read by others: chmod o-r\n");
}

TEST_CASE("an unverified broker is warned of", "[unit][settings]") {
  const LoadedSettings loaded =
      load("broker: {url: amqps://mq, tls: {insecure: true}}\ngroups: {a: {handler: h}}");
  CHECK(loaded.errors.empty());
  CHECK(loaded.settings.broker.tls.insecure);
  CHECK_THAT(joined(loaded.warnings),
             Catch::StartsWith(
                 "lope.yaml:1:43: broker.tls.insecure: the broker's certificate is not verified"));
  CHECK(loaded.warnings.size() == 1);
}

TEST_CASE("a password file that others can read is warned of", "[unit][settings]") {
  const Config config("broker: {user: app, password: {file: secret}}\ngroups: {a: {handler: h}}");
  const std::string path = config.dir().write("secret", "hunter2");
  REQUIRE(::chmod(path.c_str(), 0644) == 0);
  const LoadedSettings loaded = config.load();
  CHECK(loaded.errors.empty());
  CHECK(joined(loaded.warnings) ==
        "lope.yaml:1:38: broker.password.file: 'secret' can be read by others: chmod o-r\n");
}

TEST_CASE("a password that cannot be had is an error", "[unit][settings]") {
  struct Row {
    const char* source;
    const char* problem;
  };
  const auto row = GENERATE(values<Row>({
      {"{file: missing}", "broker.password.file: 'missing': expected a readable file"},
      {"{file: folder}", "broker.password.file: 'folder': expected a regular file"},
      {"{file: empty}", "broker.password: expected a password, found an empty one"},
      {"{file: nul}", "broker.password: expected a password, found a NUL byte in it"},
      {"{file: latin1}", "broker.password: expected a password in UTF-8"},
      {"{file: large}", "broker.password.file: 'large': expected a password of at most 4096 bytes"},
      {"{file: }", "broker.password.file: expected the path of a file, found nothing"},
      {"{file: \"\"}", "broker.password.file: expected the path of a file"},
      {"{env: LOPE_TEST_UNSET}",
       "broker.password.env: expected the environment variable 'LOPE_TEST_UNSET' to be set"},
      {"{env: LOPE_TEST_EMPTY}", "broker.password: expected a password, found an empty one"},
      {"{env: A=B}", "broker.password.env: expected the name of an environment variable"},
      {"{credential: x}", "broker.password.credential: expected $CREDENTIALS_DIRECTORY"},
      {"{credential: ../x}",
       "broker.password.credential: expected the name of a systemd credential"},
      {"{credential: ..}", "broker.password.credential: expected the name of a systemd credential"},
      {"{}", "broker.password: expected one of credential, file or env, found 0 keys"},
      {"{file: a, env: b}",
       "broker.password: expected one of credential, file or env, found 2 keys"},
      {"[a]", "broker.password: expected {credential: NAME}"},
      {"", "broker.password: expected {credential: NAME}"},
      {"\"\"", "broker.password: expected a password, found an empty one"},
  }));
  const Variable empty("LOPE_TEST_EMPTY", "");
  const Variable unset("LOPE_TEST_UNSET", nullptr);
  const Variable credentials("CREDENTIALS_DIRECTORY", nullptr);
  const Config config("broker:\n  user: app\n  password: " + std::string(row.source) +
                      "\ngroups: {a: {handler: h}}");
  std::filesystem::create_directory(config.dir().path() / "folder");
  config.dir().write("empty", "\n");
  config.dir().write("nul", std::string_view("a\0b", 3));
  config.dir().write("latin1", "gr\xfc\xdf");
  config.dir().write("large", std::string(4097, 'x'));
  const LoadedSettings loaded = config.load();
  INFO(row.source << "\n" << joined(loaded.errors));
  REQUIRE(loaded.errors.size() == 1);
  CHECK(loaded.errors[0].line == 3);
  CHECK_THAT(loaded.errors[0].text, Catch::StartsWith(row.problem));
}

TEST_CASE("no message shows a password, whatever is wrong around it", "[unit][settings]") {
  const std::string broker = GENERATE(
      as<std::string>(), "amqp://app:hunter2@mq/a/b", "amqps://app:hunter2@mq", "app:hunter2@mq",
      "http://app:hunter2@mq", "amqp://app:hunter2@mq:x", "amqp://app:hunter2",
      "amqp://app:hunter2@", "[\"amqp://app:hunter2@mq\"]", "{amqp://app:hunter2@mq}",
      "{\"amqp://app:hunter2@mq\": x}", "{url: {amqp://app:hunter2@mq: x}}",
      "{urls: amqp://app:hunter2@mq}", "{urls: [amqp://app:hunter2@mq, 5, x]}",
      "{url: amqp://app:hunter2@mq, url: amqp://app:hunter2@mq}",
      "{url: amqp://app:hunter2@mq, password: hunter2}", "{user: app, password: {hunter2}}",
      "{user: app, password: {hunter2, hunter2}}", "{user: app, password: {hunter2: x}}",
      "{user: app, password: {env: hunter2=hunter2}}",
      "{user: app, password: {credential: hunter2/x}}", "{user: app, password: [hunter2]}",
      "{user: app, password: *hunter2}", "{user: app, password: &hunter2}",
      "{user: app, password: &hunter2 x}", "{user: app, password: !hunter2 x}",
      "{user: app, password: !hunter2}", "{user: app, password: @hunter2}",
      "{user: app, password: %hunter2}", "{user: app, password: `hunter2}",
      "{user: app, password: \"hunter2}", "{user: app, password: \"\\hunter2\"}",
      "{user: app, password: hunter2: x}", "{user: app, password: hunter2",
      "{heartbeat: amqp://app:hunter2@mq}", "{user: app, paswd: hunter2}");
  const LoadedSettings loaded =
      load("broker: " + broker +
           "\nlog: {level: amqp://app:hunter2@mq, file: 5}\ngroups: {a: {handler: h}}\n");
  const std::string all = joined(loaded.errors) + joined(loaded.warnings);
  INFO(broker << "\n" << all);
  CHECK_FALSE(loaded.errors.empty());
  CHECK(all.find("hunter2") == std::string::npos);
}

TEST_CASE("a number that may be a password is not shown", "[unit][settings]") {
  const std::string value = GENERATE(as<std::string>(), "0815", "4711");
  const LoadedSettings loaded = load("broker: {user: app, password: " + value +
                                     "}\ngroups: {a: {handler: h, options: {pin: 0815}}}");
  INFO(joined(loaded.errors));
  CHECK(loaded.errors.size() == 2);
  CHECK(joined(loaded.errors).find(value) == std::string::npos);
  CHECK(joined(loaded.errors).find("0815") == std::string::npos);
}

// ---- Includes ------------------------------------------------------------------------------

TEST_CASE("included files add groups, in the order of their names", "[unit][settings]") {
  const std::string include = GENERATE(
      as<std::string>(), "conf.d/*.yaml", "[conf.d/*.yaml]", "[conf.d/a.yaml, conf.d/b.yaml]",
      "[conf.d/a.yaml, conf.d/*.yaml, conf.d/a.yaml]", "'conf.d/[ab].yaml'", "conf.d/?.yaml");
  const Config config("include: " + include +
                      "\ndefaults: {workers: 3}\ngroups: {m: {handler: h}}");
  std::filesystem::create_directory(config.dir().path() / "conf.d");
  config.dir().write("conf.d/b.yaml", "groups: {b: {handler: h}}");
  config.dir().write("conf.d/a.yaml", "groups: {a: {handler: h}}");
  config.dir().write("conf.d/a.yaml~", "groups: {old: {handler: h}}");
  config.dir().write("conf.d/.a.yaml", "groups: {hidden: {handler: h}}");
  const LoadedSettings loaded = config.load();
  INFO(joined(loaded.errors));
  REQUIRE(loaded.errors.empty());
  REQUIRE(loaded.settings.groups.size() == 3);
  CHECK(loaded.settings.groups[0].name == "m");
  CHECK(loaded.settings.groups[1].name == "a");
  CHECK(loaded.settings.groups[2].name == "b");
  CHECK(loaded.settings.groups[2].workers == 3);
  CHECK_THAT(loaded.places[2].handler.file, Catch::EndsWith("/conf.d/b.yaml"));
}

TEST_CASE("included files alone are enough", "[unit][settings]") {
  const Config config("include: '*.yaml'");
  config.dir().write("a.yaml", "groups: {a: {handler: h}}");
  const LoadedSettings loaded = config.load();
  INFO(joined(loaded.errors));
  CHECK(loaded.errors.empty());
  CHECK(loaded.settings.groups.size() == 1);
}

TEST_CASE("a pattern without a file, or without its folder, includes nothing", "[unit][settings]") {
  const std::string include = GENERATE(as<std::string>(), "none/*.yaml", "none-*.yaml", "[]");
  CHECK(good("include: " + include + "\ngroups: {a: {handler: h}}").groups.size() == 1);
}

TEST_CASE("problems of an included file carry its own path", "[unit][settings]") {
  struct Row {
    std::string include, content, problem;
  };
  const auto row = GENERATE(values<Row>({
      {"a.yaml", "groups:\n  x: {handlr: h, handler: h}",
       "a.yaml:2:7: groups.x: unknown key 'handlr': did you mean 'handler'?"},
      {"a.yaml", "groups: {m: {handler: h}}",
       "a.yaml:1:10: group 'm' is given twice: first at lope.yaml:2:10"},
      {"a.yaml", "groups: {x: {handler: h}}\nbroker: amqp://x",
       "a.yaml:2:1: 'broker' belongs in the main file: expected only 'groups' in an included one"},
      {"a.yaml", "groups: {x: {handler: h}}\ngruops: x",
       "a.yaml:2:1: unknown key 'gruops': did you mean 'groups'?"},
      {"a.yaml", "",
       "a.yaml: expected a map of settings, found an empty file (included at lope.yaml:1)"},
      {"a.yaml", "x: [", "a.yaml:1:…"},
      {"b.yaml", "", "b.yaml: expected a file, found none (included at lope.yaml:1)"},
      {"[a.yaml, 5]", "groups: {x: {handler: h}}",
       "lope.yaml:1:19: include[1]: expected a file name or a list of them (in quotes), found 5"},
      {"{a: b}", "",
       "lope.yaml:1:10: include: expected a file name or a list of them, found a map"},
      {"\"\"", "", "lope.yaml:1:10: include: expected a file name, found the text ''"},
      {"lope.yaml", "", "lope.yaml:1:10: include: expected another file, found this one"},
      {"conf.*/a.yaml", "",
       "lope.yaml:1:10: include: expected '*', '?' and '[' in the file name only, found them in "
       "its folder"},
  }));
  const Config config("include: " + row.include + "\ngroups: {m: {handler: h}}");
  config.dir().write("a.yaml", row.content);
  const std::string found = joined(config.load().errors);
  INFO(row.include << "\n" << row.content);
  if (row.problem.ends_with("…")) {
    CHECK_THAT(found, Catch::StartsWith("a.yaml:1:"));
  } else {
    CHECK(found == row.problem + "\n");
  }
}

TEST_CASE("errors of several files come file by file", "[unit][settings]") {
  const Config config("include: [b.yaml, a.yaml]\ngroups: {m: {handler: h, x: 1}}\nlog: 5");
  config.dir().write("a.yaml", "groups: {a: {handler: h, x: 1}}");
  config.dir().write("b.yaml", "groups: {b: {handler: h, x: 1}}");
  std::vector<std::string> files;
  for (const ConfigProblem& error : config.load().errors) files.push_back(error.file);
  CHECK(files == std::vector<std::string>{"lope.yaml", "lope.yaml", "b.yaml", "a.yaml"});
}

// ---- Traps of YAML -------------------------------------------------------------------------

TEST_CASE("what makes YAML dangerous is refused, with its place, in no time", "[unit][settings]") {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 20; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + before;
    for (int j = 1; j < 10; ++j) bomb += ", " + before;
    bomb += "]\n";
  }
  struct Row {
    const char* what;
    std::string text, problem;
  };
  const std::size_t mebibyte = 1 << 20;
  const auto row = GENERATE_COPY(values<Row>({
      {"nothing", "", "lope.yaml: expected a map of settings, found an empty file"},
      {"spaces", "  \n\n ", "lope.yaml: expected a map of settings, found an empty file"},
      {"a comment", "# x\n", "lope.yaml: expected a map of settings, found an empty file"},
      {"an empty document", "---\n...\n",
       "lope.yaml: expected a map of settings, found an empty file"},
      {"a null", "~", "lope.yaml: expected a map of settings, found an empty file"},
      {"two documents", "groups: {a: {handler: h}}\n---\nbroker: amqp://x\n",
       "lope.yaml:2:1: expected one document, found a second"},
      {"text behind the document", "{groups: {a: {handler: h}}}\n]\n", "lope.yaml:2:1: "},
      {"a NUL byte", std::string("groups: {a: {hand\0ler: h}}", 26),
       "lope.yaml:1:18: expected text, found a NUL byte"},
      {"a NUL escape", "groups: {a: {handler: \"h\\0\"}}",
       "lope.yaml:1:23: expected text, found a NUL character in it"},
      {"Latin 1", "# \xfc\ngroups: {a: {handler: h}}",
       "lope.yaml:1:3: expected UTF-8, found another byte"},
      {"UTF-16", std::string("\xff\xfeg\0r\0", 6),
       "lope.yaml:1:4: expected text, found a NUL byte"},
      {"an anchor", "groups: {a: &x {handler: h}}", "lope.yaml:1:13: expected no anchor"},
      {"an alias", "groups: {a: &x {handler: h}, b: *x}", "lope.yaml:1:13: expected no anchor"},
      {"an unknown alias", "groups: {a: {handler: *x}}", "lope.yaml:1:23: expected no alias"},
      {"an alias cycle", "groups: &g {a: *g}", "lope.yaml:1:9: expected no anchor"},
      {"an alias bomb", bomb, "lope.yaml:1:1: expected at least one group"},
      {"a merge key", "groups: {a: {handler: h, <<: {workers: 2}}}",
       "lope.yaml:1:26: expected no merge key"},
      {"a tag", "groups: {a: {handler: !!str h}}", "lope.yaml:1:23: expected no tag"},
      {"a tag of its own", "groups: !x {a: {handler: h}}", "lope.yaml:1:9: expected no tag"},
      {"depth in brackets", "groups: " + std::string(10'000, '['),
       "lope.yaml:1:25: expected at most 32 levels"},
      {"depth in braces", "groups: " + repeated("{a: ", 10'000),
       "lope.yaml:1:133: expected at most 32 levels"},
      {"depth in dashes", "groups:\n  " + repeated("- ", 10'000),
       "lope.yaml:2:65: expected at most 32 levels"},
      {"closed depth", "groups: " + std::string(10'000, '[') + std::string(10'000, ']'),
       "lope.yaml:1:40: expected at most 32 levels"},
      {"a bracket not closed", "groups: {a: {handler: h}", "lope.yaml:1:"},
      {"a tab", "groups:\n\ta: {handler: h}", "lope.yaml:2:"},
      {"no YAML", "groups: : : {", "lope.yaml:1:"},
      {"a mebibyte and one", "#" + std::string(mebibyte, 'x'),
       "lope.yaml: expected at most 1 MiB, found a larger file"},
      {"10 MiB", std::string(10 * mebibyte, 'x'),
       "lope.yaml: expected at most 1 MiB, found a larger file"},
      {"a mebibyte of brackets", std::string(mebibyte, '['),
       "lope.yaml:1:17: expected at most 32 levels"},
      {"a mebibyte of one key", repeated("k: v\n", mebibyte / 5),
       "lope.yaml:2:1: key 'k' is given twice"},
      {"a mebibyte of aliases", "a: &a x\nb: [" + repeated("*a,", 300'000) + "]",
       "lope.yaml:1:4: expected no anchor"},
  }));
  const Config config(row.text);
  // Of this process, so that a busy machine does not count.
  const std::clock_t start = std::clock();
  const LoadedSettings loaded = config.load();
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  INFO(row.what);
  REQUIRE_FALSE(loaded.errors.empty());
  CHECK_THAT(loaded.errors.front().to_string(), Catch::StartsWith(row.problem));
  CHECK(loaded.errors.size() <= 1001);
  // Under a sanitizer, with a margin for a busy machine; without, a fifth of that.
  CHECK(seconds < (std::string(LOPE_SANITIZE).empty() ? 0.8 : 8.0));
}

TEST_CASE("a file with thousands of problems tells the first thousand", "[unit][settings]") {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += "k" + std::to_string(i) + ": 1\n";
  const LoadedSettings loaded = load(text);
  REQUIRE(loaded.errors.size() == 1001);
  CHECK(loaded.errors[0].line == 1);
  CHECK(loaded.errors[999].line == 1000);
  CHECK(loaded.errors[1000].text == "more than 1000 problems: the rest is not shown");
}

TEST_CASE("what is no file is refused by its kind", "[unit][settings]") {
  const TempDir dir;
  CHECK(joined(load_settings(dir.file("none")).errors) ==
        dir.file("none") + ": expected a file, found none\n");
  CHECK(joined(load_settings(dir.path()).errors) ==
        dir.path().string() + ": expected a regular file, found a folder\n");
  const std::string fifo = dir.file("fifo");
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK(joined(load_settings(fifo).errors) == fifo + ": expected a regular file, found a fifo\n");
  CHECK(joined(load_settings("/dev/zero").errors) ==
        "/dev/zero: expected a regular file, found a device\n");
  CHECK_FALSE(load_settings("").errors.empty());
}

TEST_CASE("quotes make a text of anything", "[unit][settings]") {
  const GroupSettings group = group_of(
      "options: {a: '010', b: \"*x\", c: '&x', d: '!x', e: '<<', f: \"~\", g: 'true'}, queue: '5'");
  CHECK(group.options_json ==
        R"({"a":"010","b":"*x","c":"&x","d":"!x","e":"<<","f":"~","g":"true"})");
  CHECK(group.queues[0].name == "5");
}

// ---- The JSON Schema -----------------------------------------------------------------------

TEST_CASE("a stream comes with a queue for what is tried again", "[unit][settings_loader]") {
  struct Row {
    std::string text;
    StreamOffset offset;
  };
  using From = StreamOffset::From;
  const std::vector<Row> rows = {{"next", {From::next, 0}},
                                 {"first", {From::first, 0}},
                                 {"last", {From::last, 0}},
                                 {"0", {From::number, 0}},
                                 {"12345", {From::number, 12345}},
                                 {"2026-01-31T00:00:00Z", {From::time, 1769817600}},
                                 {"2026-01-31T01:00:00.5+01:00", {From::time, 1769817600}}};
  const TempDir dir;
  for (const Row& row : rows) {
    const auto loaded = load_settings(dir.write(
        "lope.yaml",
        "groups: {a: {handler: h, queues: [x, {name: s, prefetch: 7, type: stream, offset: " +
            row.text + "}]}}"));
    INFO(joined(loaded.errors));
    REQUIRE(loaded.errors.empty());
    const auto& queues = loaded.settings.groups.at(0).queues;
    REQUIRE(queues.size() == 3);
    CHECK_FALSE(queues[0].stream);
    CHECK(queues[1].stream);
    CHECK(queues[1].offset == row.offset);
    CHECK(queues[1].retry_queue == "s.a.retry");
    CHECK(queues[2].name == "s.a.retry");
    CHECK(queues[2].declare);
    CHECK(queues[2].declaration.type == "quorum");
    CHECK(queues[2].prefetch == 7);
    CHECK_FALSE(queues[2].stream);
  }
  const auto declared = load_settings(dir.write(
      "lope.yaml",
      "groups: {a: {handler: h, declare: {type: stream, max_bytes: 5GB, max_age: 7d, segment_size: "
      "100MB}}}"));
  REQUIRE(declared.errors.empty());
  const QueueSettings& stream = declared.settings.groups.at(0).queues.at(0);
  CHECK(stream.stream);
  CHECK(stream.offset == StreamOffset{});
  CHECK(stream.declaration.arguments ==
        AmqpTable{{"x-max-length-bytes", {std::int64_t{5'000'000'000}}},
                  {"x-max-age", {"604800s"}},
                  {"x-stream-max-segment-size-bytes", {std::int64_t{100'000'000}}}});
}

TEST_CASE("the schema knows the loader's keys, and no others", "[unit][settings]") {
  const auto schema = nlohmann::json::parse(read_file(LOPE_SOURCE_DIR "/config/lope.schema.json"));
  for (const KnownKeys& known : known_keys()) {
    if (known.map == "included file") continue;  // the schema is for the main file
    const auto& map =
        known.map == "file" ? schema : schema.at("definitions").at(std::string(known.map));
    std::vector<std::string> in_schema;
    for (const auto& [key, value] : map.at("properties").items()) in_schema.push_back(key);
    std::vector<std::string> in_loader(known.keys.begin(), known.keys.end());
    std::ranges::sort(in_schema);
    std::ranges::sort(in_loader);
    INFO(known.map);
    CHECK(in_schema == in_loader);
    CHECK(map.at("additionalProperties") == false);
  }
}

TEST_CASE("schema and loader agree", "[unit][settings]") {
  struct Row {
    bool good;
    std::string text;
  };
  const std::vector<Row> rows = {
      {true, "groups: {a: {handler: h}}"},
      {true, read_file(LOPE_SOURCE_DIR "/config/lope.yaml")},
      {true, "broker: amqp://localhost\ngroups: {a: {handler: h}}"},
      {true, "watch: true\ngroups: {a: {handler: h, workers: {min: 2, max: 5}}}"},
      {false, "groups: {a: {handler: h, workers: {min: 2}}}"},
      {false, "groups: {a: {handler: h, workers: {min: 2, max: 5, most: 6}}}"},
      {true,
       "broker: {urls: [amqp://a, amqp://b/v], user: guest, heartbeat: 0}\ngroups: {a: {handler: "
       "h}}"},
      {true, "broker: {user: app, password: {env: LOPE_TEST_SET}}\ngroups: {a: {handler: h}}"},
      {true, "broker: {user: app, password: text}\ngroups: {a: {handler: h}}"},
      {true,
       "handlers_dir: /x\nshutdown_timeout: 1d\nready_timeout: 500ms\ngroups: {a: {handler: h}}"},
      {true, "log: {level: debug, format: json, file: x}\ngroups: {a: {handler: h}}"},
      {true, "include: none/*.yaml\ngroups: {a: {handler: h}}"},
      {true, "include: [none/*.yaml]\ngroups: {a: {handler: h}}"},
      {true,
       "defaults: {prefetch: 1, workers: 2, threads: 3, auto_ack: true, max_body: 1B, "
       "start_timeout: 5s}\n"
       "groups: {a: {handler: h}}"},
      {true, "groups: {A1.b_c-d: {handler: h, queue: q, options: {a: [1, {b: ~}]}, workers: 256}}"},
      {true,
       "groups: {a: {handler: h, queues: [x, {name: y, prefetch: 65535, consumer_tag: \"\"}]}}"},
      {true, "groups: {a: {handler: h, consumer_arguments: {a: 1, b: [x, 1.5, {c: true}]}}}"},
      {true, "groups: {a: {handler: h, declare: {type: quorum, durable: true, exclusive: false}}}"},
      {true,
       "groups: {a: {handler: h, declare: {exclusive: true, auto_delete: true, durable: false}}}"},
      {true,
       "groups: {a: {handler: h, declare: {exchanges: [{name: x, type: x-y}], bind: [{exchange: "
       "x}]}}}"},
      {false, "[]"},
      {false, "broker: amqp://localhost"},
      {false, "groups: {}"},
      {false, "groups: []"},
      {false, "groups: {a: {}}"},
      {false, "groups: {a: }"},
      {false, "groups: {-a: {handler: h}}"},
      {false, "groups: {\"a b\": {handler: h}}"},
      {false, "groups: {" + std::string(65, 'a') + ": {handler: h}}"},
      {false, "groups: {a: {handler: \"\"}}"},
      {false, "groups: {a: {handler: 5}}"},
      {false, "groups: {a: {handler: h}}\nbrokr: x"},
      {true, "groups: {a: {handler: h}}\nmonitor: {}"},
      {true, "groups: {a: {handler: h}}\nmonitor: {listen: 9419}"},
      {true, "groups: {a: {handler: h}}\nmonitor: {listen: ':0'}"},
      {true, "groups: {a: {handler: h}}\nmonitor: {listen: 'localhost:9419'}"},
      {true, "groups: {a: {handler: h}}\nmonitor: {listen: 192.0.2.1:9419}"},
      {true, "groups: {a: {handler: h}}\nmonitor: {listen: '[::1]:9419'}"},
      {true, "groups: {a: {handler: h}}\nmonitor: {listen: 9419, journal: journal.db}"},
      {true, "groups: {a: {handler: h}}\nmonitor: {journal: 'postgresql://db/journal'}"},
      {false, "groups: {a: {handler: h}}\nmonitor: {journal: 'mysql://db/journal'}"},
      {false, "groups: {a: {handler: h}}\nmonitor: {journal: []}"},
      {false, "groups: {a: {handler: h}}\nmonitor: 9419"},
      {false, "groups: {a: {handler: h}}\nmonitor: {port: 9419}"},
      {false, "groups: {a: {handler: h}}\nmonitor: {listen: 65536}"},
      {false, "groups: {a: {handler: h}}\nmonitor: {listen: true}"},
      {false, "groups: {a: {handler: h}}\nmonitor: {listen: lope.example:9419}"},
      {false, "groups: {a: {handler: h}}\nmonitor: {listen: '*:9419'}"},
      {false, "groups: {a: {handler: h}}\nmonitor: {listen: '::1'}"},
      {false, "groups: {a: {handler: h}}\nbroker: http://x"},
      {true, "broker: amqps://mq\ngroups: {a: {handler: h}}"},
      {true,
       "broker: {url: amqps://mq, login: external, tls: {ca: a, certificate: b, key: c, "
       "server_name: "
       "d}}\ngroups: {a: {handler: h}}"},
      {true, "broker: {url: amqps://mq, tls: {insecure: true}}\ngroups: {a: {handler: h}}"},
      {false, "broker: {url: amqps://mq, login: both}\ngroups: {a: {handler: h}}"},
      {false, "broker: {url: amqps://mq, tls: {certificate: b}}\ngroups: {a: {handler: h}}"},
      {false, "broker: {url: amqps://mq, tls: {cert: b}}\ngroups: {a: {handler: h}}"},
      {false, "groups: {a: {handler: h}}\nbroker: amqp://x?heartbeat=1"},
      {false, "groups: {a: {handler: h}}\nbroker: [amqp://x]"},
      {false, "groups: {a: {handler: h}}\nbroker: {url: amqp://x, urls: [amqp://y]}"},
      {false, "groups: {a: {handler: h}}\nbroker: {urls: []}"},
      {false, "groups: {a: {handler: h}}\nbroker: {heartbeat: 30}"},
      {false, "groups: {a: {handler: h}}\nbroker: {user: a, password: {}}"},
      {false, "groups: {a: {handler: h}}\nbroker: {user: a, password: {file: x, env: y}}"},
      {false, "groups: {a: {handler: h}}\nbroker: {user: a, password: {credential: a/b}}"},
      {false, "groups: {a: {handler: h}}\nbroker: {user: a, password: {env: 1a}}"},
      {false, "groups: {a: {handler: h}}\nshutdown_timeout: 30"},
      {false, "groups: {a: {handler: h}}\nshutdown_timeout: 30 s"},
      {false, "groups: {a: {handler: h}}\nshutdown_timeout: 1w"},
      {false, "groups: {a: {handler: h}}\nhandlers_dir: \"\""},
      {false, "groups: {a: {handler: h}}\nlog: {level: loud}"},
      {false, "groups: {a: {handler: h}}\nlog: {format: xml}"},
      {false, "groups: {a: {handler: h}}\ninclude: 5"},
      {false, "groups: {a: {handler: h}}\ndefaults: {prefetch: 0}"},
      {false, "groups: {a: {handler: h}}\ndefaults: {queue: x}"},
      {false, "groups: {a: {handler: h, prefetch: 0}}"},
      {false, "groups: {a: {handler: h, prefetch: 65536}}"},
      {false, "groups: {a: {handler: h, workers: 257}}"},
      {false, "groups: {a: {handler: h, workers: 1.5}}"},
      {false, "groups: {a: {handler: h, threads: 0}}"},
      {false, "groups: {a: {handler: h, auto_ack: 1}}"},
      {false, "groups: {a: {handler: h, max_body: 5}}"},
      {false, "groups: {a: {handler: h, max_body: 5KB}}"},
      {false, "groups: {a: {handler: h, start_timeout: 5}}"},
      {true, "groups: {a: {handler: h, batch: {size: 3000, wait: 1ms}, flush_interval: 1h}}"},
      {false, "groups: {a: {handler: h, batch: {size: 3001}}}"},
      {false, "groups: {a: {handler: h, batch: 7}}"},
      {true, "groups: {a: {handler: h, order_by: routing_key, rate: 0.5, priority: -1000}}"},
      {true, "groups: {a: {handler: h, order_by: 'header:x', rate: {per_second: 9, burst: 1.5}}}"},
      {true, "groups: {a: {handler: h, order: strict, declare: {max_priority: 255}}}"},
      {true, "groups: {a: {handler: h, queues: [{name: q, priority: 1000}]}}"},
      {false, "groups: {a: {handler: h, order_by: 'header:'}}"},
      {false, "groups: {a: {handler: h, order_by: body}}"},
      {false, "groups: {a: {handler: h, order: none}}"},
      {false, "groups: {a: {handler: h, rate: 0}}"},
      {false, "groups: {a: {handler: h, rate: {burst: 5}}}"},
      {false, "groups: {a: {handler: h, rate: {per_second: 5, burst: 0.5}}}"},
      {false, "groups: {a: {handler: h, priority: 1.5}}"},
      {false, "groups: {a: {handler: h, declare: {max_priority: 0}}}"},
      {false, "groups: {a: {handler: h, declare: {type: quorum, max_priority: 5}}}"},
      {true,
       "broker: {consumer_timeout: 0, max_message_size: 16MiB}\ngroups: {a: {handler: h, timeout: "
       "0}}"},
      {true, "broker: {consumer_timeout: 2h}\ngroups: {a: {handler: h, timeout: 1h}}"},
      {true,
       "delays: {prefix: a.b-c_1, relay: false, retry: 1s, give_up: 0s}\ngroups: {a: {handler: "
       "h}}"},
      {true,
       "defaults: {timeout: 1m, retry: 3, crashes: 1, dead_letter: broker, breaker: false}\n"
       "groups: {a: {handler: h}}"},
      {true,
       "groups: {a: {handler: h, retry: {attempts: 1000, delay: 0s, backoff: 1, max_delay: 365d, "
       "jitter: 1}, crashes: 100}}"},
      {true, "groups: {a: {handler: h, retry: {backoff: 1.5, jitter: 0.0}, breaker: true}}"},
      {true, "groups: {a: {handler: h, retry: {}, breaker: {}}}"},
      {true, "groups: {a: {handler: h, dead_letter: {queue: q, declare: true}}}"},
      {true, "groups: {a: {handler: h, dead_letter: {exchange: x, key: \"\", declare: false}}}"},
      {true, "groups: {a: {handler: h, dead_letter: {exchange: x, declare: true, type: x-y}}}"},
      {true,
       "groups: {a: {handler: h, breaker: {failures: 1, outcomes: 10000, pause: 10ms, max_pause: "
       "1d}}}"},
      {false, "groups: {a: {handler: h}}\nbroker: {consumer_timeout: 30}"},
      {false, "groups: {a: {handler: h}}\nbroker: {max_message_size: 0}"},
      {false, "groups: {a: {handler: h}}\ndelays: true"},
      {false, "groups: {a: {handler: h}}\ndelays: {prefix: \"\"}"},
      {false, "groups: {a: {handler: h}}\ndelays: {prefix: a b}"},
      {false, "groups: {a: {handler: h}}\ndelays: {prefix: " + std::string(101, 'p') + "}"},
      {false, "groups: {a: {handler: h}}\ndelays: {relay: 0}"},
      {false, "groups: {a: {handler: h}}\ndelays: {retry: 60}"},
      {false, "groups: {a: {handler: h}}\ndelays: {attempts: 5}"},
      {false, "groups: {a: {handler: h}}\ndefaults: {retry: 0}"},
      {false, "groups: {a: {handler: h, timeout: 5}}"},
      {false, "groups: {a: {handler: h, crashes: 0}}"},
      {false, "groups: {a: {handler: h, crashes: 101}}"},
      {false, "groups: {a: {handler: h, retry: 0}}"},
      {false, "groups: {a: {handler: h, retry: 1001}}"},
      {false, "groups: {a: {handler: h, retry: false}}"},
      {false, "groups: {a: {handler: h, retry: {attempts: 0}}}"},
      {false, "groups: {a: {handler: h, retry: {delay: 5}}}"},
      {false, "groups: {a: {handler: h, retry: {backoff: 0.5}}}"},
      {false, "groups: {a: {handler: h, retry: {backoff: 101}}}"},
      {false, "groups: {a: {handler: h, retry: {jitter: 1.5}}}"},
      {false, "groups: {a: {handler: h, retry: {jitter: -1}}}"},
      {false, "groups: {a: {handler: h, retry: {tries: 5}}}"},
      {false, "groups: {a: {handler: h, dead_letter: queue}}"},
      {false, "groups: {a: {handler: h, dead_letter: {}}}"},
      {false, "groups: {a: {handler: h, dead_letter: {queue: \"\"}}}"},
      {false, "groups: {a: {handler: h, dead_letter: {exchange: \"\"}}}"},
      {false, "groups: {a: {handler: h, dead_letter: {exchange: x, queue: q}}}"},
      {false, "groups: {a: {handler: h, dead_letter: {queue: q, key: k}}}"},
      {false, "groups: {a: {handler: h, dead_letter: {queue: q, declare: true, type: topic}}}"},
      {false, "groups: {a: {handler: h, dead_letter: {exchange: x, type: topic}}}"},
      {false, "groups: {a: {handler: h, dead_letter: {exchange: x, declare: false, type: topic}}}"},
      {false, "groups: {a: {handler: h, dead_letter: {exchange: x, declare: true, type: tpoic}}}"},
      {false, "groups: {a: {handler: h, breaker: 1}}"},
      {false, "groups: {a: {handler: h, breaker: {failures: 0}}}"},
      {false, "groups: {a: {handler: h, breaker: {failures: 1.1}}}"},
      {false, "groups: {a: {handler: h, breaker: {outcomes: 0}}}"},
      {false, "groups: {a: {handler: h, breaker: {outcomes: 10001}}}"},
      {false, "groups: {a: {handler: h, breaker: {pause: 1}}}"},
      {false, "groups: {a: {handler: h, queue: \"\"}}"},
      {false, "groups: {a: {handler: h, queue: x, queues: [y]}}"},
      {false, "groups: {a: {handler: h, queues: []}}"},
      {false, "groups: {a: {handler: h, queues: [{prefetch: 1}]}}"},
      {false, "groups: {a: {handler: h, options: [1]}}"},
      {false, "groups: {a: {handler: h, consumer_arguments: {a: ~}}}"},
      {true,
       "groups: {a: {handler: h, declare: {type: stream, max_bytes: 5GB, max_age: 7d, "
       "segment_size: 100MB}, offset: 5}}"},
      {true, "groups: {a: {handler: h, type: stream, offset: first}}"},
      {true,
       "groups: {a: {handler: h, queues: [x, {name: y, type: stream, offset: "
       "'2026-01-31T00:00:00Z'}]}}"},
      {false, "groups: {a: {handler: h, declare: {max_bytes: 5GB}}}"},
      {false, "groups: {a: {handler: h, declare: {type: stream, exclusive: true}}}"},
      {false, "groups: {a: {handler: h, type: streams}}"},
      {false, "groups: {a: {handler: h, offset: first}}"},
      {false, "groups: {a: {handler: h, type: stream, offset: -1}}"},
      {false, "groups: {a: {handler: h, type: stream, offset: yesterday}}"},
      {false, "groups: {a: {handler: h, type: stream, consumer_arguments: {x-stream-filter: x}}}"},
      {false, "groups: {a: {handler: h, declare: {type: quorum, exclusive: true}}}"},
      {false, "groups: {a: {handler: h, declare: {type: quorum, durable: false}}}"},
      {false, "groups: {a: {handler: h, declare: {type: quorum, auto_delete: true}}}"},
      {false, "groups: {a: {handler: h, declare: {arguments: {x-queue-type: quorum}}}}"},
      {false, "groups: {a: {handler: h, consumer_arguments: {x-stream-offset: first}}}"},
      {false, "groups: {a: {handler: h, declare: {exchanges: [{type: topic}]}}}"},
      {false, "groups: {a: {handler: h, declare: {exchanges: [{name: x, type: tpoic}]}}}"},
      {false, "groups: {a: {handler: h, declare: {bind: [{key: x}]}}}"},
  };
  const Variable set("LOPE_TEST_SET", "value");
  const TempDir dir;
  std::vector<std::string> argv = {"/usr/bin/python3", "-c",
                                   "import json, sys, yaml, jsonschema\n"
                                   "schema = json.load(open(sys.argv[1]))\n"
                                   "jsonschema.Draft7Validator.check_schema(schema)\n"
                                   "validator = jsonschema.Draft7Validator(schema)\n"
                                   "for path in sys.argv[2:]:\n"
                                   "    document = yaml.safe_load(open(path, encoding='utf-8'))\n"
                                   "    print('good' if validator.is_valid(document) else 'bad')\n",
                                   LOPE_SOURCE_DIR "/config/lope.schema.json"};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    argv.push_back(dir.write("document-" + std::to_string(i) + ".yaml", rows[i].text));
  }
  const std::vector<std::string> paths(argv.begin() + 4, argv.end());
  const auto result = test::run(argv);
  INFO(result.output);
  REQUIRE(result.status == exited(0));
  std::istringstream verdicts(result.output);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::string verdict;
    std::getline(verdicts, verdict);
    INFO(rows[i].text);
    CHECK(verdict == (rows[i].good ? "good" : "bad"));
    const LoadedSettings loaded = load_settings(paths[i]);
    INFO(joined(loaded.errors));
    CHECK(loaded.errors.empty() == rows[i].good);
  }
}
