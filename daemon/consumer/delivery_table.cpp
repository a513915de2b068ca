#include "consumer/delivery_table.h"

#include <cstdlib>
#include <utility>

namespace lope::consumer {

namespace {

// Above this, keeping the memory for the next delivery costs more than asking for it again.
constexpr std::size_t kKeptFrame = 64 * 1024;

}  // namespace

Delivery& DeliveryTable::allocate() {
  if (free_.empty()) {
    // More than 16 million unsettled deliveries: prefetch x queues cannot reach it.
    if (all_.size() >> kIndexBits != 0) std::abort();
    all_.push_back(std::make_unique<Delivery>());
    all_.back()->index = static_cast<std::uint32_t>(all_.size() - 1);
    return *all_.back();
  }
  Delivery& delivery = *all_[free_.back()];
  free_.pop_back();
  return delivery;
}

void DeliveryTable::free(Delivery& delivery) {
  delivery.state = Delivery::State::free;
  delivery.settled = false;
  delivery.sequence = 0;
  delivery.worker = delivery.ran_at = delivery.ran_by = -1;
  delivery.batch = -1;
  delivery.alone = false;
  delivery.late = false;
  delivery.unconfirmed = 0;
  delivery.due = {};
  delivery.earlier.clear();
  drop_message(delivery);
  free_.push_back(delivery.index);
}

void DeliveryTable::drop_message(Delivery& delivery) {
  if (delivery.body != nullptr) bodies_.give_back(std::exchange(delivery.body, nullptr));
  if (delivery.frame.capacity() > kKeptFrame) {
    delivery.frame.release();
  } else {
    delivery.frame.clear();
  }
  delivery.properties.clear();
}

std::uint64_t DeliveryTable::new_sequence(Delivery& delivery) {
  delivery.sequence = (++counter_ << kIndexBits) | delivery.index;
  return delivery.sequence;
}

Delivery* DeliveryTable::find(std::uint64_t sequence) {
  const std::uint64_t index = sequence & ((1u << kIndexBits) - 1);
  if (sequence == 0 || index >= all_.size()) return nullptr;
  Delivery& delivery = *all_[index];
  return delivery.sequence == sequence ? &delivery : nullptr;
}

}  // namespace lope::consumer
