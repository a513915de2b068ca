#include "worker/link_writer.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace lope::worker {

namespace {

constexpr std::size_t kMaxLogText = 16 * 1024;

}  // namespace

void LinkWriter::send(FrameType type, std::uint64_t sequence, std::string_view payload) {
  payload = payload.substr(0, kMaxWorkerFrame - sizeof(FrameHead));
  send_frames(encode_frame(type, sequence, payload));
}

void LinkWriter::send_frames(std::span<const char> frames) {
  const std::lock_guard<std::mutex> lock(mutex_);
  while (!frames.empty()) {
    const ssize_t n = ::send(link_fd_, frames.data(), frames.size(), MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      return;
    }
    frames = frames.subspan(static_cast<std::size_t>(n));
  }
}

void LinkWriter::send_log(LogLevel level, std::string_view text) {
  const LogHead head{static_cast<std::uint32_t>(level)};
  std::string payload(reinterpret_cast<const char*>(&head), sizeof head);
  payload += text.substr(0, kMaxLogText);
  send(FrameType::log, 0, payload);
}

void LinkWriter::send_explanation(std::uint64_t sequence, std::uint64_t retry_after_ms,
                                  std::string_view text) {
  const ExplainHead head{retry_after_ms};
  std::string payload(reinterpret_cast<const char*>(&head), sizeof head);
  payload += text.substr(0, kMaxExplanation);
  send(FrameType::explain, sequence, payload);
}

void LinkWriter::send_failure(bool refused, std::string_view text) {
  const FailedHead head{refused ? 1u : 0u};
  std::string payload(reinterpret_cast<const char*>(&head), sizeof head);
  payload += text;
  send(FrameType::failed, 0, payload);
}

void LinkWriter::wake() {
  const std::uint64_t one = 1;
  ssize_t n = 0;
  do {
    n = ::write(wake_fd_, &one, sizeof one);
  } while (n < 0 && errno == EINTR);  // EAGAIN: the counter is at its limit, so awake it will be
}

}  // namespace lope::worker
