// lope-worker: started by lope-consumer, or by `lope inspect` and `lope check` as a throw-away
// child.
#include <cstdio>
#include <cstring>

#include "common/exit_code.h"
#include "common/spawn.h"
#include "worker/inspect.h"
#include "worker/worker.h"

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--version") == 0) {
    std::puts("lope-worker " LOPE_VERSION);
    return lope::kExitOk;
  }
  if (argc == 2 && std::strcmp(argv[1], "--help") == 0) {
    std::puts(
        "lope-worker runs one group's handler. lope-consumer starts it; see `lope run --help`.\n"
        "  --inspect DIR NAME   describe a handler file as JSON on descriptor 3 (see `lope "
        "inspect`)\n"
        "  --schema             judge the JSON Schema on descriptor 0, on descriptor 3\n"
        "  --version            print the version");
    return lope::kExitOk;
  }
  lope::adopt_child_fds();
  if (argc == 4 && std::strcmp(argv[1], "--inspect") == 0) {
    return lope::worker::run_inspect(argv[2], argv[3], 3);
  }
  if (argc == 2 && std::strcmp(argv[1], "--schema") == 0) {
    return lope::worker::run_check_schema(0, 3);
  }
  if (argc != 2 || std::strncmp(basename(argv[0]), "lope-worker", 11) != 0) {
    std::fputs("lope-worker: is started by lope-consumer; see `lope run --help`\n", stderr);
    return lope::kExitFailed;
  }
  return lope::worker::run_worker();
}
