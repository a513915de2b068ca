#include "common/content_encoding.h"

#include <catch2/catch.hpp>
#include <random>

using namespace lope;

namespace {

std::string text_of(const ByteBuffer& buffer) { return {buffer.data(), buffer.size()}; }

std::string compressed(std::string_view compression, std::string_view body) {
  ByteBuffer out;
  compress_body(compression, body, out);
  return text_of(out);
}

struct Decoded {
  std::string body;
  bool failed = false;
  bool too_large = false;
  std::string reason;
};

Decoded decode(std::string_view encodings, std::string_view body, std::size_t limit = 1 << 20) {
  const auto parsed = parse_encodings(encodings);
  REQUIRE(parsed);
  ByteBuffer out;
  const auto failure = decode_body(body, *parsed, limit, out);
  if (failure) return {"", true, failure->too_large, failure->reason};
  return {text_of(out), false, false, ""};
}

std::string from_hex(std::string_view hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  }
  return bytes;
}

// Enough for several pieces, and not all the same.
std::string long_text() {
  std::string text;
  for (int i = 0; i < 40'000; ++i) text += "line " + std::to_string(i * 7919 % 10'007) + "\n";
  return text;
}

// "hello\n", as other programs write it.
const std::string kZlib = from_hex("789ccb48cdc9c9e70200084b021f");
const std::string kRaw = from_hex("cb48cdc9c9e70200");
const std::string kAlone =  // xz --format=lzma
    from_hex("5d00000400ffffffffffffffff00341949db855b9971acfffffdbe8000");

constexpr std::string_view kSent[] = {"gzip", "bzip2", "xz", "zstd"};

}  // namespace

TEST_CASE("what is compressed is what it was when it is decoded", "[unit][content_encoding]") {
  for (const std::string_view each : kSent) {
    CAPTURE(each);
    for (const std::string& body : {std::string(), std::string("x"), long_text()}) {
      const Decoded decoded = decode(each, compressed(each, body));
      CHECK(decoded.reason == "");
      CHECK(decoded.body == body);
    }
  }
}

TEST_CASE("a body is compressed only where that makes it smaller", "[unit][content_encoding]") {
  ByteBuffer out;
  for (const std::string_view each : kSent) {
    CAPTURE(each);
    CHECK_FALSE(compress_body(each, "short", out));
    CHECK(compress_body(each, std::string(1000, 'x'), out));
  }
}

TEST_CASE("deflate is decoded with zlib's head and without", "[unit][content_encoding]") {
  CHECK(decode("deflate", kZlib).body == "hello\n");
  CHECK(decode("deflate", kRaw).body == "hello\n");
  CHECK(decode("deflate", kZlib + kZlib).reason ==
        "expected deflate data, found something else behind its end");
}

TEST_CASE("encodings have several names", "[unit][content_encoding]") {
  for (const std::string_view name :
       {"gzip", "x-gzip", "GZip", " gzip\t", "identity, gzip", "gzip,"})
    CHECK(decode(name, compressed("gzip", "hello")).body == "hello");
  for (const std::string_view name : {"bzip2", "x-bzip2", "bz2"})
    CHECK(decode(name, compressed("bzip2", "hello")).body == "hello");
  for (const std::string_view name : {"lzma", "x-lzma", "xz", "x-xz"})
    CHECK(decode(name, compressed("xz", "hello")).body == "hello");
}

TEST_CASE("an unknown encoding, or too many of them, are told of", "[unit][content_encoding]") {
  CHECK(parse_encodings("br").error() ==
        "expected content-encoding gzip, deflate, bzip2, lzma, xz, zstd or identity, found 'br'");
  CHECK(parse_encodings("gzip,gzip,gzip,gzip").error() ==
        "expected at most 3 content-encodings, found 4");
  CHECK(parse_encodings("gzip,gzip,gzip,identity"));
  CHECK(parse_encodings("")->empty());
  for (const auto* plain : {"identity", "utf-8", "UTF-8", "us-ascii", "binary"}) {
    CHECK(parse_encodings(plain)->empty());
  }
  CHECK(parse_encodings("utf-8, gzip")->size() == 1);
}

TEST_CASE("of a list the last is undone first", "[unit][content_encoding]") {
  const std::string body = long_text();
  const std::string inner = compressed("gzip", body);
  CHECK(decode("gzip, zstd", compressed("zstd", inner)).body == body);
  CHECK(decode("zstd, gzip", compressed("zstd", inner)).failed);
  CHECK(decode("gzip, xz, bzip2", compressed("bzip2", compressed("xz", inner))).body == body);
}

TEST_CASE("what was put together is decoded as one", "[unit][content_encoding]") {
  for (const std::string_view each : kSent) {
    CAPTURE(each);
    const std::string body =
        compressed(each, "one ") + compressed(each, "") + compressed(each, "two");
    CHECK(decode(each, body).body == "one two");
  }
}

