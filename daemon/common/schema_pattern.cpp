#include "common/schema_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <charconv>
#include <new>
#include <vector>

namespace lope::schema {

namespace {

constexpr std::size_t kBytesAStep = 16;  // that a match goes over

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// The code unit of \uXXXX at the start of `text`; -1 without one.
int code_unit(std::string_view text) {
  if (text.size() < 6 || !text.starts_with("\\u")) return -1;
  int unit = 0;
  for (const char c : text.substr(2, 4)) {
    if (hex_digit(c) < 0) return -1;
    unit = unit * 16 + hex_digit(c);
  }
  return unit;
}

// The length of {3}, {3,} or {3,5} at the start of `text`; 0 without one.
std::size_t counted_length(std::string_view text) {
  const std::size_t end = text.find_first_not_of("0123456789", 1);
  if (end == 1 || end == std::string_view::npos) return 0;
  if (text[end] == '}') return end + 1;
  const std::size_t last = text.find_first_not_of("0123456789", end + 1);
  return text[end] == ',' && last != std::string_view::npos && text[last] == '}' ? last + 1 : 0;
}

// ECMAScript's, of those that PCRE2 knows: \p{…} without a script takes no other.
constexpr std::string_view kProperties =
    " C Cc Cf Cn Co Cs L LC Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps S Sc Sk Sm "
    "So Z Zl Zp Zs ASCII ASCII_Hex_Digit AHex Alphabetic Alpha Any Bidi_Control Bidi_Mirrored "
    "Case_Ignorable Cased Changes_When_Casefolded Changes_When_Casemapped "
    "Changes_When_Lowercased Changes_When_Titlecased Changes_When_Uppercased Dash "
    "Default_Ignorable_Code_Point Deprecated Diacritic Emoji Emoji_Component EComp Emoji_Modifier "
    "EMod Emoji_Modifier_Base EBase Emoji_Presentation EPres Extended_Pictographic ExtPict "
    "Extender Grapheme_Base Grapheme_Extend Hex_Digit Hex IDS_Binary_Operator "
    "IDS_Trinary_Operator ID_Continue IDC ID_Start IDS Ideographic Ideo Join_Control "
    "Logical_Order_Exception Lowercase Lower Math Noncharacter_Code_Point Pattern_Syntax "
    "Pattern_White_Space Quotation_Mark Radical Regional_Indicator RI Sentence_Terminal "
    "Soft_Dotted Terminal_Punctuation Unified_Ideograph Uppercase Upper Variation_Selector "
    "White_Space space XID_Continue XIDC XID_Start XIDS ";
constexpr std::string_view kScripts = " Script sc Script_Extensions scx ";

// Of "{Lu}" or "{Script=Greek}" at the start of `text`.
bool is_property(std::string_view text) {
  const std::string_view name = text.substr(0, text.find_first_of("=}"));
  if (!name.starts_with('{') || name.find(' ') != std::string_view::npos) return false;
  const bool of_script = text.substr(name.size()).starts_with('=');
  const std::string word = " " + std::string(name.substr(1)) + " ";
  return (of_script ? kScripts : kProperties).find(word) != std::string_view::npos;
}

constexpr std::string_view kDigits = "0123456789", kHexDigits = "0123456789abcdefABCDEF",
                           kLetters = "bBdDsSwWfnrtv";  // an escape each

// The length of the escape at the start of `text`, of \k<…> without its name; 0: ECMAScript has
// none such.
std::size_t escape_length(std::string_view text, bool in_class) {
  const std::string_view rest = text.substr(std::min<std::size_t>(2, text.size()));
  const auto digits = [&](std::string_view known) {
    return std::min(rest.size(), rest.find_first_not_of(known));
  };
  const char c = text.size() > 1 ? text[1] : '\0';
  if (c >= '1' && c <= '9') return in_class ? 0 : 2 + digits(kDigits);
  switch (c) {
    case '\0': return 1;  // PCRE2 says what is wrong
    case '0': return digits(kDigits) == 0 ? 2 : 0;
    case 'c': return !rest.empty() && is_letter(rest[0]) ? 3 : 0;
    case 'k': return rest.starts_with('<') ? 2 : 0;
    case 'p':
    case 'P': return is_property(rest) ? 2 + rest.find('}') + 1 : 0;
    case 'u':
      if (rest.starts_with('{')) {
        const std::size_t end = rest.find_first_not_of(kHexDigits, 1);
        return end > 1 && end < rest.size() && rest[end] == '}' ? 2 + end + 1 : 0;
      }
      return digits(kHexDigits) >= 4 ? 6 : 0;
    case 'x': return digits(kHexDigits) >= 2 ? 4 : 0;
    default: return is_letter(c) && kLetters.find(c) == std::string_view::npos ? 0 : 2;
  }
}

// At the start of `text`, up to what a pattern may count to.
std::uint32_t number_in(std::string_view text) {
  std::uint32_t number = UINT16_MAX;  // for one that is too large
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

// In PCRE2's words what it and ECMAScript read differently. What only PCRE2 knows is refused: it
// would mean something else to everybody else who reads the schema.
class Translation {
 public:
  explicit Translation(std::string_view pattern) : rest_(pattern) {}

  Result<std::string> make() {
    while (!rest_.empty()) {
      const bool after_quantifier = std::exchange(after_quantifier_, false);
      const bool after_look = std::exchange(after_look_, false);
      const char c = rest_.front();
      if (c == '\\') {
        if (auto taken = take_escape(); !taken) return Error{taken.error()};
      } else if (in_class_) {
        if (c == '[') out_ += '\\';  // no POSIX class
        in_class_ = c != ']';
        take(1);
      } else if (c == '.') {
        put("[^\\n\\r\\u2028\\u2029]", 1);
      } else if (c == '[') {
        in_class_ = true;
        take(rest_.starts_with("[^") ? 2 : 1);
      } else if (c == '(') {
        const bool plain = !rest_.starts_with("(?") && !rest_.starts_with("(*");
        const char kind = rest_.size() > 2 ? rest_[2] : ' ';
        if (!plain && (rest_[1] == '*' || std::string_view(":=!<").find(kind) == std::string::npos))
          return Error{"'" + std::string(rest_.substr(0, 2)) + "' is none of its groups"};
        const char behind = rest_.size() > 3 ? rest_[3] : ' ';
        looks_.push_back(!plain && kind != ':' && (kind != '<' || behind == '=' || behind == '!'));
        take(1);
      } else if (c == ')') {
        after_look_ = !looks_.empty() && looks_.back();
        if (!looks_.empty()) looks_.pop_back();
        take(1);
      } else {
        const std::size_t counted = c == '{' ? counted_length(rest_) : 0;
        if (c == '{' && counted == 0) {
          put("\\{", 1);
          continue;
        }
        const bool repeats = c == '+' || c == '*' || counted > 0;
        if ((after_quantifier && repeats) || (after_look && (repeats || c == '?')))
          return Error{"there is nothing that '" + std::string(1, c) + "' could repeat"};
        after_quantifier_ = repeats || (c == '?' && !after_quantifier);
        take(counted > 0 ? counted : 1);
      }
    }
    return std::move(out_);
  }

 private:
  void take(std::size_t size) {
    out_ += rest_.substr(0, size);
    rest_.remove_prefix(size);
  }
  void put(std::string_view text, std::size_t size) {
    out_ += text;
    rest_.remove_prefix(size);
  }

  Result<void> take_escape() {
    const char c = rest_.size() > 1 ? rest_[1] : '\0';
    const std::size_t length = escape_length(rest_, in_class_);
    if (length == 0) return Error{std::string("it knows no such \\") + c};
    const bool is_class = std::string_view("dDsSwWpP").find(c) != std::string_view::npos;
    const int high = code_unit(rest_);
    const int low = high >= 0 ? code_unit(rest_.substr(6)) : -1;
    constexpr std::string_view kBlanks = "[\\s\\p{Z}\\ufeff]", kNoBlanks = "[^\\s\\p{Z}\\ufeff]";
    if (c == 's') {
      put(in_class_ ? kBlanks.substr(1, kBlanks.size() - 2) : kBlanks, 2);
    } else if (c == 'S' && !in_class_) {
      put(kNoBlanks, 2);
    } else if (c >= '1' && c <= '9') {
      put("\\g{" + std::string(rest_.substr(1, length - 1)) + "}", length);  // never octal
    } else if (c == 'v') {
      put("\\x0b", 2);
    } else if (high >= 0xd800 && high < 0xdc00 && low >= 0xdc00 && low < 0xe000) {
      char text[16];
      std::snprintf(text, sizeof text, "\\u{%x}", 0x10000 + (high - 0xd800) * 0x400 + low - 0xdc00);
      put(text, 12);
    } else {
      take(length);
    }
    if (in_class_ && is_class && rest_.starts_with('-') && !rest_.starts_with("-]"))
      return Error{"'-' behind a class makes no range: put it last"};
    return {};
  }

  std::string_view rest_;
  std::string out_;
  bool in_class_ = false;
  bool after_quantifier_ = false;
  bool after_look_ = false;  // behind a lookahead or lookbehind
  std::vector<bool> looks_;  // of each group that is open: is it one?
};

struct Work {
  std::uint64_t steps;
  const pcre2_code* code;
  const std::string_view pattern;
  std::size_t position = 0;
};

// How often an item is repeated at least: "a{3}", "\p{Lu}{3,}?". What is in a group counts itself.
std::uint32_t least_count_of(std::string_view item) {
  if ((!item.ends_with('}') && !item.ends_with("}?")) || item.starts_with(')')) return 1;
  const std::size_t brace = item.rfind('{');
  if (brace == std::string_view::npos) return 1;
  return item.starts_with('\\') && brace <= 2 ? 1 : number_in(item.substr(brace + 1));
}

// What the group has taken that an item refers to: "\g{1}", "\k<name>".
std::size_t taken_by(const Work& work, const pcre2_callout_block* at, std::string_view item) {
  std::uint32_t group = number_in(item.substr(3));
  if (item[1] == 'k') {
    const std::string name(item.substr(3, item.find('>') - 3));
    const auto number = reinterpret_cast<PCRE2_SPTR>(name.c_str());
    group = static_cast<std::uint32_t>(pcre2_substring_number_from_name(work.code, number));
  }
  if (group >= at->capture_top) return 0;
  return at->offset_vector[2 * group + 1] - at->offset_vector[2 * group];
}

// What the item behind `at` may go over before it fails, which nobody hears of then.
std::size_t reach_of(const Work& work, const pcre2_callout_block* at) {
  const std::string_view item = work.pattern.substr(at->pattern_position, at->next_item_length);
  std::size_t reach = least_count_of(item);
  if (item.starts_with("\\g") || item.starts_with("\\k")) {
    reach *= taken_by(work, at, item);
  } else if (item.starts_with("(?<=") || item.starts_with("(?<!")) {
    std::uint32_t back = 0;
    pcre2_pattern_info(work.code, PCRE2_INFO_MAXLOOKBEHIND, &back);
    reach = back;
  }
  return std::min(at->subject_length, reach);
}

// At each item of a pattern. PCRE2's own limit is for one place in the text, and does not count how
// far an item goes.
int count_work(pcre2_callout_block* at, void* data) {
  Work& work = *static_cast<Work*>(data);
  const std::size_t position = at->current_position;
  const std::size_t moved =
      position > work.position ? position - work.position : work.position - position;
  const std::uint64_t cost = 1 + (moved + reach_of(work, at)) / kBytesAStep;
  work.position = position;
  if (cost > work.steps) return PCRE2_ERROR_CALLOUT;
  work.steps -= cost;
  return 0;
}

}  // namespace

void Pattern::Free::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }
void Matcher::Free::operator()(pcre2_real_match_context_8* context) const {
  pcre2_match_context_free(context);
}
void Matcher::Free::operator()(pcre2_real_match_data_8* data) const { pcre2_match_data_free(data); }

Result<Pattern> Pattern::compile(std::string_view text) {
  auto translated = Translation(text).make();
  if (!translated) return Error{translated.error()};
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  if (!context) throw std::bad_alloc();
  pcre2_set_compile_extra_options(context.get(), PCRE2_EXTRA_ALT_BSUX);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);  // with others no match begins inside CR LF
  constexpr std::uint32_t kOptions = PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_ALT_BSUX |
                                     PCRE2_ALLOW_EMPTY_CLASS | PCRE2_MATCH_UNSET_BACKREF |
                                     PCRE2_AUTO_CALLOUT;
  int error = 0;
  PCRE2_SIZE offset = 0;
  Pattern pattern;
  pattern.text_ = text;
  pattern.code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()),
                                    translated->size(), kOptions, &error, &offset, context.get()));
  if (pattern.code_) {
    pattern.translated_ = std::move(*translated);
    return pattern;
  }
  if (error == PCRE2_ERROR_NOMEMORY) throw std::bad_alloc();
  if (error == PCRE2_ERROR_PATTERN_TOO_LARGE) {
    return Error{
        "it is too large: lower the counts of groups, {1,1000}, or leave them to maxLength"};
  }
  if (error == PCRE2_ERROR_QUANTIFIER_TOO_BIG)
    return Error{"a count goes up to 65535: leave a larger one to maxLength"};
  char words[160] = {};
  pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(words), sizeof words);
  return Error{words};
}

Matcher::Found Matcher::find(const Pattern& pattern, std::string_view text, std::uint64_t& steps) {
  if (!data_) {
    context_.reset(pcre2_match_context_create(nullptr));
    data_.reset(pcre2_match_data_create(1, nullptr));
    if (!context_ || !data_) throw std::bad_alloc();
    pcre2_set_heap_limit(context_.get(), kMaxMib * 1024);
    pcre2_set_match_limit(context_.get(), UINT32_MAX);  // count_work() does that
    pcre2_set_depth_limit(context_.get(), UINT32_MAX);
  }
  Work work{steps, pattern.code_.get(), pattern.translated_};
  pcre2_set_callout(context_.get(), count_work, &work);
  const int result = pcre2_match(pattern.code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                 text.size(), 0, 0, data_.get(), context_.get());
  steps = work.steps;
  if (result == PCRE2_ERROR_NOMEMORY) throw std::bad_alloc();
  if (result >= 0) return Found::yes;
  if (result == PCRE2_ERROR_NOMATCH) return Found::no;
  return result == PCRE2_ERROR_HEAPLIMIT ? Found::too_much_memory : Found::too_many_steps;
}

}  // namespace lope::schema
