#include "common/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace lope {

Hash128 hash128(std::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.high64, hash.low64};
}

}  // namespace lope
