// How far a long command is, for whoever watches it: a bar on a terminal, a plain line now and then
// anywhere else, and nothing at all when it is quick. Makes text only; writing it is the caller's.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "common/clock.h"

namespace lope::cli {

class Progress {
 public:
  struct Output {
    bool terminal = false;
    int columns = 80;  // of the terminal
  };

  // `total` 0: not known.
  Progress(std::uint64_t total, Output output, TimePoint start);

  // When update() will have something to say.
  TimePoint next() const { return next_; }

  // What to write now that `done` are done; empty before next(). On a terminal it stays on one
  // line, elsewhere it is a line with its newline.
  std::string update(std::uint64_t done, TimePoint now);

  // What takes the bar away, so that another line can be written; empty when none is shown.
  std::string clear();

 private:
  std::string bar(std::uint64_t done, const std::string& facts) const;

  const std::uint64_t total_;
  const Output output_;
  const TimePoint start_;
  TimePoint next_;
  bool shown_ = false;
};

}  // namespace lope::cli
