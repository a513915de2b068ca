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
  UniqueFd programs[2];
  const char* const names[2] = {"lope-consumer", "lope-worker"};
  for (int i = 0; i < 2; ++i) {
    const auto path = program_path(names[i]);
    auto opened = path ? open_program(*path) : Result<UniqueFd>(Error{path.error()});
    if (!opened) {
      std::fprintf(stderr, "%slope: %s\n", journal_prefix(LogLevel::error).c_str(),
                   opened.error().c_str());
      return kExitFailed;
    }
    programs[i] = std::move(*opened);
  }
  supervisor::lead_process_group();
  if (auto opened = open_log(loaded.settings.log, "lope"); !opened) {
    std::fprintf(stderr, "%slope: log: %s\n", journal_prefix(LogLevel::error).c_str(),
                 opened.error().c_str());
    return kExitRefused;
  }
  supervisor::Supervisor supervisor(loaded.settings, config_path, programs[0].get(),
                                    programs[1].get());
  return supervisor.run();
}

}  // namespace lope::cli
