// Works for one second per '.' in the body: the slow task of the work-queue tutorial. Nothing ends
// the wait early, neither a signal nor a drain: this is how a handler behaves that is in the middle
// of something.
#include <lope/handler.hpp>

#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>

namespace {

constexpr lope_option kOptions[] = {
    lope::defaulted("dot_ms", "1000", "milliseconds of work per dot", LOPE_UINT64),
    lope::kEndOfOptions};

void wait_for(std::uint64_t ms) {
  timespec deadline{};
  if (::clock_gettime(CLOCK_MONOTONIC, &deadline) != 0)
    throw std::system_error(errno, std::generic_category(), "clock_gettime");
  deadline.tv_sec += static_cast<time_t>(ms / 1000);
  deadline.tv_nsec += static_cast<long>(ms % 1000) * 1'000'000;
  if (deadline.tv_nsec >= 1'000'000'000) {
    deadline.tv_nsec -= 1'000'000'000;
    ++deadline.tv_sec;
  }
  int error = 0;
  do {
    error = ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, nullptr);
  } while (error == EINTR);
  if (error != 0) throw std::system_error(error, std::generic_category(), "clock_nanosleep");
}

class Dots final : public lope::Handler {
 public:
  explicit Dots(lope::Host host) : host_(host), dot_ms_(host.option_as<std::uint32_t>("dot_ms")) {}

  lope::Outcome handle(const lope::Message& message) override {
    const std::string_view body = message.body_text();
    const auto dots = static_cast<std::uint64_t>(std::count(body.begin(), body.end(), '.'));
    host_.info("received " + std::string(body));
    wait_for(dots * dot_ms_);
    host_.info("done " + std::string(body));
    return lope::Outcome::ack;
  }

 private:
  const lope::Host host_;
  const std::uint64_t dot_ms_;
};

}  // namespace

LOPE_HANDLER_WITH(Dots, "dots", "1.0.0", "works for a second per dot in the body", kOptions)
