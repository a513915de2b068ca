#include "common/charset.h"

#include <iconv.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "common/text.h"

namespace lope {

namespace {

constexpr std::size_t kMaxCharset = 64;
constexpr std::size_t kPiece = 64 * 1024;
constexpr std::size_t kLongest = 16;  // more than what comes of one character

// What follows a '/' would be an order to iconv, to leave out what does not fit for one.
bool is_charset_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxCharset && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("-_.:+").find(c) != std::string_view::npos;
  });
}

}  // namespace

bool is_utf8_charset(std::string_view charset) {
  return same_word(charset, "utf-8") || same_word(charset, "utf8") ||
         same_word(charset, "us-ascii") || same_word(charset, "ascii");
}

Utf8Converter::~Utf8Converter() {
  if (converter_ != nullptr) ::iconv_close(converter_);
}

bool Utf8Converter::open(std::string_view charset) {
  if (converter_ != nullptr && charset == charset_) {
    ::iconv(converter_, nullptr, nullptr, nullptr, nullptr);
    return true;
  }
  if (converter_ != nullptr) ::iconv_close(converter_);
  converter_ = nullptr;
  if (!is_charset_name(charset)) return false;
  charset_ = charset;
  const iconv_t opened = ::iconv_open("UTF-8", charset_.c_str());
  if (opened == reinterpret_cast<iconv_t>(std::intptr_t{-1})) return false;
  converter_ = opened;
  return true;
}

std::optional<Utf8Converter::Failure> Utf8Converter::convert(std::string_view charset,
                                                             std::string_view text,
                                                             std::size_t limit, ByteBuffer& out) {
  const std::string shown = "'" + escape(charset, 80) + "'";
  if (!open(charset)) return Failure{false, "expected a charset that is known, found " + shown};
  char* in = const_cast<char*>(text.data());
  std::size_t left = text.size();
  out.clear();
  const std::size_t most = limit + kLongest;
  for (bool flushed = false; !flushed;) {
    const std::size_t size = out.size();
    out.reserve(std::min(most, size + std::max(left + left / 2, kPiece)));
    const std::size_t room = std::min(most, out.capacity()) - size;
    char* to = out.data() + size;
    std::size_t free = room;
    flushed = left == 0;  // then what the converter still has
    const std::size_t status = flushed ? ::iconv(converter_, nullptr, nullptr, &to, &free)
                                       : ::iconv(converter_, &in, &left, &to, &free);
    const int error = status == static_cast<std::size_t>(-1) ? errno : 0;
    out.assign_size(size + room - free);
    if (out.size() > limit) {
      out.release();
      return Failure{true, "in UTF-8 it has more than " + std::to_string(limit) + " bytes"};
    }
    if (error == E2BIG) {
      flushed = false;
    } else if (error != 0) {
      return Failure{false, "expected text in " + shown + ", found other bytes at offset " +
                                std::to_string(text.size() - left)};
    }
  }
  return std::nullopt;
}

}  // namespace lope
