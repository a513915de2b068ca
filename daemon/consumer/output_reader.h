// What a handler writes to its standard output or error, line by line.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace lope::consumer {

class OutputReader {
 public:
  using OnLine = std::function<void(std::string_view line)>;

  // Reads what a nonblocking pipe holds, at most a few buffers of it so that a talkative handler
  // does not hold up its consumer. Calls on_line for each complete line and for a piece of one that
  // is longer than 8 KiB. False: end of file or a broken pipe.
  bool read(int fd, const OnLine& on_line);
  // What is left without a newline, at the end.
  void finish(const OnLine& on_line);

 private:
  std::string partial_;
};

}  // namespace lope::consumer
