#include "common/repeated_log.h"

namespace lope {

namespace {

constexpr std::size_t kMostKept = 1000;  // of different lines

}  // namespace

std::size_t RepeatedLog::count(const std::string& what, TimePoint now) {
  const auto [found, is_new] = entries_.try_emplace(what, Entry{now, 0});
  Entry& entry = found->second;
  if (!is_new && now - entry.written < kPeriod) {
    ++entry.since;
    return 0;
  }
  const std::size_t count = entry.since + 1;
  entry = {now, 0};
  if (entries_.size() > kMostKept) {
    std::erase_if(entries_,
                  [now](const auto& each) { return now - each.second.written >= kPeriod; });
  }
  if (entries_.size() > kMostKept) entries_.clear();
  return count;
}

}  // namespace lope
