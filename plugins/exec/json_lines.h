// The lines that go to a co-process and come back from it.
#pragma once

#include <chrono>
#include <cstdint>
#include <lope/handler.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace lope::plugins {

// All of a message but its body: an object that is not closed yet. [in-call]
std::string head_line(const Message& message);
// Its body, and the end of the line.
void append_body(std::string& line, std::string_view body);

struct Answer {
  std::uint64_t id = 0;
  // Nothing: what it says cannot be done, and `reason` tells why.
  std::optional<Outcome> outcome;
  std::string reason;
  std::optional<std::chrono::milliseconds> retry_after;
  std::vector<Publication> publish;
  std::optional<Publication> reply;
};
// Throws std::runtime_error for a line that does not tell which message it is about.
Answer parse_answer(std::string_view line);

}  // namespace lope::plugins
