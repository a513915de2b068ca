// AMQP frames made by hand, as a broker sends them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lope::test {

inline constexpr int kFrameMax = 131072;

// Of 8 bytes at most.
inline std::string number(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text += static_cast<char>(value >> (8 * i));
  return text;
}

inline std::string short_text(std::string_view text) {
  return number(text.size(), 1) + std::string(text);
}
inline std::string long_text(std::string_view text) {
  return number(text.size(), 4) + std::string(text);
}

inline std::string frame(int type, int channel, const std::string& payload) {
  return number(static_cast<std::uint64_t>(type), 1) +
         number(static_cast<std::uint64_t>(channel), 2) + long_text(payload) + '\xce';
}

inline std::string method(int channel, int of_class, int id, const std::string& arguments) {
  return frame(1, channel,
               number(static_cast<std::uint64_t>(of_class), 2) +
                   number(static_cast<std::uint64_t>(id), 2) + arguments);
}

// What a broker says in a login, all at once; its properties are fields of a table. It wants no
// heartbeats.
inline std::string login(const std::string& properties = "") {
  return method(0, 10, 10,
                number(0, 1) + number(9, 1) + long_text(properties) + long_text("PLAIN") +
                    long_text("en_US")) +
         method(0, 10, 30, number(2047, 2) + number(kFrameMax, 4) + number(0, 2)) +
         method(0, 10, 41, short_text(""));
}

// The same, and all that a consumer waits for before it asks to consume from one queue.
inline std::string login_to_consume() {
  return login() + method(1, 20, 11, long_text("")) +  // channel.open-ok
         method(1, 60, 11, "");                        // basic.qos-ok
}

// What the broker sends ahead of a body of `size` bytes; its properties are empty.
inline std::string deliver(int channel, std::uint64_t tag, std::uint64_t size) {
  const std::string method_of_delivery =
      method(channel, 60, 60,
             short_text("tag") + number(tag, 8) + number(0, 1) + short_text("") + short_text("q"));
  return method_of_delivery +
         frame(2, channel, number(60, 2) + number(0, 2) + number(size, 8) + number(0, 2));
}

}  // namespace lope::test
