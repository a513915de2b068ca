// The only place that knows liblzma.
#include <lzma.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <string>

#include "common/codec.h"

namespace lope {

namespace {

constexpr std::uint64_t kMemory = kMaxWindow + (1 << 20);

std::uint8_t* bytes(const char* data) {
  return reinterpret_cast<std::uint8_t*>(const_cast<char*>(data));
}

class LzmaDecoder final : public Decoder {
 public:
  LzmaDecoder() {
    if (::lzma_auto_decoder(&stream_, kMemory, LZMA_CONCATENATED) != LZMA_OK) {
      throw std::bad_alloc();
    }
  }
  LzmaDecoder(const LzmaDecoder&) = delete;
  LzmaDecoder& operator=(const LzmaDecoder&) = delete;
  ~LzmaDecoder() override { ::lzma_end(&stream_); }

  Result<bool> decode(std::string_view& in, std::span<char>& out, bool last) override {
    stream_.next_in = bytes(in.data());
    stream_.avail_in = in.size();
    stream_.next_out = bytes(out.data());
    stream_.avail_out = out.size();
    const lzma_ret status = ::lzma_code(&stream_, last ? LZMA_FINISH : LZMA_RUN);
    in.remove_prefix(in.size() - stream_.avail_in);
    out = out.subspan(out.size() - stream_.avail_out);
    switch (status) {
      case LZMA_OK: return false;
      case LZMA_STREAM_END: return true;
      case LZMA_BUF_ERROR:
        if (!last || out.empty()) return false;
        return Error{kCutOff};
      case LZMA_MEM_ERROR: throw std::bad_alloc();
      case LZMA_MEMLIMIT_ERROR:
        return Error{"a dictionary of more than " + std::to_string(kMaxWindow >> 20) + " MiB"};
      case LZMA_FORMAT_ERROR: return Error{"another format"};
      case LZMA_OPTIONS_ERROR: return Error{"options that are not known"};
      default: return Error{"damaged data"};
    }
  }

 private:
  lzma_stream stream_ = LZMA_STREAM_INIT;
};

}  // namespace

std::unique_ptr<Decoder> make_lzma_decoder() { return std::make_unique<LzmaDecoder>(); }

void encode_xz(std::string_view body, ByteBuffer& out) {
  out.assign_size(::lzma_stream_buffer_bound(body.size()));
  lzma_options_lzma options;
  ::lzma_lzma_preset(&options, LZMA_PRESET_DEFAULT);
  // What is longer than the body only takes time to make.
  options.dict_size = static_cast<std::uint32_t>(
      std::clamp<std::size_t>(body.size(), LZMA_DICT_SIZE_MIN, options.dict_size));
  lzma_filter filters[] = {{LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, nullptr}};
  std::size_t written = 0;
  const lzma_ret status =
      ::lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC64, nullptr, bytes(body.data()),
                                  body.size(), bytes(out.data()), &written, out.size());
  if (status == LZMA_MEM_ERROR) throw std::bad_alloc();
  if (status != LZMA_OK) std::abort();  // it has room for all of it
  out.assign_size(written);
}

}  // namespace lope
