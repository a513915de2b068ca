#include "cli/bodies.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "common/text.h"

namespace lope::cli {

namespace {

constexpr std::size_t kMaxBody = 512 << 20;  // no RabbitMQ can be told to take more
constexpr std::size_t kReadSize = 1 << 16;

}  // namespace

Result<Bodies> Bodies::open(const BodySource& source, const std::string& command) {
  Bodies bodies;
  bodies.left_ = source.count;
  if (source.body) {
    bodies.text_ = *source.body;
    return bodies;
  }
  if (source.file == "-") {
    bodies.fd_ = STDIN_FILENO;
    bodies.name_ = "standard input";
    if (::isatty(STDIN_FILENO) == 1) {
      std::fprintf(stderr, "%s: reading from the terminal; Ctrl-D ends it\n", command.c_str());
    }
  } else {
    bodies.file_.reset(::open(source.file.c_str(), O_RDONLY | O_CLOEXEC));
    bodies.fd_ = bodies.file_.get();
    bodies.name_ = "'" + source.file + "'";
    if (!bodies.file_.valid()) return Error{bodies.name_ + ": " + errno_text("open", errno)};
  }
  if (source.lines) {
    bodies.lines_ = true;
    return bodies;
  }
  while (bodies.fd_ >= 0) {
    if (auto read = bodies.read(); !read) return Error{read.error()};
  }
  return bodies;
}

std::optional<std::string_view> Bodies::next() {
  if (!lines_) {
    if (left_ == 0) return std::nullopt;
    --left_;
    return text_;
  }
  const std::string_view rest = std::string_view(text_).substr(position_);
  const std::size_t end = rest.find('\n', searched_);
  if (end == std::string_view::npos && (fd_ >= 0 || rest.empty())) {
    searched_ = rest.size();
    return std::nullopt;
  }
  position_ += end == std::string_view::npos ? rest.size() : end + 1;
  searched_ = 0;
  return rest.substr(0, end);
}

Result<void> Bodies::read() {
  text_.erase(0, position_);
  position_ = 0;
  const std::size_t before = text_.size();
  text_.resize(before + kReadSize);
  const ssize_t size = ::read(fd_, text_.data() + before, kReadSize);
  const int error = errno;
  text_.resize(before + static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  if (size < 0 && error == EAGAIN) {
    // Somebody else has made it non-blocking.
    pollfd input{fd_, POLLIN, 0};
    ::poll(&input, 1, -1);
    return {};
  }
  if (size < 0 && error != EINTR) return Error{name_ + ": " + errno_text("read", error)};
  if (size == 0) fd_ = -1;
  if (text_.size() > kMaxBody) {
    return Error{name_ + ": expected bodies of at most 512 MiB, found more"};
  }
  return {};
}

}  // namespace lope::cli
