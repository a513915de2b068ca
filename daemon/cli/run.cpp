// `lope run`: loads the configuration and becomes the supervisor.
#include <unistd.h>

#include <cstdio>

#include "cli/commands.h"
#include "cli/programs.h"
#include "common/exit_code.h"
#include "common/log.h"
#include "common/spawn.h"
#include "supervisor/settings_loader.h"
#include "supervisor/supervisor.h"

namespace lope::cli {

int run_command(const std::string& config_path) {
  const supervisor::LoadedSettings loaded = supervisor::load_settings(config_path);
  print_problems(loaded);
  if (!loaded.errors.empty()) return kExitRefused;

  adopt_child_fds();  // what our own parent left open is not for ours
  UniqueFd programs[3];
  const char* const names[3] = {"lope-consumer", "lope-worker", "lope-monitor"};
  for (int i = 0; i < (loaded.settings.monitor ? 3 : 2); ++i) {
    const auto path = program_path(names[i]);
    auto opened = path ? open_program(*path) : Result<UniqueFd>(Error{path.error()});
    if (!opened) {
      std::fprintf(stderr, "lope: %s\n", opened.error().c_str());
      return kExitFailed;
    }
    programs[i] = std::move(*opened);
  }
  supervisor::lead_process_group();
  if (auto opened = open_log(loaded.settings.log, "lope"); !opened) {
    std::fprintf(stderr, "lope: log: %s\n", opened.error().c_str());
    return kExitRefused;
  }
  supervisor::Supervisor supervisor(
      loaded.settings, config_path,
      {.consumer = programs[0].get(), .worker = programs[1].get(), .monitor = programs[2].get()});
  return supervisor.run();
}

}  // namespace lope::cli
