// The only place that knows zstd.
#include <zstd.h>

#include <bit>
#include <cstdlib>
#include <new>
#include <string>
#include <utility>

#include "common/codec.h"

namespace lope {

namespace {

struct Free {
  void operator()(ZSTD_DCtx* context) const { ::ZSTD_freeDCtx(context); }
  void operator()(ZSTD_CCtx* context) const { ::ZSTD_freeCCtx(context); }
};
using DecodeContext = std::unique_ptr<ZSTD_DCtx, Free>;
using EncodeContext = std::unique_ptr<ZSTD_CCtx, Free>;

// Making one takes longer than most bodies do: each thread keeps one that has not grown large.
constexpr std::size_t kKeptContext = std::size_t{2} << 20;
thread_local DecodeContext spare_decoder;
thread_local EncodeContext spare_encoder;

class ZstdDecoder final : public Decoder {
 public:
  ZstdDecoder()
      : context_(spare_decoder ? std::move(spare_decoder) : DecodeContext(::ZSTD_createDCtx())) {
    if (context_ == nullptr) throw std::bad_alloc();
    ::ZSTD_DCtx_reset(context_.get(), ZSTD_reset_session_only);
    ::ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, std::countr_zero(kMaxWindow));
  }
  ZstdDecoder(const ZstdDecoder&) = delete;
  ZstdDecoder& operator=(const ZstdDecoder&) = delete;
  ~ZstdDecoder() override {
    if (::ZSTD_sizeof_DCtx(context_.get()) <= kKeptContext) spare_decoder = std::move(context_);
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
  DecodeContext context_;
  bool between_ = true;  // two frames, or before the first
  bool ended_ = false;   // at least one frame
};

}  // namespace

std::unique_ptr<Decoder> make_zstd_decoder() { return std::make_unique<ZstdDecoder>(); }

void encode_zstd(std::string_view body, ByteBuffer& out) {
  constexpr int kLevel = 3;  // its own default
  out.assign_size(::ZSTD_compressBound(body.size()));
  EncodeContext context =
      spare_encoder ? std::move(spare_encoder) : EncodeContext(::ZSTD_createCCtx());
  if (context == nullptr) throw std::bad_alloc();
  const std::size_t size =
      ::ZSTD_compressCCtx(context.get(), out.data(), out.size(), body.data(), body.size(), kLevel);
  if (::ZSTD_sizeof_CCtx(context.get()) <= kKeptContext) spare_encoder = std::move(context);
  if (::ZSTD_isError(size) != 0) throw std::bad_alloc();  // it has room for all of it
  out.assign_size(size);
}

}  // namespace lope
