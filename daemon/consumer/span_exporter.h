// Sends spans to a collector, from a thread of its own: the main thread never waits for it. The
// only file pair that knows libcurl, and only the thread touches it; it is loaded when the first
// exporter starts, so that a consumer without spans does not have it.
#pragma once

#include <memory>
#include <string>

#include "common/clock.h"
#include "common/result.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "consumer/otlp.h"

namespace lope::consumer {

class SpanExporter {
 public:
  static constexpr std::size_t kMostWaiting = 8192;

  static Result<std::unique_ptr<SpanExporter>> create(const TelemetrySettings& settings,
                                                      std::string resource, std::string group,
                                                      GroupBoard& board);
  SpanExporter(const SpanExporter&) = delete;
  SpanExporter& operator=(const SpanExporter&) = delete;
  // Whatever goes on is broken off; what has not been sent is counted as dropped.
  ~SpanExporter();

  // One more; dropped and counted when too many wait.
  void add(Span span);
  // Logs what the thread has met with.
  void tend(TimePoint now);

  // Sends what is there and no more. `event_fd()` becomes readable when that is over.
  void finish();
  bool finished() const;
  int event_fd() const;

 private:
  struct Shared;
  explicit SpanExporter(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

  // The thread's too, which may outlive us: libcurl may wait for a resolver that cannot be stopped.
  std::shared_ptr<Shared> shared_;
};

}  // namespace lope::consumer
