// What an administrator takes away and gives back: consumption resumes by itself, and the log says
// each once.
#include <catch2/catch.hpp>
#include <thread>

#include "support/courier.h"
#include "support/log_lines.h"

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
  // Tried several times meanwhile.
  std::this_thread::sleep_for(5s);
  it.broker.declare_queue(it.queue, {.text_arguments = {{"x-queue-type", type}}});
  it.publish("ack", "after");
  REQUIRE(it.wait_acked("after", 20s));
  // That the broker cancelled, and that the queue is not there.
  CHECK(complaints(lope) == 2);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a permission that is revoked and given back, a user deleted and created",
          "[broker][access]") {
  Couriered it;
  const std::string user = "lope-" + std::to_string(::getpid());
  it.broker.ctl({"add_user", user, "secret"});
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
  std::this_thread::sleep_for(5s);
  CHECK(complaints(lope) == 1);
  it.broker.ctl({"set_permissions", user, ".*", ".*", ".*"});
  REQUIRE(it.wait_acked("revoked", 30s));

  it.broker.ctl({"delete_user", user});
  REQUIRE(lope.wait_for_line("connection lost", 20s));
  REQUIRE(lope.wait_for_line("cannot connect group=courier", 20s));
  it.publish("ack", "deleted");
  std::this_thread::sleep_for(5s);
  CHECK(complaints(lope) == 2);
  it.broker.ctl({"add_user", user, "secret"});
  it.broker.ctl({"set_permissions", user, ".*", ".*", ".*"});
  REQUIRE(it.wait_acked("deleted", 30s));
  CHECK(lope.stop() == exited(0));
  it.broker.ctl({"delete_user", user});
}

TEST_CASE("a consumer over the broker's consumer_timeout opens its channel again, without a loop",
          "[broker][access]") {
  Couriered it;
  // The broker looks each minute otherwise.
  it.broker.ctl({"eval", "application:set_env(rabbit, consumer_timeout, 3000)."});
  it.broker.ctl({"eval", "application:set_env(rabbit, channel_tick_interval, 1000)."});
  Lope lope(it.options("    timeout: 60s\n"));
  REQUIRE(lope.wait_ready());
  it.publish("sleep 8000", "long");
  REQUIRE(lope.wait_for_line("the broker closed the channel: 406", 20s));
  it.broker.ctl({"eval", "application:set_env(rabbit, consumer_timeout, 1800000)."});
  it.broker.ctl({"eval", "application:set_env(rabbit, channel_tick_interval, 60000)."});
  it.publish("ack", "other");
  REQUIRE(it.wait_acked("other", 30s));
  REQUIRE(it.wait_attempts("long", 2, 30s));  // it is the broker's again
  CHECK(lope.process().count_lines("the broker closed the channel") <= 3);
  CHECK(lope.process().count_lines("outcome dropped") >= 1);
  CHECK(lope.stop() == exited(0));
}
