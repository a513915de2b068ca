#include "common/content_encoding.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <utility>

#include "common/codec.h"
#include "common/text.h"

namespace lope {

namespace {

constexpr std::size_t kPiece = 64 * 1024;

struct Name {
  std::string_view name;
  Encoding encoding;
};
constexpr Name kNames[] = {
    {"gzip", Encoding::gzip},   {"x-gzip", Encoding::gzip},   {"deflate", Encoding::deflate},
    {"bzip2", Encoding::bzip2}, {"x-bzip2", Encoding::bzip2}, {"bz2", Encoding::bzip2},
    {"lzma", Encoding::lzma},   {"x-lzma", Encoding::lzma},   {"xz", Encoding::lzma},
    {"x-xz", Encoding::lzma},   {"zstd", Encoding::zstd},
};

// Nothing to undo: kombu, and with it Celery, names a charset here.
constexpr std::string_view kPlain[] = {"", "identity", "utf-8", "us-ascii", "binary"};

std::unique_ptr<Decoder> make_decoder(Encoding encoding) {
  switch (encoding) {
    case Encoding::gzip: return make_gzip_decoder();
    case Encoding::deflate: return make_deflate_decoder();
    case Encoding::bzip2: return make_bzip2_decoder();
    case Encoding::lzma: return make_lzma_decoder();
    case Encoding::zstd: return make_zstd_decoder();
  }
  std::abort();
}

// Between two decoders there may be so much more than is to come out at the end.
constexpr std::uint64_t kMoreBetween = 16 << 20;

// Decoders one behind the other. Each takes what it needs from the one before, piece by piece: of
// what is in between there is never more than a piece.
class Chain {
 public:
  // No layer but the last gives out more than `most_between` bytes: nothing need ever come out of
  // the next for those to take time.
  Chain(std::string_view body, const std::vector<Encoding>& encodings, std::uint64_t most_between)
      : most_between_(most_between) {
    for (const Encoding encoding : encodings) {
      layers_.push_back({encoding, make_decoder(encoding), {}, {}, 0, false, false});
    }
    layers_.front().in = body;
    layers_.front().last = true;
  }

  // As much of what comes out at the end as `out` takes; fewer bytes: that was all.
  // `DecodeFailure::reason` names the encoding.
  std::optional<DecodeFailure> read(std::span<char> out, std::size_t& got) {
    auto read_now = read(layers_.size() - 1, out);
    if (!read_now) return DecodeFailure{too_large_, read_now.error()};
    got = *read_now;
    return std::nullopt;
  }

 private:
  struct Layer {
    Encoding encoding;
    std::unique_ptr<Decoder> decoder;
    std::vector<char> piece;
    std::string_view in;   // of it, not taken yet
    std::uint64_t before;  // bytes that the layer before has given out
    bool last;             // nothing follows that
    bool done;
  };

  Result<std::size_t> read(std::size_t index, std::span<char> out) {
    Layer& layer = layers_[index];
    const std::size_t room = out.size();
    while (!out.empty() && !layer.done) {
      if (layer.in.empty() && !layer.last) {
        layer.piece.resize(kPiece);
        const auto size = read(index - 1, layer.piece);
        if (!size) return size;
        layer.in = {layer.piece.data(), *size};
        layer.last = *size < kPiece;
        layer.before += *size;
        if (layer.before > most_between_) {
          too_large_ = true;
          return Error{std::string("the ") + to_string(layers_[index - 1].encoding) +
                       " data in it unpacks to more than " + std::to_string(most_between_) +
                       " bytes"};
        }
      }
      const std::size_t before = layer.in.size() + out.size();
      const auto done = layer.decoder->decode(layer.in, out, layer.last);
      const std::string subject = std::string("expected ") + to_string(layer.encoding) + " data";
      if (!done) return Error{subject + ", found " + done.error()};
      layer.done = *done;
      if (!layer.done && layer.in.size() + out.size() == before && !layer.in.empty()) {
        return Error{subject + ", found damaged data"};  // it would do so for ever
      }
    }
    return room - out.size();
  }

  const std::uint64_t most_between_;
  bool too_large_ = false;  // why there was an error
  std::vector<Layer> layers_;
};

}  // namespace

const char* to_string(Encoding encoding) {
  switch (encoding) {
    case Encoding::gzip: return "gzip";
    case Encoding::deflate: return "deflate";
    case Encoding::bzip2: return "bzip2";
    case Encoding::lzma: return "lzma";
    case Encoding::zstd: return "zstd";
  }
  std::abort();
}

Result<std::vector<Encoding>> parse_encodings(std::string_view text) {
  std::vector<Encoding> encodings;
  while (true) {
    const std::size_t comma = text.find(',');
    const std::string_view word = trimmed(text.substr(0, comma));
    const auto known = std::ranges::find_if(
        kNames, [word](const Name& each) { return same_word(each.name, word); });
    if (known != std::end(kNames)) {
      encodings.push_back(known->encoding);
    } else if (std::ranges::none_of(kPlain,
                                    [word](auto plain) { return same_word(plain, word); })) {
      return Error{
          "expected content-encoding gzip, deflate, bzip2, lzma, xz, zstd or identity, "
          "found '" +
          escape(word, 80) + "'"};
    }
    if (comma == std::string_view::npos) break;
    text.remove_prefix(comma + 1);
  }
  if (encodings.size() > kMaxEncodings) {
    return Error{"expected at most " + std::to_string(kMaxEncodings) +
                 " content-encodings, found " + std::to_string(encodings.size())};
  }
  std::ranges::reverse(encodings);
  return encodings;
}

std::optional<DecodeFailure> decode_body(std::string_view body,
                                         const std::vector<Encoding>& encodings, std::size_t limit,
                                         ByteBuffer& out) {
  constexpr std::uint64_t kLarge = std::uint64_t{1} << 62;
  Chain chain(body, encodings,
              std::min(kLarge, std::uint64_t{std::max(limit, body.size())}) + kMoreBetween);
  out.clear();
  while (true) {
    // Room for one byte above the limit, which tells that there is more.
    const std::size_t size = out.size();
    out.reserve(std::min(limit + 1, std::max(2 * size, kPiece)));
    const std::size_t room = std::min(limit + 1, out.capacity()) - size;
    std::size_t got = 0;
    if (auto failure = chain.read({out.data() + size, room}, got)) return failure;
    out.assign_size(size + got);
    if (out.size() > limit) {
      out.release();
      return DecodeFailure{true, "it unpacks to more than " + std::to_string(limit) + " bytes"};
    }
    if (got < room) return std::nullopt;
  }
}

bool compress_body(std::string_view compression, std::string_view body, ByteBuffer& out) {
  if (compression == "gzip") {
    encode_gzip(body, out);
  } else if (compression == "bzip2") {
    encode_bzip2(body, out);
  } else if (compression == "xz") {
    encode_xz(body, out);
  } else if (compression == "zstd") {
    encode_zstd(body, out);
  } else {
    return false;
  }
  return out.size() < body.size();
}

}  // namespace lope
