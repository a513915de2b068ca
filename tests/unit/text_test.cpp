// Text that others control, made safe; slips of the pen; names of signals and errors.
#include "common/text.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <csignal>
#include <vector>

using lope::escape;
using lope::nearest;

TEST_CASE("escape shows what is hidden and leaves the rest alone", "[unit][text]") {
  struct Row {
    std::string text, shown;
  };
  const auto row = GENERATE(values<Row>({
      {"", ""},
      {"plain text, 'quoted'", "plain text, 'quoted'"},
      {"grüße 日本 🐇", "grüße 日本 🐇"},
      {"a\nb\tc\rd", "a\\nb\\tc\\rd"},
      {"say \"no\"", "say \\\"no\\\""},
      {"C:\\temp", "C:\\\\temp"},
      {std::string("a\0b", 3), "a\\x00b"},
      {"\x1b[31mred", "\\x1B[31mred"},
      {"\x7f", "\\x7F"},
      {"\xc2\x9b", "\\xC2\\x9B"},                    // a control character beyond ASCII
      {"\xc2\xa0", "\xc2\xa0"},                      // the first that is none
      {"\xff\xfe", "\\xFF\\xFE"},                    // no UTF-8
      {"a\xc3", "a\\xC3"},                           // cut short
      {"\xc0\xaf", "\\xC0\\xAF"},                    // overlong
      {"\xed\xa0\x80", "\\xED\\xA0\\x80"},           // a surrogate
      {"\xf4\x90\x80\x80", "\\xF4\\x90\\x80\\x80"},  // beyond U+10FFFF
  }));
  CHECK(escape(row.text) == row.shown);
}

TEST_CASE("escape cuts between characters and says so", "[unit][text]") {
  CHECK(escape("abcdef", 6) == "abcdef");
  CHECK(escape("abcdefg", 6) == "abc…");
  CHECK(escape("äöüß", 8) == "äöüß");
  CHECK(escape("äöüßx", 8) == "äö…");
  CHECK(escape("ab\n\n\n", 7) == "ab\\n…");
  for (std::size_t limit = 3; limit < 40; ++limit) {
    const std::string cut = escape("a\x01ß\"日\xff🐇 and so on, and so on, and so on", limit);
    CHECK(cut.size() <= limit);
    CHECK(lope::first_invalid_utf8(cut) == std::string::npos);
    CHECK(cut.ends_with("…"));
  }
}

TEST_CASE("the place where a text stops being UTF-8 is found", "[unit][text]") {
  CHECK(lope::first_invalid_utf8("") == std::string::npos);
  CHECK(lope::first_invalid_utf8("grüße") == std::string::npos);
  CHECK(lope::first_invalid_utf8("gr\xfc\xdf"
                                 "e") == 2);
  CHECK(lope::first_invalid_utf8("ü\xc3") == 2);
}

TEST_CASE("the first bytes of a text end between characters", "[unit][text]") {
  struct Row {
    std::string text;
    std::size_t limit;
    std::string first;
  };
  const auto row = GENERATE(values<Row>({
      {"", 0, ""},
      {"abc", 3, "abc"},
      {"abc", 2, "ab"},
      {"abc", 0, ""},
      {"äöü", 4, "äö"},
      {"äöü", 3, "ä"},
      {"a🐇", 4, "a"},
      {"a🐇", 5, "a🐇"},
      {"🐇", 3, ""},
      {std::string(9, '\x80'), 7, std::string(3, '\x80')},  // no UTF-8: no more than a character
  }));
  CHECK(lope::first_bytes(row.text, row.limit) == row.first);
}

TEST_CASE("characters are counted, not bytes", "[unit][text]") {
  CHECK(lope::code_points("") == 0);
  CHECK(lope::code_points("grüße 日本 🐇") == 10);
}

TEST_CASE("nearest finds the word that was meant, or none", "[unit][text]") {
  const std::vector<std::string_view> words = {"broker", "handlers_dir", "workers", "queue",
                                               "queues", "prefetch",     "log",     "auto_ack"};
  struct Row {
    const char* word;
    const char* found;
  };
  const auto row = GENERATE(values<Row>({
      {"brokr", "broker"},
      {"brokre", "broker"},
      {"Broker", "broker"},
      {"handler_dir", "handlers_dir"},
      {"handlers-dir", "handlers_dir"},
      {"wrokers", "workers"},
      {"quee", "queue"},
      {"queeus", "queues"},
      {"autoack", "auto_ack"},
      {"lgo", "log"},
      {"xyz", ""},
      {"q", ""},
      {"", ""},
      {"completely_different", ""},
  }));
  INFO(row.word);
  CHECK(nearest(row.word, words) == row.found);
  CHECK(nearest(std::string(1 << 20, 'a'), words).empty());
}

TEST_CASE("a percent sign of a URL has two hexadecimal digits behind it", "[unit][text]") {
  using lope::percent_decoded;
  CHECK(percent_decoded("") == "");
  CHECK(percent_decoded("a%2Fb%25%c3%BC+") == "a/b%ü+");
  CHECK(percent_decoded("%00") == std::string(1, '\0'));
  for (const char* const wrong :
       {"%", "%4", "a%", "%zz", "%-1", "%+1", "% 1", "%1-", "%0x", "%%41"}) {
    INFO(wrong);
    CHECK_FALSE(percent_decoded(wrong));
  }
}

TEST_CASE("signals have names", "[unit][text]") {
  CHECK(lope::signal_name(SIGSEGV) == "SIGSEGV");
  CHECK(lope::signal_name(SIGKILL) == "SIGKILL");
  CHECK(lope::signal_name(71) == "signal 71");
}

TEST_CASE("an error names its call", "[unit][text]") {
  CHECK(lope::errno_text("connect", ECONNREFUSED) == "connect: Connection refused");
}
