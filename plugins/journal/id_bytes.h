// An id as it is kept: a UUID in 16 bytes, 32 hexadecimal digits in 17, anything else as its text.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace lope::plugins {

class IdBytes {
 public:
  explicit IdBytes(std::string_view id) {
    const bool uuid = id.size() == 36;
    if (!uuid && id.size() != 32) return;
    std::size_t at = uuid ? 0 : 1;  // the first of 17 bytes is 0
    int high = -1;
    for (std::size_t i = 0; i < id.size(); ++i) {
      const char c = id[i];
      if (uuid && (i == 8 || i == 13 || i == 18 || i == 23)) {
        if (c != '-') return;
        continue;
      }
      // Capital letters would come back as small ones.
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
      if (digit < 0) return;
      if (high < 0) {
        high = digit;
      } else {
        bytes_[at++] = static_cast<unsigned char>(high * 16 + digit);
        high = -1;
      }
    }
    size_ = at;
  }

  const void* data() const { return bytes_.data(); }
  // 0: it is its text.
  std::size_t size() const { return size_; }

 private:
  std::array<unsigned char, 17> bytes_{};
  std::size_t size_ = 0;
};

}  // namespace lope::plugins
