#include "consumer/output_reader.h"

#include <unistd.h>

#include <cerrno>
#include <cstddef>

namespace lope::consumer {

namespace {

constexpr std::size_t kMaxLine = 8 * 1024;
constexpr int kMaxReads = 4;

}  // namespace

bool OutputReader::read(int fd, const OnLine& on_line) {
  char buffer[16 * 1024];
  for (int i = 0; i < kMaxReads; ++i) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno == EAGAIN || errno == EWOULDBLOCK;
    }
    if (n == 0) return false;
    std::string_view text(buffer, static_cast<std::size_t>(n));
    while (!text.empty()) {
      const std::size_t end = text.find('\n');
      const std::size_t room = kMaxLine - partial_.size();
      if (end != std::string_view::npos && end <= room) {
        partial_ += text.substr(0, end);
        on_line(partial_);
        partial_.clear();
        text.remove_prefix(end + 1);
      } else if (text.size() >= room) {
        partial_ += text.substr(0, room);
        on_line(partial_);
        partial_.clear();
        text.remove_prefix(room);
      } else {
        partial_ += text;
        text = {};
      }
    }
  }
  return true;
}

void OutputReader::finish(const OnLine& on_line) {
  if (!partial_.empty()) on_line(partial_);
  partial_.clear();
}

}  // namespace lope::consumer
