// Test cases of a handler, as a YAML file has them.
#pragma once

#include <string>
#include <vector>

#include "cli/expectation.h"
#include "cli/trial.h"
#include "supervisor/settings_loader.h"

namespace lope::cli {

struct TestCase {
  std::string name;
  std::string file;
  int line = 0;
  TrialSettings settings;
  std::vector<Received> messages;
  std::vector<Expectation> expectations;  // one for each message
};

// Every case of the file, in its order; `handler`, unless empty, stands for the one they name, and
// is seen from the present folder. What is wrong with it is appended to `problems`, with its
// place; then the cases mean nothing.
std::vector<TestCase> read_test_file(const std::string& path, const std::string& handler,
                                     std::vector<supervisor::ConfigProblem>& problems);

// The keys that such a file may have, for the documentation's test.
struct TestKeys {
  std::string_view map;
  std::vector<std::string_view> keys;
};
std::vector<TestKeys> known_test_keys();

}  // namespace lope::cli
