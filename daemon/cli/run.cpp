// `lope run`: loads the configuration and becomes the supervisor.
#include <unistd.h>

#include <cstdio>
#include <iterator>
#include <string>
#include <utility>

#include "cli/commands.h"
#include "cli/programs.h"
#include "common/exit_code.h"
#include "common/log.h"
#include "common/spawn.h"
#include "supervisor/handler_store.h"
#include "supervisor/reload.h"
#include "supervisor/settings_loader.h"
#include "supervisor/standard_folder.h"
#include "supervisor/supervisor.h"

namespace lope::cli {

int run_command(const std::string& config_path) {
  supervisor::LoadedSettings loaded = supervisor::load_settings(config_path);
  print_problems(loaded);
  if (!loaded.errors.empty()) return kExitRefused;

  adopt_child_fds();  // what our own parent left open is not for ours
  UniqueFd files[4];
  const char* const names[] = {"", "lope-consumer", "lope-worker", "lope-monitor"};
  for (std::size_t i = 0; i < std::size(names); ++i) {
    const auto path = i == 0 ? Result<std::string>("/proc/self/exe") : program_path(names[i]);
    auto program = path ? open_program(*path) : Result<UniqueFd>(Error{path.error()});
    if (!program) {
      std::fprintf(stderr, "%slope: %s\n", journal_prefix(LogLevel::error).c_str(),
                   program.error().c_str());
      return kExitFailed;
    }
    files[i] = std::move(*program);
  }
  const supervisor::Programs programs{files[0].get(), files[1].get(), files[2].get(),
                                      files[3].get()};
  supervisor::lead_process_group();
  if (auto opened = open_log(loaded.settings.log, "lope"); !opened) {
    std::fprintf(stderr, "%slope: log: %s\n", journal_prefix(LogLevel::error).c_str(),
                 opened.error().c_str());
    return kExitRefused;
  }
  const std::string cache = supervisor::default_cache_dir();
  for (const std::string& trouble : supervisor::keep_handlers(loaded.settings, cache)) {
    log_warn("configuration", {{"reason", trouble}});
  }
  supervisor::tidy_copies(cache);
  supervisor::Supervisor supervisor(std::move(loaded.settings), config_path, programs);
  return supervisor.run();
}

}  // namespace lope::cli
