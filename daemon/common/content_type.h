// What AMQP's content-type says: "application/json; charset=utf-8". Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lope {

// "application/json": without parameters and blanks.
std::string_view media_type(std::string_view content_type);

// "type/subtype", "type/*" or "*/*", of the characters that types have.
bool is_media_range(std::string_view text);
// Is it one of `accept`, each a media range? Without parameters, whatever its letters' case. What
// has no type is none.
bool is_accepted(const std::vector<std::string>& accept, std::string_view content_type);
// For people: what was expected and found.
std::string unaccepted_text(const std::vector<std::string>& accept, std::string_view content_type);

struct CharsetParameter {
  std::string name;                // without quotes
  std::size_t begin = 0, end = 0;  // of its value in the content type
};
// The first one; nothing when there is none.
std::optional<CharsetParameter> charset_of(std::string_view content_type);

}  // namespace lope
