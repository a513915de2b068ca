// The compressors behind content_encoding: one file for each library. What is decoded comes in
// pieces of any size, and is nothing that can be trusted.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "common/link.h"
#include "common/result.h"

namespace lope {

// The most that a stream may ask us to remember of what it has unpacked to.
inline constexpr std::size_t kMaxWindow = std::size_t{64} << 20;

// Undoes one encoding.
class Decoder {
 public:
  virtual ~Decoder() = default;
  // Takes from the front of `in` and puts to the front of `out`; both then hold what is left. One
  // of them is empty afterwards, or all is done. `last`: nothing follows `in`. Returns true when
  // all is done. An error says what was found instead of data that can be decoded.
  virtual Result<bool> decode(std::string_view& in, std::span<char>& out, bool last) = 0;
};

// Throw std::bad_alloc.
std::unique_ptr<Decoder> make_gzip_decoder();     // members in a row too
std::unique_ptr<Decoder> make_deflate_decoder();  // with zlib's head or without
std::unique_ptr<Decoder> make_bzip2_decoder();    // streams in a row too
std::unique_ptr<Decoder> make_lzma_decoder();     // .xz (streams in a row too) and .lzma
std::unique_ptr<Decoder> make_zstd_decoder();     // frames in a row too

// Puts the whole of `body`, encoded, in the place of what `out` has. Throw std::bad_alloc.
void encode_gzip(std::string_view body, ByteBuffer& out);
void encode_bzip2(std::string_view body, ByteBuffer& out);
void encode_xz(std::string_view body, ByteBuffer& out);
void encode_zstd(std::string_view body, ByteBuffer& out);

inline constexpr const char* kCutOff = "its end is missing";
inline constexpr const char* kMoreBehind = "something else behind its end";

}  // namespace lope
