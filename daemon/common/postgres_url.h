// What a postgresql:// URL must not have: libpq would show pieces of its password in a message, or
// take them for the host's name.
#pragma once

#include <string_view>

namespace lope {

// Empty: nothing. Otherwise what was expected, without anything that the URL holds.
std::string_view unfit_in_postgres_url(std::string_view url);

}  // namespace lope
