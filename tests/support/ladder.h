// A delay ladder of its own, so that other tests' messages are not taken for this one's; gone with
// it.
#pragma once

#include <stdexcept>
#include <string>

#include "common/clock.h"
#include "support/broker.h"

namespace lope::test {

struct Ladder {
  explicit Ladder(Broker& at) : broker(at) {}
  Ladder(const Ladder&) = delete;
  Ladder& operator=(const Ladder&) = delete;
  ~Ladder() {
    const std::string ours = "string:prefix(element(4, Name), <<\"" + prefix + ".\">>) =/= nomatch";
    try {
      broker.ctl({"eval",
                  "[rabbit_amqqueue:delete(Q, false, false, <<\"test\">>) || "
                  "Q <- rabbit_amqqueue:list(<<\"/\">>), Name <- [amqqueue:get_name(Q)], " +
                      ours +
                      "], [rabbit_exchange:delete(Name, false, <<\"test\">>) || "
                      "X <- rabbit_exchange:list(<<\"/\">>), Name <- [element(2, X)], " +
                      ours + "]."});
    } catch (const std::runtime_error&) {  // the node may be down: it is removed after the run
    }
  }
  // For LopeOptions::top.
  std::string top(const std::string& more = {}, bool relay = true) const {
    return "delays: { prefix: " + prefix + ", relay: " + (relay ? "true" : "false") + more + " }\n";
  }

  Broker& broker;
  const std::string prefix = "ladder-" + std::to_string(unix_ms());
};

}  // namespace lope::test
