// One stream of a program's output, to the log line by line.
#pragma once

#include <algorithm>
#include <cstddef>
#include <lope/handler.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace lope::plugins {

class LineLog {
 public:
  // `most`: so many lines are written; the others are counted.
  LineLog(Host host, Level level, std::size_t most) : host_(host), level_(level), most_(most) {}

  // Each line to come has `prefix` in front.
  void begin(std::string prefix) {
    prefix_ = std::move(prefix);
    line_.clear();
    last_.clear();
    written_ = left_out_ = 0;
  }
  void add(std::string_view bytes) {
    while (!bytes.empty()) {
      const std::size_t size = std::min(bytes.find('\n'), bytes.size());
      line_ += bytes.substr(0, std::min(size, kLongest - line_.size()));
      if (size == bytes.size()) return;
      end_line();
      bytes.remove_prefix(size + 1);
    }
  }
  // The line without an end, and how many there were beyond the limit.
  void end() {
    end_line();
    next_period();
  }
  // So many lines may be written again.
  void next_period() {
    if (left_out_ > 0) log("left out: " + std::to_string(left_out_) + " more lines");
    left_out_ = written_ = 0;
  }
  bool has_left_out() const { return left_out_ > 0; }
  // The last line that is not empty; at most as long as a reason need be.
  std::string_view last() const { return std::string_view(last_).substr(0, kReason); }

 private:
  static constexpr std::size_t kLongest = 4096;  // of a line; the rest of it is dropped
  static constexpr std::size_t kReason = 500;

  void end_line() {
    if (!line_.empty() && line_.back() == '\r') line_.pop_back();
    if (line_.empty()) return;
    if (written_ < most_) {
      ++written_;
      log(line_);
    } else {
      ++left_out_;
    }
    std::swap(last_, line_);
    line_.clear();
  }
  void log(std::string_view text) const {
    if (host_.log_enabled(level_)) host_.log(level_, prefix_ + std::string(text));
  }

  Host host_;
  Level level_;
  std::size_t most_;
  std::string prefix_;
  std::string line_;  // as far as it is there
  std::string last_;
  std::size_t written_ = 0;
  std::size_t left_out_ = 0;
};

}  // namespace lope::plugins
