// Where the bodies of messages come from: the command line, a file or standard input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/fd.h"
#include "common/result.h"

namespace lope::cli {

struct BodySource {
  std::optional<std::string> body;
  std::string file = "-";   // without a body; "-": standard input
  bool lines = false;       // each line of the file is a message
  std::uint64_t count = 1;  // how often the one body is sent; not with lines
};

// The bodies to publish, one after another: the same one `count` times, or the lines of a file.
class Bodies {
 public:
  // Reads the file to its end, unless its lines are wanted. `command` ("lope publish") is for what
  // is told who looks at a terminal.
  static Result<Bodies> open(const BodySource& source, const std::string& command);

  // Valid until read(). Nothing: this was the last, or more must be read() first.
  std::optional<std::string_view> next();

  // What to poll for input; negative at its end.
  int fd() const { return fd_; }

  // Takes what is there. Blocks when nothing is.
  Result<void> read();

 private:
  UniqueFd file_;
  int fd_ = -1;
  std::string name_;
  bool lines_ = false;
  std::string text_;
  std::uint64_t left_ = 0;    // how often text_ is still to be sent
  std::size_t position_ = 0;  // lines: where the next one starts
  std::size_t searched_ = 0;  // lines: so much behind it holds no newline
};

}  // namespace lope::cli
