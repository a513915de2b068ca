#include "consumer/order.h"

namespace lope::consumer {

std::optional<std::string> order_key(const OrderSettings& settings, const DeliveryView& view) {
  switch (settings.by) {
    case OrderSettings::By::none: return std::nullopt;
    case OrderSettings::By::queue: return std::string(view[TextProperty::queue]);
    case OrderSettings::By::routing_key: return std::string(view[TextProperty::routing_key]);
    case OrderSettings::By::header: break;
  }
  std::string_view headers = view.headers;
  while (const auto header = next_header(headers)) {
    if (header->name != settings.header) continue;
    switch (header->kind) {
      case HeaderKind::text:
      case HeaderKind::bytes: return std::string(header->value);
      case HeaderKind::int64: return std::to_string(static_cast<std::int64_t>(header->bits));
      case HeaderKind::uint64:
      case HeaderKind::real:
      case HeaderKind::boolean:
      case HeaderKind::timestamp: return std::to_string(header->bits);
      case HeaderKind::null:
      case HeaderKind::other: return std::nullopt;
    }
  }
  return std::nullopt;
}

void KeyOrder::join(std::uint32_t message, std::string_view key) {
  if (message >= places_.size()) places_.resize(message + std::size_t{1});
  Rows::value_type& row = *rows_.try_emplace(std::string(key)).first;
  places_[message] = {&row, row.second.last, kNone};
  (row.second.last == kNone ? row.second.first : places_[row.second.last].behind) = message;
  row.second.last = message;
}

bool KeyOrder::is_first(std::uint32_t message) const {
  return message >= places_.size() || places_[message].row == nullptr ||
         places_[message].before == kNone;
}

std::optional<std::uint32_t> KeyOrder::leave(std::uint32_t message) {
  if (message >= places_.size() || places_[message].row == nullptr) return std::nullopt;
  const Place place = places_[message];
  places_[message] = {};
  Row& row = place.row->second;
  (place.before == kNone ? row.first : places_[place.before].behind) = place.behind;
  (place.behind == kNone ? row.last : places_[place.behind].before) = place.before;
  if (row.first == kNone) {
    rows_.erase(place.row->first);
    return std::nullopt;
  }
  if (place.before != kNone) return std::nullopt;
  return place.behind;
}

}  // namespace lope::consumer
