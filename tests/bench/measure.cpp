#include "measure.h"

#include <signal.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <thread>

#include "ack_proxy.h"
#include "common/clock.h"
#include "common/uuid.h"
#include "stamp.h"
#include "support/lope.h"
#include "support/process.h"
#include "support/temp_dir.h"

namespace lope::bench {

using namespace test;

namespace {

constexpr auto kPoll = std::chrono::milliseconds(2);
constexpr auto kDeadline = std::chrono::minutes(5);

[[noreturn]] void fail(const Contender& contender, const std::string& what,
                       const std::string& output = {}) {
  throw std::runtime_error(contender.name + ": " + what + (output.empty() ? "" : "\n" + output));
}

// A contender's processes, however it is started.
class Run {
 public:
  Run(const Contender& contender, const std::string& host_port_url, int port,
      const std::string& queue, const Load& load, const std::string& stamps)
      : contender_(contender) {
    if (contender.is_lope()) {
      const bool pauses = load.handler_us > 0 || !stamps.empty();
      LopeOptions options;
      options.broker = contender.broker.empty() ? host_port_url : contender.broker;
      options.handlers_dir = pauses ? LOPE_BENCH_HANDLERS_DIR : LOPE_HANDLERS_BUILD_DIR;
      options.top = std::string("log: { level: info }\nshutdown_timeout: 30s\n") +
                    // The proxy that sees the acks serves one connection.
                    (stamps.empty() ? kWithRelay : "delays: { relay: false }\n") + load.top;
      options.groups = "  bench:\n    queue: " + queue +
                       "\n    workers: " + std::to_string(load.workers) +
                       "\n    threads: " + std::to_string(load.threads) +
                       "\n    prefetch: " + std::to_string(load.prefetch) + "\n    handler: ";
      if (!load.handler.empty()) {
        options.groups += load.handler + "\n    options: " + load.options + "\n";
      } else {
        options.groups += pauses ? "pause\n" : "'null'\n";
      }
      if (pauses) {
        options.groups += "    options: { us: " + std::to_string(load.handler_us) +
                          (stamps.empty() ? "" : ", stamps: " + stamps) + " }\n";
      }
      if (load.dedup) {
        options.groups += "    dedup: message_id\n";
        options.top += "state_dir: " + state_.path().string() + "\n";
      }
      lope_ = std::make_unique<Lope>(options);
      return;
    }
    std::vector<std::string> argv = contender.program;
    for (const std::string& each : {std::string("127.0.0.1"), std::to_string(port), queue,
                                    std::to_string(load.prefetch), std::to_string(load.messages)}) {
      argv.push_back(each);
    }
    argv.insert(argv.end(), contender.more.begin(), contender.more.end());
    if (load.handler_us > 0 || !stamps.empty()) argv.push_back(std::to_string(load.handler_us));
    if (!stamps.empty()) argv.push_back(stamps);
    process_ = std::make_unique<Process>(std::move(argv));
  }

  Process& process() { return lope_ ? lope_->process() : *process_; }

  std::vector<pid_t> pids() {
    std::vector<pid_t> pids = {process().pid()};
    for (const ProcessInfo& info : descendants_of(process().pid())) pids.push_back(info.pid);
    return pids;
  }

  // After the queue is empty: everything is acknowledged, and nothing of it is left.
  void end() {
    if (!lope_ && !process_->wait_for_line("done", kDeadline)) {
      fail(contender_, "did not finish", process_->output());
    }
    process().signal_group(SIGTERM);
    const auto status = process().wait_exit(40s);
    if (!status || (lope_ && *status != exited(0))) {
      fail(contender_, "did not end in good order", process().output());
    }
  }

