// `lope test`: its command line.
#include <memory>

#include "cli/client_commands.h"
#include "cli/test.h"

namespace lope::cli {

namespace {

constexpr const char* kHelp =
    R"(A test case is a message, or several, for a handler, and what is expected of it: outcome, reason,
publications, replies, log lines. Each runs as `lope try` runs a message, in a worker process of its
own, without a broker: one that crashes or hangs fails alone. How they are written is in testing.md
of the documentation.

Exit codes: 0 all passed, 1 one did not, 2 a file is wrong, or there is no case.
)";

}  // namespace

RunCommand add_test(CLI::App& app) {
  auto options = std::make_shared<TestOptions>();
  app.footer(kHelp);
  app.add_option("PATH", options->paths, "Files, or folders of files NAME.yaml (tests)")
      ->option_text(" ");
  app.add_option("--handler", options->handler,
                 "Test this one, a file or a name, and not the one that the files name")
      ->option_text("FILE");
  app.add_option("--filter", options->filter, "Only cases whose name has this in it")
      ->option_text("TEXT");
  app.add_option("--junit", options->junit, "Write a report as JUnit XML there")
      ->option_text("FILE");
  app.add_flag("-v,--verbose", options->verbose, "Show what handlers say in cases that pass, too");
  return [options] {
    if (options->paths.empty()) options->paths = {"tests"};
    return run_tests(*options);
  };
}

}  // namespace lope::cli
