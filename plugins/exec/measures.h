// What the handler counts, the same in both modes.
#pragma once

#include <chrono>
#include <lope/handler.hpp>

namespace lope::plugins {

class Measures {
 public:
  // In create() only.
  explicit Measures(const Host& host)
      : took_(host.duration("exec", "From handing a message to its command to the outcome.")),
        acked_(host.counter("exec_acked", "Messages that their command acked.")),
        retried_(host.counter("exec_retried", "Messages that their command had retried.")),
        rejected_(host.counter("exec_rejected", "Messages that their command rejected.")),
        ended_(host.counter("exec_time_limits", "Commands that were ended at their time limit.")),
        started_(host.counter("exec_starts", "Commands that were started.")) {}

  void started() const { started_.record(1); }
  void time_limit() const { ended_.record(1); }
  void outcome(Outcome outcome, std::chrono::nanoseconds took) const {
    took_.record(took);
    const Metric& count = outcome == Outcome::ack      ? acked_
                          : outcome == Outcome::reject ? rejected_
                                                       : retried_;
    count.record(1);
  }

 private:
  Metric took_, acked_, retried_, rejected_, ended_, started_;
};

}  // namespace lope::plugins
