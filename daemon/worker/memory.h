// How much memory this process has, as the kernel counts it. A look costs about a microsecond.
#pragma once

#include <cstdint>

#include "common/fd.h"

namespace lope::worker {

class ResidentMemory {
 public:
  ResidentMemory();
  // 0 when it cannot be found out.
  std::uint64_t bytes() const;

 private:
  UniqueFd file_;
};

}  // namespace lope::worker
