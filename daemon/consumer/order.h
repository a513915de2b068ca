// Which messages may be handled now when those of one key go one after another. Pure. Messages of a
// key stand in a row, in the order in which they came; only the first of a row may be begun, and it
// stays the first until it is done with. What is done with it meanwhile is the caller's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/link.h"
#include "common/settings.h"

namespace lope::consumer {

// What a message is ordered by; nothing: it has no such header, and waits for nobody. A key is one
// and the same in all queues of a group.
std::optional<std::string> order_key(const OrderSettings& settings, const DeliveryView& view);

class KeyOrder {
 public:
  // A message, by a small number of its own, comes to the end of its key's row.
  void join(std::uint32_t message, std::string_view key);
  // May it be begun? Also one that has not joined.
  bool is_first(std::uint32_t message) const;
  // It leaves, from wherever it stands; nothing happens when it has not joined. Returns who is the
  // first by that.
  std::optional<std::uint32_t> leave(std::uint32_t message);

  std::size_t keys() const { return rows_.size(); }

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;
  struct Row {
    std::uint32_t first = kNone, last = kNone;
  };
  using Rows = std::unordered_map<std::string, Row>;
  // An element of the map stays where it is.
  struct Place {
    Rows::value_type* row = nullptr;  // none: it has not joined
    std::uint32_t before = kNone, behind = kNone;
  };

  Rows rows_;
  std::vector<Place> places_;  // by message
};

}  // namespace lope::consumer
