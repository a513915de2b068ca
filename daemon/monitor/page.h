// The status page, page.html, as the build has put it into the program.
#pragma once

#include <string_view>

namespace lope::monitor {

extern const std::string_view kPage;
// Stands in it where its script and its style are named; replaced in each answer.
inline constexpr std::string_view kPageNonce = "@NONCE@";

}  // namespace lope::monitor
