#include "common/handler_metrics.h"

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using namespace lope;

namespace {

constexpr auto kCounter = static_cast<std::uint32_t>(MetricKind::counter);
constexpr auto kGauge = static_cast<std::uint32_t>(MetricKind::gauge);
constexpr auto kDuration = static_cast<std::uint32_t>(MetricKind::duration);

// Zeros, as in shared memory.
std::unique_ptr<HandlerMetrics> board() { return std::make_unique<HandlerMetrics>(); }

std::uint32_t add(HandlerMetrics& metrics, std::uint32_t kind, std::string_view name) {
  std::uint32_t id = 0;
  REQUIRE(register_metric(metrics, kind, name, "help", id) == MetricAnswer::ok);
  return id;
}

}  // namespace

TEST_CASE("a metric's name is one that Prometheus takes, whatever is added to it",
          "[unit][handler_metrics]") {
  for (const char* name : {"a", "orders", "mails_sent2", "x_total_y"}) {
    INFO(name);
    CHECK(is_metric_name(MetricKind::gauge, name));
  }
  for (const char* name : {"", "A", "2a", "_a", "a b", "a-b", "a:b", "a{}", "ä", "x_total",
                           "x_count", "x_sum", "x_bucket", "x_info", "x_created"}) {
    INFO(name);
    CHECK_FALSE(is_metric_name(MetricKind::gauge, name));
  }
  CHECK(is_metric_name(MetricKind::counter, "x_total"));
  CHECK_FALSE(is_metric_name(MetricKind::counter, "_total"));
  CHECK_FALSE(is_metric_name(MetricKind::counter, "x_count_total"));
  CHECK(is_metric_name(MetricKind::duration, "x_seconds"));
  CHECK(is_metric_name(MetricKind::gauge, std::string(63, 'a')));
  CHECK_FALSE(is_metric_name(MetricKind::gauge, std::string(64, 'a')));
}

TEST_CASE("a metric is registered once, and has one kind", "[unit][handler_metrics]") {
  const auto metrics = board();
  std::uint32_t id = 0;
  CHECK(register_metric(*metrics, kCounter, "a", "", id) == MetricAnswer::ok);
  CHECK(id == 1);
  CHECK(add(*metrics, kGauge, "b") == 2);
  CHECK(add(*metrics, kCounter, "a") == 1);
  CHECK(register_metric(*metrics, kGauge, "a", "", id) == MetricAnswer::invalid);
  CHECK(register_metric(*metrics, 0, "c", "", id) == MetricAnswer::invalid);
  CHECK(register_metric(*metrics, 4, "c", "", id) == MetricAnswer::invalid);
  CHECK(register_metric(*metrics, kGauge, "C", "", id) == MetricAnswer::invalid);
  for (std::size_t i = metrics->size(); i < kMaxHandlerMetrics; ++i) {
    add(*metrics, kGauge, "g" + std::to_string(i));
  }
  CHECK(register_metric(*metrics, kGauge, "c", "", id) == MetricAnswer::too_many);
  CHECK(add(*metrics, kCounter, "a") == 1);
}

TEST_CASE("what is recorded is counted, set, or sorted into a histogram",
          "[unit][handler_metrics]") {
  const auto metrics = board();
  const auto counter = add(*metrics, kCounter, "c");
  const auto gauge = add(*metrics, kGauge, "g");
  const auto duration = add(*metrics, kDuration, "d");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10'000; ++i) record_metric(*metrics, counter, 2);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(metrics->all[0].value == 80'000);
  CHECK(record_metric(*metrics, gauge, 7) == MetricAnswer::ok);
  CHECK(record_metric(*metrics, gauge, -5) == MetricAnswer::ok);
  CHECK(metrics->all[1].value == -5);
  CHECK(record_metric(*metrics, duration, 5'000) == MetricAnswer::ok);
  CHECK(metrics->all[2].durations.counts[histogram_class(5'000)] == 1);
  CHECK(metrics->all[2].durations.sum_ns == 5'000);
  CHECK(record_metric(*metrics, counter, -1) == MetricAnswer::invalid);
  CHECK(record_metric(*metrics, duration, -1) == MetricAnswer::invalid);
  CHECK(record_metric(*metrics, 0, 1) == MetricAnswer::unknown);
  CHECK(record_metric(*metrics, 4, 1) == MetricAnswer::unknown);
  CHECK(record_metric(*metrics, UINT32_MAX, 1) == MetricAnswer::unknown);
}

TEST_CASE("a group has the sum of its workers, and keeps what the dead have counted",
          "[unit][handler_metrics]") {
  const auto group = board();
  const auto one = board();
  const auto two = board();
  MetricsShare share_one, share_two;
  const auto c1 = add(*one, kCounter, "c");
  const auto g1 = add(*one, kGauge, "g");
  const auto d1 = add(*one, kDuration, "d");
  const auto g2 = add(*two, kGauge, "g");  // another order
  const auto c2 = add(*two, kCounter, "c");
  record_metric(*one, c1, 5);
  record_metric(*one, g1, 10);
  record_metric(*one, d1, 2'000);
  record_metric(*two, c2, 7);
  record_metric(*two, g2, 20);
  for (int i = 0; i < 2; ++i) {  // nothing counts twice
    share_one.update(*one, *group);
    share_two.update(*two, *group);
  }
  REQUIRE(group->size() == 3);
  CHECK(group->all[0].name.get() == "c");
  CHECK(group->all[0].help.get() == "help");
  CHECK(group->all[0].value == 12);
  CHECK(group->all[1].value == 30);
  CHECK(group->all[2].durations.sum_ns == 2'000);
  record_metric(*one, g1, 1);
  share_one.update(*one, *group);
  CHECK(group->all[1].value == 21);

  share_one.retire(*group);
  const auto successor = board();
  record_metric(*successor, add(*successor, kCounter, "c"), 100);
  share_one.update(*successor, *group);
  CHECK(group->all[0].value == 112);
  CHECK(group->all[1].value == 20);
  CHECK(group->all[2].durations.counts[histogram_class(2'000)] == 1);
  clear_gauges(*group);
  CHECK(group->all[0].value == 112);
  CHECK(group->all[1].value == 0);
}

TEST_CASE("a group's metrics stay well-formed whatever is on a worker's board",
          "[unit][handler_metrics]") {
  const auto group = board();
  add(*group, kGauge, "taken");
  const auto worker = board();
  MetricsShare share;
  add(*worker, kCounter, "taken");  // of another kind
  record_metric(*worker, add(*worker, kCounter, "good"), 3);
  worker->all[2].kind = 99;
  worker->all[2].name.set("bad");
  worker->all[3].kind = kGauge;
  worker->all[3].name.set("x\n# injected");
  worker->count = UINT32_MAX;
  share.update(*worker, *group);
  REQUIRE(group->size() == 2);
  CHECK(group->all[0].value == 0);
  CHECK(group->all[1].value == 3);
  worker->all[1].value = 1;  // it goes back: that is not counted
  share.update(*worker, *group);
  CHECK(group->all[1].value == 3);
  worker->all[1].value = INT64_MAX;
  worker->all[0].value = INT64_MIN;
  share.update(*worker, *group);
  share.retire(*group);
}
