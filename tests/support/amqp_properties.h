// The properties of a message, made by hand as they go over the wire.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "support/amqp_frames.h"

namespace lope::test {

// A field of a table: its name, its kind's letter in the protocol, and the bytes of its value.
inline std::string field(std::string_view name, char kind, const std::string& value) {
  return short_text(name) + kind + value;
}
inline std::string text_field(std::string_view name, std::string_view value) {
  return field(name, 'S', long_text(value));
}
inline std::string number_field(std::string_view name, std::int64_t value) {
  return field(name, 'l', number(static_cast<std::uint64_t>(value), 8));
}
inline std::string flag_field(std::string_view name, bool value) {
  return field(name, 't', number(value ? 1 : 0, 1));
}

struct Properties {
  std::optional<std::string> content_type = {}, content_encoding = {};
  std::optional<std::string> headers = {};  // fields, one behind the other
  std::optional<int> delivery_mode = {}, priority = {};
  std::optional<std::string> correlation_id = {}, reply_to = {}, expiration = {}, message_id = {};
  std::optional<std::uint64_t> timestamp = {};
  std::optional<std::string> type = {}, user_id = {}, app_id = {}, cluster_id = {};

  std::string encode() const {
    std::uint64_t flags = 0;
    int bit = 15;
    std::string values;
    const auto add = [&](const auto& given, auto encoded) {
      if (given) {
        flags |= std::uint64_t{1} << bit;
        values += encoded(*given);
      }
      --bit;
    };
    const auto brief = [](const std::string& text) { return short_text(text); };
    const auto octet = [](int value) { return number(static_cast<std::uint64_t>(value), 1); };
    add(content_type, brief);
    add(content_encoding, brief);
    add(headers, [](const std::string& fields) { return long_text(fields); });
    add(delivery_mode, octet);
    add(priority, octet);
    add(correlation_id, brief);
    add(reply_to, brief);
    add(expiration, brief);
    add(message_id, brief);
    add(timestamp, [](std::uint64_t value) { return number(value, 8); });
    add(type, brief);
    add(user_id, brief);
    add(app_id, brief);
    add(cluster_id, brief);
    return number(flags, 2) + values;
  }
};

// A field of every kind there is, tables and arrays among them, one behind the other.
inline std::string fields_of_every_kind() {
  const std::string table = text_field("k", "v") + number_field("n", -1) +
                            field("t", 'F', long_text(flag_field("deep", true)));
  const std::string array = std::string("I") + number(0xFFFFFFFE, 4) + 'S' +
                            long_text("in a list") + 'A' + long_text("V") + 'F' + long_text(table);
  const auto real = std::bit_cast<std::uint64_t>(-1.5e300);
  const auto small_real = std::bit_cast<std::uint32_t>(0.1F);
  return flag_field("yes", true) + flag_field("no", false) + field("i8", 'b', number(0x80, 1)) +
         field("u8", 'B', number(0xFF, 1)) + field("i16", 's', number(0x8000, 2)) +
         field("u16", 'u', number(0xFFFF, 2)) + field("i32", 'I', number(0x80000000, 4)) +
         field("u32", 'i', number(0xFFFFFFFF, 4)) + number_field("i64", INT64_MIN) +
         number_field("most", INT64_MAX) + field("f32", 'f', number(small_real, 4)) +
         field("f64", 'd', number(real, 8)) +
         field("decimal", 'D', number(2, 1) + number(0xFFFFFF85, 4)) +
         field("time", 'T', number(1'700'000'000, 8)) + field("nothing", 'V', "") +
         text_field("text", "gr\xc3\xbc\xc3\x9f") + text_field("empty", "") +
         field("bytes", 'x', long_text(std::string("\0\xff\x01", 3))) +
         field("table", 'F', long_text(table)) + field("array", 'A', long_text(array)) +
         text_field("", "without a name") + text_field("text", "a second of that name");
}

}  // namespace lope::test
