// lope-consumer: started by `lope run`, one for each group, and one as the relay.
#include <cstdio>
#include <cstring>

#include "common/exit_code.h"
#include "common/spawn.h"
#include "consumer/consumer.h"

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--version") == 0) {
    std::puts("lope-consumer " LOPE_VERSION);
    return lope::kExitOk;
  }
  if (argc == 2 && std::strcmp(argv[1], "--help") == 0) {
    std::puts(
        "lope-consumer runs one group: its connection and its workers. `lope run` starts it; see\n"
        "`lope run --help`.\n"
        "  --version   print the version");
    return lope::kExitOk;
  }
  const bool started_by_lope = argc == 2 && (std::strcmp(argv[0], "lope-consumer") == 0 ||
                                             std::strcmp(argv[0], "lope-relay") == 0);
  if (!started_by_lope) {
    std::fputs("lope-consumer: is started by lope; see `lope run --help`\n", stderr);
    return lope::kExitFailed;
  }
  lope::adopt_child_fds();
  return lope::consumer::run_consumer();
}
