#include "common/wall_time.h"

#include <chrono>
#include <cstdio>
#include <ctime>
#include <optional>

#include "common/text.h"

namespace lope {

namespace {

namespace chrono = std::chrono;

// What stands before the place that is read.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : rest_(text) {}

  bool at_end() const { return rest_.empty(); }

  // One of these characters; 0 when it is another.
  char one_of(std::string_view characters) {
    if (rest_.empty() || characters.find(rest_.front()) == std::string_view::npos) return 0;
    const char found = rest_.front();
    rest_.remove_prefix(1);
    return found;
  }

  // A number of so many digits, at most `most`.
  std::optional<int> number(int digits, int most) {
    int value = 0;
    for (int i = 0; i < digits; ++i) {
      const char digit = one_of("0123456789");
      if (digit == 0) return std::nullopt;
      value = value * 10 + (digit - '0');
    }
    return value <= most ? std::optional(value) : std::nullopt;
  }

 private:
  std::string_view rest_;
};

// The digits behind a point, in milliseconds, rounded up.
std::optional<int> fraction(Cursor& cursor) {
  int milliseconds = 0, scale = 100, digits = 0;
  bool more = false;
  while (const char digit = cursor.one_of("0123456789")) {
    milliseconds += (digit - '0') * scale;
    if (scale == 0 && digit != '0') more = true;
    scale /= 10;
    ++digits;
  }
  if (digits == 0) return std::nullopt;
  return milliseconds + (more ? 1 : 0);
}

std::optional<std::int64_t> read(std::string_view text) {
  Cursor cursor(text);
  const auto year_number = cursor.number(4, 9999);
  if (!year_number || cursor.one_of("-") == 0) return std::nullopt;
  const auto month_number = cursor.number(2, 12);
  if (!month_number || cursor.one_of("-") == 0) return std::nullopt;
  const auto day_number = cursor.number(2, 31);
  if (!day_number || cursor.one_of("Tt ") == 0) return std::nullopt;
  const chrono::year_month_day date{chrono::year(*year_number),
                                    chrono::month(static_cast<unsigned>(*month_number)),
                                    chrono::day(static_cast<unsigned>(*day_number))};
  if (!date.ok()) return std::nullopt;
  const auto hour = cursor.number(2, 23);
  if (!hour || cursor.one_of(":") == 0) return std::nullopt;
  const auto minute = cursor.number(2, 59);
  if (!minute || cursor.one_of(":") == 0) return std::nullopt;
  const auto second = cursor.number(2, 60);  // a leap second is the one after it
  if (!second) return std::nullopt;
  int milliseconds_part = 0;
  if (cursor.one_of(".") != 0) {
    const auto part = fraction(cursor);
    if (!part) return std::nullopt;
    milliseconds_part = *part;
  }
  chrono::minutes offset{0};
  if (cursor.one_of("Zz") == 0) {
    const char sign = cursor.one_of("+-");
    const auto offset_hours = cursor.number(2, 23);
    if (sign == 0 || !offset_hours || cursor.one_of(":") == 0) return std::nullopt;
    const auto offset_minutes = cursor.number(2, 59);
    if (!offset_minutes) return std::nullopt;
    offset = chrono::hours(*offset_hours) + chrono::minutes(*offset_minutes);
    if (sign == '-') offset = -offset;
  }
  if (!cursor.at_end()) return std::nullopt;
  const chrono::milliseconds since_1970 =
      chrono::sys_days(date).time_since_epoch() + chrono::hours(*hour) + chrono::minutes(*minute) +
      chrono::seconds(*second) - offset + chrono::milliseconds(milliseconds_part);
  return since_1970.count();
}

std::string text_of(std::int64_t unix_ms, bool local) {
  std::int64_t seconds = unix_ms / 1000;
  std::int64_t rest = unix_ms % 1000;
  if (rest < 0) {
    rest += 1000;
    --seconds;
  }
  const auto time = static_cast<std::time_t>(seconds);
  std::tm parts{};
  if ((local ? ::localtime_r(&time, &parts) : ::gmtime_r(&time, &parts)) == nullptr) {
    return std::to_string(unix_ms) + " ms since 1970";
  }
  char buffer[64];
  std::string text(buffer, std::strftime(buffer, sizeof buffer, "%Y-%m-%dT%H:%M:%S", &parts));
  if (rest != 0) {
    std::snprintf(buffer, sizeof buffer, ".%03d", static_cast<int>(rest));
    text += buffer;
  }
  if (!local) return text + "Z";
  const long offset = parts.tm_gmtoff / 60;
  const long distance = offset < 0 ? -offset : offset;
  std::snprintf(buffer, sizeof buffer, "%c%02ld:%02ld", offset < 0 ? '-' : '+', distance / 60,
                distance % 60);
  return text + buffer;
}

}  // namespace

Result<std::int64_t> parse_time(std::string_view text) {
  const auto time = read(text);
  if (time) return *time;
  return Error{
      "expected a time with its offset from UTC, as 2027-02-03T08:00:00+08:00 or "
      "2027-02-03T00:00:00Z, found '" +
      escape(text, 80) + "'"};
}

std::string time_text(std::int64_t unix_ms) { return text_of(unix_ms, true); }
std::string utc_text(std::int64_t unix_ms) { return text_of(unix_ms, false); }

}  // namespace lope
