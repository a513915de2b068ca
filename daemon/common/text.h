// Text that others control, made safe to show; small text helpers shared by all programs.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace lope {

// Control characters, backslashes, quotes and bytes that are no UTF-8 as \n, \t, \", \\ or \xNN;
// longer than `limit` bytes (of the result) is cut and ends with "…". The result is always valid
// UTF-8.
std::string escape(std::string_view text, std::size_t limit = 1024);

// The same without a limit and with lines, tabs, quotes and backslashes as they are: a terminal
// obeys only the other characters.
std::string harmless(std::string_view text);

// `text` as a JSON string, in quotes, at the end of `out`. Bytes that are no UTF-8 become U+FFFD.
void append_json_text(std::string& out, std::string_view text);

// The length of the well-formed UTF-8 sequence that `text` starts with; 0 when it is none.
std::size_t utf8_sequence_length(std::string_view text);
// Where `text` stops being UTF-8; npos when it is all of it.
std::size_t first_invalid_utf8(std::string_view text);
// The first bytes of `text`, at most `limit`, without cutting a character in two.
std::string_view first_bytes(std::string_view text, std::size_t limit);
// How many characters there are; bytes that are no UTF-8 count as they come.
std::size_t code_points(std::string_view utf8);

// 1 to `limit` letters, digits, '.', '_' and '-'.
bool is_plain_name(std::string_view text, std::size_t limit);

// The same, whatever the case of its ASCII letters.
bool same_word(std::string_view a, std::string_view b);
// Without blanks at its ends.
std::string_view trimmed(std::string_view text);

// A part of a URL; nullopt where two hexadecimal digits are missing behind a '%'.
std::optional<std::string> percent_decoded(std::string_view text);

// The candidate nearest to `word` by edit distance, when near enough to be a slip; empty otherwise.
std::string nearest(std::string_view word, std::span<const std::string_view> candidates);

// "SIGSEGV", or "signal 71" for one without a name.
std::string signal_name(int signal);

// "connect: Connection refused" for errno values.
std::string errno_text(std::string_view call, int error);

}  // namespace lope
