#include "common/schema_value.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

namespace lope::schema {

namespace {

using nlohmann::json;

// Each number that a message may hold is one of these: no order and no remainder is rounded.
static_assert(LDBL_MANT_DIG >= 64);

long double number_of(const json& value) {
  if (value.is_number_unsigned()) return static_cast<long double>(value.get<std::uint64_t>());
  if (value.is_number_integer()) return static_cast<long double>(value.get<std::int64_t>());
  return value.get<double>();
}

int compare_texts(const std::string& a, const std::string& b, std::uint64_t& steps) {
  spend(steps, std::min(a.size(), b.size()) / 64);
  return a.compare(b);
}

int rank_of(const json& value) {
  if (value.is_null()) return 0;
  if (value.is_boolean()) return 1;
  if (value.is_number()) return 2;
  if (value.is_string()) return 3;
  return value.is_array() ? 4 : 5;
}

int number_at(std::string_view text, std::size_t at, std::size_t digits) {
  if (at + digits > text.size()) return -1;
  int number = 0;
  for (const char c : text.substr(at, digits)) {
    if (c < '0' || c > '9') return -1;
    number = number * 10 + c - '0';
  }
  return number;
}

bool is_date(std::string_view text) {
  const int year = number_at(text, 0, 4), month = number_at(text, 5, 2),
            day = number_at(text, 8, 2);
  if (text.size() != 10 || text[4] != '-' || text[7] != '-' || year < 0 || month < 1 || month > 12)
    return false;
  constexpr int kDays[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  return day >= 1 && day <= kDays[month - 1] + (month == 2 && leap ? 1 : 0);
}

// RFC 3339's, with its offset.
bool is_time(std::string_view text) {
  const int hour = number_at(text, 0, 2), minute = number_at(text, 3, 2),
            second = number_at(text, 6, 2);
  if (text.size() < 9 || text[2] != ':' || text[5] != ':' || hour < 0 || hour > 23 || minute < 0 ||
      minute > 59 || second < 0 || second > 60) {
    return false;
  }
  text.remove_prefix(8);
  if (text.starts_with('.')) {
    const std::size_t end = text.find_first_not_of("0123456789", 1);
    if (end == 1 || end == std::string_view::npos) return false;
    text.remove_prefix(end);
  }
  if (text == "Z" || text == "z") return true;
  const int hours = number_at(text, 1, 2), minutes = number_at(text, 4, 2);
  return text.size() == 6 && (text[0] == '+' || text[0] == '-') && text[3] == ':' && hours >= 0 &&
         hours <= 23 && minutes >= 0 && minutes <= 59;
}

bool is_date_time(std::string_view text) {
  return text.size() > 11 && (text[10] == 'T' || text[10] == 't') && is_date(text.substr(0, 10)) &&
         is_time(text.substr(11));
}

}  // namespace

std::uint8_t types_of(const json& value) {
  constexpr std::uint8_t kNumber = 1 << 3;
  switch (rank_of(value)) {
    case 0: return 1;
    case 1: return 1 << 1;
    case 2:
      if (!value.is_number_float() || std::floor(value.get<double>()) == value.get<double>())
        return kIntegerType | kNumber;
      return kNumber;
    case 3: return 1 << 4;
    case 4: return 1 << 5;
    default: return 1 << 6;
  }
}

const char* kind_of(const json& value) {
  constexpr const char* kKinds[] = {"null", "boolean", "number", "string", "array", "object"};
  return kKinds[rank_of(value)];
}

int compare(const json& a, const json& b, std::uint64_t& steps) {
  spend(steps, 1);
  if (const int rank = rank_of(a) - rank_of(b); rank != 0) return rank;
  const auto by_size = [](std::size_t x, std::size_t y) { return x < y ? -1 : x > y ? 1 : 0; };
  switch (rank_of(a)) {
    case 0: return 0;
    case 1: return static_cast<int>(a.get<bool>()) - static_cast<int>(b.get<bool>());
    case 2: {
      const long double x = number_of(a), y = number_of(b);
      return x < y ? -1 : x > y ? 1 : 0;
    }
    case 3:
      return compare_texts(a.get_ref<const std::string&>(), b.get_ref<const std::string&>(), steps);
    case 4:
      for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        if (const int order = compare(a[i], b[i], steps); order != 0) return order;
      }
      return by_size(a.size(), b.size());
    default: {
      const auto& members = a.get_ref<const json::object_t&>();
      const auto& others = b.get_ref<const json::object_t&>();
      auto other = others.begin();
      for (const auto& [name, member] : members) {  // sorted by name
        if (other == others.end()) break;
        if (const int order = compare_texts(name, other->first, steps); order != 0) return order;
        if (const int order = compare(member, other->second, steps); order != 0) return order;
        ++other;
      }
      return by_size(members.size(), others.size());
    }
  }
}

bool is_multiple(const json& value, const json& divisor) {
  const long double number = number_of(value), part = number_of(divisor);
  constexpr long double kExact = 18446744073709551616.0L;  // beyond, few whole numbers are doubles
  if (std::fabs(number) < kExact && part == std::floor(part)) return std::fmod(number, part) == 0;
  // Two roundings to a double: each is off by 1.1e-16 of the number at most.
  const long double times = number / part;
  return std::fabs(times - std::round(times)) <= 3e-16L * std::fabs(times);
}

Format format_named(std::string_view name, int draft) {
  for (const Format format : {Format::date_time, Format::date, Format::time}) {
    if (name == name_of(format)) return format;
    if (draft < 7) break;  // the others are new there
  }
  return Format::remark;
}

const char* name_of(Format format) {
  switch (format) {
    case Format::remark: return "";
    case Format::date: return "date";
    case Format::time: return "time";
    case Format::date_time: return "date-time";
  }
  return "";
}

bool has_format(std::string_view text, Format format) {
  switch (format) {
    case Format::remark: return true;
    case Format::date: return is_date(text);
    case Format::time: return is_time(text);
    case Format::date_time: return is_date_time(text);
  }
  return true;
}

}  // namespace lope::schema
