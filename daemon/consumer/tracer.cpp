#include "consumer/tracer.h"

#include <unistd.h>

#include <cerrno>

namespace lope::consumer {

void Tracer::start(int messages, UniqueFd output) {
  running_.clear();
  left_ = messages;
  output_ = std::move(output);
  // Whoever reads it does not have us wait.
  if (auto set = set_nonblocking(output_.get(), true); !set) output_.reset();
}

void Tracer::begin(const Delivery& delivery, const DeliveryView& view) {
  if (left_ == 0) return;
  --left_;
  Trace& trace = running_[delivery.index];
  trace = {};
  trace.came = Clock::now();
  trace.said = {.message_id = std::string(view[TextProperty::message_id]),
                .queue = std::string(view[TextProperty::queue]),
                .delivery_tag = delivery.tag,
                .attempt = delivery.attempt,
                .redelivered = delivery.redelivered,
                .body_bytes = 0,
                .came_unix_ms = unix_ms(),
                .steps = {{0, "came from the broker"}}};
}

void Tracer::add_step(const Delivery& delivery, std::string_view what) {
  const auto found = running_.find(delivery.index);
  if (found == running_.end()) return;
  const auto since = Clock::now() - found->second.came;
  found->second.said.steps.push_back(
      {std::chrono::duration_cast<std::chrono::microseconds>(since).count(), std::string(what)});
}

void Tracer::finish(const Delivery& delivery) {
  const auto found = running_.find(delivery.index);
  if (found == running_.end()) return;
  found->second.said.body_bytes = delivery.body_size;
  const std::string line = to_json(found->second.said) + "\n";
  running_.erase(found);
  // One that has gone, or does not read, gets no more.
  const ssize_t n = ::write(output_.get(), line.data(), line.size());
  const bool gone = n < static_cast<ssize_t>(line.size());
  if (gone || (left_ == 0 && running_.empty())) {
    output_.reset();
    running_.clear();
    left_ = 0;
  }
}

}  // namespace lope::consumer
