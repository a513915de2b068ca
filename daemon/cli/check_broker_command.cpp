// `lope check --broker`: its command line. `lope` has judged the configuration before it runs this.
#include <cstdio>
#include <memory>
#include <string>

#include "cli/check_broker.h"
#include "cli/client_commands.h"
#include "cli/commands.h"
#include "common/exit_code.h"
#include "supervisor/settings_loader.h"

namespace lope::cli {

RunCommand add_check(CLI::App& app) {
  struct CheckCommand {
    std::string config = kDefaultConfigPath;
    bool broker = false, json = false;
  };
  auto command = std::make_shared<CheckCommand>();
  app.add_option("-c,--config", command->config, "The configuration file");
  app.add_flag("--broker", command->broker, "Ask the broker too");
  app.add_flag("--json", command->json, "Print JSON");
  return [command] {
    const supervisor::LoadedSettings loaded = supervisor::load_settings(command->config);
    for (const auto& problem : loaded.errors) {
      std::fprintf(stderr, "%s\n", problem.to_string().c_str());
    }
    if (!loaded.errors.empty()) return kExitRefused;
    return check_broker(loaded.settings, command->json);
  };
}

}  // namespace lope::cli
