// ./dev bench: Lope against a bare rabbitmq-c loop and other clients, in one run on one broker,
// turn about. Prints tables in Markdown; writes bench.json, and what gnuplot needs, into a folder.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <stdexcept>

#include "exec_handler.h"
#include "http_handler.h"
#include "measure.h"
#include "python_handler.h"
#include "support/process.h"
#include "support/tls_node.h"
#include "trying.h"

using namespace lope::bench;
using lope::test::Broker;

namespace {

constexpr const char* kEach = "bare loop, ack each";
constexpr const char* kMultiple = "bare loop, ack every 50";
constexpr const char* kLope = "Lope";

struct Client {
  Contender contender;
  std::vector<std::string> present;  // a command that succeeds when it is installed
};

// The scripts are in tests/bench/clients; the Go one is built by ./dev bench.
std::vector<Client> clients() {
  const std::string folder = LOPE_SOURCE_DIR "/tests/bench/clients/";
  const std::string go = LOPE_BUILD_DIR "/bench/amqp091_client";
  return {
      {{"Go amqp091", {go}}, {"test", "-x", go}},
      {{"node amqplib", {"node", folder + "amqplib_client.js"}},
       {"node", "-e", "require('amqplib')"}},
      {{"Ruby bunny", {"ruby", folder + "bunny_client.rb"}}, {"ruby", "-e", "require 'bunny'"}},
      {{"Python pika", {"/usr/bin/python3", folder + "pika_client.py"}},
       {"/usr/bin/python3", "-c", "import pika"}},
      {{"Python kombu", {"/usr/bin/python3", folder + "kombu_client.py"}},
       {"/usr/bin/python3", "-c", "import kombu"}},
  };
}

std::vector<Load> loads() {
  return {
      {.name = "100 B, prefetch 100, classic, 1 worker"},
      {.name = "body 0 B", .body = 0},
      {.name = "body 4 KiB", .body = 4096},
      {.name = "body 64 KiB", .body = 65536, .messages = 10'000},
      {.name = "body 1 MiB", .body = 1 << 20, .messages = 2000},
      {.name = "prefetch 1", .prefetch = 1, .messages = 5'000},
      {.name = "prefetch 30", .prefetch = 30},
      {.name = "prefetch 1000", .prefetch = 1000},
      {.name = "quorum queue", .quorum = true},
      {.name = "2 workers", .workers = 2},
      {.name = "4 workers", .workers = 4},
      {.name = "handler 100 us, 1 worker", .handler_us = 100, .messages = 10'000},
      {.name = "handler 100 us, 4 workers", .workers = 4, .handler_us = 100},
      {.name = "handler 10 ms, 4 workers x 5 threads",
       .workers = 4,
       .threads = 5,
       .handler_us = 10'000,
       .messages = 10'000},
  };
}

struct Spread {
  double median = 0, min = 0, max = 0;
};

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

template <typename T, typename F>
Spread spread_of(const std::vector<T>& samples, F value) {
  std::vector<double> values;
  for (const T& sample : samples) values.push_back(value(sample));
  return spread_of(std::move(values));
}

// Round by round: the broker's own speed drifts.
template <typename T, typename F>
Spread paired(const std::vector<T>& samples, const std::vector<T>& base, F combine) {
  std::vector<double> values;
  for (std::size_t i = 0; i < samples.size(); ++i) values.push_back(combine(samples[i], base[i]));
  return spread_of(std::move(values));
}

nlohmann::json to_json(const Spread& spread) {
  return {{"median", spread.median}, {"min", spread.min}, {"max", spread.max}};
}

std::string number(const char* format, double value) {
  char digits[64];
  std::snprintf(digits, sizeof digits, format, value);
  return digits;
}

std::string text(const char* format, const Spread& spread) {
  return number(format, spread.median) + " (" + number(format, spread.min) + "–" +
         number(format, spread.max) + ")";
}

void row(const std::vector<std::string>& cells) {
  std::string line = "|";
  for (const std::string& cell : cells) line += " " + cell + " |";
  std::puts(line.c_str());
  std::fflush(stdout);
}

void progress(const std::string& what) {
  if (::isatty(STDERR_FILENO) != 0) std::fprintf(stderr, "\r\033[K%s", what.c_str());
}

double rate_ratio(const Sample& a, const Sample& b) { return a.rate / b.rate; }
double cpu_ratio(const Sample& a, const Sample& b) { return a.cpu_us / b.cpu_us; }

nlohmann::json run_load(Broker& broker, const Load& load, const std::vector<Contender>& contenders,
                        int rounds) {
  const std::string queue = broker.make_queue("bench", queue_options(load));
  std::map<std::string, std::vector<Sample>> samples;
  for (int round = 0; round < rounds; ++round) {
    for (const Contender& contender : contenders) {
      progress(load.name + ": round " + std::to_string(round + 1) + " of " +
               std::to_string(rounds) + ": " + contender.name);
      samples[contender.name].push_back(measure(broker, queue, load, contender));
    }
  }
  progress("");
  broker.delete_queue(queue);

  std::printf("\n**%s**, %d messages\n\n", load.name.c_str(), load.messages);
  row({"", "messages/s", "of the loop that acks every 50", "Lope's rate / its rate",
       "CPU µs a message", "of the loop that acks each", "peak memory MiB"});
  row({"---", "---:", "---:", "---:", "---:", "---:", "---:"});
  nlohmann::json results = nlohmann::json::array();
  for (const Contender& contender : contenders) {
    const auto& mine = samples[contender.name];
    const Spread rate = spread_of(mine, [](const Sample& s) { return s.rate; });
    const Spread cpu = spread_of(mine, [](const Sample& s) { return s.cpu_us; });
    const Spread peak = spread_of(mine, [](const Sample& s) { return s.peak_mib; });
    nlohmann::json result = {{"name", contender.name},
                             {"messages_per_second", to_json(rate)},
                             {"cpu_us_per_message", to_json(cpu)},
                             {"peak_memory_mib", to_json(peak)}};
    std::string rate_text = "–", lead_text = "–", cpu_text = "–";
    if (load.handler_us == 0) {
      const Spread rate_of_loop = paired(mine, samples[kMultiple], rate_ratio);
      const Spread lead = paired(samples[kLope], mine, rate_ratio);
      const Spread cpu_of_loop = paired(mine, samples[kEach], cpu_ratio);
      rate_text = text("%.2f", rate_of_loop);
      lead_text = text("%.2f", lead);
      cpu_text = text("%.2f", cpu_of_loop);
      result["rate_of_multiple_loop"] = to_json(rate_of_loop);
      result["lope_rate_by_its_rate"] = to_json(lead);
      result["cpu_of_each_loop"] = to_json(cpu_of_loop);
    }
    row({contender.name, text("%.0f", rate), rate_text, lead_text, text("%.2f", cpu), cpu_text,
         text("%.1f", peak)});
    results.push_back(std::move(result));
  }
  nlohmann::json result = {{"name", load.name},
                           {"body_bytes", load.body},
                           {"prefetch", load.prefetch},
                           {"queue", load.quorum ? "quorum" : "classic"},
                           {"workers", load.workers},
                           {"threads", load.threads},
                           {"handler_us", load.handler_us},
                           {"messages", load.messages},
                           {"rounds", rounds},
                           {"contenders", results}};
  if (load.handler_us > 0) {
    const double best = load.workers * load.threads * 1e6 / load.handler_us;
    const Spread share =
        spread_of(samples[kLope], [best](const Sample& s) { return s.rate / best; });
    std::printf("\nworkers x threads / handler time = %.0f/s: Lope does %s of it\n", best,
                text("%.3f", share).c_str());
    result["lope_share_of_ideal"] = to_json(share);
  }
  return result;
}

// What it costs that each message is claimed and noted.
nlohmann::json run_dedup(Broker& broker, const Contender& lope, int rounds, double scale) {
  std::printf("\n**dedup** by message_id, store local\n\n");
  row({"", "messages/s without", "with", "rate with / without", "CPU µs a message without", "with",
       "more"});
  row({"---", "---:", "---:", "---:", "---:", "---:", "---:"});
  nlohmann::json result = nlohmann::json::array();
  for (const int prefetch : {100, 1000}) {
    Load load{.name = "dedup", .prefetch = prefetch, .with_ids = true};
    load.messages = std::max(1000, static_cast<int>(load.messages * scale)) / 50 * 50;
    const std::string queue = broker.make_queue("bench");
    std::vector<Sample> without, with;
    for (int round = 0; round < rounds; ++round) {
      progress("dedup: round " + std::to_string(round + 1) + " of " + std::to_string(rounds));
      load.dedup = false;
      without.push_back(measure(broker, queue, load, lope));
      load.dedup = true;
      with.push_back(measure(broker, queue, load, lope));
    }
    progress("");
    broker.delete_queue(queue);
    const auto rate = [](const Sample& s) { return s.rate; };
    const auto cpu = [](const Sample& s) { return s.cpu_us; };
    const Spread ratio = paired(with, without, rate_ratio);
    const Spread more =
        paired(with, without, [](const Sample& a, const Sample& b) { return a.cpu_us - b.cpu_us; });
    row({"prefetch " + std::to_string(prefetch), text("%.0f", spread_of(without, rate)),
         text("%.0f", spread_of(with, rate)), text("%.2f", ratio),
         text("%.2f", spread_of(without, cpu)), text("%.2f", spread_of(with, cpu)),
         text("%.2f", more)});
    result.push_back({{"prefetch", prefetch},
                      {"messages", load.messages},
                      {"rate_without", to_json(spread_of(without, rate))},
                      {"rate_with", to_json(spread_of(with, rate))},
                      {"cpu_us_more", to_json(more)}});
  }
  return result;
}

nlohmann::json run_latency(Broker& broker, const std::vector<Contender>& contenders, int rounds,
                           int seconds) {
  const std::string queue = broker.make_queue("bench");
  std::map<std::string, std::vector<LatencySample>> samples;
  for (int round = 0; round < rounds; ++round) {
    for (const Contender& contender : contenders) {
      progress("latency: round " + std::to_string(round + 1) + ": " + contender.name);
      samples[contender.name].push_back(measure_latency(broker, queue, contender, 1000, seconds));
    }
  }
  progress("");
  broker.delete_queue(queue);
  std::printf("\n**Latency at 1,000 messages/s**, µs, %d s a round\n\n", seconds);
  row({"", "p50", "p99", "p99.9", "p50 over the bare loop", "p99 over the bare loop"});
  row({"---", "---:", "---:", "---:", "---:", "---:"});
  nlohmann::json result = nlohmann::json::array();
  for (const auto& [what, part] : {std::pair{"publish to handler start", &LatencySample::start},
                                   std::pair{"handler end to ack seen", &LatencySample::ack}}) {
    for (const Contender& contender : contenders) {
      const auto of = [&](double Latency::*p) {
        return spread_of(samples[contender.name],
                         [&](const LatencySample& s) { return s.*part.*p; });
      };
      const auto added = [&](double Latency::*p) {
        return paired(samples[contender.name], samples[kEach],
                      [&](const LatencySample& a, const LatencySample& b) {
                        return a.*part.*p - b.*part.*p;
                      });
      };
      row({std::string(what) + ": " + contender.name, text("%.0f", of(&Latency::p50)),
           text("%.0f", of(&Latency::p99)), text("%.0f", of(&Latency::p999)),
           text("%.0f", added(&Latency::p50)), text("%.0f", added(&Latency::p99))});
      result.push_back({{"what", what},
                        {"name", contender.name},
                        {"p50_us", to_json(of(&Latency::p50))},
                        {"p99_us", to_json(of(&Latency::p99))},
                        {"p999_us", to_json(of(&Latency::p999))},
                        {"added_p50_us", to_json(added(&Latency::p50))},
                        {"added_p99_us", to_json(added(&Latency::p99))}});
    }
  }
  return result;
}

nlohmann::json run_idle(Broker& broker, int seconds) {
  nlohmann::json result = nlohmann::json::array();
  std::printf("\n**Idle**, measured for %d s\n\n", seconds);
  row({"", "ready after s", "supervisor, % of a CPU", "wake-ups/s, all processes",
       "largest worker MiB", "largest consumer MiB"});
  row({"---", "---:", "---:", "---:", "---:", "---:"});
  for (const auto& [groups, workers] : {std::pair{1, 1}, std::pair{64, 4}}) {
    progress("idle: " + std::to_string(groups) + " groups");
    const IdleSample sample = measure_idle(broker, groups, workers, seconds);
    progress("");
    row({std::to_string(groups) + " groups x " + std::to_string(workers) + " workers",
         number("%.2f", sample.ready_s), number("%.3f", 100 * sample.supervisor_cpu),
         number("%.2f", sample.wakeups_per_second), number("%.2f", sample.worker_mib),
         number("%.2f", sample.consumer_mib)});
    result.push_back({{"groups", groups},
                      {"workers", workers},
                      {"ready_seconds", sample.ready_s},
                      {"supervisor_cpu_share", sample.supervisor_cpu},
                      {"wakeups_per_second", sample.wakeups_per_second},
                      {"worker_pss_mib", sample.worker_mib},
                      {"consumer_pss_mib", sample.consumer_mib}});
  }
  return result;
}

struct PublishingLoad {
  std::string name;
  Publishing what;
  int prefetch;
  int queue_version;
};

// One message in, one out, confirmed before the first is acked: against a bare loop that does the
// same, and against one that only consumes, in the same rounds.
nlohmann::json run_publishing(Broker& broker, const Contender& consuming, const Contender& lope,
                              Load load, int rounds) {
  const Contender forwarding{"bare loop", {LOPE_BIN_DIR "/bare_forward"}};
  std::printf(
      "\n**Publishing for each message**, confirmed; 100 B, classic, 1 worker, %d messages\n\n",
      load.messages);
  row({"", "Lope, messages/s", "bare loop that does the same", "Lope's rate / its rate",
       "bare loop that only consumes", "Lope's rate / its rate", "CPU µs a message, Lope",
       "bare loop"});
  row({"---", "---:", "---:", "---:", "---:", "---:", "---:", "---:"});
  nlohmann::json result = nlohmann::json::array();
  for (const PublishingLoad& each :
       {PublishingLoad{"one in, one out; prefetch 1000", Publishing::persistent, 1000, 1},
        {"one in, one out; prefetch 5000", Publishing::persistent, 5000, 1},
        {"one in, one out, queues of version 2; prefetch 1000", Publishing::persistent, 1000, 2},
        {"one in, one out, transient; prefetch 1000", Publishing::transient, 1000, 1},
        {"a retry, to the delay ladder; prefetch 1000", Publishing::retry, 1000, 1}}) {
    load.prefetch = each.prefetch;
    load.queue_version = each.queue_version;
    load.persistent = each.what != Publishing::transient;
    // No bare loop has a ladder.
    const bool alone = each.what == Publishing::retry;
    const std::string queue = broker.make_queue("bench", queue_options(load));
    std::vector<PublishingSample> ours, theirs;
    std::vector<double> consumed, of_theirs, of_consumed;
    for (int round = 0; round < rounds; ++round) {
      progress(each.name + ": round " + std::to_string(round + 1) + " of " +
               std::to_string(rounds));
      consumed.push_back(measure(broker, queue, load, consuming).rate);
      ours.push_back(measure_publishing(broker, each.what, load, lope));
      of_consumed.push_back(ours.back().rate / consumed.back());
      if (alone) continue;
      theirs.push_back(measure_publishing(broker, each.what, load, forwarding));
      of_theirs.push_back(ours.back().rate / theirs.back().rate);
    }
    progress("");
    broker.delete_queue(queue);
    const auto rate = [](const PublishingSample& sample) { return sample.rate; };
    const auto cpu = [](const PublishingSample& sample) { return sample.cpu_us; };
    const auto if_any = [&](auto cell) { return alone ? std::string("–") : cell(); };
    row({each.name, text("%.0f", spread_of(ours, rate)),
         if_any([&] { return text("%.0f", spread_of(theirs, rate)); }),
         if_any([&] { return text("%.2f", spread_of(of_theirs)); }),
         text("%.0f", spread_of(consumed)), text("%.2f", spread_of(of_consumed)),
         text("%.2f", spread_of(ours, cpu)),
         if_any([&] { return text("%.2f", spread_of(theirs, cpu)); })});
    nlohmann::json json = {{"name", each.name},
                           {"messages_per_second", to_json(spread_of(ours, rate))},
                           {"cpu_us_per_message", to_json(spread_of(ours, cpu))},
                           {"consuming_alone_per_second", to_json(spread_of(consumed))},
                           {"of_consuming_alone", to_json(spread_of(of_consumed))}};
    if (!alone) {
      json["bare_loop_per_second"] = to_json(spread_of(theirs, rate));
      json["bare_loop_cpu_us_per_message"] = to_json(spread_of(theirs, cpu));
      json["of_the_bare_loop"] = to_json(spread_of(of_theirs));
    }
    result.push_back(std::move(json));
  }
  return result;
}

// What it costs to tell of every message: the same run without and with a journal, as fast as it
// goes and at a steady load.
nlohmann::json run_journal(Broker& broker, const Contender& lope, Load load, int rounds,
                           double scale) {
  constexpr int kPerSecond = 20'000;
  const int seconds = std::max(2, static_cast<int>(5 * scale));
  const std::string exchange = broker.unique_exchange("bench");
  broker.declare_exchange(exchange, "fanout");
  // What nobody takes does not pile up.
  const std::string events =
      broker.make_queue("events", {.number_arguments = {{"x-max-length", 100}}});
  broker.bind_queue(events, exchange, "");
  const std::string journal = "journal: { exchange: " + exchange;
  const std::pair<std::string, std::string> kinds[] = {
      {"without a journal", ""},
      {"journal", journal + " }\n"},
      {"journal, confirm", journal + ", confirm: true }\n"},
      {"journal, bodies and headers", journal + ", bodies: true, headers: true }\n"},
  };
  std::map<std::string, std::vector<Sample>> full;
  std::map<std::string, std::vector<OfferedSample>> offered;
  const std::string queue = broker.make_queue("bench", queue_options(load));
  for (int round = 0; round < rounds; ++round) {
    for (const auto& [name, top] : kinds) {
      progress(name + ": round " + std::to_string(round + 1) + " of " + std::to_string(rounds));
      load.top = top;
      full[name].push_back(measure(broker, queue, load, lope));
      offered[name].push_back(measure_offered(broker, queue, load, kPerSecond, seconds));
    }
  }
  progress("");
  broker.delete_queue(queue);
  std::printf(
      "\n**Telling of every message**, 100 B, prefetch 100, classic, 1 worker; %d messages, "
      "and %d/s offered for %d s\n\n",
      load.messages, kPerSecond, seconds);
  row({"", "messages/s", "of the rate without", "CPU µs a message", "offered: messages/s",
       "of the rate without", "CPU µs a message"});
  row({"---", "---:", "---:", "---:", "---:", "---:", "---:"});
  const std::string& without = kinds[0].first;
  nlohmann::json result = nlohmann::json::array();
  for (const auto& [name, top] : kinds) {
    const Spread rate = spread_of(full[name], [](const Sample& s) { return s.rate; });
    const Spread cpu = spread_of(full[name], [](const Sample& s) { return s.cpu_us; });
    const Spread share = paired(full[name], full[without], rate_ratio);
    const Spread taken = spread_of(offered[name], [](const OfferedSample& s) { return s.rate; });
    const Spread cost = spread_of(offered[name], [](const OfferedSample& s) { return s.cpu_us; });
    const Spread kept =
        paired(offered[name], offered[without],
               [](const OfferedSample& a, const OfferedSample& b) { return a.rate / b.rate; });
    row({name, text("%.0f", rate), text("%.2f", share), text("%.2f", cpu), text("%.0f", taken),
         text("%.2f", kept), text("%.2f", cost)});
    result.push_back({{"name", name},
                      {"messages_per_second", to_json(rate)},
                      {"of_the_rate_without", to_json(share)},
                      {"cpu_us_per_message", to_json(cpu)},
                      {"offered_messages_per_second", to_json(taken)},
                      {"offered_of_the_rate_without", to_json(kept)},
                      {"offered_cpu_us_per_message", to_json(cost)}});
  }
  return result;
}

// Lope and the bare loop, each against itself without TLS, on a node that has both.
nlohmann::json run_tls(const std::string& bare, int rounds, double scale) {
  lope::test::TlsNode node;
  const std::pair<Contender, Contender> pairs[] = {
      {{.name = kLope}, {.name = "Lope over TLS", .broker = node.with()}},
      {{.name = kMultiple, .program = {bare}, .more = {"50"}},
       {.name = "bare loop over TLS",
        .program = {"env", "TLS_HOST=localhost", "TLS_PORT=" + std::to_string(node.port()),
                    "TLS_CA=" + node.certificates.at("ca.pem"), bare},
        .more = {"50"}}},
  };
  std::printf("\n**TLS**, classic, prefetch 100, 1 worker\n\n");
  row({"body", "", "messages/s", "over TLS", "its rate / that without", "CPU µs a message",
       "over TLS"});
  row({"---:", "---", "---:", "---:", "---:", "---:", "---:"});
  nlohmann::json result = nlohmann::json::array();
  for (Load load :
       {Load{.name = "100 B"}, Load{.name = "64 KiB", .body = 65536, .messages = 10'000}}) {
    load.messages = std::max(1000, static_cast<int>(load.messages * scale));
    const std::string queue = node.broker->make_queue("bench", queue_options(load));
    std::vector<Sample> without[std::size(pairs)], with[std::size(pairs)];
    for (int round = 0; round < rounds; ++round) {
      progress("TLS, " + load.name + ": round " + std::to_string(round + 1) + " of " +
               std::to_string(rounds));
      for (std::size_t i = 0; i < std::size(pairs); ++i) {
        without[i].push_back(measure(*node.broker, queue, load, pairs[i].first));
        with[i].push_back(measure(*node.broker, queue, load, pairs[i].second));
      }
    }
    progress("");
    node.broker->delete_queue(queue);
    const auto rate = [](const Sample& sample) { return sample.rate; };
    const auto cpu = [](const Sample& sample) { return sample.cpu_us; };
    for (std::size_t i = 0; i < std::size(pairs); ++i) {
      const Spread share = paired(with[i], without[i], rate_ratio);
      row({load.name, pairs[i].first.name, text("%.0f", spread_of(without[i], rate)),
           text("%.0f", spread_of(with[i], rate)), text("%.2f", share),
           text("%.2f", spread_of(without[i], cpu)), text("%.2f", spread_of(with[i], cpu))});
      result.push_back({{"name", pairs[i].first.name},
                        {"body", load.body},
                        {"messages_per_second", to_json(spread_of(without[i], rate))},
                        {"over_tls_per_second", to_json(spread_of(with[i], rate))},
                        {"over_tls_of_without", to_json(share)},
                        {"cpu_us_per_message", to_json(spread_of(without[i], cpu))},
                        {"over_tls_cpu_us_per_message", to_json(spread_of(with[i], cpu))}});
    }
  }
  return result;
}

// The handler http, against a server that answers at once.
nlohmann::json run_http(Broker& broker, int rounds, double scale) {
  std::printf("\n**Handler http**, a request for each message; 100 B, classic, 1 worker\n\n");
  row({"requests at a time", "messages/s", "CPU µs a message", "peak memory MiB"});
  row({"---:", "---:", "---:", "---:"});
  nlohmann::json result = nlohmann::json::array();
  for (const auto& [in_the_air, messages] : {std::pair{1, 5'000}, {20, 20'000}, {200, 20'000}}) {
    std::vector<Sample> samples;
    for (int round = 0; round < rounds; ++round) {
      progress("http, " + std::to_string(in_the_air) + " at a time: round " +
               std::to_string(round + 1) + " of " + std::to_string(rounds));
      samples.push_back(
          measure_http(broker, in_the_air, std::max(1000, static_cast<int>(messages * scale))));
    }
    progress("");
    const Spread rate = spread_of(samples, [](const Sample& s) { return s.rate; });
    const Spread cpu = spread_of(samples, [](const Sample& s) { return s.cpu_us; });
    const Spread peak = spread_of(samples, [](const Sample& s) { return s.peak_mib; });
    row({std::to_string(in_the_air), text("%.0f", rate), text("%.2f", cpu), text("%.1f", peak)});
    result.push_back({{"requests_at_a_time", in_the_air},
                      {"messages_per_second", to_json(rate)},
                      {"cpu_us_per_message", to_json(cpu)},
                      {"peak_memory_mib", to_json(peak)}});
  }
  return result;
}

// From the start of the command to its end.
nlohmann::json run_trying(int times) {
  progress("lope try and lope test");
  const TryingSample sample = measure_trying(times);
  progress("");
  std::printf("\n**Trying a handler**, ms from start to end, %d times\n\n", times);
  row({"", "p50", "p99", "most"});
  row({"---", "---:", "---:", "---:"});
  nlohmann::json result;
  for (const auto& [name, list] : {std::pair{"/bin/true", &sample.nothing_ms},
                                   {"lope try, one message", &sample.try_ms},
                                   {"lope test, one case", &sample.test_ms}}) {
    const auto at = [values = list](double part) {
      const auto index = static_cast<std::size_t>(part * static_cast<double>(values->size()));
      return (*values)[std::min(index, values->size() - 1)];
    };
    row({name, number("%.1f", at(0.5)), number("%.1f", at(0.99)), number("%.1f", at(1))});
    result.push_back(
        {{"name", name}, {"p50_ms", at(0.5)}, {"p99_ms", at(0.99)}, {"most_ms", at(1)}});
  }
  return result;
}

// The first load as bars: for gnuplot.
void write_plot_data(const std::string& path, const nlohmann::json& load) {
  std::ofstream file(path);
  for (const auto& each : load["contenders"]) {
    const auto& rate = each["messages_per_second"];
    const auto& cpu = each["cpu_us_per_message"];
    file << each["name"] << ' ' << rate["median"] << ' ' << rate["min"] << ' ' << rate["max"] << ' '
         << cpu["median"] << ' ' << cpu["min"] << ' ' << cpu["max"] << '\n';
  }
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Lope against a bare loop and other clients");
  std::string folder, only = ".*";
  int rounds = 9, latency_seconds = 10;
  double scale = 1;
  app.add_option("folder", folder, "Where bench.json goes")->required();
  app.add_option(
      "--only", only,
      "Only loads whose name matches; 'publishing', 'dedup', 'journal', 'latency', 'idle', "
      "'TLS' and 'handlers: NAME' are among them, with exec, http, python and try");
  app.add_option("--rounds", rounds, "Rounds")->check(CLI::PositiveNumber);
  app.add_option("--scale", scale, "Times the number of messages")->check(CLI::PositiveNumber);
  bool no_clients = false;
  app.add_flag("--no-clients", no_clients, "Only Lope and the bare loops");
  CLI11_PARSE(app, argc, argv);
  try {
    const std::string bare = LOPE_BIN_DIR "/bare_loop";
    const Contender each{kEach, {bare}, {"1"}, true};
    const Contender multiple{kMultiple, {bare}, {"50"}, true};
    const Contender lope{.name = kLope, .every_load = true};
    std::vector<Contender> all = {each, multiple, lope};
    nlohmann::json report = {{"rounds", rounds}, {"absent", nlohmann::json::array()}};
    for (const Client& client : clients()) {
      if (no_clients) break;
      if (lope::test::run(client.present).status == lope::test::exited(0)) {
        all.push_back(client.contender);
      } else {
        std::printf("not installed, left out: %s\n", client.contender.name.c_str());
        report["absent"].push_back(client.contender.name);
      }
    }
    const std::regex wanted(only);
    Broker broker;
    bool first = true;
    for (Load load : loads()) {
      std::vector<Contender> contenders;
      std::copy_if(all.begin(), all.end(), std::back_inserter(contenders),
                   [&](const Contender& contender) {
                     // A loop that sleeps in place of a handler is no measure of anything.
                     if (load.handler_us > 0) return contender.is_lope();
                     return first || contender.every_load;
                   });
      const bool main_load = std::exchange(first, false);
      if (!std::regex_search(load.name, wanted)) continue;
      load.messages = std::max(1000, static_cast<int>(load.messages * scale)) / 50 * 50;
      report["loads"].push_back(run_load(broker, load, contenders, rounds));
      if (main_load) write_plot_data(folder + "/bench.dat", report["loads"].back());
    }
    std::vector<Contender> with_python;
    std::copy_if(all.begin(), all.end(), std::back_inserter(with_python),
                 [](const Contender& contender) {
                   return contender.every_load || contender.name.starts_with("Python");
                 });
    for (Load load : python_loads()) {
      if (!std::regex_search(load.name, wanted)) continue;
      load.messages = std::max(1000, static_cast<int>(load.messages * scale)) / 50 * 50;
      report["loads"].push_back(run_load(broker, load, with_python, rounds));
    }
    if (std::regex_search("publishing", wanted)) {
      Load load;
      load.messages = std::max(1000, static_cast<int>(load.messages * scale)) / 50 * 50;
      report["publishing"] = run_publishing(broker, each, lope, load, rounds);
    }
    if (std::regex_search("journal", wanted)) {
      Load load;
      load.messages = std::max(1000, static_cast<int>(5 * load.messages * scale)) / 50 * 50;
      report["journal"] = run_journal(broker, lope, load, rounds, scale);
    }
    if (std::regex_search("dedup", wanted)) {
      report["dedup"] = run_dedup(broker, lope, rounds, scale);
    }
    if (std::regex_search("latency", wanted)) {
      latency_seconds = std::max(1, static_cast<int>(latency_seconds * scale));
      report["latency"] = run_latency(broker, {each, lope}, rounds, latency_seconds);
    }
    if (std::regex_search("idle", wanted)) {
      report["idle"] = run_idle(broker, std::max(1, static_cast<int>(30 * scale)));
    }
    if (std::regex_search("TLS", wanted)) report["tls"] = run_tls(bare, rounds, scale);
    if (std::regex_search("handlers: http", wanted)) {
      report["http"] = run_http(broker, rounds, scale);
    }
    if (std::regex_search("handlers: exec", wanted)) {
      report["exec"] = run_exec(broker, rounds, scale);
    }
    if (std::regex_search("handlers: try", wanted)) {
      report["trying"] = run_trying(std::max(10, static_cast<int>(200 * scale)));
    }
    std::ofstream file(folder + "/bench.json");
    file << report.dump(2) << '\n';
    if (!file.flush()) throw std::runtime_error("cannot write " + folder + "/bench.json");
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench: %s\n", error.what());
    return 1;
  }
}