 private:
  const Contender& contender_;
  TempDir state_;
  std::unique_ptr<Lope> lope_;
  std::unique_ptr<Process> process_;
};

double cpu_seconds(const std::vector<pid_t>& pids) {
  double seconds = 0;
  for (const pid_t pid : pids) seconds += test::cpu_seconds(pid);
  return seconds;
}

long kib_of(const std::string& text, std::string_view key) {
  const std::size_t at = text.find(key);
  return at == std::string::npos ? 0 : std::stol(text.substr(at + key.size()));
}

double pss_mib(pid_t pid) {
  const std::string rollup = read_file("/proc/" + std::to_string(pid) + "/smaps_rollup");
  return static_cast<double>(kib_of(rollup, "\nPss:")) / 1024;
}

double peak_mib(const std::vector<pid_t>& pids) {
  long kib = 0;
  for (const pid_t pid : pids) {
    const std::string folder = "/proc/" + std::to_string(pid);
    const std::string status = read_file(folder + "/status");
    kib += kib_of(read_file(folder + "/smaps_rollup"), "\nPss:") + kib_of(status, "VmHWM:") -
           kib_of(status, "VmRSS:");
  }
  return static_cast<double>(kib) / 1024;
}

void fill(Broker& broker, const std::string& queue, const Load& load) {
  Publication publication{.routing_key = queue,
                          .body = std::string(load.body, 'x'),
                          .persistent = load.quorum || load.persistent};
  Publisher publisher = broker.publisher();
  publisher.publish_many(
      load.messages,
      [&](int) {
        if (load.with_ids) publication.message_id = uuid();
        return publication;
      },
      load.body > 100'000 ? 20 : 1000);
  if (!eventually(60s, [&] { return broker.message_count(queue) == load.messages; })) {
    throw std::runtime_error("the queue does not fill up");
  }
}

int ready_count(Broker& broker, const std::string& queue) {
  const auto count = broker.message_count(queue);
  if (!count) throw std::runtime_error("the queue is gone");
  return *count;
}

double percentile(const std::vector<double>& sorted, double p) {
  return sorted[static_cast<std::size_t>(p * static_cast<double>(sorted.size() - 1))];
}

Latency latency_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {percentile(values, 0.5), percentile(values, 0.99), percentile(values, 0.999)};
}

}  // namespace

QueueOptions queue_options(const Load& load) {
  QueueOptions options;
  if (load.quorum) {
    options.text_arguments = {{"x-queue-type", "quorum"}};
  } else if (load.queue_version != 1) {
    options.number_arguments = {{"x-queue-version", load.queue_version}};
  }
  return options;
}

Sample measure(Broker& broker, const std::string& queue, const Load& load,
               const Contender& contender) {
  fill(broker, queue, load);
  Run run(contender, broker.url(), broker.port(), queue, load, {});
  const TimePoint limit = Clock::now() + kDeadline;
  // Until the first is taken, then until none is there.
  const auto wait_while = [&](auto condition) {
    int ready = ready_count(broker, queue);
    while (condition(ready)) {
      if (Clock::now() > limit || run.process().wait_exit(0ms)) {
        fail(contender, "stands still with " + std::to_string(ready) + " messages ready",
             run.process().output());
      }
      std::this_thread::sleep_for(kPoll);
      ready = ready_count(broker, queue);
    }
    return ready;
  };
  const int left = wait_while([&](int ready) { return ready == load.messages; });
  const TimePoint begin = Clock::now();
  const std::vector<pid_t> pids = run.pids();
  const double cpu_before = cpu_seconds(pids);
  wait_while([](int ready) { return ready > 0; });
  const std::chrono::duration<double> took = Clock::now() - begin;
  const double cpu = cpu_seconds(pids) - cpu_before;
  Sample sample;
  sample.rate = left / took.count();
  sample.cpu_us = cpu * 1e6 / left;
  sample.peak_mib = peak_mib(run.pids());
  // The last acknowledgements may still be under way: with quorum queues those of a channel that
  // closes at once were seen to get lost.
  if (!eventually(60s, [&] { return broker.is_empty(queue); })) {
    fail(contender, "does not settle everything", run.process().output());
  }
  run.end();
  if (ready_count(broker, queue) != 0) fail(contender, "left messages unacknowledged");
  return sample;
}

PublishingSample measure_publishing(Broker& broker, Publishing what, const Load& load,
                                    const Contender& contender) {
  const std::string from = broker.make_queue("bench", queue_options(load));
  const std::string to = broker.make_queue("bench", queue_options(load));
  // The level of the ladder that a delay of an hour begins at; nothing comes out meanwhile.
  const std::string prefix = "bench-" + std::to_string(stamp_now());
  const std::string sink = what == Publishing::retry ? prefix + ".v1-125ms-31.14" : to;
  fill(broker, from, load);
  std::unique_ptr<Lope> lope;
  std::unique_ptr<Process> bare;
  if (contender.is_lope()) {
    LopeOptions options;
    options.broker = broker.url();
    options.handlers_dir = LOPE_BENCH_HANDLERS_DIR;
    options.top =
        "log: { level: error }\nshutdown_timeout: 30s\ndelays: { relay: false, prefix: " + prefix +
        " }\n";
    options.groups =
        "  bench:\n    queue: " + from + "\n    prefetch: " + std::to_string(load.prefetch) +
        "\n    handler: republish\n    breaker: false\n    retry: { delay: 1h, jitter: 0 }\n" +
        "    dead_letter: broker\n";
    if (what != Publishing::retry) {
      options.groups += "    options: { to: " + to +
                        ", transient: " + (what == Publishing::transient ? "true" : "false") +
                        " }\n";
    }
    lope = std::make_unique<Lope>(options);
  } else {
    std::vector<std::string> argv = contender.program;
    for (const std::string& each :
         {std::string("127.0.0.1"), std::to_string(broker.port()), from, to,
          std::to_string(load.prefetch), std::to_string(load.messages),
          std::string(what == Publishing::transient ? "transient" : "persistent")}) {
      argv.push_back(each);
    }
    bare = std::make_unique<Process>(std::move(argv));
  }
  Process& process = lope ? lope->process() : *bare;
  const TimePoint limit = Clock::now() + kDeadline;
  const auto wait_until = [&](auto condition) {
    while (!condition()) {
      if (Clock::now() > limit || process.wait_exit(0ms)) {
        fail(contender, "stands still", process.output());
      }
      std::this_thread::sleep_for(kPoll);
    }
  };
  wait_until([&] { return broker.message_count(sink).value_or(0) > 0; });
  const int before = *broker.message_count(sink);
  const TimePoint begin = Clock::now();
  std::vector<pid_t> pids = {process.pid()};
  for (const ProcessInfo& info : descendants_of(process.pid())) pids.push_back(info.pid);
  const double cpu_before = cpu_seconds(pids);
  wait_until([&] { return broker.message_count(sink).value_or(0) == load.messages; });
  const std::chrono::duration<double> took = Clock::now() - begin;
  const double cpu = cpu_seconds(pids) - cpu_before;
  if (!eventually(60s, [&] { return broker.is_empty(from); })) fail(contender, "does not settle");
  process.signal_group(SIGTERM);
  const auto status = process.wait_exit(40s);
  if (!status || (lope && *status != exited(0))) {
    fail(contender, "did not end in good order", process.output());
  }
  if (ready_count(broker, from) != 0) fail(contender, "left messages unacknowledged");
  const int count = load.messages - before;
  for (const std::string& queue : {from, to}) broker.delete_queue(queue);
  if (what == Publishing::retry) {
    for (const auto& row : broker.list({"list_queues", "name"})) {
      if (row[0].starts_with(prefix)) broker.delete_queue(row[0]);
    }
  }
  return {count / took.count(), cpu * 1e6 / count};
}

OfferedSample measure_offered(Broker& broker, const std::string& queue, const Load& load,
                              int per_second, int seconds) {
  const Contender lope{.name = "Lope"};
  Run run(lope, broker.url(), broker.port(), queue, load, {});
  if (!eventually(30s, [&] { return broker.consumer_count(queue) == 1; })) {
    fail(lope, "does not consume", run.process().output());
  }
  const std::vector<pid_t> pids = run.pids();
  const double cpu_before = cpu_seconds(pids);
  const TimePoint begin = Clock::now();
  const std::string body(load.body, 'x');
  RatePublisher publisher(broker.url(), per_second, std::chrono::seconds(seconds), [&](int i) {
    return Publication{.routing_key = queue,
                       .body = body,
                       .message_id = "bench-message-" + std::to_string(i),
                       .persistent = load.persistent};
  });
  publisher.join();
  if (!eventually(60s, [&] { return ready_count(broker, queue) == 0; })) {
    fail(lope, "does not keep up", run.process().output());
  }
  const std::chrono::duration<double> took = Clock::now() - begin;
  const double cpu = cpu_seconds(pids) - cpu_before;
  if (!eventually(60s, [&] { return broker.is_empty(queue); })) {
    fail(lope, "does not settle everything", run.process().output());
  }
  run.end();
  return {publisher.sent() / took.count(), cpu * 1e6 / publisher.sent()};
}

LatencySample measure_latency(Broker& broker, const std::string& queue, const Contender& contender,
                              int per_second, int seconds) {
  const TempDir files;
  const std::string path = files.file("stamps");
  AckProxy proxy(broker.port());
  Load load;
  load.messages = per_second * seconds;
  Run run(contender, "amqp://guest:guest@127.0.0.1:" + std::to_string(proxy.port()), proxy.port(),
          queue, load, path);
  if (!eventually(30s, [&] { return broker.consumer_count(queue) == 1; })) {
    fail(contender, "does not consume", run.process().output());
  }
  Publisher publisher = broker.publisher();
  Publication publication{.routing_key = queue, .body = std::string(100, 'x'), .persistent = false};
  const auto interval = std::chrono::nanoseconds(1'000'000'000 / per_second);
  TimePoint due = Clock::now();
  for (int i = 0; i < load.messages; ++i) {
    std::this_thread::sleep_until(due);
    due += interval;
    const std::uint64_t now = stamp_now();
    std::memcpy(publication.body.data(), &now, sizeof now);
    publisher.send(publication);
    publisher.pump(0ms);
  }
  publisher.wait_confirmed();
  const auto last = static_cast<std::uint64_t>(load.messages);
  if (!eventually(30s, [&] { return proxy.highest_acked() == last; })) {
    fail(contender, "has not acknowledged everything", run.process().output());
  }
  run.end();

  const std::string bytes = read_file(path);
  std::vector<double> start, ack;
  for (std::size_t at = 0; at + sizeof(stamp) <= bytes.size(); at += sizeof(stamp)) {
    struct stamp each {};
    std::memcpy(&each, bytes.data() + at, sizeof each);
    const std::uint64_t acked = proxy.acked_at(each.tag);
    start.push_back(static_cast<double>(each.start_ns - each.published_ns) / 1000);
    // An ack is noted when it is read: at the earliest when it was sent.
    ack.push_back(static_cast<double>(acked - each.end_ns) / 1000);
  }
  if (start.size() != last) fail(contender, "has not stamped every message");
  return {latency_of(std::move(start)), latency_of(std::move(ack))};
}

namespace {

// Ends of a sleep so far: each is a wake-up. Of every thread.
long wakeups(const std::vector<pid_t>& pids) {
  long count = 0;
  for (const pid_t pid : pids) {
    for (const auto& task :
         std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
      count += kib_of(read_file(task.path() / "status"), "\nvoluntary_ctxt_switches:");
    }
  }
  return count;
}

}  // namespace

IdleSample measure_idle(Broker& broker, int groups, int workers, int seconds) {
  LopeOptions options;
  options.broker = broker.url();
  options.handlers_dir = LOPE_HANDLERS_BUILD_DIR;
  options.top = std::string("log: { level: info }\n") + kWithRelay;
  std::vector<std::string> queues;
  for (int i = 0; i < groups; ++i) {
    queues.push_back(broker.make_queue("idle"));
    options.groups += "  g" + std::to_string(i) + ": { queue: " + queues.back() +
                      ", handler: 'null', workers: " + std::to_string(workers) + " }\n";
  }
  const TimePoint begin = Clock::now();
  Lope lope(options);
  if (!lope.wait_ready(120s)) throw std::runtime_error("Lope is not ready\n" + lope.log());
  IdleSample sample;
  sample.ready_s = std::chrono::duration<double>(Clock::now() - begin).count();
  std::this_thread::sleep_for(2s);  // what the start still brings is over
  std::vector<pid_t> all = {lope.pid()};
  for (const ProcessInfo& info : descendants_of(lope.pid())) all.push_back(info.pid);
  const long wakeups_before = wakeups(all);
  const double cpu_before = cpu_seconds({lope.pid()});
  std::this_thread::sleep_for(std::chrono::seconds(seconds));
  sample.supervisor_cpu = (cpu_seconds({lope.pid()}) - cpu_before) / seconds;
  sample.wakeups_per_second = static_cast<double>(wakeups(all) - wakeups_before) / seconds;
  for (const pid_t pid : lope.workers())
    sample.worker_mib = std::max(sample.worker_mib, pss_mib(pid));
  for (const pid_t pid : lope.consumers()) {
    sample.consumer_mib = std::max(sample.consumer_mib, pss_mib(pid));
  }
  if (lope.stop() != exited(0)) throw std::runtime_error("Lope did not end in good order");
  for (const std::string& queue : queues) broker.delete_queue(queue);
  return sample;
}

}  // namespace lope::bench
