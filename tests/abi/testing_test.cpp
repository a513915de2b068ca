// <lope/testing.hpp>: what a handler under test meets there, and what its test gets to know.
#include <lope/testing.hpp>

#include <catch2/catch.hpp>
#include <functional>
#include <future>
#include <thread>

#include "handlers.h"

using lope::FlushReason;
using lope::Message;
using lope::Outcome;
using lope::testing::Delivery;
using lope::testing::Driver;
using lope::testing::FakeHost;
using lope::testing::Result;

namespace {

// A handler of functions, for one test.
struct Functions {
  std::function<void(lope::Host)> create;
  std::function<Outcome(const Message&)> handle;
};

struct Instance {
  const lope_host* host;
};

Functions* functions = nullptr;

lope_plugin plugin_of(const lope_option* options = nullptr) {
  lope_plugin plugin{};
  plugin.struct_size = sizeof plugin;
  plugin.options = options;
  plugin.create = [](const lope_host* host, lope_handler** handler) noexcept -> lope_status {
    *handler = reinterpret_cast<lope_handler*>(new Instance{host});
    if (functions->create) functions->create(lope::Host(host));
    return LOPE_OK;
  };
  plugin.destroy = [](lope_handler* handler) noexcept {
    delete reinterpret_cast<Instance*>(handler);
  };
  plugin.handle = [](lope_handler* handler, const lope_message* message) noexcept {
    const Message face(reinterpret_cast<Instance*>(handler)->host, message);
    return static_cast<lope_outcome>(functions->handle(face));
  };
  return plugin;
}

struct Run {
  explicit Run(Functions given, const lope_option* options = nullptr)
      : given_functions(std::move(given)), plugin(plugin_of(options)) {
    functions = &given_functions;
  }
  Driver& driver() {
    if (!made) made.emplace(host, plugin);
    return *made;
  }

  Functions given_functions;
  lope_plugin plugin;
  FakeHost host;
  std::optional<Driver> made;
};

constexpr lope_option kOptions[] = {lope::required("name", "any text"),
                                    lope::defaulted("width", "640", "an integer", LOPE_INT64),
                                    lope::secret(lope::defaulted("pin", "1", "", LOPE_UINT64)),
                                    lope::defaulted("tags.*", "", "a list"), lope::kEndOfOptions};

lope_status status_of(const std::function<void()>& order) {
  try {
    order();
    return LOPE_OK;
  } catch (const lope::Error& error) {
    return error.status();
  }
}

}  // namespace

TEST_CASE("a handler's file is driven like one that is linked in", "[abi][testing]") {
  FakeHost host;
  host.options = {{"name", "n"}};
  const std::string file = LOPE_TEST_HANDLERS_DIR "/edge_cpp17.so";
  Driver edge(host, lope::testing::load(file));
  CHECK(host.logs().at(0).text == "made n,640,quiet,7,x");
  const Result later = edge.handle("throw retry with delay");
  CHECK(later.outcome == Outcome::retry);
  CHECK(later.reason == "later");
  CHECK(later.retry_after == std::chrono::seconds(7));
  CHECK(edge.handle("none").outcome == Outcome{});
  CHECK_THROWS_WITH(lope::testing::load("/no/such.so"), Catch::Contains("/no/such.so"));
}

TEST_CASE("options that the handler's table does not take are refused", "[abi][testing]") {
  struct Row {
    std::map<std::string, std::string, std::less<>> options;
    const char* text;  // nullptr: none
  };
  const auto row = GENERATE(values<Row>({
      {{{"name", "n"}}, nullptr},
      {{{"name", "n"}, {"width", "-5"}, {"tags.0", "a"}, {"tags.1", "b"}}, nullptr},
      {{}, "option 'name': expected a value, found none"},
      {{{"name", "n"}, {"nam", "m"}}, "option 'nam': the handler takes no such option"},
      {{{"name", "n"}, {"width", "wide"}}, "option 'width': expected an integer, found 'wide'"},
      {{{"name", "n"}, {"pin", "-7"}},
       "option 'pin': expected an integer of at least 0, found something else"},
  }));
  Run run({{}, [](const Message&) { return Outcome::ack; }}, kOptions);
  run.host.options = row.options;
  if (row.text == nullptr) {
    CHECK_NOTHROW(run.driver());
  } else {
    CHECK_THROWS_AS(run.driver(), lope::InvalidConfiguration);
    CHECK_THROWS_WITH(run.driver(), row.text);
  }
}

