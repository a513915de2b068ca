// A memory alarm of the node: until end(), and while this lives, the broker takes nothing from who
// publishes.
#pragma once

#include <optional>
#include <stdexcept>

#include "support/broker.h"
#include "support/undo.h"

namespace lope::test {

class MemoryAlarm {
 public:
  explicit MemoryAlarm(Broker& broker) {
    undo_.emplace([&broker] { broker.ctl({"set_vm_memory_high_watermark", "0.4"}); });
    broker.ctl({"set_vm_memory_high_watermark", "absolute", "1"});
    // The node looks at its memory in its own time.
    const bool raised = eventually(30s, [&broker] {
      return broker.ctl({"eval", "rabbit_alarm:get_alarms()."}).find("memory") != std::string::npos;
    });
    if (!raised) throw std::runtime_error("the node has raised no memory alarm");
  }
  void end() { undo_.reset(); }

 private:
  std::optional<Undo> undo_;
};

}  // namespace lope::test
