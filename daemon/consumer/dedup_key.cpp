#include "consumer/dedup_key.h"

#include <cstdint>
#include <cstring>

#include "common/hash.h"

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

// The name's hash is part of it: the same store may hold what was done by another header. The name
// itself would make it too long for LMDB.
std::string header_key(std::string_view headers, std::string_view name) {
  while (const auto header = next_header(headers)) {
    if (header->name != name) continue;
    if (header->kind == HeaderKind::null || header->kind == HeaderKind::other) return {};
    const bool is_text = header->kind == HeaderKind::text || header->kind == HeaderKind::bytes;
    const bool is_long = is_text && header->value.size() > kLongestText;
    std::string key(1, is_long ? kLongHeader : kHeader);
    append_number(key, hash128(name).low);
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

}  // namespace lope::consumer
