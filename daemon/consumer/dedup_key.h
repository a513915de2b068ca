// What tells a message from others of its group. Pure.
#pragma once

#include <string>
#include <string_view>

#include "common/link.h"
#include "common/settings.h"

namespace lope::consumer {

// At most kLongestKey bytes; empty: the message has nothing of that kind. Headers differ that
// differ in name, kind or value; long values are hashed. `body`: as it came.
std::string dedup_key(const DedupSettings& settings, const DeliveryView& view,
                      std::string_view body);

inline constexpr std::size_t kLongestKey = 265;

}  // namespace lope::consumer
