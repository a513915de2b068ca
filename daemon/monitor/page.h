// The pages, page.html and journal.html, as the build has put them into the program.
#pragma once

#include <string_view>

namespace lope::monitor {

extern const std::string_view kPage;
extern const std::string_view kJournalPage;
// Stands in them where their script and style are named; replaced in each answer.
inline constexpr std::string_view kPageNonce = "@NONCE@";

}  // namespace lope::monitor
