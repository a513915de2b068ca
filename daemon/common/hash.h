// A hash of 128 bits, of content that nobody forges; the only place that knows xxhash.
#pragma once

#include <cstdint>
#include <string_view>

namespace lope {

struct Hash128 {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  friend bool operator==(const Hash128&, const Hash128&) = default;
};

Hash128 hash128(std::string_view bytes);

}  // namespace lope