TEST_CASE("a message shows what the delivery has", "[abi][testing]") {
  Run run({{}, [](const Message& message) {
             CHECK(message.body_text() == "body");
             CHECK(message.queue() == "test");
             CHECK(message.routing_key() == "orders.new");
             CHECK(message.content_type() == "text/plain");
             CHECK(message.attempt() == 3);
             CHECK(message.redelivered());
             CHECK(message.header_count() == 5);
             CHECK(message.header_text("text") == "a");
             CHECK(message.header_int("number") == -3);
             CHECK(message.header("truth")->as_bool() == true);
             CHECK(message.header("table")->kind() == LOPE_OTHER);
             CHECK(message.header_at(4).name == "text");
             CHECK(!message.header("none"));
             return Outcome::ack;
           }});
  Delivery delivery("body");
  delivery.routing_key = "orders.new";
  delivery.content_type = "text/plain";
  delivery.attempt = 3;
  delivery.redelivered = true;
  delivery.header("text", "a").header("number", -3).header("truth", true).opaque_header("table");
  delivery.header("text", "again");
  CHECK(run.driver().handle(delivery).outcome == Outcome::ack);
}

TEST_CASE("what is published goes out with an ack, and with no other outcome", "[abi][testing]") {
  const Outcome outcome = GENERATE(Outcome::ack, Outcome::retry, Outcome::reject);
  Run run({{}, [outcome](const Message& message) {
             lope::Publication order;
             order.routing_key = "orders";
             order.body = "1";
             order.header("shop", "north").header("x-death", "of the cause");
             order.persistent = false;
             order.delay = std::chrono::seconds(5);
             message.publish(order);
             message.reply_json(0, "fine");
             message.explain("why");
             message.keep_alive();
             return outcome;
           }});
  Delivery request;
  request.reply_to = "asker";
  request.correlation_id = "c";
  const Result result = run.driver().handle(request);
  CHECK(result.outcome == outcome);
  CHECK(result.keep_alives == 1);
  CHECK(result.reason == (outcome == Outcome::ack ? "" : "why"));
  REQUIRE(result.publications.size() == (outcome == Outcome::ack ? 1 : 0));
  REQUIRE(result.replies.size() == result.publications.size());
  if (outcome != Outcome::ack) return;
  CHECK(result.publications[0].routing_key == "orders");
  CHECK(result.publications[0].header_text("shop") == "north");
  CHECK(!result.publications[0].header("x-death"));
  CHECK(!result.publications[0].persistent);
  CHECK(result.publications[0].delay == std::chrono::seconds(5));
  CHECK(result.replies[0].routing_key == "asker");
  CHECK(result.replies[0].correlation_id == "c");
  CHECK(result.replies[0].body == R"({"code":0,"message":"fine","body":null})");
}

TEST_CASE("publications that a worker refuses are refused", "[abi][testing]") {
  using Publication = lope::Publication;
  struct Row {
    std::function<void(Publication&)> change;
    lope_status status;
  };
  const auto row = GENERATE(values<Row>({
      {[](Publication&) {}, LOPE_OK},
      {[](Publication& p) { p.routing_key = std::string(256, 'k'); }, LOPE_E_INVALID},
      {[](Publication& p) { p.priority = 256; }, LOPE_E_INVALID},
      {[](Publication& p) { p.header("CC", "queue"); }, LOPE_E_INVALID},
      {[](Publication& p) { p.header("", "no name"); }, LOPE_E_INVALID},
      {[](Publication& p) { p.header("large", UINT64_MAX); }, LOPE_E_INVALID},
      {[](Publication& p) { p.header("large", std::string(128 * 1024, 'x')); }, LOPE_E_TOO_LARGE},
      {[](Publication& p) { p.body = std::string(1001, 'x'); }, LOPE_E_TOO_LARGE},
  }));
  lope_status found = -1;
  Run run({{}, [&](const Message& message) {
             Publication publication;
             row.change(publication);
             found = status_of([&] { message.publish(publication); });
             return Outcome::ack;
           }});
  run.host.max_message_bytes = 1000;
  const Result result = run.driver().handle("");
  CHECK(found == row.status);
  CHECK(result.publications.size() == (row.status == LOPE_OK ? 1 : 0));
}

