// What an administrator takes away and gives back: consumption resumes by itself, and the log says
// each once.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>

#include "support/courier.h"
#include "support/log_lines.h"
#include "support/undo.h"

using namespace lope::test;

namespace {

// The lines that complain, but for those about the relay.
std::size_t complaints(const Lope& lope) {
  std::size_t count = 0;
  for (const char* text : {"cannot consume", "cannot connect group=courier"}) {
    count += lines_with(lope.log(), text).size();
  }
  return count;
}

// The node's own log has `count` more lines with this text: Lope has tried so often in vain.
bool tried_again(const std::string& text, std::size_t count) {
  const auto lines = [&text] {
    const std::string log =
        read_file(std::string(std::getenv("LOPE_TEST_BROKER_DIR")) + "/log/node.log");
    return lines_with(log, text).size();
  };
  const std::size_t before = lines();
  return eventually(40s, [&] { return lines() >= before + count; });
}

}  // namespace

TEST_CASE("a queue that is deleted and declared again is consumed from again, with one line",
          "[broker][access]") {
  const std::string type = GENERATE(as<std::string>{}, "classic", "quorum");
  Couriered it(type);
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  it.publish("ack", "before");
  REQUIRE(it.wait_acked("before"));
  it.broker.delete_queue(it.queue);
  REQUIRE(lope.wait_for_line("cannot consume"));
  REQUIRE(tried_again("no queue '" + it.queue + "'", 3));
  it.broker.declare_queue(it.queue, {.text_arguments = {{"x-queue-type", type}}});
  it.publish("ack", "after");
  REQUIRE(it.wait_acked("after", 20s));
  // That the broker cancelled, and that the queue is not there.
  CHECK(complaints(lope) == 2);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a permission that is revoked and given back, a user deleted and created",
          "[broker][access]") {
  const std::string type = GENERATE(as<std::string>{}, "classic", "quorum");
  CAPTURE(type);
  Couriered it(type);
  const std::string user = "lope-" + std::to_string(::getpid());
  it.broker.ctl({"add_user", user, "secret"});
  const Undo remove([&] { it.broker.ctl({"delete_user", user}); });
  it.broker.ctl({"set_permissions", user, ".*", ".*", ".*"});
  LopeOptions options = it.options();
  options.broker = "amqp://" + user + ":secret@127.0.0.1:" + std::to_string(it.broker.port());
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  it.publish("ack", "before");
  REQUIRE(it.wait_acked("before"));

  // Who consumes already goes on: so the connections are closed.
  it.broker.ctl({"clear_permissions", user});
  it.broker.close_all_connections();
  REQUIRE(lope.wait_for_line("cannot connect group=courier", 20s));
  it.publish("ack", "revoked");
  REQUIRE(tried_again("refused for user '" + user + "'", 4));  // the relay tries too
  CHECK(complaints(lope) == 1);
  it.broker.ctl({"set_permissions", user, ".*", ".*", ".*"});
  REQUIRE(it.wait_acked("revoked", 30s));

  it.broker.ctl({"delete_user", user});
  REQUIRE(lope.wait_for_line("connection lost", 20s));
  REQUIRE(lope.wait_for_line("cannot connect group=courier", 20s));
  it.publish("ack", "deleted");
  REQUIRE(tried_again("refused: user '" + user + "'", 4));
  CHECK(complaints(lope) == 2);
  it.broker.ctl({"add_user", user, "secret"});
  it.broker.ctl({"set_permissions", user, ".*", ".*", ".*"});
  REQUIRE(it.wait_acked("deleted", 30s));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a consumer over the broker's consumer_timeout opens its channel again, without a loop",
          "[broker][access]") {
  Couriered it;
  const auto set = [&](const std::string& name, const std::string& ms) {
    it.broker.ctl({"eval", "application:set_env(rabbit, " + name + ", " + ms + ")."});
  };
  const Undo reset([&] {
    set("consumer_timeout", "1800000");
    set("channel_tick_interval", "60000");
  });
  set("consumer_timeout", "3000");
  set("channel_tick_interval", "1000");  // the broker looks each minute otherwise
  Lope lope(it.options("    timeout: 60s\n"));
  REQUIRE(lope.wait_ready());
  it.publish("sleep 8000", "long");
  REQUIRE(lope.wait_for_line("the broker closed the channel: 406", 20s));
  // A channel keeps the time that was set when it was opened; the next ones get this.
  set("consumer_timeout", "1800000");
  it.publish("ack", "other");
  REQUIRE(it.wait_acked("other", 30s));
  REQUIRE(it.wait_attempts("long", 2, 30s));  // it is the broker's again
  CHECK(lope.process().count_lines("the broker closed the channel") <= 3);
  CHECK(lope.process().count_lines("outcome dropped") >= 1);
  CHECK(lope.stop() == exited(0));
}
