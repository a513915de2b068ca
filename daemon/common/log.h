// One event a line, text or JSON, to standard error or a file. The only place that knows spdlog.
// Loggers are made after fork and exec, never inherited: each process calls open_log() once.
#pragma once

#include <concepts>
#include <initializer_list>
#include <string>
#include <string_view>

#include "common/result.h"
#include "common/settings.h"

namespace lope {

// One key=value of a log line. The value is escaped and cut when written.
struct Field {
  std::string_view key;
  std::string value;

  Field(std::string_view k, std::string v) : key(k), value(std::move(v)) {}
  Field(std::string_view k, std::string_view v) : key(k), value(v) {}
  Field(std::string_view k, const char* v) : key(k), value(v) {}
  template <std::integral T>
  Field(std::string_view k, T v) : key(k), value(std::to_string(v)), number(true) {}

  bool number = false;
};
using Fields = std::initializer_list<Field>;

// `program` is shown on each text line ("lope", "lope-consumer hello"); under systemd
// (JOURNAL_STREAM is standard error) lines carry a <level> prefix and no time. Fails when the file
// cannot be opened.
Result<void> open_log(const LogSettings& settings, std::string_view program);

// Opens the log file again (USR1); nothing when logging to standard error. On failure the old one
// stays.
Result<void> reopen_log();

// What stands before a line written to standard error without this: "<3>" and the like when that is
// the journal, otherwise nothing.
std::string journal_prefix(LogLevel level);

// "info", as in a line.
const char* level_name(LogLevel level);

bool log_enabled(LogLevel level);
void set_log_level(LogLevel level);

// `event` is a fixed phrase; everything that varies is a field. Thread-safe. A write that fails
// (full disk) is counted and said on the next line that can be written.
void log_event(LogLevel level, std::string_view event, Fields fields = {});

inline void log_debug(std::string_view event, Fields fields = {}) {
  log_event(LogLevel::debug, event, fields);
}
inline void log_info(std::string_view event, Fields fields = {}) {
  log_event(LogLevel::info, event, fields);
}
inline void log_warn(std::string_view event, Fields fields = {}) {
  log_event(LogLevel::warn, event, fields);
}
inline void log_error(std::string_view event, Fields fields = {}) {
  log_event(LogLevel::error, event, fields);
}

}  // namespace lope
