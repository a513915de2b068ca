// A handler for the tests of <lope/handler.hpp>: batches only, and a flush() that fails when it
// drains.
#include <lope/handler.hpp>

namespace {

class EdgeBatch final : public lope::Handler {
 public:
  void handle_batch(lope::Batch& batch) override {
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const std::string_view body = batch[i].body_text();
      if (body == "ack") batch.set(i, lope::Outcome::ack);
      if (body == "throw") throw std::runtime_error("in the middle");
      if (body == "throw reject") throw lope::Reject("all of you");
      if (body == "beyond") batch.set(batch.size(), lope::Outcome::ack);
    }
  }

  void flush(lope::FlushReason reason) override {
    if (reason == lope::FlushReason::drain) throw std::runtime_error("cannot flush");
  }
};

}  // namespace

LOPE_HANDLER(EdgeBatch, "edge_batch", "1.0.0")
