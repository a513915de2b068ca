#include "consumer/recollection.h"

#include <functional>
#include <string_view>
#include <utility>

namespace lope::consumer {

namespace {

// Of those that never come again, to another consumer for example, so many are kept at most.
constexpr std::size_t kMostKept = 100'000;

}  // namespace

void Recollection::keep(const Delivery& delivery) {
  if (tried_.size() >= kMostKept) tried_.clear();
  // Of those that are alike the first comes first again.
  tried_.try_emplace(fingerprint(delivery),
                     Tried{delivery.attempt, delivery.crashes, delivery.earlier, delivery.due});
}

std::optional<Tried> Recollection::take(const Delivery& delivery) {
  if (tried_.empty()) return std::nullopt;
  auto found = tried_.extract(fingerprint(delivery));
  if (found.empty()) return std::nullopt;
  return std::move(found.mapped());
}

std::uint64_t Recollection::fingerprint(const Delivery& delivery) {
  std::uint64_t sum = delivery.queue;
  const auto add = [&sum](std::string_view text) {
    sum = (sum ^ std::hash<std::string_view>{}(text)) * 0x9e3779b97f4a7c15u + text.size();
  };
  const auto view = decode_delivery(delivery.frame.bytes());
  if (!view) return sum;
  add((*view)[TextProperty::exchange]);
  add((*view)[TextProperty::routing_key]);
  add((*view)[TextProperty::message_id]);
  add((*view)[TextProperty::correlation_id]);
  add((*view)[TextProperty::type]);
  sum += view->timestamp;
  add(body_of(delivery, *view));
  return sum;
}

}  // namespace lope::consumer
