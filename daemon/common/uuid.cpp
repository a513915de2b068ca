#include "common/uuid.h"

#include <sys/random.h>

#include <array>
#include <cstdlib>

namespace lope {

namespace {

constexpr std::size_t kUuidBytes = 16;
// The most that getrandom() gives without ever being interrupted.
constexpr std::size_t kDrawnBytes = 256;

// Random bytes that a thread has drawn for many UUIDs at once.
struct Drawn {
  std::array<unsigned char, kDrawnBytes> bytes;
  std::size_t used = kDrawnBytes;
};

}  // namespace

std::string uuid() {
  thread_local Drawn drawn;
  if (drawn.used == kDrawnBytes) {
    if (::getrandom(drawn.bytes.data(), kDrawnBytes, 0) != static_cast<ssize_t>(kDrawnBytes)) {
      std::abort();
    }
    drawn.used = 0;
  }
  unsigned char* const bytes = drawn.bytes.data() + drawn.used;
  drawn.used += kUuidBytes;
  bytes[6] = static_cast<unsigned char>((bytes[6] & 0x0F) | 0x40);  // version 4: random
  bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3F) | 0x80);
  constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  text.reserve(36);
  for (std::size_t i = 0; i < kUuidBytes; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kHex[bytes[i] >> 4];
    text += kHex[bytes[i] & 0x0F];
  }
  return text;
}

}  // namespace lope
