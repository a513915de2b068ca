#include "common/event_loop.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <csignal>
#include <string>
#include <vector>

#include "common/fd.h"

namespace lope {

namespace {

using namespace std::chrono_literals;

struct Loop {
  Loop() {
    auto made = EventLoop::create();
    REQUIRE(made);
    loop = std::move(*made);
  }
  EventLoop* operator->() { return loop.get(); }
  // Turns until `done`, at most ten seconds.
  template <typename Done>
  bool run_until(Done done) {
    const TimePoint end = Clock::now() + 10s;
    while (!done() && Clock::now() < end)
      REQUIRE(loop->run_once(std::chrono::microseconds(10'000)));
    return done();
  }
  // Everything that is ready now.
  void run_ready() {
    for (int i = 0; i < 10; ++i) REQUIRE(loop->run_once(std::chrono::microseconds(0)));
  }
  std::unique_ptr<EventLoop> loop;
};

EventSource take(Result<EventSource> made) {
  REQUIRE(made);
  return std::move(*made);
}

// The signal mask as it was, at the test's end.
class KeepMask {
 public:
  KeepMask() { ::pthread_sigmask(SIG_BLOCK, nullptr, &old_); }
  KeepMask(const KeepMask&) = delete;
  KeepMask& operator=(const KeepMask&) = delete;
  ~KeepMask() { ::pthread_sigmask(SIG_SETMASK, &old_, nullptr); }

 private:
  sigset_t old_;
};

}  // namespace

TEST_CASE("a descriptor is reported when it can be read", "[unit][event_loop]") {
  Loop loop;
  const auto pair = make_stream_pair();
  REQUIRE(pair);
  int calls = 0;
  std::uint32_t seen = 0;
  const EventSource source =
      take(loop->watch_fd(pair->first.get(), EPOLLIN, [&](std::uint32_t events) {
        char byte = 0;
        CHECK(::read(pair->first.get(), &byte, 1) == 1);
        seen = events;
        ++calls;
      }));
  loop.run_ready();
  CHECK(calls == 0);
  REQUIRE(::write(pair->second.get(), "xy", 2) == 2);
  CHECK(loop.run_until([&] { return calls == 2; }));
  CHECK(seen == EPOLLIN);
  loop.run_ready();
  CHECK(calls == 2);
}

TEST_CASE("what a descriptor is watched for can be changed", "[unit][event_loop]") {
  Loop loop;
  const auto pair = make_stream_pair();
  REQUIRE(pair);
  int writable = 0;
  EventSource source = take(loop->watch_fd(pair->first.get(), EPOLLIN, [&](std::uint32_t events) {
    if ((events & EPOLLOUT) != 0) ++writable;
  }));
  loop.run_ready();
  CHECK(writable == 0);
  source.set_events(EPOLLIN | EPOLLOUT);
  CHECK(loop.run_until([&] { return writable > 0; }));
  source.set_events(EPOLLIN);
  const int before = writable;
  loop.run_ready();
  CHECK(writable == before);
}

TEST_CASE("a source ends with its object", "[unit][event_loop]") {
  Loop loop;
  const auto pair = make_stream_pair();
  REQUIRE(pair);
  REQUIRE(::write(pair->second.get(), "x", 1) == 1);
  int calls = 0;
  {
    const EventSource source =
        take(loop->watch_fd(pair->first.get(), EPOLLIN, [&](std::uint32_t) { ++calls; }));
    CHECK(loop.run_until([&] { return calls > 0; }));
  }
  const int before = calls;
  loop.run_ready();
  CHECK(calls == before);
}

TEST_CASE("a source may stop itself in its own callback", "[unit][event_loop]") {
  Loop loop;
  const auto pair = make_stream_pair();
  REQUIRE(pair);
  REQUIRE(::write(pair->second.get(), "x", 1) == 1);
  int calls = 0;
  EventSource source;
  source = take(loop->watch_fd(pair->first.get(), EPOLLIN, [&](std::uint32_t) {
    ++calls;
    source.stop();
  }));
  CHECK_FALSE(source.stopped());
  CHECK(loop.run_until([&] { return calls > 0; }));
  loop.run_ready();  // the byte is still there
  CHECK(calls == 1);
  CHECK(source.stopped());
}

TEST_CASE("a source goes on where it is moved to", "[unit][event_loop]") {
  Loop loop;
  const auto pair = make_stream_pair();
  REQUIRE(pair);
  int calls = 0;
  EventSource first = take(loop->watch_fd(pair->first.get(), EPOLLIN, [&](std::uint32_t) {
    char byte = 0;
    ++calls;
    CHECK(::read(pair->first.get(), &byte, 1) == 1);
  }));
  EventSource second = std::move(first);
  CHECK_FALSE(first);
  CHECK(second);
  REQUIRE(::write(pair->second.get(), "x", 1) == 1);
  CHECK(loop.run_until([&] { return calls == 1; }));
}

TEST_CASE("a timer runs once for each arming, not before its time", "[unit][event_loop]") {
  Loop loop;
  int calls = 0;
  EventSource timer = take(loop->make_timer([&] { ++calls; }));
  loop.run_ready();
  CHECK(calls == 0);
  CHECK_FALSE(timer.armed());

  const TimePoint start = Clock::now();
  timer.arm(start + 30ms);
  CHECK(timer.armed());
  CHECK(loop.run_until([&] { return calls == 1; }));
  CHECK(Clock::now() - start >= 30ms);
  CHECK_FALSE(timer.armed());
  loop.run_ready();
  CHECK(calls == 1);

  timer.arm(Clock::now() - 1s);  // past: at once
  CHECK(loop.run_until([&] { return calls == 2; }));
}

TEST_CASE("a timer that is disarmed does not run", "[unit][event_loop]") {
  Loop loop;
  int calls = 0;
  int others = 0;
  EventSource timer = take(loop->make_timer([&] { ++calls; }));
  EventSource other = take(loop->make_timer([&] { ++others; }));
  timer.arm(Clock::now() + 10ms);
  other.arm(Clock::now() + 30ms);
  timer.disarm();
  CHECK_FALSE(timer.armed());
  CHECK(loop.run_until([&] { return others == 1; }));
  CHECK(calls == 0);
}

TEST_CASE("a timer may arm itself again in its own callback", "[unit][event_loop]") {
  Loop loop;
  int calls = 0;
  EventSource timer;
  timer = take(loop->make_timer([&] {
    if (++calls < 3) timer.arm(Clock::now() + 1ms);
  }));
  timer.arm(Clock::now());
  CHECK(loop.run_until([&] { return calls == 3; }));
  CHECK_FALSE(timer.armed());
}

TEST_CASE("a later time replaces an earlier one", "[unit][event_loop]") {
  Loop loop;
  int calls = 0;
  EventSource timer = take(loop->make_timer([&] { ++calls; }));
  const TimePoint start = Clock::now();
  timer.arm(start + 5ms);
  timer.arm(start + 60ms);
  CHECK(loop.run_until([&] { return calls == 1; }));
  CHECK(Clock::now() - start >= 60ms);
}

TEST_CASE("a signal is taken in the loop, with its sender", "[unit][event_loop]") {
  const KeepMask keep;
  Loop loop;
  std::vector<std::pair<int, int>> taken;
  const auto note = [&](int signal, int pid) { taken.emplace_back(signal, pid); };
  const EventSource one = take(loop->watch_signal(SIGUSR1, note));
  const EventSource two = take(loop->watch_signal(SIGUSR2, note));
  REQUIRE(::kill(::getpid(), SIGUSR1) == 0);
  CHECK(taken.empty());  // nothing happens in a signal handler
  CHECK(loop.run_until([&] { return taken.size() == 1; }));
  REQUIRE(::kill(::getpid(), SIGUSR2) == 0);
  CHECK(loop.run_until([&] { return taken.size() == 2; }));
  CHECK(taken == std::vector<std::pair<int, int>>{{SIGUSR1, ::getpid()}, {SIGUSR2, ::getpid()}});
}

TEST_CASE("a turn waits no longer than it may", "[unit][event_loop]") {
  Loop loop;
  const TimePoint start = Clock::now();
  REQUIRE(loop->run_once(std::chrono::microseconds(0)));
  CHECK(Clock::now() - start < 5s);
  const TimePoint again = Clock::now();
  REQUIRE(loop->run_once(std::chrono::milliseconds(20)));
  CHECK(Clock::now() - again >= 20ms);
}

TEST_CASE("a descriptor that cannot be watched is an error", "[unit][event_loop]") {
  Loop loop;
  const auto source = loop->watch_fd(-1, EPOLLIN, [](std::uint32_t) {});
  REQUIRE_FALSE(source);
  CHECK_THAT(source.error(), Catch::Contains("sd_event_add_io"));
}

}  // namespace lope