TEST_CASE("a reply to nobody is refused", "[abi][testing]") {
  Run run({{}, [&](const Message& message) {
             CHECK(status_of([&] { message.reply_json(0, ""); }) == LOPE_E_INVALID);
             return Outcome::ack;
           }});
  CHECK(run.driver().handle("").outcome == Outcome::ack);
}

TEST_CASE("a message is not to be used when its call is over", "[abi][testing]") {
  std::optional<Message> kept;
  std::uint64_t id = 0;
  std::optional<lope::Host> face;
  Run run({[&](lope::Host host) { face = host; },
           [&](const Message& message) {
             kept = message;
             id = message.id();
             return Outcome::ack;
           }});
  run.driver().handle("");
  CHECK(status_of([&] { kept->explain("too late"); }) == LOPE_E_WRONG_THREAD);
  CHECK(status_of([&] { kept->header("h"); }) == LOPE_E_WRONG_THREAD);
  CHECK(status_of([&] { kept->publish({}); }) == LOPE_E_WRONG_THREAD);
  CHECK_FALSE(face->settle(id, Outcome::ack));
  CHECK(run.host.logs().back().level == lope::Level::warn);
}

TEST_CASE("metrics are registered in create(), and recorded", "[abi][testing]") {
  std::optional<lope::Host> face;
  std::optional<lope::Metric> sent, open;
  Run run({[&](lope::Host host) {
             face = host;
             sent = host.counter("mails_sent", "");
             open = host.gauge("connections", "");
             CHECK(status_of([&] { host.counter("Wrong", ""); }) == LOPE_E_INVALID);
             CHECK(status_of([&] { host.counter("sum_sum", ""); }) == LOPE_E_INVALID);
             CHECK(status_of([&] { host.gauge("mails_sent", ""); }) == LOPE_E_INVALID);
           },
           [&](const Message&) {
             CHECK(status_of([&] { face->counter("late", ""); }) == LOPE_E_WRONG_THREAD);
             CHECK(status_of([&] { sent->record(-1); }) == LOPE_E_INVALID);
             sent->record(2);
             sent->record(3);
             open->record(7);
             open->record(6);
             return Outcome::ack;
           }});
  run.driver().handle("");
  CHECK(run.host.metric("mails_sent")->value == 5);
  CHECK(run.host.metric("mails_sent")->records == 2);
  CHECK(run.host.metric("connections")->value == 6);
  CHECK(!run.host.metric("late"));
}

TEST_CASE("a held message is settled by another thread", "[abi][testing]") {
  std::promise<Message> held;
  std::optional<lope::Host> face;
  Run run({[&](lope::Host host) { face = host; },
           [&](const Message& message) {
             held.set_value(message);
             return Outcome::hold;
           }});
  Driver& driver = run.driver();
  Delivery delivery("kept");
  delivery.header("h", "v");
  const Result first = driver.handle(delivery);
  CHECK(first.outcome == Outcome::hold);
  CHECK(run.host.held() == 1);
  CHECK(!driver.wait_settled(first.id, std::chrono::milliseconds(1)));
  std::thread settling([&] {
    const Message message = held.get_future().get();
    lope::Publication publication;
    publication.body = std::string(message.body_text()) + std::string(*message.header_text("h"));
    message.publish(publication);
    face->settle(message.id(), Outcome::ack);
  });
  const auto result = driver.wait_settled(first.id);
  settling.join();
  REQUIRE(result);
  CHECK(result->outcome == Outcome::ack);
  REQUIRE(result->publications.size() == 1);
  CHECK(result->publications[0].body == "keptv");
  CHECK(run.host.held() == 0);
  CHECK_FALSE(face->settle(first.id, Outcome::ack));
}

