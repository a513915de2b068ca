#include "consumer/output_reader.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <vector>

#include "common/fd.h"

namespace lope::consumer {

TEST_CASE("output becomes lines, long ones in pieces", "[unit][output]") {
  auto pipe = make_pipe();
  REQUIRE(pipe.ok());
  REQUIRE(set_nonblocking(pipe->first.get(), true).ok());
  std::vector<std::string> lines;
  const auto collect = [&lines](std::string_view line) { lines.emplace_back(line); };
  const auto write = [&](const std::string& text) {
    REQUIRE(::write(pipe->second.get(), text.data(), text.size()) ==
            static_cast<ssize_t>(text.size()));
  };
  OutputReader reader;
  CHECK(reader.read(pipe->first.get(), collect));
  CHECK(lines.empty());
  write("one\n\ntw");
  CHECK(reader.read(pipe->first.get(), collect));
  CHECK(lines == std::vector<std::string>{"one", ""});
  write("o\n" + std::string(8192, 'a') + "\n" + std::string(10000, 'b') + "\nend");
  CHECK(reader.read(pipe->first.get(), collect));
  REQUIRE(lines.size() == 6);
  CHECK(lines[2] == "two");
  CHECK(lines[3] == std::string(8192, 'a'));
  CHECK(lines[4] == std::string(8192, 'b'));
  CHECK(lines[5] == std::string(1808, 'b'));
  pipe->second.reset();
  CHECK_FALSE(reader.read(pipe->first.get(), collect));
  reader.finish(collect);
  CHECK(lines.back() == "end");
}

}  // namespace lope::consumer
