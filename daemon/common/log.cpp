// Lines are made here, whole, and handed to one spdlog logger whose sink writes each with a single
// write(): with O_APPEND the lines of several processes in one file do not mix.
#include "common/log.h"

#include <fcntl.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <mutex>

#include "common/fd.h"
#include "common/text.h"

namespace lope {
namespace {

constexpr std::size_t kValueLimit = 1024;

spdlog::level::level_enum spdlog_level(LogLevel level) {
  switch (level) {
    case LogLevel::debug: return spdlog::level::debug;
    case LogLevel::info: return spdlog::level::info;
    case LogLevel::warn: return spdlog::level::warn;
    case LogLevel::error: return spdlog::level::err;
  }
  return spdlog::level::err;
}

// The syslog priority that sd-daemon(3) defines for a line's prefix.
char journal_priority(LogLevel level) {
  switch (level) {
    case LogLevel::debug: return '7';
    case LogLevel::info: return '6';
    case LogLevel::warn: return '4';
    case LogLevel::error: return '3';
  }
  return '3';
}

// systemd names the device and inode of the stream it connected; a standard error that somebody
// redirected since then is not the journal.
bool stderr_is_journal() {
  const char* stream = std::getenv("JOURNAL_STREAM");
  if (stream == nullptr) return false;
  unsigned long long device = 0;
  unsigned long long inode = 0;
  char end = 0;
  if (std::sscanf(stream, "%llu:%llu%c", &device, &inode, &end) != 2) return false;
  struct stat info {};
  if (::fstat(STDERR_FILENO, &info) < 0) return false;
  return info.st_dev == device && info.st_ino == inode;
}

std::string now_utc() {
  struct timespec now {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  struct tm utc {};
  ::gmtime_r(&now.tv_sec, &utc);
  char date[32];
  std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &utc);
  char text[48];
  std::snprintf(text, sizeof text, "%s.%03ldZ", date, now.tv_nsec / 1'000'000);
  return text;
}

// `text` as a JSON string, cut as in text lines. Not escape(): a reader of JSON wants the value
// itself.
void append_json_string(std::string& out, std::string_view text) {
  std::size_t used = 0;
  out += '"';
  while (!text.empty()) {
    if (used >= kValueLimit) {
      out += "…";
      break;
    }
    const std::size_t length = utf8_sequence_length(text);
    const char c = text.front();
    if (length == 0) {
      out += "\\ufffd";
    } else if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(c));
      out += code;
    } else if (length == 2 && c == '\xC2' && static_cast<unsigned char>(text[1]) < 0xA0) {
      char code[8];  // C1: some terminals obey these too
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned char>(text[1]));
      out += code;
    } else {
      out += text.substr(0, length);
    }
    const std::size_t taken = length == 0 ? 1 : length;
    text.remove_prefix(taken);
    used += taken;
  }
  out += '"';
}

void append_text_value(std::string& out, std::string_view value) {
  const std::string safe = escape(value, kValueLimit);
  const bool bare = !safe.empty() && safe.find_first_of(" =\"\\") == std::string::npos;
  if (!bare) out += '"';
  out += safe;
  if (!bare) out += '"';
}

// What a line looks like; fixed by open_log().
struct Style {
  LogFormat format = LogFormat::text;
  bool journal = false;
  std::string program = "lope";
  int pid = ::getpid();

  std::string line(LogLevel level, std::string_view event, Fields fields) const {
    std::string out;
    out.reserve(160);
    if (journal) {
      out += '<';
      out += journal_priority(level);
      out += '>';
    }
    if (format == LogFormat::json) {
      append_json(out, level, event, fields);
    } else {
      append_text(out, level, event, fields);
    }
    return out;
  }

 private:
  void append_text(std::string& out, LogLevel level, std::string_view event, Fields fields) const {
    if (!journal) {
      const std::string_view name = level_name(level);
      out += now_utc();
      out += ' ';
      out += name;
      out.append(6 - name.size(), ' ');
    }
    out += program + '[' + std::to_string(pid) + "] ";
    out += escape(event, kValueLimit);
    for (const Field& field : fields) {
      out += ' ';
      out += field.key;
      out += '=';
      append_text_value(out, field.value);
    }
  }

