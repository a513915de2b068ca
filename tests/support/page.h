// A page of the docs that is followed to the letter: its YAML and Python blocks are written to
// files, its sh blocks run in one shell, in order, and after each what the text block behind it
// shows has to be seen. So the page cannot say what is not so.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "support/broker.h"
#include "support/temp_dir.h"

namespace lope::test {

class Page {
 public:
  // docs/NAME; what its queues hold is deleted before and after.
  Page(const std::string& name, std::vector<std::string> queues);
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;
  ~Page();

  // Every sh block is run, and what it shows was seen. Afterwards output() has what each section
  // wrote.
  void follow();

  // What was written in the section whose heading contains `heading`.
  std::string output(std::string_view heading) const;

 private:
  struct Block {
    std::string section;   // the heading above it
    std::string language;  // "yaml", "python", "sh", "text"
    std::vector<std::string> lines;
  };

  static std::vector<Block> blocks_of(const std::string& page);
  void write_file(const Block& block);
  void delete_queues();

  const std::string name_;
  const std::vector<Block> blocks_;
  const std::vector<std::string> queues_;
  Broker broker_;
  TempDir dir_;
  std::map<std::string, std::string> output_;
};

// Whether `shown`, a line of a page where "…" stands for any text, is that line.
bool matches(std::string_view line, const std::string& shown);
// The lines of the page that the output does not have, or not as often.
std::vector<std::string> missing(const std::string& output, const std::vector<std::string>& shown);

}  // namespace lope::test