TEST_CASE("what is cut off anywhere is damaged", "[unit][content_encoding]") {
  for (const std::string_view each : kSent) {
    const std::string whole = compressed(each, "a text that is long enough to be cut off anywhere");
    for (std::size_t size = 0; size < whole.size(); ++size) {
      CAPTURE(each, size);
      const Decoded decoded = decode(each, whole.substr(0, size));
      CHECK(decoded.failed);
      CHECK_FALSE(decoded.too_large);
      CHECK(decoded.reason.starts_with("expected "));
    }
  }
  CHECK(decode("gzip", "").reason == "expected gzip data, found its end is missing");
  CHECK(decode("deflate", kRaw.substr(0, 3)).failed);
}

TEST_CASE("what is behind the end is damage", "[unit][content_encoding]") {
  for (const std::string_view each : kSent) {
    CAPTURE(each);
    CHECK(decode(each, compressed(each, "hello") + "and more behind it").failed);
  }
  CHECK(decode("gzip", compressed("gzip", "hello") + "more").reason ==
        "expected gzip data, found something else behind its end");
}

TEST_CASE("another format is told of", "[unit][content_encoding]") {
  for (const std::string_view each : kSent) {
    CAPTURE(each);
    CHECK(decode(each, "{\"this\": \"is JSON, and nothing that could be decoded\"}").failed);
  }
  CHECK(decode("gzip", "{}{}").reason == "expected gzip data, found incorrect header check");
}

TEST_CASE("both containers of LZMA are decoded", "[unit][content_encoding]") {
  CHECK(decode("lzma", kAlone).body == "hello\n");
}

TEST_CASE("no more is unpacked than is allowed", "[unit][content_encoding]") {
  const std::string body(100'000, 'x');
  for (const std::string_view each : kSent) {
    CAPTURE(each);
    const std::string packed = compressed(each, body);
    CHECK(decode(each, packed, body.size()).body == body);
    const Decoded over = decode(each, packed, body.size() - 1);
    CHECK(over.failed);
    CHECK(over.too_large);
    CHECK(over.reason == "it unpacks to more than 99999 bytes");
  }
}

TEST_CASE("a bomb in a bomb takes no more memory than is allowed", "[unit][content_encoding]") {
  // 1 GiB: 1 MiB of 1000 times the same gzip, which is packed again.
  const std::string inner = compressed("gzip", std::string(8 << 20, '\0'));
  std::string members;
  for (int i = 0; i < 128; ++i) members += inner;
  const std::string bomb = compressed("gzip", members);
  CHECK(bomb.size() < 64 * 1024);
  const Decoded decoded = decode("gzip, gzip", bomb, 4 << 20);
  CHECK(decoded.too_large);
}

TEST_CASE("a bomb that nothing comes out of is given up", "[unit][content_encoding]") {
  const std::string nothing = compressed("bzip2", "");
  std::string many;
  for (int i = 0; i < 500'000; ++i) many += nothing;
  const std::string inner = compressed("gzip", many);
  std::string members;
  for (int i = 0; i < 100; ++i) members += inner;
  const Decoded decoded = decode("bzip2, gzip, gzip", compressed("gzip", members), 1000);
  CHECK(decoded.too_large);
  CHECK_THAT(decoded.reason, Catch::StartsWith("the gzip data in it unpacks to more than 167"));
  CHECK(decode("bzip2, gzip", inner, 1000).reason == "");
}

TEST_CASE("a window that is too large is refused", "[unit][content_encoding]") {
  // A zstd frame that says it needs 128 MiB: magic, no content size, windowLog 27.
  const std::string zstd = from_hex("28b52ffd0088010000");
  const Decoded decoded = decode("zstd", zstd);
  CHECK(decoded.failed);
  CHECK_THAT(decoded.reason, Catch::Contains("memory"));
  // .lzma with a dictionary of 1 GiB.
  std::string alone = kAlone;
  alone[1] = alone[2] = alone[3] = '\0';
  alone[4] = '\x40';
  CHECK(decode("lzma", alone).reason ==
        "expected lzma data, found a dictionary of more than 64 MiB");
}

TEST_CASE("no damage does harm", "[unit][content_encoding]") {
  std::mt19937 random(20'26);
  const std::string body = long_text().substr(0, 3000);
  for (const std::string_view each : kSent) {
    const std::string whole = compressed(each, body);
    for (int round = 0; round < 400; ++round) {
      std::string damaged = whole;
      for (std::uint32_t changes = 1 + random() % 4; changes > 0; --changes) {
        damaged[random() % damaged.size()] = static_cast<char>(random());
      }
      if (round % 5 == 0) damaged.resize(random() % damaged.size());
      const Decoded decoded = decode(each, damaged, 64 * 1024);
      CHECK((decoded.failed || decoded.body.size() <= 64 * 1024));
    }
  }
}
