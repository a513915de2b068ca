// Text of other charsets as UTF-8. The only place that knows iconv.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "common/link.h"

namespace lope {

// Of UTF-8, or a part of it: there is nothing to convert.
bool is_utf8_charset(std::string_view charset);

class Utf8Converter {
 public:
  Utf8Converter() = default;
  Utf8Converter(const Utf8Converter&) = delete;
  Utf8Converter& operator=(const Utf8Converter&) = delete;
  ~Utf8Converter();

  struct Failure {
    bool too_large = false;  // otherwise the charset is unknown, or the text is none of it
    std::string reason;
  };
  // Puts `text` as UTF-8 in the place of what `out` has, `limit` bytes at most. Throws
  // std::bad_alloc.
  std::optional<Failure> convert(std::string_view charset, std::string_view text, std::size_t limit,
                                 ByteBuffer& out);

 private:
  bool open(std::string_view charset);

  std::string charset_;        // the one that is open
  void* converter_ = nullptr;  // an iconv_t; finding one takes long
};

}  // namespace lope
