// What boards (scoreboard.h) are made of besides plain atomics.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/histogram.h"

namespace lope {

// Text that another process may read at any moment. At most size - 1 bytes; a torn read shows a
// mixture, no more.
template <std::size_t size>
struct BoardText {
  std::array<std::atomic<char>, size> bytes;

  void set(std::string_view text) {
    const std::size_t length = std::min(text.size(), size - 1);
    for (std::size_t i = 0; i < length; ++i) bytes[i].store(text[i], std::memory_order_relaxed);
    bytes[length].store('\0', std::memory_order_release);
  }
  std::string get() const {
    std::string text;
    for (const std::atomic<char>& byte : bytes) {
      const char value = byte.load(std::memory_order_relaxed);
      if (value == '\0') break;
      text.push_back(value);
    }
    return text;
  }
};

// How often something took how long; see histogram.h.
struct BoardHistogram {
  std::array<std::atomic<std::uint64_t>, kHistogramClasses> counts;
  std::atomic<std::uint64_t> sum_ns;

  // By its one writer.
  void add(std::uint64_t ns) {
    constexpr std::uint64_t kLongest = 1ull << 50;  // 13 days: a few wrong ones spoil no sum
    const auto grow = [](std::atomic<std::uint64_t>& number, std::uint64_t by) {
      number.store(number.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
    };
    grow(counts[histogram_class(ns)], 1);
    grow(sum_ns, std::min(ns, kLongest));
  }
};

}  // namespace lope
