// A thread that nobody joins, and that signals do not reach.
#include "common/detached_thread.h"

#include <signal.h>

#include <catch2/catch.hpp>
#include <future>
#include <memory>

TEST_CASE("a detached thread gets no signals, and this one all that it got", "[unit][thread]") {
  sigset_t before;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &before);
  const auto mask = std::make_shared<std::promise<sigset_t>>();
  REQUIRE(lope::start_detached_thread([mask] {
    sigset_t own;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &own);
    mask->set_value(own);
  }));
  const sigset_t own = mask->get_future().get();
  sigset_t after;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGUSR1}) {
    CHECK(::sigismember(&own, signal) == 1);
    CHECK(::sigismember(&after, signal) == ::sigismember(&before, signal));
  }
}
