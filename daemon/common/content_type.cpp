#include "common/content_type.h"

#include <algorithm>

#include "common/text.h"

namespace lope {

namespace {

bool is_token(std::string_view text) {
  constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::ranges::all_of(text, [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           kOthers.find(c) != std::string_view::npos;
  });
}

// Where the value that begins at `begin` ends, which may be in quotes.
std::size_t end_of_value(std::string_view text, std::size_t begin) {
  std::size_t end = begin;
  if (end < text.size() && text[end] == '"') {
    for (++end; end < text.size() && text[end] != '"'; ++end) {
      if (text[end] == '\\') ++end;
    }
    return std::min(end + 1, text.size());
  }
  return std::min(text.find(';', begin), text.size());
}

std::string unquoted(std::string_view value) {
  if (!value.starts_with('"')) return std::string(value);
  std::string plain;
  value.remove_prefix(1);
  if (value.ends_with('"')) value.remove_suffix(1);
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (value[i] == '\\' && i + 1 < value.size()) ++i;
    plain += value[i];
  }
  return plain;
}

}  // namespace

std::string_view media_type(std::string_view content_type) {
  return trimmed(content_type.substr(0, content_type.find(';')));
}

bool is_media_range(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return false;
  const std::string_view type = text.substr(0, slash), subtype = text.substr(slash + 1);
  if (type == "*") return subtype == "*";
  const auto is_name = [](std::string_view name) {
    return is_token(name) && name.find('*') == std::string_view::npos;
  };
  return is_name(type) && (subtype == "*" || is_name(subtype));
}

bool is_accepted(const std::vector<std::string>& accept, std::string_view content_type) {
  const std::string_view type = media_type(content_type);
  if (type.empty()) return false;
  return std::ranges::any_of(accept, [type](std::string_view range) {
    if (!range.ends_with("/*")) return same_word(range, type);
    range.remove_suffix(1);
    return range == "*/" ||
           (type.size() > range.size() && same_word(range, type.substr(0, range.size())));
  });
}

std::string unaccepted_text(const std::vector<std::string>& accept, std::string_view content_type) {
  std::string text = "expected content type ";
  for (std::size_t i = 0; i < accept.size(); ++i) {
    if (i > 0) text += i + 1 < accept.size() ? ", " : " or ";
    text += accept[i];
  }
  return text + ", found " +
         (content_type.empty() ? "none" : "'" + escape(content_type, 128) + "'");
}

std::optional<CharsetParameter> charset_of(std::string_view content_type) {
  std::size_t at = content_type.find(';');
  while (at < content_type.size()) {
    ++at;
    const std::size_t equals = content_type.find_first_of("=;", at);
    if (equals == std::string_view::npos) return std::nullopt;
    if (content_type[equals] == ';') {
      at = equals;
      continue;
    }
    const std::string_view name = trimmed(content_type.substr(at, equals - at));
    std::size_t begin = equals + 1;
    while (begin < content_type.size() && content_type[begin] == ' ') ++begin;
    std::size_t end = end_of_value(content_type, begin);
    at = content_type.find(';', end);
    if (!same_word(name, "charset")) continue;
    while (end > begin && content_type[end - 1] == ' ') --end;
    return CharsetParameter{unquoted(content_type.substr(begin, end - begin)), begin, end};
  }
  return std::nullopt;
}

}  // namespace lope