  void append_json(std::string& out, LogLevel level, std::string_view event, Fields fields) const {
    const auto member = [&](std::string_view key, std::string_view value) {
      append_json_string(out, key);
      out += ':';
      append_json_string(out, value);
      out += ',';
    };
    out += '{';
    if (!journal) member("time", now_utc());
    member("level", level_name(level));
    member("program", program);
    out += "\"pid\":" + std::to_string(pid) + ',';
    member("event", event);
    for (const Field& field : fields) {
      if (!field.number) {
        member(field.key, field.value);
        continue;
      }
      append_json_string(out, field.key);
      out += ':' + field.value + ',';
    }
    out.back() = '}';
  }
};

// One line, one write(). Standard error when no path is given.
class LineSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  LineSink(const Style& style, std::string path) : style_(style), path_(std::move(path)) {}

  // On failure what is open now stays open.
  Result<void> open() {
    if (path_.empty()) return {};
    UniqueFd fd(::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_NOCTTY | O_CLOEXEC, 0640));
    if (!fd.valid()) return Error{"log file '" + path_ + "': " + errno_text("open", errno)};
    const std::lock_guard lock(mutex_);
    file_ = std::move(fd);
    torn_ = false;
    return {};
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t formatted;
    formatter_->format(message, formatted);
    std::string text;
    if (torn_) text += '\n';  // a line that was cut short keeps to itself
    if (lost_ > 0) {
      text += style_.line(LogLevel::warn, "log lines lost",
                          {{"count", lost_}, {"error", errno_text("write", error_)}});
      text += '\n';
    }
    text.append(formatted.data(), formatted.size());
    if (write_all(text)) {
      lost_ = 0;
    } else {
      ++lost_;
    }
  }

  void flush_() override {}

 private:
  bool write_all(std::string_view text) {
    const int fd = file_.valid() ? file_.get() : STDERR_FILENO;
    while (!text.empty()) {
      const ssize_t n = ::write(fd, text.data(), text.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        error_ = errno;
        return false;
      }
      text.remove_prefix(static_cast<std::size_t>(n));
      torn_ = !text.empty();
    }
    return true;
  }

  const Style& style_;
  const std::string path_;
  // Under the base's mutex:
  UniqueFd file_;
  bool torn_ = false;
  std::uint64_t lost_ = 0;
  int error_ = 0;
};

struct Log {
  Log(const LogSettings& settings, std::string_view program)
      : style{settings.format, settings.file.empty() && stderr_is_journal(), std::string(program)},
        sink(std::make_shared<LineSink>(style, settings.file)),
        logger("lope", sink) {
    logger.set_pattern("%v");
    logger.set_level(spdlog_level(settings.level));
    logger.set_error_handler(
        [](const std::string&) {});  // spdlog's own would print a second kind of line
  }

  Style style;
  std::shared_ptr<LineSink> sink;
  spdlog::logger logger;
};

// What is logged before open_log() goes to standard error. Never destroyed: a thread may log while
// the process exits.
std::unique_ptr<Log>& current_log() {
  static auto* log =
      std::make_unique<std::unique_ptr<Log>>(std::make_unique<Log>(LogSettings{}, "lope"))
          .release();
  return *log;
}

}  // namespace

Result<void> open_log(const LogSettings& settings, std::string_view program) {
  auto log = std::make_unique<Log>(settings, program);
  if (auto opened = log->sink->open(); !opened) return opened;
  current_log() = std::move(log);
  return {};
}

Result<void> reopen_log() { return current_log()->sink->open(); }

std::string journal_prefix(LogLevel level) {
  if (!stderr_is_journal()) return "";
  return std::string("<") + journal_priority(level) + '>';
}

const char* level_name(LogLevel level) {
  switch (level) {
    case LogLevel::debug: return "debug";
    case LogLevel::info: return "info";
    case LogLevel::warn: return "warn";
    case LogLevel::error: return "error";
  }
  return "error";
}

bool log_enabled(LogLevel level) { return current_log()->logger.should_log(spdlog_level(level)); }

void set_log_level(LogLevel level) { current_log()->logger.set_level(spdlog_level(level)); }

void log_event(LogLevel level, std::string_view event, Fields fields) {
  if (!log_enabled(level)) return;
  try {
    Log& log = *current_log();
    log.logger.log(spdlog_level(level), log.style.line(level, event, fields));
  } catch (...) {
    // Out of memory: a line is not worth the process.
  }
}

}  // namespace lope
