#include "common/content_type.h"

#include <catch2/catch.hpp>

#include "common/charset.h"

using namespace lope;

namespace {

struct Converted {
  std::string text;
  std::string reason;
  bool too_large = false;
};

Converted convert(std::string_view charset, std::string_view text, std::size_t limit = 1 << 20) {
  Utf8Converter converter;
  ByteBuffer out;
  if (const auto failure = converter.convert(charset, text, limit, out))
    return {"", failure->reason, failure->too_large};
  return {{out.data(), out.size()}, "", false};
}

std::string charset_in(std::string_view content_type) {
  const auto found = charset_of(content_type);
  if (!found) return "none";
  return found->name + "|" + std::string(content_type.substr(0, found->begin)) + "|" +
         std::string(content_type.substr(found->end));
}

}  // namespace

TEST_CASE("a content type is held against those that are accepted", "[unit][content_type]") {
  const std::vector<std::string> accept = {"application/json", "text/*"};
  for (const auto* type :
       {"application/json", "Application/JSON", "application/json; charset=utf-8",
        " application/json ;x", "text/plain", "TEXT/x"}) {
    CAPTURE(type);
    CHECK(is_accepted(accept, type));
  }
  for (const auto* type : {"", " ", ";charset=utf-8", "application/jsonx", "application", "text",
                           "text/", "textual/plain", "application/json,text/plain", "*/*"}) {
    CAPTURE(type);
    CHECK_FALSE(is_accepted(accept, type));
  }
  CHECK(is_accepted({"*/*"}, "a/b"));
  CHECK_FALSE(is_accepted({"*/*"}, ""));
  CHECK(unaccepted_text(accept, "") ==
        "expected content type application/json or text/*, found none");
  CHECK(unaccepted_text({"a/b", "c/d", "e/f"}, "x\n") ==
        "expected content type a/b, c/d or e/f, found 'x\\n'");
}

TEST_CASE("media ranges are told from other words", "[unit][content_type]") {
  for (const auto* range : {"a/b", "text/*", "*/*", "application/vnd.x+json"})
    CHECK(is_media_range(range));
  for (const auto* range :
       {"", "a", "/", "a/", "/b", "*/b", "a/b/c", "a/b; q=1", "a b/c", "a/b*"}) {
    CAPTURE(range);
    CHECK_FALSE(is_media_range(range));
  }
}

TEST_CASE("the charset of a content type is found", "[unit][content_type]") {
  CHECK(charset_in("text/plain") == "none");
  CHECK(charset_in("text/plain; charset=latin1") == "latin1|text/plain; charset=|");
  CHECK(charset_in("text/plain;CharSet = \"latin1\" ; x=y") ==
        "latin1|text/plain;CharSet = | ; x=y");
  CHECK(charset_in("text/plain; a=\"; charset=no\"; charset=koi8-r ;b") ==
        "koi8-r|text/plain; a=\"; charset=no\"; charset=| ;b");
  CHECK(charset_in("text/plain; xcharset=latin1") == "none");
  CHECK(charset_in("text/plain; flag; charset=latin1") == "latin1|text/plain; flag; charset=|");
  CHECK(charset_in("text/plain; charset=\"a\\\"b") == "a\"b|text/plain; charset=|");
  CHECK(charset_in("text/plain; charset=") == "|text/plain; charset=|");
  CHECK(charset_in("text/plain; charset=\"\\") != "none");
  CHECK(charset_in(";;;=;charset=x") == "x|;;;=;charset=|");
}

TEST_CASE("text of other charsets becomes UTF-8", "[unit][charset]") {
  CHECK(convert("iso-8859-1", "caf\xe9").text == "café");
  CHECK(convert("windows-1252", "\x80").text == "€");
  CHECK(convert("utf-16", std::string("\xff\xfe\xe9\x00", 4)).text == "é");
  CHECK(convert("utf-16be", std::string("\xd8\x3d\xde\x00", 4)).text == "😀");
  CHECK(convert("shift_jis", "\x93\xfa").text == "日");
  CHECK(convert("iso-2022-jp", "\x1b$B\x46\x7c").text == "日");
  CHECK(convert("latin1", "").text == "");
  const std::string many(300'000, '\xe9');
  CHECK(convert("latin1", many).text.size() == 600'000);
}

TEST_CASE("what is no text of its charset is told of", "[unit][charset]") {
  CHECK(convert("shift_jis", "ab\x93").reason ==
        "expected text in 'shift_jis', found other bytes at offset 2");
  CHECK(convert("utf-16le", "abc").reason ==
        "expected text in 'utf-16le', found other bytes at offset 2");
  for (const auto* name :
       {"", "none-such", "latin1//IGNORE", "latin1//TRANSLIT", "../../x", "a b"}) {
    CAPTURE(name);
    CHECK_THAT(convert(name, "x").reason, Catch::StartsWith("expected a charset that is known"));
  }
  const Converted large = convert("latin1", std::string(100, '\xe9'), 199);
  CHECK(large.too_large);
  CHECK(large.reason == "in UTF-8 it has more than 199 bytes");
  CHECK(convert("latin1", std::string(100, '\xe9'), 200).text.size() == 200);
}

TEST_CASE("a converter goes on after bytes that are none, and with another charset",
          "[unit][charset]") {
  Utf8Converter converter;
  ByteBuffer out;
  CHECK(converter.convert("shift_jis", "\x93", 100, out));
  CHECK_FALSE(converter.convert("shift_jis", "\x93\xfa", 100, out));
  CHECK(std::string_view(out.data(), out.size()) == "日");
  CHECK(converter.convert("none-such", "x", 100, out));
  CHECK_FALSE(converter.convert("latin1", "\xe9", 100, out));
  CHECK(std::string_view(out.data(), out.size()) == "é");
}
