// Regular expressions of ECMAScript in UTF-8. The only place that knows PCRE2.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/result.h"

extern "C" {
struct pcre2_real_code_8;
struct pcre2_real_match_context_8;
struct pcre2_real_match_data_8;
}

namespace lope::schema {

class Pattern {
 public:
  // An error says what is wrong with `text`, without it.
  static Result<Pattern> compile(std::string_view text);
  const std::string& text() const { return text_; }

 private:
  friend class Matcher;
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };

  std::string text_, translated_;
  std::unique_ptr<pcre2_real_code_8, Free> code_;
};

// Of one thread, for one message.
class Matcher {
 public:
  static constexpr std::uint32_t kMaxMib = 64;
  enum class Found { no, yes, too_many_steps, too_much_memory };
  // Is there a match anywhere in `text`, which is UTF-8? Takes from `steps` what it costs, as far
  // as they suffice. Throws std::bad_alloc.
  Found find(const Pattern& pattern, std::string_view text, std::uint64_t& steps);

 private:
  struct Free {
    void operator()(pcre2_real_match_context_8* context) const;
    void operator()(pcre2_real_match_data_8* data) const;
  };

  std::unique_ptr<pcre2_real_match_context_8, Free> context_;
  std::unique_ptr<pcre2_real_match_data_8, Free> data_;
};

}  // namespace lope::schema
