// One contender, one queue full of messages: how fast it empties it, and at what cost. The clock is
// the same for all: the broker's count of ready messages and the kernel's account of CPU time.
#pragma once

#include <string>
#include <vector>

#include "support/broker.h"

namespace lope::bench {

// What is varied; the rest stays as it is here.
struct Load {
  std::string name;
  std::size_t body = 100;  // bytes
  int prefetch = 100;
  bool quorum = false;
  int queue_version = 1;    // of a classic queue
  bool persistent = false;  // those in a quorum queue always are
  int workers = 1;
  int threads = 1;
  int handler_us = 0;  // what a handler sleeps for each message
  // For Lope: one of its handlers in place of those, with `options:` as YAML.
  std::string handler = {};
  std::string options = {};
  std::string top = {};  // more top-level lines of its configuration
  // For Lope: dedup by message_id; the messages have one then.
  bool with_ids = false;
  bool dedup = false;
  // With a deeper queue the broker's own work over it grows, until it hides the client's.
  int messages = 20'000;
};

struct Contender {
  std::string name;
  // Its program and fixed arguments; HOST PORT QUEUE PREFETCH COUNT and then `more` follow. Empty:
  // Lope itself.
  std::vector<std::string> program = {};
  std::vector<std::string> more = {};
  // Is measured with every load, not only with the first.
  bool every_load = false;
  // Of Lope: the configuration's broker; empty: the one that is filled, as it is.
  std::string broker = {};

  bool is_lope() const { return program.empty(); }
};

struct Sample {
  double rate = 0;      // messages a second
  double cpu_us = 0;    // CPU time a message, of all its processes
  double peak_mib = 0;  // memory: proportional set size, at its largest
};

// As the load wants it.
test::QueueOptions queue_options(const Load& load);

// Fills the queue, runs the contender until it is empty, and makes sure that every message was
// acknowledged. Throws std::runtime_error when anything is not as it should be.
Sample measure(test::Broker& broker, const std::string& queue, const Load& load,
               const Contender& contender);

// One message made of each that is consumed: for another queue, or for the delay ladder, as a
// retry does. The clock stops when the last of them is in its queue; every cause is acked then.
enum class Publishing { persistent, transient, retry };
struct PublishingSample {
  double rate = 0;    // messages a second
  double cpu_us = 0;  // CPU time a message, of all the contender's processes
};
PublishingSample measure_publishing(test::Broker& broker, Publishing what, const Load& load,
                                    const Contender& contender);

// A steady load of `per_second` for `seconds`: how much of it is done as it comes. The CPU time is
// Lope's alone.
struct OfferedSample {
  double rate = 0;    // messages a second, until the last is acked
  double cpu_us = 0;  // CPU time a message, of all its processes
};
OfferedSample measure_offered(test::Broker& broker, const std::string& queue, const Load& load,
                              int per_second, int seconds);

struct Latency {
  double p50 = 0, p99 = 0, p999 = 0;  // µs
};
struct LatencySample {
  Latency start;  // publish to the handler's begin
  Latency ack;    // the handler's end to the ack passing by on its way to the broker
};

// A steady load of `per_second` for `seconds`, through a proxy that looks at the acks.
LatencySample measure_latency(test::Broker& broker, const std::string& queue,
                              const Contender& contender, int per_second, int seconds);

// Many groups with nothing to do.
struct IdleSample {
  double ready_s = 0;             // from the start of `lope run` to "ready"
  double supervisor_cpu = 0;      // of one CPU, while idle
  double wakeups_per_second = 0;  // of all processes together
  double worker_mib = 0;          // proportional set size, the largest
  double consumer_mib = 0;
};
IdleSample measure_idle(test::Broker& broker, int groups, int workers, int seconds);

}  // namespace lope::bench