TEST_CASE("what another thread does before the handler has returned counts", "[abi][testing]") {
  const Outcome returned = GENERATE(Outcome::hold, Outcome::retry);
  const bool settles = GENERATE(true, false);
  std::optional<lope::Host> face;
  Run run({[&](lope::Host host) { face = host; },
           [&](const Message& message) {
             std::thread early([&] {
               message.explain("early");
               if (!settles) return;
               CHECK(face->settle(message.id(), Outcome::reject));
               CHECK_FALSE(face->settle(message.id(), Outcome::ack));
               CHECK(status_of([&] { message.explain("too late"); }) == LOPE_E_WRONG_THREAD);
             });
             early.join();
             return returned;
           }});
  Driver& driver = run.driver();
  const Result first = driver.handle("");
  CHECK(first.outcome == returned);
  if (returned == Outcome::hold) {
    if (!settles) CHECK(face->settle(first.id, Outcome::reject));
    const auto result = driver.wait_settled(first.id);
    REQUIRE(result);
    CHECK(result->outcome == Outcome::reject);
    CHECK(result->reason == "early");
  } else if (!settles) {
    CHECK(first.reason == "early");
  } else {
    CHECK(first.reason.empty());
    CHECK(run.host.logs().back().text.find("did not keep it") != std::string::npos);
  }
}

TEST_CASE("what the host took back is stale", "[abi][testing]") {
  const bool by_drain = GENERATE(true, false);
  std::optional<Message> kept;
  std::optional<lope::Host> face;
  Run run({[&](lope::Host host) { face = host; },
           [&](const Message& message) {
             kept = message;
             return Outcome::hold;
           }});
  Driver& driver = run.driver();
  const Result result = driver.handle("");
  CHECK(kept->keep_alive());
  if (by_drain) {
    CHECK(driver.flush(FlushReason::drain) == LOPE_E_UNSUPPORTED);
  } else {
    CHECK(run.host.take_back(result.id));
  }
  CHECK(run.host.held() == 0);
  CHECK_FALSE(kept->keep_alive());
  CHECK_FALSE(face->settle(result.id, Outcome::ack));
}

TEST_CASE("a driver ends as a worker does: with one drain, and nothing is held after it",
          "[abi][testing]") {
  static int drains;
  static std::size_t held_at_end;
  const bool drained_already = GENERATE(true, false);
  Run run({{}, [](const Message&) { return Outcome::hold; }});
  static FakeHost* host;
  host = &run.host;
  drains = 0;
  held_at_end = 99;
  run.plugin.flush = [](lope_handler*, std::uint32_t reason) noexcept -> lope_status {
    if (reason == LOPE_FLUSH_DRAIN) ++drains;
    return LOPE_OK;
  };
  run.plugin.destroy = [](lope_handler* handler) noexcept {
    held_at_end = host->held();
    delete reinterpret_cast<Instance*>(handler);
  };
  run.driver().handle("");
  CHECK(run.host.held() == 1);
  if (drained_already) run.driver().flush(FlushReason::drain);
  run.made.reset();
  CHECK(drains == 1);
  CHECK(held_at_end == 0);
}

TEST_CASE("a batch has a result for each message", "[abi][testing]") {
  FakeHost host;
  Driver driver(host, lope::test::load_handler("edge_batch_cpp20"));
  const auto results = driver.handle_batch({"ack", "throw", "ack"});
  REQUIRE(results.size() == 3);
  CHECK(results[0].outcome == Outcome::ack);
  CHECK(results[1].outcome == Outcome::retry);
  CHECK(results[2].reason == "in the middle");
  CHECK(driver.handle("ack").outcome == Outcome::ack);
  CHECK(driver.flush(FlushReason::interval) == LOPE_OK);
  CHECK(driver.flush(FlushReason::drain) == LOPE_E_FAILED);
  CHECK(host.logs().back().text == "cannot flush");
}

TEST_CASE("clocks stand still, and go on when told", "[abi][testing]") {
  std::optional<lope::Host> face;
  Run run({[&](lope::Host host) { face = host; }, [](const Message&) { return Outcome::ack; }});
  run.driver();
  const auto before = face->monotonic();
  const auto wall = face->now();
  run.host.advance(std::chrono::seconds(90));
  CHECK(face->monotonic() - before == std::chrono::seconds(90));
  CHECK(face->now() - wall == std::chrono::seconds(90));
  CHECK_FALSE(face->stopping());
  run.host.set_stopping(true);
  CHECK(face->stopping());
  run.host.set_log_level(lope::Level::warn);
  face->info("not seen");
  face->error("seen");
  CHECK_FALSE(face->log_enabled(lope::Level::info));
  REQUIRE(run.host.logs().size() == 1);
  CHECK(run.host.logs()[0].text == "seen");
}
