// What the worker says to its consumer.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <string_view>

#include "common/link.h"
#include "common/settings.h"

namespace lope::worker {

// What the host cuts an explanation to, in bytes.
inline constexpr std::size_t kMaxExplanation = 1024;

// Writes frames to the consumer. [any thread]
class LinkWriter {
 public:
  LinkWriter(int link_fd, int wake_fd) : link_fd_(link_fd), wake_fd_(wake_fd) {}
  // Blocks while the link is full. Nothing to report: without its consumer the worker ends anyway.
  void send(FrameType type, std::uint64_t sequence, std::string_view payload);
  void send_log(LogLevel level, std::string_view text);
  // Frames that are ready, together: nothing of another thread comes between them.
  void send_frames(std::span<const char> frames);
  // `retry_after_ms` as in ExplainHead.
  void send_explanation(std::uint64_t sequence, std::uint64_t retry_after_ms,
                        std::string_view text);
  void send_failure(bool refused, std::string_view text);
  // Wakes the consumer; it looks at the scoreboard.
  void wake();

 private:
  const int link_fd_;
  const int wake_fd_;
  std::mutex mutex_;
};

}  // namespace lope::worker
