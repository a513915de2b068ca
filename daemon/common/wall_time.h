// Points in time as people write them, after RFC 3339: 2027-02-03T00:00:00+08:00. In programs they
// are milliseconds since 1970, UTC.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"

namespace lope {

// Date, time, an optional fraction, and an offset or Z. Part of a millisecond counts as one. An
// error says what was expected and found.
Result<std::int64_t> parse_time(std::string_view text);

// With the time zone of this machine and its offset; milliseconds only where there are some.
std::string time_text(std::int64_t unix_ms);
// The same in UTC, with a Z.
std::string utc_text(std::int64_t unix_ms);

}  // namespace lope
