// The encodings that AMQP's content-encoding may name, as in HTTP: undone with a bound on what
// comes out, and applied.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/link.h"
#include "common/result.h"

namespace lope {

enum class Encoding { gzip, deflate, bzip2, lzma, zstd };
const char* to_string(Encoding encoding);

inline constexpr std::size_t kMaxEncodings = 3;  // of one body

// Of "gzip", or of a list "gzip, zstd": in the order in which they are undone, the last first.
// `identity` is nothing, and so are the charsets that some clients name here. An error says what
// was expected and found.
Result<std::vector<Encoding>> parse_encodings(std::string_view text);

// Why a body cannot be decoded.
struct DecodeFailure {
  bool too_large = false;  // otherwise it is damaged
  std::string reason;
};
// Undoes the encodings, one after the other, and puts what comes out in the place of what `out`
// has. No more than `limit` bytes of it are ever there. Throws std::bad_alloc.
std::optional<DecodeFailure> decode_body(std::string_view body,
                                         const std::vector<Encoding>& encodings, std::size_t limit,
                                         ByteBuffer& out);

// Those that a body can be sent with.
inline constexpr std::string_view kCompressions[] = {"gzip", "bzip2", "xz", "zstd"};
// Puts `body` under `compression`, one of the above, in the place of what `out` has. False: that
// would be no smaller. Throws std::bad_alloc.
bool compress_body(std::string_view compression, std::string_view body, ByteBuffer& out);

}  // namespace lope
