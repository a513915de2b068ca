#include "cli/progress.h"

#include <algorithm>
#include <cmath>

namespace lope::cli {

namespace {

using namespace std::chrono_literals;

// Quick is what ends before the first of these.
constexpr auto kFirstBar = 500ms;
constexpr auto kFirstLine = 10s;
constexpr auto kBarInterval = 100ms;
constexpr auto kLineInterval = 10s;

constexpr std::size_t kMaxBar = 40;
constexpr std::size_t kMinBar = 8;

// "18 s", "2 min", "3 h"
std::string duration_text(double seconds) {
  if (seconds < 100) return std::to_string(std::lround(seconds)) + " s";
  if (seconds < 100 * 60) return std::to_string(std::lround(seconds / 60)) + " min";
  return std::to_string(std::lround(std::min(seconds / 3600, 1e9))) + " h";
}

}  // namespace

Progress::Progress(std::uint64_t total, Output output, TimePoint start)
    : total_(total),
      output_(output),
      start_(start),
      next_(start + (output.terminal ? TimePoint::duration(kFirstBar) : kFirstLine)) {}

std::string Progress::update(std::uint64_t done, TimePoint now) {
  if (now < next_) return {};
  next_ = now + (output_.terminal ? TimePoint::duration(kBarInterval) : kLineInterval);

  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double rate = static_cast<double>(done) / elapsed;
  std::string facts = std::to_string(done);
  if (total_ != 0) facts += "/" + std::to_string(total_);
  facts += " " + std::to_string(std::lround(rate)) + "/s";
  if (total_ != 0 && done != 0 && done < total_) {
    facts += " " + duration_text(static_cast<double>(total_ - done) / rate) + " left";
  }
  if (!output_.terminal) return facts + "\n";
  shown_ = true;
  // Back to the line's start, and what the last one left behind it is erased.
  return "\r" + bar(done, facts) + "\x1b[K";
}

std::string Progress::clear() {
  if (!shown_) return {};
  shown_ = false;
  return "\r\x1b[K";
}

// One column stays free: a full line would wrap, and \r not come back to its start.
std::string Progress::bar(std::uint64_t done, const std::string& facts) const {
  const std::size_t columns =
      output_.columns > 1 ? static_cast<std::size_t>(output_.columns - 1) : 0;
  if (total_ == 0) return facts.substr(0, columns);
  const double part = static_cast<double>(std::min(done, total_)) / static_cast<double>(total_);
  std::string percent = std::to_string(static_cast<int>(part * 100));
  percent.insert(0, 3 - percent.size(), ' ');
  percent += "%";
  const std::size_t rest = percent.size() + facts.size() + 4;  // brackets and spaces
  if (columns < rest + kMinBar) return (percent + " " + facts).substr(0, columns);
  const std::size_t width = std::min(kMaxBar, columns - rest);
  const auto filled = static_cast<std::size_t>(part * static_cast<double>(width));
  return percent + " [" + std::string(filled, '#') + std::string(width - filled, '.') + "] " +
         facts;
}

}  // namespace lope::cli
