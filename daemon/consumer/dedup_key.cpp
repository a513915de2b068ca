#include "consumer/dedup_key.h"

#include <cstdint>
#include <cstdio>
#include <cstring>

#include "common/hash.h"
#include "common/text.h"

namespace lope::consumer {

namespace {

// What a key begins with: what the rest of it is.
constexpr char kMessageId = 'm';
constexpr char kHeader = 'h';
constexpr char kLongHeader = 'H';
constexpr char kBody = 'b';

constexpr std::size_t kLongestText = 255;

void append_number(std::string& key, std::uint64_t number) {
  char bytes[sizeof number];
  std::memcpy(bytes, &number, sizeof number);
  key.append(bytes, sizeof bytes);
}

void append_hash(std::string& key, std::string_view bytes) {
  const Hash128 hash = hash128(bytes);
  append_number(key, hash.high);
  append_number(key, hash.low);
  append_number(key, bytes.size());
}

std::string header_key(std::string_view headers, std::string_view name) {
  while (const auto header = next_header(headers)) {
    if (header->name != name) continue;
    if (header->kind == HeaderKind::null || header->kind == HeaderKind::other) return {};
    const bool is_text = header->kind == HeaderKind::text || header->kind == HeaderKind::bytes;
    const bool is_long = is_text && header->value.size() > kLongestText;
    std::string key(1, is_long ? kLongHeader : kHeader);
    key += static_cast<char>(header->kind);
    if (is_long) {
      append_hash(key, header->value);
    } else if (is_text) {
      key += header->value;
    } else {
      append_number(key, header->bits);
    }
    return key;
  }
  return {};
}

std::string hex(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned char>(c));
    text += digits;
  }
  return text;
}

}  // namespace

std::string dedup_key(const DedupSettings& settings, const DeliveryView& view,
                      std::string_view body) {
  std::string key;
  switch (settings.key) {
    case DedupSettings::Key::none: break;
    case DedupSettings::Key::message_id: {
      const std::string_view id = view[TextProperty::message_id];
      if (id.empty()) break;
      key.reserve(id.size() + 1);
      key = kMessageId;
      key += id;
      break;
    }
    case DedupSettings::Key::header: return header_key(view.headers, settings.header);
    case DedupSettings::Key::body:
      key = kBody;
      append_hash(key, body);
      break;
  }
  return key;
}

std::string shown_key(std::string_view key) {
  if (key.empty()) return {};
  const std::string_view rest = key.substr(1);
  switch (key.front()) {
    case kMessageId: return "message_id " + escape(rest, 256);
    case kBody: return "body " + hex(rest.substr(0, 16));
    case kLongHeader: return "header " + hex(rest.substr(1, 16));
    default: break;
  }
  const auto kind = static_cast<HeaderKind>(rest.empty() ? 0 : rest.front());
  const std::string_view value = rest.empty() ? rest : rest.substr(1);
  if (kind == HeaderKind::text) return "header " + escape(value, 256);
  if (kind != HeaderKind::int64 && kind != HeaderKind::uint64) return "header " + hex(value);
  std::uint64_t number = 0;
  std::memcpy(&number, value.data(), std::min(value.size(), sizeof number));
  return "header " + (kind == HeaderKind::int64 ? std::to_string(static_cast<std::int64_t>(number))
                                                : std::to_string(number));
}

}  // namespace lope::consumer
