// The only place that knows zlib.
#include <zlib.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <new>
#include <string>

#include "common/codec.h"

namespace lope {

namespace {

constexpr int kGzipHead = 16;  // added to the window's bits

// zlib counts with `unsigned`, and a body may be larger.
template <typename Piece>
unsigned piece(const Piece& of) {
  return static_cast<unsigned>(std::min<std::size_t>(of.size(), UINT_MAX));
}

Bytef* bytes(const char* data) { return reinterpret_cast<Bytef*>(const_cast<char*>(data)); }

class ZlibDecoder final : public Decoder {
 public:
  explicit ZlibDecoder(bool gzip) : gzip_(gzip) {}
  ZlibDecoder(const ZlibDecoder&) = delete;
  ZlibDecoder& operator=(const ZlibDecoder&) = delete;
  ~ZlibDecoder() override {
    if (begun_) ::inflateEnd(&stream_);
  }

  Result<bool> decode(std::string_view& in, std::span<char>& out, bool last) override {
    while (true) {
      if (between_) {
        if (in.empty() && (ended_ || !last)) return last;
        if (ended_ && !gzip_) return Error{kMoreBehind};
        if (!in.empty() && !begun_) begin(in.front());
        if (in.empty()) return Error{kCutOff};
        between_ = false;
      }
      const unsigned given = piece(in), room = piece(out);
      stream_.next_in = bytes(in.data());
      stream_.avail_in = given;
      stream_.next_out = bytes(out.data());
      stream_.avail_out = room;
      const int status = ::inflate(&stream_, Z_NO_FLUSH);
      in.remove_prefix(given - stream_.avail_in);
      out = out.subspan(room - stream_.avail_out);
      switch (status) {
        case Z_OK:
        case Z_BUF_ERROR: break;
        case Z_STREAM_END:
          between_ = ended_ = true;
          if (gzip_) ::inflateReset(&stream_);
          continue;
        case Z_MEM_ERROR: throw std::bad_alloc();
        case Z_NEED_DICT: return Error{"a dictionary that is not there"};
        default:
          if (ended_ && stream_.total_out == 0) return Error{kMoreBehind};
          return Error{stream_.msg != nullptr ? stream_.msg : "damaged data"};
      }
      if (out.empty()) return false;
      if (in.empty()) return last ? Result<bool>(Error{kCutOff}) : false;
    }
  }

 private:
  // What a browser calls deflate has zlib's head, and what some programs do has none. No encoder
  // begins a bare stream with a byte that could be that head's first.
  void begin(char first) {
    const auto byte = static_cast<unsigned char>(first);
    const bool has_head = (byte & 0x0f) == Z_DEFLATED && byte >> 4 <= 7;
    const int bits = gzip_ ? MAX_WBITS + kGzipHead : has_head ? MAX_WBITS : -MAX_WBITS;
    if (::inflateInit2(&stream_, bits) != Z_OK) throw std::bad_alloc();
    begun_ = true;
  }

  const bool gzip_;
  bool begun_ = false;
  bool between_ = true;  // two members, or before the first
  bool ended_ = false;   // at least one member
  z_stream stream_{};
};

}  // namespace

std::unique_ptr<Decoder> make_gzip_decoder() { return std::make_unique<ZlibDecoder>(true); }
std::unique_ptr<Decoder> make_deflate_decoder() { return std::make_unique<ZlibDecoder>(false); }

void encode_gzip(std::string_view body, ByteBuffer& out) {
  z_stream stream{};
  constexpr int kMemory = 8;  // zlib's own default
  if (::deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, MAX_WBITS + kGzipHead, kMemory,
                     Z_DEFAULT_STRATEGY) != Z_OK) {
    throw std::bad_alloc();
  }
  struct End {
    z_stream& stream;
    ~End() { ::deflateEnd(&stream); }
  } const end{stream};
  out.assign_size(::deflateBound(&stream, body.size()));
  std::size_t written = 0;
  for (int status = Z_OK; status != Z_STREAM_END;) {
    stream.next_in = bytes(body.data());
    const unsigned given = piece(body);
    stream.avail_in = given;
    stream.next_out = bytes(out.data() + written);
    const unsigned room = piece(out.bytes().subspan(written));
    stream.avail_out = room;
    status = ::deflate(&stream, given == body.size() ? Z_FINISH : Z_NO_FLUSH);
    if (status != Z_OK && status != Z_STREAM_END) std::abort();  // it has room for all of it
    body.remove_prefix(given - stream.avail_in);
    written += room - stream.avail_out;
  }
  out.assign_size(written);
}

}  // namespace lope
