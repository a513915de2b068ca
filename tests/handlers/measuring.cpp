// Measures what it does: with each message it counts its bytes, sets a gauge to them and records as
// many microseconds; then it does as the body says: "crash", or nothing.
#include <chrono>
#include <csignal>
#include <lope/handler.hpp>

namespace {

class Measuring final : public lope::Handler {
 public:
  explicit Measuring(lope::Host host)
      : bytes_(host.counter("bytes", "Bytes that came.")),
        latest_(host.gauge("latest_bytes", "Bytes of the latest \"message\".\n# injected 1")),
        took_(host.duration("pretended", "A time.")) {}

  lope::Outcome handle(const lope::Message& message) override {
    const auto size = static_cast<std::int64_t>(message.body_text().size());
    bytes_.record(size);
    latest_.record(size);
    took_.record(std::chrono::microseconds(size));
    if (message.body_text() == "crash") ::raise(SIGKILL);
    return lope::Outcome::ack;
  }

 private:
  lope::Metric bytes_, latest_, took_;
};

}  // namespace

LOPE_HANDLER(Measuring, "measuring", "1.0.0")
