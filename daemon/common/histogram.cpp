#include "common/histogram.h"

#include <numeric>

namespace lope {

double histogram_quantile(std::span<const std::uint64_t> counts, double share) {
  const auto total = std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
  if (total == 0) return 0;
  const double wanted = share * static_cast<double>(total);
  double before = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const auto here = static_cast<double>(counts[i]);
    if (here > 0 && before + here >= wanted) {
      const auto begin = static_cast<double>(histogram_begin(i));
      const auto end = static_cast<double>(histogram_begin(i + 1));
      return begin + (end - begin) * std::max(0.0, wanted - before) / here;
    }
    before += here;
  }
  return static_cast<double>(histogram_begin(counts.size()));
}

}  // namespace lope
