// The only place that knows libbz2.
#include <bzlib.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <new>

#include "common/codec.h"

namespace lope {

namespace {

template <typename Piece>
unsigned piece(const Piece& of) {
  return static_cast<unsigned>(std::min<std::size_t>(of.size(), UINT_MAX));
}

class Bzip2Decoder final : public Decoder {
 public:
  Bzip2Decoder() = default;
  Bzip2Decoder(const Bzip2Decoder&) = delete;
  Bzip2Decoder& operator=(const Bzip2Decoder&) = delete;
  ~Bzip2Decoder() override { finish(); }

  Result<bool> decode(std::string_view& in, std::span<char>& out, bool last) override {
    while (true) {
      if (!running_) {
        if (in.empty() && (ended_ || !last)) return last;
        if (in.empty()) return Error{kCutOff};
        begin();
      }
      const unsigned given = piece(in), room = piece(out);
      stream_.next_in = const_cast<char*>(in.data());
      stream_.avail_in = given;
      stream_.next_out = out.data();
      stream_.avail_out = room;
      const int status = ::BZ2_bzDecompress(&stream_);
      in.remove_prefix(given - stream_.avail_in);
      out = out.subspan(room - stream_.avail_out);
      switch (status) {
        case BZ_OK: break;
        case BZ_STREAM_END: finish(); continue;
        case BZ_MEM_ERROR: throw std::bad_alloc();
        case BZ_DATA_ERROR_MAGIC: return Error{ended_ ? kMoreBehind : "another format"};
        default: return Error{"damaged data"};
      }
      if (out.empty()) return false;
      if (in.empty()) return last ? Result<bool>(Error{kCutOff}) : false;
    }
  }

 private:
  void begin() {
    stream_ = {};
    if (::BZ2_bzDecompressInit(&stream_, 0, 0) != BZ_OK) throw std::bad_alloc();
    running_ = true;
  }
  void finish() {
    if (!running_) return;
    ::BZ2_bzDecompressEnd(&stream_);
    running_ = false;
    ended_ = true;
  }

  bz_stream stream_{};
  bool running_ = false;
  bool ended_ = false;  // at least one stream
};

}  // namespace

std::unique_ptr<Decoder> make_bzip2_decoder() { return std::make_unique<Bzip2Decoder>(); }

void encode_bzip2(std::string_view body, ByteBuffer& out) {
  constexpr int kBlock = 9;  // its own default, of 100 kB
  bz_stream stream{};
  if (::BZ2_bzCompressInit(&stream, kBlock, 0, 0) != BZ_OK) throw std::bad_alloc();
  struct End {
    bz_stream& stream;
    ~End() { ::BZ2_bzCompressEnd(&stream); }
  } const end{stream};
  out.assign_size(body.size() + body.size() / 100 + 600);  // what its manual promises
  std::size_t written = 0;
  for (int status = BZ_RUN_OK; status != BZ_STREAM_END;) {
    const unsigned given = piece(body);
    stream.next_in = const_cast<char*>(body.data());
    stream.avail_in = given;
    const unsigned room = piece(out.bytes().subspan(written));
    stream.next_out = out.data() + written;
    stream.avail_out = room;
    status = ::BZ2_bzCompress(&stream, given == body.size() ? BZ_FINISH : BZ_RUN);
    if (status < 0) std::abort();  // it has room for all of it
    body.remove_prefix(given - stream.avail_in);
    written += room - stream.avail_out;
  }
  out.assign_size(written);
}

}  // namespace lope
