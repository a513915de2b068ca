// Appends a line for each message to a file, in one write, and acks: what was handled, and how
// often, can be counted afterwards. The line is the message's id; with `flag` one that is not in
// its first attempt has " again" behind it.
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <lope/handler.hpp>
#include <string>
#include <system_error>

namespace {

constexpr lope_option kOptions[] = {
    lope::required("file", "where to append"),
    lope::defaulted("work_us", "0", "microseconds of work before each append", LOPE_UINT64),
    lope::defaulted("work_every", "1", "only every so many messages are work", LOPE_UINT64),
    lope::defaulted("flag", "false", "mark messages that were tried before", LOPE_BOOL),
    lope::kEndOfOptions};

class AppendId final : public lope::Handler {
 public:
  explicit AppendId(lope::Host host)
      : fd_(::open(host.option_as<std::string>("file").c_str(),
                   O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)),
        work_us_(host.option_as<std::uint32_t>("work_us")),
        work_every_(host.option_as<std::uint32_t>("work_every")),
        flag_(host.option_as<bool>("flag")) {
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "open");
  }
  ~AppendId() override { ::close(fd_); }

  lope::Outcome handle(const lope::Message& message) override {
    if (work_us_ > 0 && ++count_ % work_every_ == 0) {
      timespec left{static_cast<time_t>(work_us_ / 1'000'000),
                    static_cast<long>(work_us_ % 1'000'000) * 1000};
      while (::clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {
      }
    }
    line_ = message.message_id();
    if (flag_ && message.redelivered()) {
      line_ += " redelivered";
    } else if (flag_ && message.attempt() > 1) {
      line_ += " again";
    }
    line_ += '\n';
    const ssize_t n = ::write(fd_, line_.data(), line_.size());
    if (n != static_cast<ssize_t>(line_.size()))
      throw std::system_error(errno, std::generic_category(), "write");
    return lope::Outcome::ack;
  }

 private:
  const int fd_;
  const std::uint32_t work_us_;
  const std::uint32_t work_every_;
  const bool flag_;
  std::uint32_t count_ = 0;
  std::string line_;
};

}  // namespace

LOPE_HANDLER_WITH(AppendId, "append_id", "1.0.0", "appends message ids to a file", kOptions)
