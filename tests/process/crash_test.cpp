// What the log says of a handler that crashes. The broker is one of made-up answers.
#include <catch2/catch.hpp>
#include <string>

#include "support/amqp_frames.h"
#include "support/lope.h"
#include "support/tcp_server.h"

// With sanitizers there is no crash report.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

using namespace lope::test;

TEST_CASE("a crash is in the log with its signal, its message and where it was",
          "[process][crash]") {
  const std::string word = GENERATE("fault", "overflow");
  const int threads = GENERATE(1, 3);
  const std::string consume = number(60, 2) + number(20, 2);
  const TcpServer server(login_to_consume(),
                         {{consume, method(1, 60, 21, short_text("tag")) +
                                        deliver(1, 1, word.size()) + frame(3, 1, word)}});
  LopeOptions options;
  options.broker = server.url();
  options.groups = "  g: { handler: scripted, threads: " + std::to_string(threads) + " }\n";
  Lope daemon(options);
  const auto line = daemon.wait_for_line("lope-worker: SIGSEGV in thread ", 30s);
  INFO(daemon.log());
  REQUIRE(line);
  CHECK(line->find(", with message ") != std::string::npos);
  CHECK(daemon.wait_for_line("scripted.so("));
  CHECK(daemon.wait_for_line("how=SIGSEGV"));
}

#endif
