// Appends the number that a message's body begins with, 8 bytes of the machine's own order, to a
// file of its own worker's: a million of them are soon written and read. One in `retry_every` is
// to be tried again first, one in `crash_every` ends its worker.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <lope/handler.hpp>
#include <string>
#include <system_error>

namespace {

constexpr lope_option kOptions[] = {
    lope::required("file", "where to append; the worker's pid is put behind it"),
    lope::defaulted("retry_every", "0", "0: none", LOPE_UINT64),
    lope::defaulted("crash_every", "0", "0: none", LOPE_UINT64), lope::kEndOfOptions};

class Numbers final : public lope::Handler {
 public:
  explicit Numbers(lope::Host host)
      : fd_(::open((host.option_as<std::string>("file") + "." + std::to_string(::getpid())).c_str(),
                   O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)),
        retry_every_(host.option_as<std::uint64_t>("retry_every")),
        crash_every_(host.option_as<std::uint64_t>("crash_every")) {
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "open");
  }
  ~Numbers() override { ::close(fd_); }

  lope::Outcome handle(const lope::Message& message) override {
    std::uint64_t number = 0;
    if (message.body().size() < sizeof number) return lope::Outcome::reject;
    std::memcpy(&number, message.body().data(), sizeof number);
    if (message.attempt() == 1) {
      if (crash_every_ > 0 && number % crash_every_ == 1) ::kill(::getpid(), SIGKILL);
      if (retry_every_ > 0 && number % retry_every_ == 0) return lope::Outcome::retry;
    }
    if (::write(fd_, &number, sizeof number) != static_cast<ssize_t>(sizeof number)) {
      throw std::system_error(errno, std::generic_category(), "write");
    }
    return lope::Outcome::ack;
  }

 private:
  const int fd_;
  const std::uint64_t retry_every_;
  const std::uint64_t crash_every_;
};

}  // namespace

LOPE_HANDLER_WITH(Numbers, "numbers", "1.0.0", "appends numbers to a file", kOptions)
