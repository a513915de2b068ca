// The only place that knows zstd.
#include <zstd.h>

#include <bit>
#include <cstdlib>
#include <new>
#include <string>

#include "common/codec.h"

namespace lope {

namespace {

struct Free {
  void operator()(ZSTD_DCtx* context) const { ::ZSTD_freeDCtx(context); }
};

class ZstdDecoder final : public Decoder {
 public:
  ZstdDecoder() : context_(::ZSTD_createDCtx()) {
    if (context_ == nullptr) throw std::bad_alloc();
    ::ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, std::countr_zero(kMaxWindow));
  }

  Result<bool> decode(std::string_view& in, std::span<char>& out, bool last) override {
    while (true) {
      if (between_) {
        if (in.empty() && (ended_ || !last)) return last;
        if (in.empty()) return Error{kCutOff};
      }
      ZSTD_inBuffer from{in.data(), in.size(), 0};
      ZSTD_outBuffer to{out.data(), out.size(), 0};
      const std::size_t status = ::ZSTD_decompressStream(context_.get(), &to, &from);
      in.remove_prefix(from.pos);
      out = out.subspan(to.pos);
      if (::ZSTD_isError(status) != 0) {
        return Error{ended_ && between_ ? kMoreBehind : ::ZSTD_getErrorName(status)};
      }
      between_ = status == 0;
      ended_ = ended_ || between_;
      if (between_) continue;
      if (out.empty()) return false;
      if (in.empty()) return last ? Result<bool>(Error{kCutOff}) : false;
    }
  }

 private:
  std::unique_ptr<ZSTD_DCtx, Free> context_;
  bool between_ = true;  // two frames, or before the first
  bool ended_ = false;   // at least one frame
};

}  // namespace

std::unique_ptr<Decoder> make_zstd_decoder() { return std::make_unique<ZstdDecoder>(); }

void encode_zstd(std::string_view body, ByteBuffer& out) {
  constexpr int kLevel = 3;  // its own default
  out.assign_size(::ZSTD_compressBound(body.size()));
  const std::size_t size =
      ::ZSTD_compress(out.data(), out.size(), body.data(), body.size(), kLevel);
  if (::ZSTD_isError(size) != 0) throw std::bad_alloc();  // it has room for all of it
  out.assign_size(size);
}

}  // namespace lope
