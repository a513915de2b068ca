// `lope test`: runs the test cases of a handler, each in a worker process of its own.
#pragma once

#include <string>
#include <vector>

namespace lope::cli {

struct TestOptions {
  std::vector<std::string> paths;  // files, and folders of *.yaml
  std::string handler;             // in place of that of the files
  std::string filter;              // only cases whose name has this in it
  std::string junit;               // also write a report there
  bool verbose = false;            // what handlers say is shown of those that pass, too
};

// Returns the exit code: kExitOk when all cases passed, kExitFailed when one did not, kExitUsage
// when a file is wrong or there is no case.
int run_tests(const TestOptions& options);

}  // namespace lope::cli
