// lope-monitor: started by `lope run` when `monitor.listen` is set.
#include <cstdio>
#include <cstring>

#include "common/exit_code.h"
#include "common/spawn.h"
#include "monitor/monitor.h"

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--version") == 0) {
    std::puts("lope-monitor " LOPE_VERSION);
    return lope::kExitOk;
  }
  if (argc == 2 && std::strcmp(argv[1], "--help") == 0) {
    std::puts(
        "lope-monitor serves a status page, metrics and health over HTTP. `lope run` starts it\n"
        "when monitor.listen is set; see `lope run --help`.\n"
        "  --version   print the version");
    return lope::kExitOk;
  }
  if (argc != 2 || std::strcmp(argv[0], "lope-monitor") != 0) {
    std::fputs("lope-monitor: is started by lope; see `lope run --help`\n", stderr);
    return lope::kExitFailed;
  }
  lope::adopt_child_fds();
  return lope::monitor::run_monitor();
}
